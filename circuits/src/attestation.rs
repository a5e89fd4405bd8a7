//! The statement about attested hardware: what a verifier signs, and what a node proves of it.

pub mod attributes;
pub mod circuit;
pub mod credential;
pub mod issuer;
pub mod measurements;
pub mod statement;
