//! The attestation report of a GPU: an SPDM 1.1 request for measurements and the response to it (DMTF DSP0274 1.1,
//! sections 10.11.1 and 10.11.2), with NVIDIA's fields in the response's opaque data.

use super::NvidiaError;

/// Largest report in bytes: what NVML has room for (`NVML_CC_GPU_ATTESTATION_REPORT_SIZE`).
pub const MAX_REPORT_BYTES: usize = 8192;
/// Bytes of the request: version, code, two parameters, nonce, slot.
const REQUEST_BYTES: usize = 37;
/// Bytes of the signature: r and s of ECDSA on P-384, big-endian.
const SIGNATURE_BYTES: usize = 96;
/// Most bytes of one measurement: SHA-512.
const MAX_VALUE_BYTES: usize = 64;
/// Most fields of opaque data: Hopper has 14.
const MAX_FIELDS: usize = 64;

/// The version of SPDM.
const SPDM_1_1: u8 = 0x11;
/// The code of the request.
const GET_MEASUREMENTS: u8 = 0xe0;
/// The code of the response.
const MEASUREMENTS: u8 = 0x60;
/// A block in DMTF's form.
const DMTF: u8 = 1;

/// NVIDIA's types of opaque data that are read here; the rest are passed over.
mod field {
    pub(super) const DRIVER_VERSION: u16 = 3;
    pub(super) const VBIOS_VERSION: u16 = 6;
    pub(super) const NVDEC0_STATUS: u16 = 11;
    pub(super) const CHIP_SKU: u16 = 15;
    pub(super) const PROJECT: u16 = 17;
    pub(super) const PROJECT_SKU: u16 = 18;
    pub(super) const FWID: u16 = 20;
    pub(super) const PROTECTED_PCIE_STATUS: u16 = 21;
}

/// What NVIDIA writes for a thing that is switched on.
const ENABLED: &[u8] = &[0xaa];
/// What NVIDIA writes for a thing that is switched off.
const DISABLED: &[u8] = &[0x55];

/// One measurement, as the GPU reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    /// SPDM's index, from 1.
    pub index: u8,
    /// The digest.
    pub value: &'a [u8],
}

/// A report taken apart. Nothing in it is believed before its signature is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report<'a> {
    /// The nonce of the request, which is the verifier's; that of the response is the GPU's own.
    pub nonce: [u8; 32],
    /// What is signed: all before the signature.
    pub signed: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
    /// The measurements, by rising index.
    pub blocks: Vec<Block<'a>>,
    /// The driver's version, such as `550.90.07`.
    pub driver: String,
    /// The VBIOS's version with dots, such as `96.00.9F.00.01`.
    pub vbios: String,
    /// The board's project, such as `1010`.
    pub project: String,
    /// The project's variant, such as `0200`.
    pub project_sku: String,
    /// The chip's variant, such as `882`.
    pub chip_sku: String,
    /// The digest of the firmware that holds the key (DICE), which the leaf's certificate names too.
    pub fwid: &'a [u8],
    /// Whether the video decoder 0 is switched off.
    pub is_decoder_off: bool,
    /// Whether several GPUs share one protected PCIe domain, in which their links are not encrypted.
    pub is_pcie_protected: bool,
}

/// Reads integers and slices from the front of what is left, or says that the report is cut.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], NvidiaError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(NvidiaError::Malformed("it is cut"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, NvidiaError> {
        Ok(self.take(1)?[0])
    }

    /// SPDM's integers are little-endian.
    fn short(&mut self) -> Result<u16, NvidiaError> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

/// Takes a report apart.
pub(super) fn parse(bytes: &[u8]) -> Result<Report<'_>, NvidiaError> {
    let malformed = NvidiaError::Malformed;
    if bytes.len() > MAX_REPORT_BYTES {
        return Err(malformed("it is too large"));
    }
    let (signed, signature) = bytes
        .len()
        .checked_sub(SIGNATURE_BYTES)
        .and_then(|length| bytes.split_at_checked(length))
        .ok_or(malformed("it is cut"))?;
    let (request, response) = signed.split_at_checked(REQUEST_BYTES).ok_or(malformed("it is cut"))?;
    let nonce = request_nonce(request)?;

    let mut reader = Reader(response);
    if reader.byte()? != SPDM_1_1 || reader.byte()? != MEASUREMENTS {
        return Err(malformed("the response is none to a request for measurements"));
    }
    reader.take(2)?;
    let count = reader.byte()?;
    let length = reader.take(3)?;
    let length = usize::from(length[0]) | usize::from(length[1]) << 8 | usize::from(length[2]) << 16;
    let blocks = parse_blocks(reader.take(length)?, count)?;
    // The GPU's own nonce. It is signed, and says nothing of who asked.
    reader.take(32)?;
    let length = usize::from(reader.short()?);
    let opaque = reader.take(length)?;
    if !reader.0.is_empty() {
        return Err(malformed("there is something between its fields and its signature"));
    }
    let fields = parse_fields(opaque)?;
    let get = |wanted| fields.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let need = |wanted| get(wanted).ok_or(malformed("a field is missing"));
    Ok(Report {
        nonce,
        signed,
        signature,
        blocks,
        driver: name(need(field::DRIVER_VERSION)?)?,
        vbios: vbios_version(need(field::VBIOS_VERSION)?)?,
        project: name(need(field::PROJECT)?)?,
        project_sku: name(need(field::PROJECT_SKU)?)?,
        chip_sku: name(need(field::CHIP_SKU)?)?,
        fwid: need(field::FWID)?,
        is_decoder_off: get(field::NVDEC0_STATUS) == Some(DISABLED),
        is_pcie_protected: get(field::PROTECTED_PCIE_STATUS) == Some(ENABLED),
    })
}

/// The nonce of a request, which must ask for all measurements with a signature.
fn request_nonce(request: &[u8]) -> Result<[u8; 32], NvidiaError> {
    let mut reader = Reader(request);
    if reader.byte()? != SPDM_1_1 || reader.byte()? != GET_MEASUREMENTS {
        return Err(NvidiaError::Malformed("the request is none for measurements by SPDM 1.1"));
    }
    let (attributes, operation) = (reader.byte()?, reader.byte()?);
    if attributes & 1 == 0 || operation != 0xff {
        return Err(NvidiaError::Malformed("the request is not for all measurements, signed"));
    }
    reader.take(32)?.try_into().map_err(|_| NvidiaError::Malformed("it is cut"))
}

/// The measurements of a record, whose indexes must rise, so that none is there twice.
fn parse_blocks(record: &[u8], count: u8) -> Result<Vec<Block<'_>>, NvidiaError> {
    let malformed = NvidiaError::Malformed;
    let mut reader = Reader(record);
    let mut blocks: Vec<Block<'_>> = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let index = reader.byte()?;
        if index <= blocks.last().map_or(0, |last| last.index) {
            return Err(malformed("the indexes of its measurements do not rise"));
        }
        if reader.byte()? != DMTF {
            return Err(malformed("a measurement is not in DMTF's form"));
        }
        let length = reader.short()?;
        let mut block = Reader(reader.take(usize::from(length))?);
        // What was measured: signed, and not compared with anything.
        block.byte()?;
        let length = usize::from(block.short()?);
        if length == 0 || length > MAX_VALUE_BYTES || length != block.0.len() {
            return Err(malformed("a measurement has a length that no digest has"));
        }
        blocks.push(Block { index, value: block.0 });
    }
    if reader.0.is_empty() { Ok(blocks) } else { Err(malformed("its record is longer than its measurements")) }
}

/// The fields of opaque data: each once.
fn parse_fields(opaque: &[u8]) -> Result<Vec<(u16, &[u8])>, NvidiaError> {
    let mut reader = Reader(opaque);
    let mut fields: Vec<(u16, &[u8])> = Vec::new();
    while !reader.0.is_empty() {
        let kind = reader.short()?;
        let length = usize::from(reader.short()?);
        if fields.len() == MAX_FIELDS {
            return Err(NvidiaError::Malformed("it has too many fields"));
        }
        if fields.iter().any(|(known, _)| *known == kind) {
            return Err(NvidiaError::Malformed("a field is there twice"));
        }
        fields.push((kind, reader.take(length)?));
    }
    Ok(fields)
}

/// A version or a part number, which becomes part of a file's name: up to 24 letters, digits and dots before zero bytes.
fn name(value: &[u8]) -> Result<String, NvidiaError> {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let (text, padding) = value.split_at(end);
    let is_name = !text.is_empty()
        && text.len() <= 24
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'.')
        && padding.iter().all(|byte| *byte == 0);
    if !is_name {
        return Err(NvidiaError::Malformed("a version or a part number is none"));
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// The VBIOS's version: of eight little-endian bytes the low four from the highest on, then the fifth.
fn vbios_version(value: &[u8]) -> Result<String, NvidiaError> {
    let malformed = NvidiaError::Malformed("the VBIOS's version is none");
    let value: [u8; 8] = value.try_into().map_err(|_| malformed)?;
    let parts = [3, 2, 1, 0, 4].map(|at| format!("{:02X}", value[at]));
    Ok(parts.join("."))
}

impl Report<'_> {
    /// The name of the reference file for the driver on a `chip`.
    pub(super) fn driver_reference(&self, chip: &str) -> String {
        format!("NV_GPU_DRIVER_{chip}_{}", self.driver)
    }

    /// The name of the reference file for the VBIOS.
    pub(super) fn vbios_reference(&self) -> String {
        let version = self.vbios.replace('.', "");
        format!("NV_GPU_VBIOS_{}_{}_{}_{version}", self.project, self.project_sku, self.chip_sku)
    }
}
