//! The structures of TPM 2.0 Part 2 (revision 1.59) that attestation needs, read whole and exactly: no byte may be left.

use super::{TpmError, reader::Reader};
use ring::digest::{Algorithm, SHA256, SHA384, digest};

/// `TPM_ALG_RSA`.
pub(super) const ALG_RSA: u16 = 0x0001;
/// `TPM_ALG_AES`.
const ALG_AES: u16 = 0x0006;
/// `TPM_ALG_SHA256`.
pub(super) const ALG_SHA256: u16 = 0x000b;
/// `TPM_ALG_SHA384`.
pub(super) const ALG_SHA384: u16 = 0x000c;
/// `TPM_ALG_NULL`.
pub(super) const ALG_NULL: u16 = 0x0010;
/// `TPM_ALG_RSASSA`.
pub(super) const ALG_RSASSA: u16 = 0x0014;
/// `TPM_ALG_RSAPSS`.
pub(super) const ALG_RSAPSS: u16 = 0x0016;
/// `TPM_ALG_ECDSA`.
pub(super) const ALG_ECDSA: u16 = 0x0018;
/// `TPM_ALG_ECC`.
pub(super) const ALG_ECC: u16 = 0x0023;
/// `TPM_ALG_CFB`.
const ALG_CFB: u16 = 0x0043;
/// `TPM_ECC_NIST_P256`.
pub(super) const ECC_P256: u16 = 0x0003;
/// `TPM_ECC_NIST_P384`.
pub(super) const ECC_P384: u16 = 0x0004;

/// `TPMA_OBJECT` (Part 2, 8.3): cannot leave its TPM.
pub(super) const FIXED_TPM: u32 = 1 << 1;
/// Cannot get another parent.
pub(super) const FIXED_PARENT: u32 = 1 << 4;
/// The TPM itself made the secret half.
pub(super) const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
/// May be taken to another TPM, encrypted.
const ENCRYPTED_DUPLICATION: u32 = 1 << 11;
/// Signs or decrypts only what the TPM made or knows.
pub(super) const RESTRICTED: u32 = 1 << 16;
/// May decrypt.
pub(super) const DECRYPT: u32 = 1 << 17;
/// May sign.
pub(super) const SIGN: u32 = 1 << 18;

/// `TPM_GENERATED_VALUE`: no restricted key signs foreign bytes that begin so.
const GENERATED: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
const ATTEST_QUOTE: u16 = 0x8018;

/// The digest behind an algorithm's number; SHA-1 and others have none here.
pub(super) fn hash(algorithm: u16) -> Option<&'static Algorithm> {
    match algorithm {
        ALG_SHA256 => Some(&SHA256),
        ALG_SHA384 => Some(&SHA384),
        _ => None,
    }
}

/// How a key signs: the scheme, and its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scheme {
    pub(super) algorithm: u16,
    pub(super) hash: u16,
}

/// The public half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Rsa {
        bits: u16,
        /// 0 stands for 65,537.
        exponent: u32,
        modulus: Vec<u8>,
    },
    Ecc {
        curve: u16,
        x: Vec<u8>,
        y: Vec<u8>,
    },
}

/// A `TPMT_PUBLIC` (Part 2, 12.2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Public {
    pub(super) name_algorithm: u16,
    pub(super) attributes: u32,
    /// Bits of the AES-CFB key that protects what it is the parent of; `None` for no symmetric algorithm.
    pub(super) aes_bits: Option<u16>,
    pub(super) scheme: Option<Scheme>,
    pub(super) key: Key,
    /// Its Name (Part 1, 16): the algorithm's number, then the digest of all of the structure.
    pub(super) name: Vec<u8>,
}

impl Public {
    /// Reads the whole of `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let kind = reader.be16()?;
        let name_algorithm = reader.be16()?;
        let attributes = reader.be32()?;
        let _policy = reader.tpm2b(64)?;
        let aes_bits = match reader.be16()? {
            ALG_NULL => None,
            ALG_AES => {
                let bits = reader.be16()?;
                (reader.be16()? == ALG_CFB).then_some(())?;
                Some(bits)
            }
            _ => return None,
        };
        let scheme = match reader.be16()? {
            ALG_NULL => None,
            algorithm @ (ALG_RSASSA | ALG_RSAPSS | ALG_ECDSA) => Some(Scheme { algorithm, hash: reader.be16()? }),
            _ => return None,
        };
        let key = match kind {
            ALG_RSA => {
                let bits = reader.be16()?;
                let exponent = reader.be32()?;
                Key::Rsa { bits, exponent, modulus: reader.tpm2b(512)?.to_vec() }
            }
            ALG_ECC => {
                let curve = reader.be16()?;
                (reader.be16()? == ALG_NULL).then_some(())?;
                Key::Ecc { curve, x: reader.tpm2b(48)?.to_vec(), y: reader.tpm2b(48)?.to_vec() }
            }
            _ => return None,
        };
        reader.is_empty().then_some(())?;
        let mut name = name_algorithm.to_be_bytes().to_vec();
        name.extend_from_slice(digest(hash(name_algorithm)?, bytes).as_ref());
        Some(Self { name_algorithm, attributes, aes_bits, scheme, key, name })
    }

    /// Whether all of `attributes` are set, and it can never be duplicated.
    pub(super) fn has(&self, attributes: u32) -> bool {
        self.attributes & attributes == attributes && self.attributes & ENCRYPTED_DUPLICATION == 0
    }
}

/// The part of a `TPMS_ATTEST` of type quote (Part 2, 10.12) that is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quote<'a> {
    pub(super) extra_data: &'a [u8],
    /// Milliseconds that the TPM had power, ever.
    pub(super) clock_ms: u64,
    /// How often the TPM was reset; obfuscated by a constant of the key's where its hierarchy is not the endorsement's.
    pub(super) reset_count: u32,
    /// How often it was resumed or restarted since.
    pub(super) restart_count: u32,
    /// Digest algorithms with bitmaps of PCRs.
    pub(super) selection: Vec<(u16, &'a [u8])>,
    pub(super) pcr_digest: &'a [u8],
}

impl<'a> Quote<'a> {
    /// Reads the whole of `bytes`.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, TpmError> {
        let malformed = || TpmError::Malformed("TPMS_ATTEST");
        let mut reader = Reader::new(bytes);
        if reader.be32().ok_or_else(malformed)? != GENERATED {
            return Err(TpmError::NotGenerated);
        }
        if reader.be16().ok_or_else(malformed)? != ATTEST_QUOTE {
            return Err(TpmError::NotAQuote);
        }
        Self::parse_rest(reader).ok_or_else(malformed)
    }

    fn parse_rest(mut reader: Reader<'a>) -> Option<Self> {
        let _qualified_signer = reader.tpm2b(2 + 64)?;
        let extra_data = reader.tpm2b(64)?;
        let clock_ms = reader.be64()?;
        let reset_count = reader.be32()?;
        let restart_count = reader.be32()?;
        let _safe = reader.u8()?;
        let _firmware_version = reader.be64()?;
        // HASH_COUNT of the PC Client profile is 3 to 5; one bank is asked for.
        let banks = reader.be32()?;
        if banks > 8 {
            return None;
        }
        let mut selection = Vec::new();
        for _ in 0..banks {
            let algorithm = reader.be16()?;
            let length = usize::from(reader.u8()?);
            selection.push((algorithm, reader.take(length)?));
        }
        let pcr_digest = reader.tpm2b(64)?;
        reader.is_empty().then_some(Self {
            extra_data,
            clock_ms,
            reset_count,
            restart_count,
            selection,
            pcr_digest,
        })
    }
}

/// A `TPMT_SIGNATURE` (Part 2, 11.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Signature<'a> {
    /// RSASSA or RSAPSS.
    Rsa { scheme: Scheme, signature: &'a [u8] },
    /// ECDSA.
    Ecdsa { scheme: Scheme, r: &'a [u8], s: &'a [u8] },
}

impl<'a> Signature<'a> {
    /// Reads the whole of `bytes`.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let scheme = Scheme { algorithm: reader.be16()?, hash: reader.be16()? };
        let signature = match scheme.algorithm {
            ALG_RSASSA | ALG_RSAPSS => Self::Rsa { scheme, signature: reader.tpm2b(512)? },
            ALG_ECDSA => Self::Ecdsa { scheme, r: reader.tpm2b(48)?, s: reader.tpm2b(48)? },
            _ => return None,
        };
        reader.is_empty().then_some(signature)
    }
}
