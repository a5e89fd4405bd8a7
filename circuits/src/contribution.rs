//! What a contribution to the ceremony is called: in the ceremony that takes it, and in the parameters file that names it.

use aitbc_protocol::{Digest, text::Line};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The fewest contributions to each phase of a ceremony whose keys are accepted on public networks.
pub const MIN_CONTRIBUTIONS: usize = 3;
/// The most contributions that a file names.
pub const MAX_CONTRIBUTIONS: usize = 1024;

/// A phase of the ceremony.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Powers of tau, with alpha and beta: of no circuit in particular.
    Powers,
    /// The circuit's own part: delta.
    Circuit,
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Powers => "powers",
            Self::Circuit => "circuit",
        })
    }
}

/// One contribution to the ceremony, as [`crate::ceremony::Ceremony::verify`] reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContributionFile {
    /// To which phase.
    pub phase: Phase,
    /// Who says to have made it.
    pub name: Line<64>,
    /// What its transcript hashes to.
    pub digest: Digest,
}
