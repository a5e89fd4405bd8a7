//! Private inference: networks that a provider computes on what it cannot read.
//!
//! ```text
//!   client:   values --encrypt--> input                       answer --decrypt--> values
//!               ClientKey           |                           ^        ClientKey
//!   provider:                       +--evaluate(Package, ServerKey)
//! ```
//!
//! `docs/private-inference.md` says what this hides and what not.

pub mod answer;
pub mod compile;
#[cfg(feature = "cuda")]
mod cuda;
pub mod evaluate;
pub mod graph;
pub mod interface;
pub mod keys;
mod keyswitch;
pub mod network;
pub mod onnx;
pub mod package;
pub mod processor;
pub mod profile;
pub mod quantise;
mod seeds;
pub mod simulate;
pub mod values;

pub use answer::Answer;
pub use compile::{Calibration, Compiled, compile};
pub use evaluate::{EvaluateError, evaluate};
pub use interface::Interface;
pub use keys::{ClientKey, KeyError, ServerKey};
pub use network::Network;
pub use package::{Package, PackageError};
pub use processor::Processor;
pub use profile::Profile;
pub use values::{InputError, OutputError};

#[cfg(test)]
mod tests;
