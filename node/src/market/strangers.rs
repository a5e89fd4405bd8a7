//! What clients that have settled nothing may owe, all of them together and those of one subnet.

use crate::network::subnet;
use aitbc_protocol::{
    MicroCredits, UnixMillis,
    credit::{Allowance, SUBNET_SHARE},
};
use std::{collections::HashMap, net::IpAddr};

/// Subnets whose share of the strangers' allowance is remembered; more get nothing until one of them has its whole share
/// again.
const MAX_SUBNETS: usize = 4096;

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
pub(super) struct Subnets(HashMap<Origin, Allowance>);

impl Subnets {
    fn share(budget: MicroCredits) -> MicroCredits {
        MicroCredits(budget.0 / SUBNET_SHARE)
    }

    pub(super) fn left(&self, strangers: &Strangers, now_ms: UnixMillis) -> MicroCredits {
        let share = Self::share(strangers.budget);
        match strangers.from {
            None => strangers.budget,
            Some(origin) => match self.0.get(&origin) {
                Some(allowance) => allowance.left(share, now_ms),
                None if self.0.len() < MAX_SUBNETS => share,
                None => MicroCredits::ZERO,
            },
        }
    }

    pub(super) fn take(&mut self, strangers: &Strangers, amount: MicroCredits, now_ms: UnixMillis) {
        let Some(origin) = strangers.from else { return };
        if self.0.len() >= MAX_SUBNETS {
            self.sweep(now_ms);
        }
        let allowance = self.0.entry(origin).or_default();
        if let Some((after, _)) = allowance.take(Self::share(strangers.budget), amount, now_ms) {
            *allowance = after;
        }
    }

    /// Forgets those that have their whole share.
    pub(super) fn sweep(&mut self, now_ms: UnixMillis) {
        self.0.retain(|_, allowance| !allowance.is_whole(now_ms));
    }
}
