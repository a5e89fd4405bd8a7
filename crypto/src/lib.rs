//! Identities and signatures of the aitbc network.

pub mod keys;
pub mod signing;

pub use keys::SecretKey;
pub use signing::{SignatureError, open, seal};
