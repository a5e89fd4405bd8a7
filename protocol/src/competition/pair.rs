//! A job of another provider, and both of them as the client that gave it ranks them.

use super::{Contender, Lack, Reach, USUAL_PROMPT};
use crate::{
    attestation::Tier,
    offer::{Load, ModelOffer},
    price::LatencyClass,
    routing::{
        Candidate, Exclusion, Policy, Ranked, USUAL_ANSWER, Work, preference::Preference, query::Conditions, rank,
    },
};

/// The usual job for a model like `wanted`, of a client who asks for `least`.
fn policy(wanted: &ModelOffer, least: Tier) -> Policy {
    Policy {
        model: wanted.model.clone(),
        preference: Preference::Balanced,
        weights: None,
        work: if wanted.private.is_some() { Work::Private } else { Work::Ordinary },
        prompt_tokens: USUAL_PROMPT,
        completion_tokens: USUAL_ANSWER,
        latency_budget_ms: f64::INFINITY,
        latency: LatencyClass::Standard,
        ceiling: None,
        allow_declared: true,
        min_trust: least,
        least_shown: 0,
        physical: false,
        exclude: Vec::new(),
        named: false,
        conditions: Conditions::default(),
    }
}

fn candidate<'a>(of: &Contender<'_>, offer: &'a ModelOffer, load: Load) -> Candidate<'a> {
    Candidate {
        provider: of.provider,
        offer,
        slots: of.slots,
        load,
        tier: of.tier,
        // The client stands in the cell that all of them are in.
        distance_km: 0.0,
        round_trip_ms: of.round_trip_ms,
        estimated_ms: of.estimated_ms,
        offline_ms: None,
        failures: 0.0,
        speed_seen: None,
        prefill_seen: None,
        lateness: 0.0,
        quality: of.quality,
        rests_ms: None,
        shown_bytes: 0,
    }
}

/// Two providers of a model, ranked for one job that one of them has.
pub(super) struct Pair<'a> {
    policy: Policy,
    mine: Candidate<'a>,
    theirs: Candidate<'a>,
    /// Who would have the job: this provider, and the other.
    pub(super) here: Ranked,
    pub(super) there: Ranked,
    /// Whether only this provider is behind a relay.
    relayed: bool,
}

impl<'a> Pair<'a> {
    /// `me` beside `other`, which has a job for `wanted` of a client who asks for `least`; `None` where `me` lacks the model.
    pub(super) fn of(
        me: &Contender<'a>,
        other: &Contender<'_>,
        wanted: &'a ModelOffer,
        least: Tier,
    ) -> Option<Self> {
        let offer = me.models.iter().find(|offer| offer.model == wanted.model)?;
        // The job asked about is one of those that the other has.
        let load = Load { running: other.load.running.saturating_sub(1), ..other.load };
        let (mut mine, mut theirs) = (candidate(me, offer, me.load), candidate(other, wanted, load));
        // The rule takes an unknown round trip for none, and would favour whom less is known of.
        let is_known = |one: &Candidate<'_>| one.round_trip_ms.or(one.estimated_ms).is_some_and(f64::is_finite);
        if !(is_known(&mine) && is_known(&theirs)) {
            for one in [&mut mine, &mut theirs] {
                (one.round_trip_ms, one.estimated_ms) = (None, None);
            }
        }
        let policy = policy(wanted, least);
        let mut ranked = rank(&[mine.clone(), theirs.clone()], &policy);
        ranked.sort_by_key(|ranked| ranked.index);
        let [here, there] = <[Ranked; 2]>::try_from(ranked).ok()?;
        let relayed = me.reach == Some(Reach::Relayed) && other.reach == Some(Reach::Direct);
        Some(Self { policy, mine, theirs, here, there, relayed })
    }

    /// Whether this provider ranks at least as well: the next such job may come.
    pub(super) fn is_won(&self) -> bool {
        self.here.excluded.is_none() && self.here.cost <= self.there.cost
    }

    /// What keeps the job from coming here: of all in which both differ, that in which being like the other would lift this
    /// provider the most.
    pub(super) fn lack(&self) -> Lack {
        let (mine, theirs) = (&self.mine, &self.theirs);
        match &self.here.excluded {
            Some(Exclusion::Slashed(_)) => return Lack::Fault,
            Some(Exclusion::TooLittleTrust { .. }) => return Lack::Trust,
            Some(_) => return Lack::Model,
            None if self.is_won() => return Lack::Nothing,
            None => {}
        }
        let as_cheap = ModelOffer { price: theirs.offer.price, ..mine.offer.clone() };
        let as_fast = ModelOffer { speed: theirs.offer.speed, ..mine.offer.clone() };
        let (round_trip_ms, estimated_ms) = (theirs.round_trip_ms, theirs.estimated_ms);
        let alike = [
            Candidate { slots: theirs.slots, load: theirs.load, ..mine.clone() },
            Candidate { offer: &as_cheap, ..mine.clone() },
            Candidate { quality: theirs.quality, ..mine.clone() },
            Candidate { round_trip_ms, estimated_ms, ..mine.clone() },
            Candidate { offer: &as_fast, ..mine.clone() },
        ];
        let path = if self.relayed { Lack::Reach } else { Lack::RoundTrip };
        let lacks = [Lack::Slots, Lack::Price, Lack::Service, path, Lack::Speed];
        let best = rank(&alike, &self.policy).first().map(|ranked| ranked.index);
        best.and_then(|index| lacks.get(index).copied()).unwrap_or(Lack::Speed)
    }
}
