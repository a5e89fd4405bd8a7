//! Reads what the header of a GGUF file says about it.
//!
//! Layout after <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>: magic, version, tensor count, number of
//! key-value pairs, the pairs. Lengths are compared with what is left of the file before anything is allocated.

use std::io::{self, BufRead, BufReader, Read, Seek};

const MAGIC: [u8; 4] = *b"GGUF";
/// Versions that llama.cpp reads.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// Most key-value pairs; real files have some dozens.
const MAX_PAIRS: u64 = 65_536;
/// Longest key in bytes, as the format says.
const MAX_KEY: u64 = 65_535;
/// Longest text value that is kept; longer ones are skipped.
const MAX_VALUE: u64 = 1024;
/// Most items of an array; vocabularies have some hundred thousand.
const MAX_ITEMS: u64 = 1 << 24;
/// Deepest arrays within arrays.
const MAX_DEPTH: u8 = 4;
/// Set in the file type where the quantisation was guessed from the tensors.
const FILE_TYPE_GUESSED: u32 = 1024;

/// What a header tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// `general.architecture`.
    pub(super) architecture: String,
    /// `general.file_type`: which quantisation.
    pub(super) file_type: Option<u32>,
    /// `general.license`, in whatever form the author wrote it.
    pub(super) licence: Option<String>,
}

/// Why a file is not a usable GGUF file.
#[derive(Debug, thiserror::Error)]
pub(super) enum GgufError {
    #[error("it does not begin with GGUF")]
    Magic,
    #[error("it was written for a big-endian machine")]
    BigEndian,
    #[error("GGUF version {0} is not supported, 2 and 3 are")]
    Version(u32),
    #[error("it has no tensors")]
    NoTensors,
    #[error("it does not name its architecture (general.architecture)")]
    NoArchitecture,
    #[error("its header is damaged: {0}")]
    Damaged(&'static str),
    #[error("it ends in its header")]
    Truncated,
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for GgufError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(error),
        }
    }
}

impl Header {
    /// Reads the header of a file of `size` bytes.
    pub(super) fn read(file: impl Read + Seek, size: u64) -> Result<Self, GgufError> {
        let mut reader = Reader { input: BufReader::with_capacity(256 * 1024, file), left: size };
        if reader.array::<4>()? != MAGIC {
            return Err(GgufError::Magic);
        }
        let version = reader.u32()?;
        if VERSIONS.contains(&version.swap_bytes()) {
            return Err(GgufError::BigEndian);
        }
        if !VERSIONS.contains(&version) {
            return Err(GgufError::Version(version));
        }
        if reader.u64()? == 0 {
            return Err(GgufError::NoTensors);
        }
        let pairs = reader.u64()?;
        if pairs > MAX_PAIRS {
            return Err(GgufError::Damaged("too many key-value pairs"));
        }
        let mut header = Self::default();
        for _ in 0..pairs {
            let key = reader.text(MAX_KEY)?.ok_or(GgufError::Damaged("a key is too long"))?;
            let kind = reader.u32()?;
            match (key.as_str(), kind) {
                ("general.architecture", STRING) => {
                    header.architecture = reader.text(MAX_VALUE)?.unwrap_or_default();
                }
                ("general.license", STRING) => header.licence = reader.text(MAX_VALUE)?,
                ("general.file_type", UINT32) => header.file_type = Some(reader.u32()?),
                _ => reader.skip_value(kind, 0)?,
            }
        }
        if header.architecture.is_empty() {
            return Err(GgufError::NoArchitecture);
        }
        Ok(header)
    }

    /// llama.cpp's name of the quantisation (`llama_ftype`), or `unknown`.
    pub(super) fn quantisation(&self) -> &'static str {
        match self.file_type.map(|file_type| file_type & !FILE_TYPE_GUESSED) {
            Some(0) => "F32",
            Some(1) => "F16",
            Some(2) => "Q4_0",
            Some(3) => "Q4_1",
            Some(7) => "Q8_0",
            Some(8) => "Q5_0",
            Some(9) => "Q5_1",
            Some(10) => "Q2_K",
            Some(11) => "Q3_K_S",
            Some(12) => "Q3_K_M",
            Some(13) => "Q3_K_L",
            Some(14) => "Q4_K_S",
            Some(15) => "Q4_K_M",
            Some(16) => "Q5_K_S",
            Some(17) => "Q5_K_M",
            Some(18) => "Q6_K",
            Some(19) => "IQ2_XXS",
            Some(20) => "IQ2_XS",
            Some(21) => "Q2_K_S",
            Some(22) => "IQ3_XS",
            Some(23) => "IQ3_XXS",
            Some(24) => "IQ1_S",
            Some(25) => "IQ4_NL",
            Some(26) => "IQ3_S",
            Some(27) => "IQ3_M",
            Some(28) => "IQ2_S",
            Some(29) => "IQ2_M",
            Some(30) => "IQ4_XS",
            Some(31) => "IQ1_M",
            Some(32) => "BF16",
            Some(36) => "TQ1_0",
            Some(37) => "TQ2_0",
            Some(38) => "MXFP4_MOE",
            Some(39) => "NVFP4",
            Some(40) => "Q1_0",
            Some(41) => "Q2_0",
            _ => "unknown",
        }
    }
}

const UINT32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Size in bytes of a value of a fixed-size type.
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Little-endian values, never more than the file has left.
struct Reader<R> {
    input: BufReader<R>,
    left: u64,
}

impl<R: Read + Seek> Reader<R> {
    fn take(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.left = self.left.checked_sub(bytes).ok_or(GgufError::Truncated)?;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        self.take(N as u64)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.take(bytes)?;
        if bytes <= self.input.buffer().len() as u64 {
            self.input.consume(bytes as usize);
            return Ok(());
        }
        let step = i64::try_from(bytes).map_err(|_| GgufError::Truncated)?;
        Ok(self.input.seek_relative(step)?)
    }

    /// A text; `None`, and skipped, where it is longer than `limit`.
    fn text(&mut self, limit: u64) -> Result<Option<String>, GgufError> {
        let length = self.u64()?;
        if length > limit {
            self.skip(length)?;
            return Ok(None);
        }
        self.take(length)?;
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes)?;
        String::from_utf8(bytes).map(Some).map_err(|_| GgufError::Damaged("a text is not UTF-8"))
    }

    fn skip_value(&mut self, kind: u32, depth: u8) -> Result<(), GgufError> {
        if let Some(size) = fixed_size(kind) {
            return self.skip(size);
        }
        match kind {
            STRING => {
                let length = self.u64()?;
                self.skip(length)
            }
            ARRAY if depth < MAX_DEPTH => {
                let kind = self.u32()?;
                let items = self.u64()?;
                if items > MAX_ITEMS {
                    return Err(GgufError::Damaged("an array is too long"));
                }
                if let Some(size) = fixed_size(kind) {
                    return self.skip(size * items);
                }
                for _ in 0..items {
                    self.skip_value(kind, depth + 1)?;
                }
                Ok(())
            }
            ARRAY => Err(GgufError::Damaged("arrays are nested too deeply")),
            _ => Err(GgufError::Damaged("a value has an unknown type")),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }

    /// A header with an architecture, an array of texts, a licence and a file type, and `payload` bytes after it.
    pub(in crate::models) fn sample(file_type: u32, payload: usize) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(4_u64.to_le_bytes());
        text(&mut bytes, "general.architecture");
        bytes.extend(STRING.to_le_bytes());
        text(&mut bytes, "llama");
        text(&mut bytes, "tokenizer.ggml.tokens");
        bytes.extend(ARRAY.to_le_bytes());
        bytes.extend(STRING.to_le_bytes());
        bytes.extend(3_u64.to_le_bytes());
        for token in ["a", "bc", ""] {
            text(&mut bytes, token);
        }
        text(&mut bytes, "general.license");
        bytes.extend(STRING.to_le_bytes());
        text(&mut bytes, "mit");
        text(&mut bytes, "general.file_type");
        bytes.extend(UINT32.to_le_bytes());
        bytes.extend(file_type.to_le_bytes());
        bytes.extend((0..payload).map(|i| (i * 31 % 251) as u8));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Header, GgufError> {
        Header::read(Cursor::new(bytes), bytes.len() as u64)
    }

    #[test]
    fn reads_what_a_header_says() {
        let header = read(&sample(3, 10)).expect("valid");
        assert_eq!(header.architecture, "llama");
        assert_eq!(header.licence.as_deref(), Some("mit"));
        assert_eq!(header.quantisation(), "Q4_1");
        assert_eq!(read(&sample(15 | FILE_TYPE_GUESSED, 0)).expect("valid").quantisation(), "Q4_K_M");
        assert_eq!(read(&sample(900, 0)).expect("valid").quantisation(), "unknown");
    }

    #[test]
    fn refuses_what_is_not_gguf() {
        assert!(matches!(read(b"PK\x03\x04 a zip file"), Err(GgufError::Magic)));
        assert!(matches!(read(b"GGUF\x01\0\0\0"), Err(GgufError::Version(1))));
        assert!(matches!(read(b"GGUF\0\0\0\x03"), Err(GgufError::BigEndian)));
        assert!(matches!(read(b""), Err(GgufError::Truncated)));
    }

    #[test]
    fn a_length_beyond_the_file_is_an_error_before_it_is_allocated() {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        text(&mut bytes, "k");
        bytes.extend(STRING.to_le_bytes());
        bytes.extend(u64::MAX.to_le_bytes());
        assert!(matches!(read(&bytes), Err(GgufError::Truncated)));
    }

    proptest! {
        #[test]
        fn every_truncation_is_an_error(cut in 0_usize..200) {
            let bytes = sample(3, 0);
            prop_assume!(cut < bytes.len());
            prop_assert!(read(&bytes[..cut]).is_err());
        }

        #[test]
        fn bit_flips_never_panic(at in 0_usize..1000, bit in 0_u8..8) {
            let mut bytes = sample(3, 16);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = read(&bytes);
        }
    }
}
