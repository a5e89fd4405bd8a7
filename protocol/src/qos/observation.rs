//! What a client says of a job, and what shows that there was one.

use crate::{
    CLOCK_TOLERANCE_MS, NodeId, UnixMillis,
    bytes::Digest,
    envelope::{Signed, Statement},
    job::Finish,
    money::MicroCredits,
};
use serde::{Deserialize, Serialize};

/// How far back a rating looks, in milliseconds: a day.
pub const WINDOW_MS: u64 = 24 * 60 * 60 * 1000;
/// How long after the end of its job an observation may be signed, in milliseconds.
pub const DELAY_MS: u64 = 10 * 60 * 1000;
/// Length of a slot in which a provider was heard or not, in milliseconds: longer than the silence after which it counts as
/// gone ([`crate::offer::GONE_AFTER_MS`]), so that one lost heartbeat costs nothing.
pub const SLOT_MS: u64 = 120_000;
/// Slots of a window.
pub const MAX_SLOTS: u16 = (WINDOW_MS / SLOT_MS) as u16;

/// The provider's word that a client has a receipt of it. It comes with the receipt, which says more than strangers need to
/// know: a digest of the prompt by which a guess could be confirmed, the model, the length of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Who asked.
    pub client: NodeId,
    /// Digest of the receipt.
    pub receipt: Digest,
    /// What the receipt asks for.
    pub total: MicroCredits,
    /// When the job ended, by the provider's clock.
    pub ended_ms: UnixMillis,
}

impl Statement for Served {
    const DOMAIN: &'static str = "aitbc/served/1";
    const MAX_BYTES: usize = 192;
}

impl Served {
    /// Whether it is about this receipt of this client.
    pub fn fits(&self, client: NodeId, receipt: Digest, total: MicroCredits) -> bool {
        self.client == client && self.receipt == receipt && self.total == total
    }
}

/// Slots in which heartbeats of a provider were heard, of those in which they should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uptime {
    /// Slots with a heartbeat.
    pub heard: u16,
    /// Slots in which the observer was connected to anybody, since it first heard the provider; at most [`MAX_SLOTS`].
    pub of: u16,
}

/// What a client saw of one job. Signed by it, and by gossip on the topic of the provider's cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Shows that the job was: signed by the provider whom this is about.
    pub served: Signed<Served>,
    /// From the opening of the job to its first piece, in milliseconds; `None` where none came, or its path broke.
    pub first_token_ms: Option<u32>,
    /// Milli-tokens a second from the first piece to the last; `None` of an answer too short to tell.
    pub speed: Option<u32>,
    /// From the opening of the job to its receipt, in milliseconds.
    pub total_ms: u32,
    /// How it ended.
    pub finish: Finish,
    /// Whether what the provider claims held where this client verified it within a day: the receipt against the answer, or
    /// a challenge of its memory. `None` where nothing was verified.
    pub verified: Option<bool>,
    /// How often this client heard it; `None` where it is not its neighbour.
    pub uptime: Option<Uptime>,
    /// When it was signed.
    pub issued_ms: UnixMillis,
}

impl Statement for Observation {
    const DOMAIN: &'static str = "aitbc/observation/1";
    const MAX_BYTES: usize = 640;
}

/// Why an observation is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObservationFault {
    /// The provider's word is for somebody else.
    #[error("the job that it shows was another client's")]
    OtherClient,
    /// Nobody is a witness to itself.
    #[error("the provider is the author")]
    OwnJob,
    /// From the future, or signed long after the job.
    #[error("dated in the future, or long after the end of its job")]
    Dates,
    /// Older than a day.
    #[error("older than a day")]
    Expired,
    /// Numbers that contradict each other.
    #[error("numbers that contradict each other")]
    Inconsistent,
}

impl Observation {
    /// What it says of the latency, in millionths: nothing is left of it where the provider failed, and a job that its client
    /// cancelled tells nothing.
    pub fn latency(&self) -> Option<u32> {
        match self.finish {
            Finish::Failed => Some(0),
            Finish::Cancelled => None,
            Finish::Stop | Finish::Length => self.first_token_ms.map(super::latency),
        }
    }

    /// Judges what `author` says of a job of `provider` that `served` shows; the signatures of both are judged elsewhere.
    pub fn check(
        &self,
        author: NodeId,
        provider: NodeId,
        served: &Served,
        now_ms: UnixMillis,
    ) -> Result<(), ObservationFault> {
        if author == provider {
            return Err(ObservationFault::OwnJob);
        }
        if served.client != author {
            return Err(ObservationFault::OtherClient);
        }
        let latest = now_ms.saturating_add(CLOCK_TOLERANCE_MS);
        if self.issued_ms > latest
            || served.ended_ms > latest
            || self.issued_ms.abs_diff(served.ended_ms) > DELAY_MS
        {
            return Err(ObservationFault::Dates);
        }
        if now_ms.saturating_sub(self.issued_ms) > WINDOW_MS {
            return Err(ObservationFault::Expired);
        }
        let consistent = self.first_token_ms.is_none_or(|first| first <= self.total_ms)
            && self.uptime.is_none_or(|uptime| uptime.heard <= uptime.of && uptime.of <= MAX_SLOTS);
        if consistent { Ok(()) } else { Err(ObservationFault::Inconsistent) }
    }
}
