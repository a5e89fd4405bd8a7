//! Where seeds come from: the system, or a secret from which the same follow again.

use sha2::{Digest as _, Sha256};
use tfhe::core_crypto::{commons::math::random::Seed, prelude::Seeder};
use zeroize::Zeroizing;

/// Seeds that follow from a secret, one after the other: `SHA-256(domain, purpose, number, secret)`, the first 16 bytes.
pub(super) struct Derived {
    /// Domain, purpose and secret.
    prefix: Zeroizing<Vec<u8>>,
    number: u64,
}

impl Derived {
    pub(super) fn new(secret: &[u8; 32], purpose: &[u8]) -> Self {
        let mut prefix = Zeroizing::new(Vec::with_capacity(64));
        prefix.extend(b"aitbc/fhe/key/1/");
        prefix.extend(purpose);
        prefix.push(0);
        prefix.extend(secret);
        Self { prefix, number: 0 }
    }

    pub(super) fn next(&mut self) -> Seed {
        let mut hash = Sha256::new();
        hash.update(&self.prefix);
        hash.update(self.number.to_le_bytes());
        self.number += 1;
        seed(&hash.finalize())
    }
}

impl Seeder for Derived {
    fn seed(&mut self) -> Seed {
        self.next()
    }

    fn is_available() -> bool {
        true
    }
}

/// Seeds that were drawn from the system beforehand, so that a system without randomness is an error and no panic.
pub(super) struct Drawn(Derived);

impl Drawn {
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut())?;
        Ok(Self(Derived::new(&secret, b"drawn")))
    }
}

impl Seeder for Drawn {
    fn seed(&mut self) -> Seed {
        self.0.next()
    }

    fn is_available() -> bool {
        true
    }
}

fn seed(hash: &[u8]) -> Seed {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash).for_each(|(to, from)| *to = *from);
    Seed(u128::from_le_bytes(bytes))
}
