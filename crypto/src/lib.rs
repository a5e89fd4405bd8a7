//! Identities, signatures, evidence of faults and of trusted hardware.

pub mod ear;
pub mod evidence;
pub mod fhe;
pub mod keys;
pub mod signing;
pub mod tee;

pub use keys::SecretKey;
pub use signing::{SignatureError, open, seal};
