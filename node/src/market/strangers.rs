//! What clients that have settled nothing may owe, all of them together and those of one subnet.

use crate::network::subnet;
use aitbc_protocol::{
    MicroCredits, Nonce, UnixMillis,
    credit::{Allowance, SUBNET_SHARE, unused_ms},
    quote::Quote,
};
use std::{collections::HashMap, net::IpAddr};

/// Subnets whose share of the strangers' allowance is remembered; more get nothing until one of them has its whole share
/// again.
const MAX_SUBNETS: usize = 4096;
/// Jobs whose part of a share is remembered, far above the slots that there are.
const MAX_TAKEN: usize = 4096;

/// What clients that have settled nothing may owe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strangers {
    /// All of them together, in a day.
    pub budget: MicroCredits,
    /// Where the client at hand comes from, as far as its subnet is limited to its share: `None` on networks of demos and
    /// tests, where everybody is in one home.
    pub from: Option<Origin>,
}

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A /24 of IPv4, a /48 of IPv6.
    Subnet(IpAddr),
    /// Through relays: all who come so share one share.
    Relayed,
}

impl Origin {
    /// The origin of a client with a direct connection from `ip`, or with none.
    pub fn of(ip: Option<IpAddr>) -> Self {
        ip.map_or(Self::Relayed, |ip| Self::Subnet(subnet(ip)))
    }
}

/// Shares of subnets in the strangers' allowance. They are kept in memory alone: a restart gives each subnet its share
/// back, and never more than is left for all.
#[derive(Debug, Default)]
pub(super) struct Subnets {
    shares: HashMap<Origin, Allowance>,
    /// Whose share a running job took so many milliseconds of.
    taken: HashMap<Nonce, (Origin, u64)>,
}

impl Subnets {
    fn share(budget: MicroCredits) -> MicroCredits {
        MicroCredits(budget.0 / SUBNET_SHARE)
    }

    pub(super) fn left(&self, strangers: &Strangers, now_ms: UnixMillis) -> MicroCredits {
        let share = Self::share(strangers.budget);
        match strangers.from {
            None => strangers.budget,
            Some(origin) => match self.shares.get(&origin) {
                Some(allowance) => allowance.left(share, now_ms),
                None if self.shares.len() < MAX_SUBNETS => share,
                None => MicroCredits::ZERO,
            },
        }
    }

    /// Takes the most that the job under `quote` may cost.
    pub(super) fn take(&mut self, strangers: &Strangers, quote: &Quote, now_ms: UnixMillis) {
        let Some(origin) = strangers.from else { return };
        if self.shares.len() >= MAX_SUBNETS {
            self.sweep(now_ms);
        }
        let allowance = self.shares.entry(origin).or_default();
        if let Some((after, took_ms)) = allowance.take(Self::share(strangers.budget), quote.max_total, now_ms) {
            *allowance = after;
            if self.taken.len() < MAX_TAKEN {
                self.taken.insert(quote.nonce, (origin, took_ms));
            }
        }
    }

    /// Gives back what the job under `quote` took beyond what it came to.
    pub(super) fn give_back(&mut self, quote: &Quote, came_to: MicroCredits) {
        let Some((origin, took_ms)) = self.taken.remove(&quote.nonce) else { return };
        if let Some(allowance) = self.shares.get_mut(&origin) {
            *allowance = allowance.give_back(unused_ms(took_ms, quote.max_total, came_to));
        }
    }

    /// Forgets those that have their whole share.
    pub(super) fn sweep(&mut self, now_ms: UnixMillis) {
        self.shares.retain(|_, allowance| !allowance.is_whole(now_ms));
    }
}
