//! Harness of the cross-crate tests: real processes, bare peers for attacks, waiting for conditions.

pub mod peer;
pub mod process;
pub mod wait;

pub use peer::Peer;
pub use process::{Process, ProcessBuilder};
pub use wait::eventually;
