//! Harness of the cross-crate tests: real processes, bare peers for attacks, a NAT laboratory, software TPMs, waiting.

#[cfg(unix)]
pub mod desktop;
pub mod door;
#[cfg(target_os = "linux")]
pub mod lab;
#[cfg(unix)]
pub mod openai;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod relayed;
pub mod stories;
pub mod swtpm;
pub mod usage;
pub mod wait;

pub use peer::Peer;
pub use process::{Process, ProcessBuilder};
pub use proxy::Proxy;
pub use wait::eventually;
