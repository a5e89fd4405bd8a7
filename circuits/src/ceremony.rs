//! Keys out of the randomness of many.
//!
//! Groth16's keys come from secrets; whoever knows delta alone, or tau with alpha and beta, forges. Two phases let any number of people multiply their own secrets in (Bowe, Gabizon and Miers, "Scalable Multi-party
//! Computation for zk-SNARK Parameters in the Random Beacon Model", 2017; without the beacon: Kohlweiss, Maller, Siim
//! and Volkhov, "Snarky Ceremonies", 2021):
//!
//! 1. **Powers**: tau, alpha and beta, for any circuit of up to 2^14 constraints.
//! 2. **Circuit**: the key of this circuit follows from the powers; contributions change delta.
//!
//! Each contribution shows with a proof of knowledge, bound to all that came before, that its maker knows what it
//! multiplied in. If one contributor of each phase forgot their secrets, nobody can forge.

mod derive;
mod encoding;
mod powers;
mod share;

pub use encoding::MAX_CEREMONY;

use crate::{
    contribution::{ContributionFile, MAX_CONTRIBUTIONS, MIN_CONTRIBUTIONS, Phase},
    points::PointError,
    relation::Relation,
    setup::{Origin, ProvingKey, VerifyingKey},
};
use aitbc_protocol::{Digest, text::Line};
use ark_bn254::{Bn254, Fr, G1Affine, G2Affine};
use ark_ec::AffineRepr;
use ark_ff::{Field, UniformRand, Zero};
use ark_std::rand::{CryptoRng, RngCore};
use powers::Powers;
use share::{Share, Transcript};
use std::fmt;
use zeroize::Zeroizing;

/// A secret of the ceremony.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// Where the polynomials are evaluated.
    Tau,
    /// Ties A to the other elements.
    Alpha,
    /// Ties B to the other elements.
    Beta,
    /// Ties C to the witness.
    Delta,
}

/// Why a ceremony is not in order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CeremonyError {
    /// Another file.
    #[error("not the file of a ceremony of this version")]
    Header,
    /// Cut off, too long, or of another circuit.
    #[error("the file is cut off, too long, or of another circuit")]
    Length,
    /// A name that is not one line of up to 64 bytes.
    #[error("contribution {index} to the phase {phase} has no proper name")]
    Name {
        /// The phase.
        phase: Phase,
        /// Its place.
        index: usize,
    },
    /// A point of it is none.
    #[error("damaged: {0}")]
    Point(#[from] PointError),
    /// A number at or above the modulus.
    #[error("damaged: a number out of its range")]
    Number,
    /// The maker of a contribution did not show that they know what they multiplied in.
    #[error("contribution {index} to the phase {phase}: no proof of knowledge of {secret:?}")]
    Knowledge {
        /// The phase.
        phase: Phase,
        /// Its place.
        index: usize,
        /// Of what.
        secret: Secret,
    },
    /// A contribution does not continue the one before.
    #[error("contribution {index} to the phase {phase}: {secret:?} does not follow from the contribution before")]
    Ratio {
        /// The phase.
        phase: Phase,
        /// Its place.
        index: usize,
        /// Which secret.
        secret: Secret,
    },
    /// The elements are not those of the last contribution.
    #[error("the {0} are not those of the last contribution")]
    Last(&'static str),
    /// The elements are not powers of one secret.
    #[error("the {0} do not belong together")]
    Structure(&'static str),
    /// Too early or too late for that.
    #[error("the ceremony is in its phase {0}")]
    Phase(Phase),
    /// Too many contributions.
    #[error("a phase takes up to {MAX_CONTRIBUTIONS} contributions")]
    Full,
    /// Too few contributions.
    #[error("{found} contributions to the phase {phase}, where at least {MIN_CONTRIBUTIONS} are needed")]
    TooFew {
        /// The phase.
        phase: Phase,
        /// How many there are.
        found: usize,
    },
}

/// One contribution: who says to have made it, and what was multiplied in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contribution {
    name: Line<64>,
    shares: Vec<Share>,
}

/// The part of the key that the second phase changes.
#[derive(Debug, Clone, PartialEq)]
struct CircuitPart {
    delta_g1: G1Affine,
    delta_g2: G2Affine,
    h_query: Vec<G1Affine>,
    l_query: Vec<G1Affine>,
    contributions: Vec<Contribution>,
}

/// A ceremony as it goes from hand to hand.
#[derive(Clone)]
pub struct Ceremony {
    relation: &'static Relation,
    powers: Powers,
    contributions: Vec<Contribution>,
    circuit: Option<CircuitPart>,
}

const POWERS: [Secret; 3] = [Secret::Tau, Secret::Alpha, Secret::Beta];

impl Ceremony {
    /// A ceremony for the statement about attested hardware that nobody has contributed to: all secrets are one.
    pub fn begin() -> Self {
        Self::of(Relation::attestation())
    }

    pub(crate) fn of(relation: &'static Relation) -> Self {
        Self {
            relation,
            powers: Powers::ones(derive::domain_size(relation)),
            contributions: Vec::new(),
            circuit: None,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        if self.circuit.is_none() { Phase::Powers } else { Phase::Circuit }
    }

    /// Verifies what is there, then multiplies fresh secrets in and forgets them. Takes some seconds in the first phase,
    /// up to some minutes in the second, where the circuit's key is derived anew to compare.
    pub fn contribute(
        &mut self,
        name: Line<64>,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Digest, CeremonyError> {
        let state = self.inspect()?;
        let contributions = match &self.circuit {
            None => self.contributions.len(),
            Some(circuit) => circuit.contributions.len(),
        };
        if contributions >= MAX_CONTRIBUTIONS {
            return Err(CeremonyError::Full);
        }
        let mut transcript = state.transcript;
        transcript.begin(&name);
        match &mut self.circuit {
            None => {
                let secrets = Zeroizing::new([nonzero(rng), nonzero(rng), nonzero(rng)]);
                let before = self.powers.representatives();
                let shares = secrets
                    .iter()
                    .zip(before)
                    .map(|(secret, before)| Share::new(secret, &before, &mut transcript, rng))
                    .collect();
                let [tau, alpha, beta] = &*secrets;
                self.powers.multiply(tau, alpha, beta);
                self.contributions.push(Contribution { name, shares });
            }
            Some(circuit) => {
                let secret = Zeroizing::new([nonzero(rng)]);
                let share = Share::new(&secret[0], &circuit.delta_g1, &mut transcript, rng);
                let inverse = Zeroizing::new([secret[0].inverse().expect("the secret is not zero")]);
                circuit.delta_g1 = share.after;
                circuit.delta_g2 = (circuit.delta_g2 * secret[0]).into();
                powers::multiply_all(&mut circuit.h_query, &inverse[0]);
                powers::multiply_all(&mut circuit.l_query, &inverse[0]);
                circuit.contributions.push(Contribution { name, shares: vec![share] });
            }
        }
        Ok(transcript.digest())
    }

    /// Ends the first phase: derives the circuit's key from the powers, with delta one. Everybody who does this gets the
    /// same. Takes up to some minutes.
    pub fn begin_circuit(&mut self) -> Result<(), CeremonyError> {
        if self.circuit.is_some() {
            return Err(CeremonyError::Phase(Phase::Circuit));
        }
        self.inspect()?;
        if self.contributions.len() < MIN_CONTRIBUTIONS {
            return Err(CeremonyError::TooFew { phase: Phase::Powers, found: self.contributions.len() });
        }
        let key = derive::key(&self.powers, self.relation);
        self.circuit = Some(CircuitPart {
            delta_g1: key.delta_g1,
            delta_g2: key.vk.delta_g2,
            h_query: key.h_query,
            l_query: key.l_query,
            contributions: Vec::new(),
        });
        Ok(())
    }

    /// Verifies every contribution and that the elements follow from them; tells who contributed, as a parameters file
    /// names them. In the second phase this derives the circuit's key from the powers anew.
    pub fn verify(&self) -> Result<Vec<ContributionFile>, CeremonyError> {
        Ok(self.inspect()?.contributions)
    }

    /// Verifies the ceremony and takes its keys; tells who contributed, as [`Self::verify`] does.
    pub fn keys(&self) -> Result<(ProvingKey, VerifyingKey, Vec<ContributionFile>), CeremonyError> {
        let state = self.inspect()?;
        let (Some(mut key), Some(circuit)) = (state.key, &self.circuit) else {
            return Err(CeremonyError::Phase(Phase::Powers));
        };
        if circuit.contributions.len() < MIN_CONTRIBUTIONS {
            return Err(CeremonyError::TooFew { phase: Phase::Circuit, found: circuit.contributions.len() });
        }
        key.delta_g1 = circuit.delta_g1;
        key.vk.delta_g2 = circuit.delta_g2;
        key.h_query.clone_from(&circuit.h_query);
        key.l_query.clone_from(&circuit.l_query);
        let proving = ProvingKey { key, origin: Origin::Ceremony };
        let verifying = proving.verifying_key();
        Ok((proving, verifying, state.contributions))
    }

    fn inspect(&self) -> Result<State, CeremonyError> {
        let mut transcript = Transcript::new(self.relation);
        let mut contributions = Vec::new();
        let ones = [G1Affine::generator(); 3];
        let last =
            follow(&self.contributions, Phase::Powers, &POWERS, &ones, &mut transcript, &mut contributions)?;
        if self.powers.representatives()[..] != last[..] {
            return Err(CeremonyError::Last("powers"));
        }
        self.powers.check()?;
        let Some(circuit) = &self.circuit else {
            return Ok(State { transcript, contributions, key: None });
        };
        if self.contributions.len() < MIN_CONTRIBUTIONS {
            return Err(CeremonyError::TooFew { phase: Phase::Powers, found: self.contributions.len() });
        }
        transcript.begin_circuit(&self.powers);
        let last = follow(
            &circuit.contributions,
            Phase::Circuit,
            &[Secret::Delta],
            &ones[..1],
            &mut transcript,
            &mut contributions,
        )?;
        if last[..] != [circuit.delta_g1] {
            return Err(CeremonyError::Last("elements of the circuit"));
        }
        let key = derive::key(&self.powers, self.relation);
        check_circuit(circuit, &key)?;
        Ok(State { transcript, contributions, key: Some(key) })
    }
}

/// What a ceremony was found to be.
struct State {
    transcript: Transcript,
    contributions: Vec<ContributionFile>,
    /// The circuit's key before the second phase.
    key: Option<ark_groth16::ProvingKey<Bn254>>,
}

/// Verifies a chain of contributions; gives what the secrets' representatives are after the last.
fn follow(
    chain: &[Contribution],
    phase: Phase,
    secrets: &[Secret],
    first: &[G1Affine],
    transcript: &mut Transcript,
    report: &mut Vec<ContributionFile>,
) -> Result<Vec<G1Affine>, CeremonyError> {
    let mut before = first.to_vec();
    for (index, contribution) in chain.iter().enumerate() {
        transcript.begin(&contribution.name);
        if contribution.shares.len() != secrets.len() {
            return Err(CeremonyError::Length);
        }
        for ((share, secret), before) in contribution.shares.iter().zip(secrets).zip(&mut before) {
            if !share.is_known(transcript) {
                return Err(CeremonyError::Knowledge { phase, index, secret: *secret });
            }
            if !share.continues(before) {
                return Err(CeremonyError::Ratio { phase, index, secret: *secret });
            }
            *before = share.after;
        }
        report.push(ContributionFile { phase, name: contribution.name.clone(), digest: transcript.digest() });
    }
    Ok(before)
}

/// That the changed part of the key is the derived one over delta.
fn check_circuit(circuit: &CircuitPart, derived: &ark_groth16::ProvingKey<Bn254>) -> Result<(), CeremonyError> {
    let (one_g1, one_g2) = (G1Affine::generator(), G2Affine::generator());
    if !powers::same_ratio(&one_g1, &circuit.delta_g1, &one_g2, &circuit.delta_g2) {
        return Err(CeremonyError::Structure("two forms of delta"));
    }
    for (name, now, then) in [
        ("h elements and delta", &circuit.h_query, &derived.h_query),
        ("l elements and delta", &circuit.l_query, &derived.l_query),
    ] {
        if now.len() != then.len() {
            return Err(CeremonyError::Length);
        }
        let factors = powers::factors(&[now], now.len());
        let now = powers::combine(now, &factors);
        let then = powers::combine(then, &factors);
        if !powers::same_ratio(&now, &then, &one_g2, &circuit.delta_g2) {
            return Err(CeremonyError::Structure(name));
        }
    }
    Ok(())
}

fn nonzero(rng: &mut (impl RngCore + CryptoRng)) -> Fr {
    loop {
        let secret = Fr::rand(rng);
        if !secret.is_zero() {
            return secret;
        }
    }
}

impl fmt::Debug for Ceremony {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = self.circuit.as_ref().map_or(0, |circuit| circuit.contributions.len());
        write!(formatter, "Ceremony({} to the powers, {second} to the circuit)", self.contributions.len())
    }
}

#[cfg(test)]
mod tests;
