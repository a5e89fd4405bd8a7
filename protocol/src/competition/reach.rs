//! How others come to a provider, as its offer tells.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The part of a multiaddress that says that it leads through a relay (libp2p circuit relay).
const CIRCUIT: &str = "p2p-circuit";

/// How others come to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// At an address of its own.
    Direct,
    /// Through relays only, until a hole is punched.
    Relayed,
}

impl Reach {
    /// By the multiaddresses of an offer, which are its provider's word; `None` where there are none.
    pub fn of<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let ways = addresses.into_iter().map(|address| {
            if address.split('/').any(|part| part == CIRCUIT) { Self::Relayed } else { Self::Direct }
        });
        ways.reduce(|one, other| if one == Self::Direct { one } else { other })
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        })
    }
}
