//! The parts that statements are put together from, each beside its twin outside the circuit.

pub mod curve;
pub mod merkle;
pub mod poseidon;
pub mod range;
pub mod schnorr;
