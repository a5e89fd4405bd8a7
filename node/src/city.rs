//! A simulated city in virtual time: two hundred nodes live an hour within minutes, and a seed repeats it exactly.
//!
//! ```text
//!   plan ---> hour: jobs as they are asked for, nodes as they come and go ---> outcome
//!               |
//!             citizens: Ledger, Trust, Routing, Jobs and Settlement of a node, each started as `node` starts it
//!               |                                          \
//!             network::simulated: no swarm                engine::simulated: no model
//! ```
//!
//! Real is the code between the two: offers, gossip's judges, searches, ranking, quotes, admission, delivery, cheques,
//! receipts, settling, reputation, evidence, and the ledger over RocksDB. Simulated are the swarm, the engines, time and
//! chance ([`laboratory`]), and the people: who asks for what when, and who lies ([`liars`]) or is praised by a ring
//! ([`ring`]).
//!
//! Left out, as nothing of a market's hour rests on them: challenges, attestation, measured lines, private jobs, checks of
//! reachability, the API, sensors of GPUs. Strangers may owe more than a provider's default allows, since nobody settles
//! outside the network within the hour.

mod citizens;
mod hour;
pub(crate) mod laboratory;
mod liars;
mod outcome;
mod plan;
mod ring;
mod tests;
