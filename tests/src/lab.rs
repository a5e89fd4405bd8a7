//! The NAT laboratory: an internet in network namespaces, with homes behind routers of every kind.
//!
//! ```text
//!   [ host ] lan-- [ home router ] wan-- ([ carrier's router ] wan--) [ core ] --wan [ public host ]
//!   192.168.1.2    NAT by nftables        45.80.n.2          45.80.n.1       45.80.m.2
//! ```
//!
//! Each box is a namespace of its own within one user namespace, so that no privileges are needed, and each line a
//! pair of interfaces: of the kernel's (veth), or, where delay and loss are wanted, of a [`Wire`]'s. All homes use the
//! same private addresses, as homes do. Processes run inside through [`Host::node`] and [`Space::entry`], and the test
//! reaches them through sockets that were made inside (see [`agent`]): no network joins it with the laboratory, so
//! that no such network can carry what nodes should send each other over the internet.

pub mod agent;
mod home;
mod lane;
mod nat;
pub mod probe;
mod space;
pub mod town;
mod wire;

pub use home::{Home, Host, Transport};
pub use lane::Conditions;
pub use nat::{Access, Dependence};
pub use space::{Space, Unavailable};
pub use wire::{Carried, Wire};

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

/// Owns an internet that nothing leads out of. Homes keep it alive.
#[derive(Clone, Debug)]
pub struct Lab {
    core: Arc<Space>,
    homes: Arc<AtomicU8>,
}

impl Lab {
    /// A laboratory without homes.
    pub fn new() -> Result<Self, Unavailable> {
        let core = Space::outermost("core")?;
        core.shell("echo 1 >/proc/sys/net/ipv4/ip_forward");
        Ok(Self { core: Arc::new(core), homes: Arc::default() })
    }

    /// A laboratory, or `None` with the reason printed where there can be none: the test has nothing to say then.
    pub fn or_skip() -> Option<Self> {
        Self::new().map_err(|error| skipped(&error)).ok()
    }

    /// A new home.
    pub fn home(&self, name: &str, access: Access) -> Home {
        Home::build(&self.core, self.number(), name, access, None)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A new home whose way to the internet is a [`Wire`]; what is lost there follows from `seed`.
    pub fn home_over(
        &self,
        name: &str,
        access: Access,
        conditions: Conditions,
        seed: u64,
    ) -> Result<Home, Unavailable> {
        Home::build(&self.core, self.number(), name, access, Some((conditions, seed)))
    }

    fn number(&self) -> u8 {
        let number = self.homes.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        assert!(number < u8::MAX, "a laboratory has 254 homes at most");
        number
    }
}

/// Says why a test does nothing here. Past the capture of the test harness: a test that passes without having run must
/// not do so in silence.
pub fn skipped(error: &Unavailable) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED {test}: {error}");
}
