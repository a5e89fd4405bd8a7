//! The vocabulary and the rules of the aitbc network.
//!
//! Everything that two nodes must compute alike, or that money or trust depends on, is a plain type or a pure
//! function in this crate. Nothing here does I/O, reads a clock, draws a random number or awaits: callers pass the
//! time in and act on what comes out.

pub mod attestation;
pub mod bandwidth;
pub mod bytes;
pub mod checks;
pub mod competition;
pub mod conditions;
pub mod coordinates;
pub mod credit;
pub mod envelope;
pub mod evidence;
pub mod geo;
pub mod gossip;
pub mod gpu;
pub mod holdback;
pub mod identity;
pub mod job;
pub mod ledger;
pub mod messages;
pub mod money;
pub mod nat;
pub mod offer;
pub mod price;
pub mod private;
pub mod qos;
pub mod quote;
pub mod reach;
pub mod receipt;
pub mod resume;
pub mod routing;
pub mod sealed;
pub mod sla;
pub mod terms;
pub mod text;
pub mod wire;

pub use bytes::{Digest, JobId, Nonce};
pub use envelope::{NetworkId, Signed, Statement};
pub use identity::NodeId;
pub use money::MicroCredits;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type UnixMillis = u64;

/// Whether a statement of `issued_ms` to `expires_ms` stands at `now_ms`: its time is not over, it is not from the future
/// beyond what clocks may differ, and it claims no longer than `longest_ms`.
pub(crate) fn stands(issued_ms: UnixMillis, expires_ms: UnixMillis, longest_ms: u64, now_ms: UnixMillis) -> bool {
    issued_ms <= now_ms.saturating_add(CLOCK_TOLERANCE_MS)
        && now_ms < expires_ms
        && expires_ms.saturating_sub(issued_ms) <= longest_ms
}

/// How far two honest clocks may differ, in milliseconds.
pub const CLOCK_TOLERANCE_MS: u64 = 30_000;
