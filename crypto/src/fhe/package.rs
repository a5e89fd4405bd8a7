//! The file of a compiled model: `aitbc.fhe/1`, a line feed, and CBOR.

use super::{
    interface::Interface,
    network::{Network, NetworkFault},
    profile::Profile,
};
use serde::{Deserialize, Serialize};

/// Largest file that is read.
pub const MAX_PACKAGE: usize = 64 * 1024 * 1024;
/// Most bytes of an answer.
pub const MAX_OUTPUT: usize = 256 * 1024;

const HEADER: &[u8] = b"aitbc.fhe/1\n";

/// A compiled model. The digest of its file stands for its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Package {
    /// What it was called when it was compiled.
    pub name: String,
    /// Its parameters.
    pub profile: Profile,
    /// What is computed.
    pub network: Network,
}

/// Why a file is no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// Too large.
    #[error("a model of {0} bytes, where at most {MAX_PACKAGE} are read")]
    TooLarge(usize),
    /// Another kind of file.
    #[error("not a compiled private model: `aitbc private compile` makes one out of an ONNX file")]
    Kind,
    /// It breaks off, or is damaged.
    #[error("a damaged model: {0}")]
    Damaged(String),
    /// Its network cannot be computed.
    #[error("the model cannot be computed: {0}")]
    Network(#[from] NetworkFault),
}

impl Package {
    /// Reads a file, and checks that the network in it can be computed.
    pub fn read(bytes: &[u8]) -> Result<Self, PackageError> {
        if bytes.len() > MAX_PACKAGE {
            return Err(PackageError::TooLarge(bytes.len()));
        }
        let body = bytes.strip_prefix(HEADER).ok_or(PackageError::Kind)?;
        let package: Self =
            cbor4ii::serde::from_slice(body).map_err(|error| PackageError::Damaged(error.to_string()))?;
        package.check()?;
        Ok(package)
    }

    /// The file.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PackageError> {
        self.check()?;
        cbor4ii::serde::to_vec(HEADER.to_vec(), self).map_err(|error| PackageError::Damaged(error.to_string()))
    }

    /// Refuses what cannot be computed with its profile.
    pub fn check(&self) -> Result<(), NetworkFault> {
        self.network.check()?;
        let interface = self.interface();
        interface.check()?;
        if interface.output_bytes() > MAX_OUTPUT {
            let most = MAX_OUTPUT / self.profile.output_bytes(1);
            let problem = format!("{} values, where {most} fit an answer of this profile", interface.outputs());
            return Err(NetworkFault::at("outputs", problem));
        }
        Ok(())
    }

    /// What a client has to know.
    pub fn interface(&self) -> Interface {
        Interface::of(&self.network, self.profile)
    }
}
