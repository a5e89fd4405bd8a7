//! Quality of service: what a provider's last day was like, out of what its clients sign.
//!
//! ```text
//! provider --Served: this client, this receipt--> client --Observation--> gossip of the provider's cell
//!
//! observations --testimony: one voice an author--> weights: what I settled with it --> rate: five parts, a score, a tier
//! ```
//!
//! All in integers: shares are millionths ([`ONE`]). Nobody judges for others: every node reckons by its own money, and two
//! nodes may come to two scores of one provider.

mod observation;
mod rating;
mod weight;

pub use crate::price::ONE;
pub use observation::{DELAY_MS, MAX_SLOTS, Observation, ObservationFault, SLOT_MS, Served, Uptime, WINDOW_MS};
pub use rating::{
    Component, LEAST_JOBS, LEAST_PARTS, Part, Quality, Rating, Testimony, Tier, Unrated, Voice, cost_efficiency,
    latency, power_efficiency, rate,
};
pub use weight::{Heard, Through, UNIT, Weight, weights};

#[cfg(test)]
mod tests;
