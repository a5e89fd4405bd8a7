//! What a user asks of private jobs, and what is told as it happens.

use crate::routing::{JobFailure, JobUpdate, Wishes};
use aitbc_protocol::{Digest, MicroCredits, NodeId, job::ModelName, sealed::ProfileName};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};
use tokio::sync::mpsc;

/// Most values of an input: as many as a model takes.
const MAX_VALUES: usize = aitbc_crypto::fhe::network::MAX_INPUTS;

/// How an answer is checked beyond its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Two providers compute it, each under a key of its own, and the answers are compared.
    Redundancy,
}

impl fmt::Display for Verify {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("redundancy:2")
    }
}

impl FromStr for Verify {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "redundancy:2" => Ok(Self::Redundancy),
            _ => Err(format!("{text:?} is no way to verify: the one that there is is redundancy:2")),
        }
    }
}

impl Serialize for Verify {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Verify {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A private job as it is asked for. Its `Debug` form shows how many values it has, and none of them.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivateRequest {
    /// The model.
    pub model: ModelName,
    /// What it is given, in the units of the model.
    pub input: Vec<f64>,
    /// The wishes; `max_price` is for all providers together.
    #[serde(default)]
    pub wishes: Wishes,
    /// How the answer is checked, beside its receipt.
    #[serde(default)]
    pub verify: Option<Verify>,
}

impl fmt::Debug for PrivateRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PrivateRequest({}, {} values)", self.model, self.input.len())
    }
}

impl PrivateRequest {
    /// Refuses what no model takes, by the field.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.input.is_empty() || self.input.len() > MAX_VALUES {
            return Err(("input", format!("{} values, allowed are 1 to {MAX_VALUES}", self.input.len())));
        }
        match self.input.iter().position(|value| !value.is_finite()) {
            Some(place) => Err(("input", format!("value {place} is not a finite number"))),
            None => Ok(()),
        }
    }
}

/// What happens to a private job beside what happens to any.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PrivateStep {
    /// A provider has said what its model takes.
    Described {
        /// Who.
        provider: NodeId,
        /// SHA-256 of the model.
        weights: Digest,
        /// Parameters of the keys.
        profile: ProfileName,
        /// Values that go in.
        values: usize,
        /// Bootstraps.
        bootstraps: u32,
        /// Bytes of the evaluation key.
        key_bytes: u64,
    },
    /// A secret key was made for this provider.
    KeyMade {
        /// Who.
        provider: NodeId,
    },
    /// The provider has the evaluation key already.
    KeyHeld {
        /// Who.
        provider: NodeId,
    },
    /// The evaluation key is being sent.
    KeySent {
        /// To whom.
        provider: NodeId,
        /// Bytes that are there.
        sent: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The input is encrypted.
    Encrypted {
        /// For whom.
        provider: NodeId,
        /// Its bytes.
        bytes: usize,
    },
    /// A provider brought no answer; another is asked if there is one.
    ProviderFailed {
        /// Who.
        provider: NodeId,
        /// Why.
        reason: String,
    },
    /// The answer, decrypted. Last update.
    Answer {
        /// Values of the outputs, in the units of the model.
        values: Vec<f64>,
        /// Names of the outputs, where the model has some.
        labels: Vec<String>,
        /// The place of the largest output, where the outputs are classes.
        class: Option<usize>,
        /// Whether two providers say the same, where two were asked.
        agree: Option<bool>,
        /// Who answered.
        providers: Vec<NodeId>,
        /// Ids of the receipts.
        receipts: Vec<Digest>,
        /// Paid in all.
        paid: MicroCredits,
    },
    /// There is no answer. Last update.
    PrivateFailed(JobFailure),
}

/// What happens to a private job, as it happens: one line of NDJSON on the control API each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "a queue holds few updates, and receipts are one in hundreds")]
pub enum PrivateUpdate {
    /// What only a private job has.
    Step(PrivateStep),
    /// What every job has.
    Job(JobUpdate),
}

/// A private job on its way. Dropping it cancels the job, on the provider too.
#[derive(Debug)]
pub struct RunningPrivate {
    /// What happens to it; bounded, so that a slow reader slows the job.
    pub updates: mpsc::Receiver<PrivateUpdate>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private::run::failed;

    #[test]
    fn a_request_names_the_field_and_shows_no_value() {
        let request = PrivateRequest {
            model: "digits".parse().unwrap(),
            input: vec![0.123_456_7, 3.0],
            wishes: Wishes::default(),
            verify: None,
        };
        assert_eq!(request.validate(), Ok(()));
        assert_eq!(format!("{request:?}"), "PrivateRequest(digits, 2 values)");
        for input in [vec![], vec![0.0; MAX_VALUES + 1], vec![1.0, f64::NAN]] {
            let refused = PrivateRequest { input, ..request.clone() }.validate();
            assert!(matches!(refused, Err(("input", _))), "{refused:?}");
        }
    }

    #[test]
    fn steps_and_updates_are_told_apart_by_their_event() {
        let step = PrivateStep::KeySent { provider: NodeId([1; 32]), sent: 3, total: 9 };
        let text = serde_json::to_string(&PrivateUpdate::Step(step.clone())).unwrap();
        assert!(matches!(serde_json::from_str(&text), Ok(PrivateUpdate::Step(read)) if read == step));
        let text = serde_json::to_string(&PrivateUpdate::Job(JobUpdate::Computed { done: 1, of: 2 })).unwrap();
        assert!(matches!(
            serde_json::from_str(&text),
            Ok(PrivateUpdate::Job(JobUpdate::Computed { done: 1, of: 2 }))
        ));
        let text = serde_json::to_string(&failed("why".to_owned())).unwrap();
        assert!(matches!(serde_json::from_str(&text), Ok(PrivateUpdate::Step(PrivateStep::PrivateFailed(_)))));
        assert_eq!("redundancy:2".parse(), Ok(Verify::Redundancy));
        assert!("redundancy:3".parse::<Verify>().is_err());
    }
}
