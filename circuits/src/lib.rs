//! Zero-knowledge statements of the aitbc network.
//!
//! Empty: the first statement comes with hardware attestation, and nothing depends on this crate yet.
