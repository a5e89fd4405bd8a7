//! The aitbc node: the one place with sockets, disks, GPUs, clocks and tasks.
//!
//! ```text
//!            api, cli            what people and programs call
//!               |
//!            private             values that nobody else reads: keys, encryption, answers
//!               |
//!            routing             client side: offers known, candidates, dispatch, failover
//!               |        \
//!   jobs --- market       network        provider side; money; swarm, DHT, gossip, streams
//!     |        |
//!   engine   storage      gpu, models    child process that runs models; RocksDB; devices; files
//! ```
//!
//! Every subsystem is a task that owns its state, and a cloneable handle that only sends. [`node`] starts and joins
//! them; nothing else does.

pub mod api;
pub mod attestation;
pub mod bandwidth;
pub(crate) mod blocking;
pub mod challenge;
#[cfg(test)]
mod city;
pub mod cli;
pub mod clock;
pub mod config;
pub(crate) mod draw;
pub mod engine;
pub mod gpu;
pub mod http;
pub mod jobs;
pub mod market;
pub mod models;
pub mod netcheck;
pub mod network;
pub mod node;
pub mod private;
pub mod reputation;
pub mod routing;
pub mod settlement;
pub mod storage;
pub mod telemetry;
pub mod trust;
