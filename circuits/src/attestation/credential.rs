//! What a verifier hands a peer after it has appraised its evidence.

use crate::{
    attestation::attributes::Attributes,
    encoding::{Fixed, Malformed, Reader, serde_as_fixed},
    gadgets::{
        poseidon::Domain,
        schnorr::{PublicKey, Signature},
    },
};

/// Attributes signed by a verifier. Secret: who sees it learns the hardware's tag and measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// What is signed.
    pub attributes: Attributes,
    pub(crate) issuer: PublicKey,
    pub(crate) signature: Signature,
}

impl Credential {
    /// Who signed it.
    pub fn issuer(&self) -> &PublicKey {
        &self.issuer
    }

    /// True where the signature is that of the key that it names.
    pub fn is_signed(&self) -> bool {
        self.issuer.verifies(Domain::Credential, &self.attributes.commitment(), &self.signature)
    }
}

impl Fixed for Credential {
    const SIZE: usize = Attributes::SIZE + PublicKey::SIZE + Signature::SIZE;

    fn write(&self, out: &mut Vec<u8>) {
        self.attributes.write(out);
        self.issuer.write(out);
        self.signature.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "credential");
        let credential = Self { attributes: reader.fixed()?, issuer: reader.fixed()?, signature: reader.fixed()? };
        reader.finish()?;
        Ok(credential)
    }
}

serde_as_fixed!(Credential);
