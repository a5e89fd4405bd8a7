//! The log of Linux's Integrity Measurement Architecture, which the kernel extends into PCR 10 while it runs
//! (`security/integrity/ima/ima_fs.c`, `ima_measurements_show`; the machine's byte order, taken to be little-endian).

use super::{TpmError, event_log::extend, reader::Reader};
use ring::digest::{SHA256, digest};

/// Largest log in bytes; at 100 to 200 bytes an entry, some ten thousand files.
pub const MAX_IMA_LOG_BYTES: usize = 2 * 1024 * 1024;
/// The PCR that IMA extends by default.
pub(super) const IMA_PCR: u32 = 10;
/// Longest name of a template.
const MAX_TEMPLATE_NAME: u32 = 256;
/// `IMA_EVENT_NAME_LEN_MAX + 1`: what the oldest template pads names to before they are hashed.
const OLD_NAME: usize = 256;

/// How much of a log a PCR covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Entries up to the quote.
    pub entries: usize,
    /// Entries after it.
    pub later: usize,
    /// Whether the PCR was extended with SHA-1 digests and zeros behind them, as kernels before 5.8 do: the data of the
    /// entries proves nothing then.
    pub only_sha1: bool,
}

/// Finds the prefix of `log` after which PCR 10 is `expected`: files may be measured between quote and reading.
pub fn covered_prefix(log: &[u8], expected: &[u8; 32]) -> Result<Covered, TpmError> {
    if log.len() > MAX_IMA_LOG_BYTES {
        return Err(TpmError::TooLarge("IMA log"));
    }
    let mut reader = Reader::new(log);
    let (mut value, mut old_value) = ([0; 32], [0; 32]);
    let (mut entries, mut found) = (0, None);
    loop {
        if found.is_none() && (value == *expected || old_value == *expected) {
            found = Some((entries, value != *expected));
        }
        if reader.is_empty() {
            break;
        }
        let entry = Entry::read(&mut reader).ok_or(TpmError::Malformed("IMA log"))?;
        if entry.pcr == IMA_PCR {
            entries += 1;
            value = extend(&value, &entry.sha256);
            old_value = extend(&old_value, &entry.padded_sha1);
        }
    }
    let (covered, only_sha1) = found.ok_or(TpmError::ImaLog)?;
    Ok(Covered { entries: covered, later: entries - covered, only_sha1 })
}

/// One entry: what each generation of kernels extends for it.
struct Entry {
    pcr: u32,
    sha256: [u8; 32],
    padded_sha1: [u8; 32],
}

impl Entry {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let pcr = reader.le32()?;
        let sha1: [u8; 20] = reader.array()?;
        let name_length = reader.le32()?;
        if name_length > MAX_TEMPLATE_NAME {
            return None;
        }
        let template = reader.take(name_length as usize)?;
        let hashed = if template == b"ima" {
            // Without a length of all fields: a SHA-1 of the file, then its name.
            let file = reader.take(20)?;
            let length = usize::try_from(reader.le32()?).ok()?;
            let name = reader.take(length).filter(|_| length < OLD_NAME)?;
            let mut fields = [file, name].concat();
            fields.resize(20 + OLD_NAME, 0);
            digest(&SHA256, &fields)
        } else {
            let length = usize::try_from(reader.le32()?).ok()?;
            digest(&SHA256, reader.take(length)?)
        };
        // A violation, such as a file that was open for writing, is written as zeros and extended as ones.
        let violation = sha1 == [0; 20];
        let mut padded_sha1 = [0; 32];
        padded_sha1[..20].copy_from_slice(if violation { &[0xff; 20] } else { &sha1 });
        let sha256 = if violation { [0xff; 32] } else { hashed.as_ref().try_into().ok()? };
        // Before 5.8 the rest of the bank stayed zero also here.
        Some(Self { pcr, sha256, padded_sha1 })
    }
}
