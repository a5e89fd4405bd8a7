//! The firmware's event log (TCG PC Client Platform Firmware Profile 1.06, section 10): what was extended into PCRs, and
//! with what data.
//!
//! Only digests are measured. Neither the index and the type of an event nor its data are, so that whoever sends a log
//! can relabel all of it: an event's data is believed only where its digest is recomputed from it, and its place only
//! where nothing could have been put before it.

use super::{
    TpmError,
    reader::Reader,
    structures::{ALG_SHA256, ALG_SHA384},
};
use ring::digest::{SHA256, digest};

/// Largest event log in bytes; real ones have 10 to 100 KiB.
pub const MAX_EVENT_LOG_BYTES: usize = 512 * 1024;
/// Most events of a log; real ones have 50 to 400.
const MAX_EVENTS: usize = 8_192;
/// Most digest algorithms of a log.
const MAX_ALGORITHMS: u32 = 8;
/// Largest digest of a log's algorithms, in bytes.
const MAX_DIGEST: u16 = 64;

/// `EV_NO_ACTION`: is in the log and in no PCR.
const EV_NO_ACTION: u32 = 0x0000_0003;
/// `EV_EFI_ACTION`: a text.
const EV_EFI_ACTION: u32 = 0x8000_0007;

/// What begins a crypto-agile log.
const SPEC_ID: &[u8] = b"Spec ID Event03\0";
/// What says from which locality the TPM was started.
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";
/// `EFI_GLOBAL_VARIABLE`, as it lies in memory.
const EFI_GLOBAL_VARIABLE: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// The texts that firmware may measure into PCR 7 before its policy (PFP, section 3.3.4.8).
const DEBUG_MODE: &[u8] = b"UEFI Debug Mode";
const NO_DMA_PROTECTION: &[u8] = b"DMA Protection Disabled";

/// One event with a place in a PCR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Which PCR the log says.
    pub pcr: u32,
    /// Its type by the log.
    pub kind: u32,
    /// What was extended in the bank of SHA-256.
    pub digest: [u8; 32],
    /// Its data by the log.
    pub data: &'a [u8],
}

impl Event<'_> {
    /// Whether the digest is recomputed from the data.
    pub fn is_proved(&self) -> bool {
        digest(&SHA256, self.data).as_ref() == self.digest
    }
}

/// A log that was read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog<'a> {
    /// Events with a place in a PCR, in order.
    pub events: Vec<Event<'a>>,
    /// From which locality the TPM was started: the first value of PCR 0.
    pub startup_locality: u8,
}

/// What Secure Boot was when the firmware measured its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureBoot {
    /// On.
    On,
    /// Off.
    Off,
    /// Nothing in the log proves it.
    Unknown,
}

/// What PCR 7 proves of the firmware's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Secure Boot.
    pub secure_boot: SecureBoot,
    /// The firmware says that it is in debug mode.
    pub debug: bool,
    /// The firmware says that devices could reach all memory while it started.
    pub no_dma_protection: bool,
}

impl<'a> EventLog<'a> {
    /// Reads a log in the crypto-agile format with SHA-256 digests, as Linux gives it in `binary_bios_measurements`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TpmError> {
        if bytes.len() > MAX_EVENT_LOG_BYTES {
            return Err(TpmError::TooLarge("event log"));
        }
        let malformed = || TpmError::Malformed("event log");
        let mut reader = Reader::new(bytes);
        let algorithms = read_header(&mut reader)?;
        let mut log = Self { events: Vec::new(), startup_locality: 0 };
        let mut count = 0;
        while !reader.is_empty() {
            count += 1;
            if count > MAX_EVENTS {
                return Err(TpmError::TooLarge("event log"));
            }
            let event = read_event(&mut reader, &algorithms).ok_or_else(malformed)?;
            if event.kind != EV_NO_ACTION {
                log.events.push(event);
            } else if event.pcr == 0
                && let Some(locality) = event.data.strip_prefix(STARTUP_LOCALITY)
            {
                // After an event of PCR 0 it would speak of a value that is past.
                let [locality @ 0..=4] = *locality else { return Err(malformed()) };
                if log.startup_locality != 0 || log.events.iter().any(|event| event.pcr == 0) {
                    return Err(malformed());
                }
                log.startup_locality = locality;
            }
        }
        Ok(log)
    }

    /// The value of one PCR after all events.
    pub fn replay(&self, pcr: u32) -> [u8; 32] {
        let mut value = [0; 32];
        if pcr == 0 {
            value[31] = self.startup_locality;
        }
        for event in self.events.iter().filter(|event| event.pcr == pcr) {
            value = extend(&value, &event.digest);
        }
        value
    }

    /// What the beginning of PCR 7 proves.
    ///
    /// The firmware measures the variable SecureBoot before the other variables of its policy and before it starts
    /// anybody's code. Later events may be anybody's, so the walk ends with the first that is neither the variable nor
    /// one of the two texts that may stand before it.
    pub fn policy(&self) -> Policy {
        let mut policy = Policy { secure_boot: SecureBoot::Unknown, debug: false, no_dma_protection: false };
        for event in self.events.iter().filter(|event| event.pcr == 7) {
            if !event.is_proved() {
                break;
            }
            if event.kind == EV_EFI_ACTION && text(event.data) == DEBUG_MODE {
                policy.debug = true;
            } else if event.kind == EV_EFI_ACTION && text(event.data) == NO_DMA_PROTECTION {
                policy.no_dma_protection = true;
            } else {
                if let Some(value) = secure_boot_variable(event.data) {
                    policy.secure_boot = value;
                }
                break;
            }
        }
        policy
    }
}

/// What a PCR is after one more digest (Part 1, 17.4).
pub(super) fn extend(value: &[u8; 32], extended: &[u8; 32]) -> [u8; 32] {
    let mut both = [0; 64];
    both[..32].copy_from_slice(value);
    both[32..].copy_from_slice(extended);
    let mut next = [0; 32];
    next.copy_from_slice(digest(&SHA256, &both).as_ref());
    next
}

/// The first event: in the old format, with the algorithms of the rest.
fn read_header(reader: &mut Reader<'_>) -> Result<Vec<(u16, u16)>, TpmError> {
    let malformed = || TpmError::Malformed("event log");
    let header = |reader: &mut Reader<'_>| {
        let (pcr, kind) = (reader.le32()?, reader.le32()?);
        let _digest = reader.take(20)?;
        let length = usize::try_from(reader.le32()?).ok()?;
        Some((pcr, kind)).zip(Some(length))
    };
    let ((pcr, kind), length) = header(reader).ok_or_else(malformed)?;
    let data = reader.take(length).ok_or_else(malformed)?;
    let Some(rest) = data.strip_prefix(SPEC_ID).filter(|_| pcr == 0 && kind == EV_NO_ACTION) else {
        return Err(TpmError::OldEventLog);
    };
    let algorithms = read_algorithms(Reader::new(rest)).ok_or_else(malformed)?;
    if !algorithms.contains(&(ALG_SHA256, 32)) {
        return Err(TpmError::OldEventLog);
    }
    Ok(algorithms)
}

/// `TCG_EfiSpecIDEvent` after its signature: digest algorithms with their sizes.
fn read_algorithms(mut reader: Reader<'_>) -> Option<Vec<(u16, u16)>> {
    let _platform_class = reader.le32()?;
    // Minor and major version, errata, and the size of a native integer.
    let _versions = reader.take(4)?;
    let count = reader.le32()?;
    if count > MAX_ALGORITHMS {
        return None;
    }
    let mut algorithms: Vec<(u16, u16)> = Vec::new();
    for _ in 0..count {
        let (algorithm, size) = (reader.le16()?, reader.le16()?);
        let known = match algorithm {
            ALG_SHA256 => Some(32),
            ALG_SHA384 => Some(48),
            _ => None,
        };
        if size > MAX_DIGEST || known.is_some_and(|known| known != size) {
            return None;
        }
        if algorithms.iter().any(|(other, _)| *other == algorithm) {
            return None;
        }
        algorithms.push((algorithm, size));
    }
    let vendor = usize::from(reader.u8()?);
    reader.take(vendor)?;
    reader.is_empty().then_some(algorithms)
}

/// A `TCG_PCR_EVENT2`.
fn read_event<'a>(reader: &mut Reader<'a>, algorithms: &[(u16, u16)]) -> Option<Event<'a>> {
    let (pcr, kind) = (reader.le32()?, reader.le32()?);
    let count = usize::try_from(reader.le32()?).ok()?;
    if count > algorithms.len() {
        return None;
    }
    let mut sha256 = None;
    for _ in 0..count {
        let algorithm = reader.le16()?;
        let (_, size) = algorithms.iter().find(|(known, _)| *known == algorithm)?;
        let bytes = reader.take(usize::from(*size))?;
        if algorithm == ALG_SHA256 && sha256.replace(bytes).is_some() {
            return None;
        }
    }
    let length = usize::try_from(reader.le32()?).ok()?;
    let data = reader.take(length)?;
    Some(Event { pcr, kind, digest: sha256?.try_into().ok()?, data })
}

/// A text with or without the zero that ends it.
fn text(data: &[u8]) -> &[u8] {
    data.strip_suffix(&[0]).unwrap_or(data)
}

/// The value of SecureBoot, where the data is a `UEFI_VARIABLE_DATA` (PFP, section 10.4.1) of just this variable.
fn secure_boot_variable(data: &[u8]) -> Option<SecureBoot> {
    let mut reader = Reader::new(data);
    let vendor: [u8; 16] = reader.array()?;
    let (characters, size) = (reader.le64()?, reader.le64()?);
    let name = reader.take(usize::try_from(characters).ok()?.checked_mul(2)?)?;
    let value = reader.take(usize::try_from(size).ok()?)?;
    let expected = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes);
    if vendor != EFI_GLOBAL_VARIABLE || !name.iter().copied().eq(expected) || !reader.is_empty() {
        return None;
    }
    match value {
        [1] => Some(SecureBoot::On),
        [0] | [] => Some(SecureBoot::Off),
        _ => None,
    }
}
