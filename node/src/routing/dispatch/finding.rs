//! Whom a job goes to: who was found, in order of rank, and the first quote that can be taken.

use super::{Dispatch, End, Road};
use crate::{
    clock::now_ms,
    draw::draw,
    routing::{
        JobFailure, JobUpdate,
        candidates::{self, Choice},
        quotes::{self, NoQuote, Offered, Order},
        search::{Goal, SearchEnd, Searched, search},
    },
};
use aitbc_protocol::{
    MicroCredits, NodeId,
    attestation::Tier,
    job::Rejection,
    quote::QuoteFault,
    routing::{Exclusion, Policy},
};
use std::{collections::HashSet, time::Duration};
use tokio::time::{Instant, sleep};

/// For how long providers that are full for the moment are asked again.
const PASSING: Duration = Duration::from_secs(30);
/// First wait before they are, doubled up to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(1);
/// For how long candidates whose path was lost are tried again where nobody else is left, and for how long the one that
/// was asked for by name.
const LOST: Duration = Duration::from_secs(10);
const LOST_WANTED: Duration = Duration::from_secs(45);
/// First wait before they are, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(4);

/// One search with the questions that follow it.
struct Round {
    /// Whether to search on although somebody was found.
    thorough: bool,
    /// How long a quote may take.
    patience: Duration,
    /// Who may quote a little later.
    lost: Vec<Lost>,
}

/// A provider of which no quote came, for a reason that may pass.
pub(super) struct Lost {
    provider: NodeId,
    reason: String,
    /// Whether it counts against the provider in the end.
    failure: bool,
}

impl Dispatch<'_> {
    /// Finds candidates, ranks them and asks the best for quotes, until one can be taken. Where nobody else is left,
    /// those whose path was lost are tried again for a while. Where the cloud is to be preferred to the best of them, nobody
    /// is asked.
    pub(super) async fn find_quote(&mut self) -> Result<Road, End> {
        let started = Instant::now();
        let patience = if self.wishes.provider.is_some() { LOST_WANTED } else { LOST };
        let mut round = Round { thorough: false, patience: quotes::PATIENCE, lost: Vec::new() };
        let mut pause = FIRST_PAUSE;
        loop {
            let searched =
                self.unless_gone(search(self.shared, &self.goal(round.thorough), &self.updates)).await?;
            self.told.extend(searched.found.iter().map(|found| found.known.provider));
            let choices = self.candidates(&searched, &mut round).await?;
            let usable: Vec<Choice> =
                choices.iter().filter(|choice| choice.ranked.excluded.is_none()).cloned().collect();
            self.ranked.clone_from(&usable);
            if let Some(reason) = self.cloud_before(usable.first().map(|choice| &choice.ranked.reasons)) {
                return Ok(Road::Cloud(reason));
            }
            if let Some(offered) = self.ask(&usable, &mut round).await? {
                return Ok(Road::Provider(Box::new(offered)));
            }
            let wanted =
                self.wishes.provider.is_some_and(|wanted| round.lost.iter().any(|lost| lost.provider == wanted));
            let lost = std::mem::take(&mut round.lost);
            // Somebody who was not needed before may be now, unless only one will do.
            let wider = !round.thorough && !wanted && matches!(searched.end, SearchEnd::Enough | SearchEnd::Time);
            if !wider && (lost.is_empty() || started.elapsed() >= patience) {
                return Err(self.nobody_left(&searched, &choices, lost).await);
            }
            round.patience = (round.patience * 2).min(quotes::LAST_PATIENCE);
            round.thorough |= wider;
            if !wider {
                for Lost { provider, reason, .. } in lost {
                    self.tell(JobUpdate::Retrying { provider, reason }).await;
                }
                self.unless_gone(sleep(pause)).await?;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }

    /// How a search ends that leaves nobody to ask.
    async fn nobody_left(&mut self, searched: &Searched, choices: &[Choice], lost: Vec<Lost>) -> End {
        for Lost { provider, reason, failure } in lost {
            if failure {
                self.shared.experience.note(provider, false, now_ms());
            }
            self.decline(provider, reason).await;
        }
        let failure =
            candidates::nobody(&self.spec.model, &self.policy(), searched, choices, &self.declined, &self.dear);
        End::Failed(if self.log.is_empty() {
            failure
        } else {
            self.give_up(&format!("nobody is left to go on: {failure}"))
        })
    }

    fn goal(&self, thorough: bool) -> Goal {
        Goal {
            model: Some(self.spec.model.clone()),
            provider: self.wishes.provider,
            from: self.shared.config.location,
            budget_ms: candidates::budget_ms(self.wishes.latency_budget_ms),
            thorough,
            exclude: self.failed.iter().chain(self.declined.iter().map(|(who, _)| who)).copied().collect(),
            told: self.told.clone(),
        }
    }

    /// Whoever was found and has not declined, in order of rank.
    async fn candidates(&mut self, searched: &Searched, round: &mut Round) -> Result<Vec<Choice>, End> {
        let out: HashSet<NodeId> = self.declined.iter().map(|(provider, _)| *provider).collect();
        let mut left = searched.found.clone();
        left.retain(|found| !out.contains(&found.known.provider));
        let (round_trips, unreachable) = self.unless_gone(candidates::measure(self.shared, &left)).await?;
        for (provider, error) in unreachable {
            self.shared.book.silent(provider).await;
            left.retain(|found| found.known.provider != provider);
            round.lost.push(Lost { provider, reason: error.to_string(), failure: false });
        }
        if self.policy().least_trust(false).rank() > Tier::None.rank() {
            self.unless_gone(candidates::ask_for_proofs(self.shared, &left)).await?;
        }
        let model = &self.spec.model;
        let policy = self.policy();
        let mut choices = candidates::choose(self.shared, &left, Some(model), &policy, &round_trips);
        let costs = choices.iter().map(|choice| choice.ranked.cost);
        let picked = policy.preference.pick(costs, draw());
        if let Some(until) = choices.get_mut(..=picked) {
            until.rotate_right(1);
        }
        for choice in &choices {
            if let Some(passing @ (Exclusion::Offline { .. } | Exclusion::Resting { .. })) =
                &choice.ranked.excluded
            {
                round.lost.push(Lost { provider: choice.provider(), reason: passing.to_string(), failure: false });
            }
        }
        let out = choices.iter().filter(|choice| choice.ranked.excluded.is_some()).count();
        self.looked_at = (choices.len() - out, out);
        if !choices.is_empty() {
            let lines = choices.iter().map(Choice::line).collect();
            self.tell(JobUpdate::Ranked { candidates: lines }).await;
        }
        Ok(choices)
    }

    pub(super) fn policy(&self) -> Policy {
        let mut policy =
            candidates::policy(&self.shared.config, &self.spec, &self.wishes, self.weights, self.failed.clone());
        policy.ceiling = self.ceiling();
        policy
    }

    /// What is left of the user's ceiling.
    pub(super) fn ceiling(&self) -> Option<MicroCredits> {
        let promised = self.paid.checked_add(self.reserved);
        let spent = promised.and_then(|promised| promised.checked_add(self.parting_most()));
        let spent = spent.unwrap_or(MicroCredits(u64::MAX));
        self.wishes.max_price.map(|most| most.checked_sub(spent).unwrap_or(MicroCredits::ZERO))
    }

    /// Asks candidates for quotes, a few at a time in order of rank. Providers that are full only for the moment are
    /// asked again while there is time; all others that refuse are out, but for those whose path was lost.
    async fn ask(&mut self, usable: &[Choice], round: &mut Round) -> Result<Option<Offered>, End> {
        let request = match self.spec.digest() {
            Ok(request) => request,
            Err(error) => return Err(End::Failed(JobFailure::Invalid { message: error.to_string() })),
        };
        let spec = self.spec.clone();
        let order = Order {
            job: self.job,
            spec: &spec,
            request,
            latency: self.wishes.latency_class,
            ceiling: self.ceiling(),
            preference: self.policy().preference,
        };
        let at_once = self.shared.config.quotes.max(1) as usize;
        let started = Instant::now();
        let mut backoff = FIRST_BACKOFF;
        let mut asked = usable.to_vec();
        loop {
            let mut again = Vec::new();
            for few in asked.chunks(at_once) {
                let few = &self.admitted(few, round)[..];
                let (mut offered, refused) =
                    self.unless_gone(quotes::ask_all(self.shared, &order, few, round.patience)).await?;
                for (provider, error) in refused {
                    self.shared.experience.probe_ended(&provider, error.is_failure(), now_ms());
                    if error.is_lost() {
                        round.lost.push(self.lose(provider, &error));
                    } else if error.is_passing() && started.elapsed() < PASSING {
                        again.extend(few.iter().filter(|choice| choice.provider() == provider).cloned());
                    } else {
                        self.refuse(provider, &error).await;
                    }
                }
                if !offered.is_empty() {
                    let best = offered.remove(0);
                    for other in offered {
                        self.shared.experience.probe_ended(&other.choice.provider(), false, now_ms());
                        let reason = "another quote was better".to_owned();
                        self.tell(JobUpdate::Declined { provider: other.choice.provider(), reason }).await;
                    }
                    return Ok(Some(best));
                }
            }
            if again.is_empty() {
                return Ok(None);
            }
            self.unless_gone(sleep(backoff)).await?;
            backoff = (backoff * 2).min(LAST_BACKOFF);
            asked = again;
        }
    }

    /// Those of `few` that may have a job now: after a rest, one job at a time shows whether a provider works again.
    fn admitted(&self, few: &[Choice], round: &mut Round) -> Vec<Choice> {
        let mut admitted = few.to_vec();
        admitted.retain(|choice| {
            let provider = choice.provider();
            let offered_ms = choice.found.known.offer.issued_ms;
            let turn = self.shared.experience.admit(&provider, offered_ms, now_ms());
            if !turn && self.wishes.provider.is_none() {
                let reason = "its last jobs failed, and another job shows whether it works again".to_owned();
                round.lost.push(Lost { provider, reason, failure: false });
                return false;
            }
            true
        });
        admitted
    }

    /// Does what may bring a quote a little later.
    pub(super) fn lose(&self, provider: NodeId, error: &NoQuote) -> Lost {
        if matches!(error, NoQuote::Rejected(Rejection::Debt(_))) {
            self.shared.settle.owing(provider);
        }
        Lost { provider, reason: error.to_string(), failure: error.is_failure() }
    }

    pub(super) async fn refuse(&mut self, provider: NodeId, error: &NoQuote) {
        if error.is_failure() {
            self.shared.experience.note(provider, false, now_ms());
        }
        if let NoQuote::Fault(QuoteFault::TooExpensive { total, .. }) = error {
            self.dear.push((provider, *total));
        }
        self.decline(provider, error.to_string()).await;
    }
}
