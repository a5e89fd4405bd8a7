//! The states that a job goes through on either side.

use super::Finish;
use serde::{Deserialize, Serialize};

/// Where a job stands. One machine serves both sides: the client starts it at `Opening`, the provider at `Running`
/// (a job that was not admitted never exists there).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The quote is taken and recorded; the provider has not answered yet.
    Opening,
    /// Admitted; tokens may flow.
    Running,
    /// The answer is whole (or ended early) and its receipt is held; what it asks for is not all paid, or not
    /// known to have arrived.
    Delivered,
    /// Ended well and settled.
    Completed,
    /// Ended by the client, settled.
    Cancelled,
    /// Ended by a failure or a crash of either side, settled with what was paid.
    Failed,
    /// Not admitted; nothing owed.
    Rejected,
    /// The other side cannot be reached for its receipt (client) or for its last cheque (provider): settled alone
    /// with what was paid.
    ReceiptMissing,
}

/// What moves a job from state to state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEvent {
    /// The provider admitted the job.
    Accepted,
    /// The provider did not.
    Refused,
    /// A receipt was signed (provider) or checked and stored (client).
    Receipt(Finish),
    /// Everything the receipt asks for is paid and both sides know it.
    Paid(Finish),
    /// This node restarted, or the path broke, and the two sides settled what stood.
    Settled,
    /// The other side stayed away for as long as this side waits.
    GaveUp,
}

/// An event that a state does not allow: a fault in this node or a peer that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job in state {state:?} does not take {event:?}")]
pub struct TransitionError {
    /// Where the job stands.
    pub state: JobState,
    /// What came.
    pub event: JobEvent,
}

impl JobState {
    /// True once nothing can change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed | Self::Rejected | Self::ReceiptMissing)
    }

    /// The next state. A final state takes no event, but for a receipt that was missing: it can still come, or be
    /// settled without.
    pub fn on(self, event: JobEvent) -> Result<Self, TransitionError> {
        use JobEvent::{Accepted, GaveUp, Paid, Receipt, Refused, Settled};
        let ended = |finish| match finish {
            Finish::Stop | Finish::Length => Self::Completed,
            Finish::Cancelled => Self::Cancelled,
            Finish::Failed => Self::Failed,
        };
        match (self, event) {
            (Self::Opening, Accepted) => Ok(Self::Running),
            (Self::Opening, Refused) => Ok(Self::Rejected),
            (Self::Opening | Self::Running | Self::ReceiptMissing, Receipt(_)) => Ok(Self::Delivered),
            (Self::Delivered, Paid(finish)) => Ok(ended(finish)),
            (Self::Opening | Self::Running | Self::Delivered | Self::ReceiptMissing, Settled) => Ok(Self::Failed),
            (Self::Opening | Self::Running | Self::Delivered, GaveUp) => Ok(Self::ReceiptMissing),
            (state, event) => Err(TransitionError { state, event }),
        }
    }
}
