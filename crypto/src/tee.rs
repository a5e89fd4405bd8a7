//! Verifiers of evidence: one module a kind, each of which either finds evidence genuine and made for the nonce asked,
//! or says in a typed error what is wrong with it.
//!
//! No verifier does I/O or reads a clock: roots, collateral and the time come from the caller. All bytes are foreign:
//! lengths are bounded before anything is parsed, and no input makes a verifier panic.

pub mod appraise;
pub mod intel;
pub mod nvidia;
pub mod sev_snp;
pub mod tpm;
pub mod x509;
