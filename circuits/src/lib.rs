//! Zero-knowledge statements of the aitbc network: what a node shows of attested hardware without naming it.
//!
//! A verifier signs [`Attributes`] as a [`Credential`]; a [`Prover`] shows a client that it holds one that fulfils a
//! policy of the network's [`Parameters`]; a [`Verifier`] judges that, alone or a hundred at once. Groth16 over BN254
//! (Groth, "On the Size of Pairing-based Non-interactive Arguments", 2016) with arkworks; keys come from [`setup`] for
//! tests or from a [`ceremony`]. `docs/zero-knowledge.md` says what is proved, to whom, and what it does not show.
//!
//! Nothing here does I/O or reads a clock: callers pass time and randomness in.

pub mod attestation;
pub mod ceremony;
pub mod contribution;
pub mod encoding;
#[cfg(test)]
mod fixture;
pub mod gadgets;
pub mod parameters;
pub mod points;
pub mod presentation;
pub mod prover;
pub mod relation;
pub mod setup;
pub mod verifier;

pub use ark_std::rand;
pub use attestation::{
    attributes::{Attributes, Measurement, hw_tag},
    credential::Credential,
    issuer::{IssuerKey, IssuerPublic, VerifierSet},
    measurements::AllowList,
    statement::Nullifier,
};
pub use encoding::Fixed;
pub use parameters::Parameters;
pub use presentation::{Presentation, Request};
pub use prover::Prover;
pub use setup::{ProvingKey, VerifyingKey};
pub use verifier::Verifier;
