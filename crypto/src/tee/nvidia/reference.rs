//! NVIDIA's reference files: which measurements a version of the driver or the VBIOS gives (TCG Reference Integrity
//! Manifests: SWID tags of ISO/IEC 19770-2, signed in themselves).
//!
//! What is read here is read from the very tree whose signature was verified, and the signature covers that whole tree.

mod signature;

use crate::tee::x509::CertificateError;
use aitbc_protocol::UnixMillis;
use bergshamra_xml::{Document, Element, NodeId, NodeKind, uppsala::Parser};
use std::collections::BTreeMap;

/// Largest reference file in bytes: NVIDIA's have 20 KiB.
pub const MAX_REFERENCE_BYTES: usize = 128 * 1024;
/// Deepest that elements nest: a certificate lies five deep.
const MAX_DEPTH: u32 = 8;
/// Most values that are allowed at one index.
const MAX_ALTERNATIVES: usize = 64;

/// The namespace of SWID tags.
const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
/// The namespace of SHA-384 digests.
const SHA_384: &str = "http://www.w3.org/2001/04/xmlenc#sha384";

/// Why a reference file does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Larger than any.
    #[error("it is larger than {MAX_REFERENCE_BYTES} bytes")]
    TooLarge,
    /// It declares a document type or entities, which no reference file does.
    #[error("it declares a document type or entities")]
    Dtd,
    /// Not well-formed, or not what a reference file looks like.
    #[error("it is no reference file: {0}")]
    Malformed(&'static str),
    /// Signed in another way than NVIDIA signs: parts of it may not be signed at all.
    #[error("it is not signed as NVIDIA signs the whole of a file: {0}")]
    Structure(&'static str),
    /// Its certificates do not lead to NVIDIA's root, or are out of date.
    #[error("{0}")]
    Chain(#[from] CertificateError),
    /// Changed since, or signed with another key.
    #[error("its signature is not by its certificate over what it says")]
    Signature,
    /// For another version than the GPU runs.
    #[error("it is for version {found}, and the GPU runs {expected}")]
    VersionMismatch {
        /// What the GPU runs.
        expected: String,
        /// What the file is for.
        found: String,
    },
    /// For another chip.
    #[error("it is for the chip {found}, and the GPU is a {expected}")]
    ChipMismatch {
        /// What the GPU is.
        expected: String,
        /// What the file is for.
        found: String,
    },
}

/// Most tags of a file, of both kinds; NVIDIA's have 99.
const MAX_TAGS: usize = 2_048;
/// Most declarations of namespaces; NVIDIA's have 6.
const MAX_NAMESPACES: usize = 32;
/// Most attributes, with the padding of base64; NVIDIA's have under 500.
const MAX_ATTRIBUTES: usize = 4_096;

/// What a reference file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// The version that it is for.
    pub version: String,
    /// The chip that it is for.
    pub chip: String,
    /// Until when all of its certificates are valid.
    pub expires_ms: UnixMillis,
    /// The values that are allowed at each index that counts. SPDM's index is one more.
    pub active: BTreeMap<u8, Vec<Vec<u8>>>,
}

impl Reference {
    /// Whether it is for a version and a chip. Letters of versions may be of either case.
    pub(super) fn check_subject(&self, version: &str, chip: &str) -> Result<(), ReferenceError> {
        if !self.version.eq_ignore_ascii_case(version) {
            let (expected, found) = (version.to_owned(), self.version.clone());
            return Err(ReferenceError::VersionMismatch { expected, found });
        }
        if self.chip != chip {
            return Err(ReferenceError::ChipMismatch { expected: chip.to_owned(), found: self.chip.clone() });
        }
        Ok(())
    }
}

/// Verifies a reference file and reads it.
pub(super) fn read(xml: &[u8], roots: &[Vec<u8>], now_ms: UnixMillis) -> Result<Reference, ReferenceError> {
    if xml.len() > MAX_REFERENCE_BYTES {
        return Err(ReferenceError::TooLarge);
    }
    let text = std::str::from_utf8(xml).map_err(|_| ReferenceError::Malformed("it is not UTF-8"))?;
    // `<!` begins nothing else that a reference file has: neither comments nor CDATA are in any.
    if text.contains("<!") {
        return Err(ReferenceError::Dtd);
    }
    // The canonical form carries all namespaces in scope from element to element: many of both would take a processor for
    // minutes before any signature is looked at.
    let counted = [("<", MAX_TAGS), ("xmlns", MAX_NAMESPACES), ("=", MAX_ATTRIBUTES)];
    if counted.iter().any(|(what, most)| text.matches(what).nth(*most).is_some()) {
        return Err(ReferenceError::Malformed("it has more elements, attributes or namespaces than any"));
    }
    let parser = Parser::new().with_forbid_dtd(true).with_forbid_entities(true).with_max_depth(MAX_DEPTH);
    let document = parser.parse(text).map_err(|_| ReferenceError::Malformed("it is not well-formed"))?;
    let root = root(&document)?;
    let expires_ms = signature::verify(&document, root, roots, now_ms)?;
    let meta = document.element(only_child(&document, root, SWID, "Meta")?).ok_or(NO_CHILD)?;
    let payload = only_child(&document, root, SWID, "Payload")?;
    Ok(Reference {
        version: short(meta, "colloquialVersion")?,
        chip: short(meta, "product")?,
        expires_ms,
        active: measurements(&document, payload)?,
    })
}

const NO_CHILD: ReferenceError = ReferenceError::Malformed("an element that must be there once is not");

/// The root element, where all nodes are elements and text, and nothing stands beside it.
fn root(document: &Document<'_>) -> Result<NodeId, ReferenceError> {
    let root = document.document_element().ok_or(NO_CHILD)?;
    let is_plain = |node: NodeId| {
        matches!(document.node_kind(node), Some(NodeKind::Element(_) | NodeKind::Text(_) | NodeKind::Document))
    };
    if !document.descendants(document.root()).into_iter().all(is_plain) {
        return Err(ReferenceError::Structure("it holds more than elements and text"));
    }
    let is_tag = document.element(root).is_some_and(|element| element.matches_name_ns(SWID, "SoftwareIdentity"));
    if is_tag { Ok(root) } else { Err(ReferenceError::Malformed("its root is no SWID tag")) }
}

/// The elements directly below one.
fn elements(document: &Document<'_>, parent: NodeId) -> Vec<NodeId> {
    document.children(parent).into_iter().filter(|node| document.element(*node).is_some()).collect()
}

/// The one element of a name that the whole document has, which is directly below `parent`.
fn only_child(
    document: &Document<'_>,
    parent: NodeId,
    namespace: &str,
    name: &str,
) -> Result<NodeId, ReferenceError> {
    match document.get_elements_by_tag_name_ns(namespace, name)[..] {
        [only] if document.parent(only) == Some(parent) => Ok(only),
        _ => Err(NO_CHILD),
    }
}

/// An attribute without a namespace.
fn attribute<'a>(element: &'a Element<'_>, name: &str) -> Option<&'a str> {
    let found = element.attributes.iter().find(|attribute| attribute.name.matches(None, name));
    found.map(|attribute| attribute.value.as_ref())
}

/// An attribute of up to 32 printable characters.
fn short(element: &Element<'_>, name: &str) -> Result<String, ReferenceError> {
    attribute(element, name)
        .filter(|value| {
            !value.is_empty() && value.len() <= 32 && value.bytes().all(|byte| byte.is_ascii_graphic())
        })
        .map(str::to_owned)
        .ok_or(ReferenceError::Malformed("a version or a chip is missing or none"))
}

/// The values of a payload at the indexes that count.
fn measurements(document: &Document<'_>, payload: NodeId) -> Result<BTreeMap<u8, Vec<Vec<u8>>>, ReferenceError> {
    let malformed = ReferenceError::Malformed;
    let mut all = BTreeMap::new();
    for node in elements(document, payload) {
        let resource = document.element(node).filter(|element| element.matches_name_ns(SWID, "Resource"));
        let resource = resource.ok_or(malformed("its payload holds something else than measurements"))?;
        if attribute(resource, "type") != Some("Measurement") {
            return Err(malformed("its payload holds something else than measurements"));
        }
        let index = attribute(resource, "index").and_then(|index| index.parse::<u8>().ok());
        let index = index.filter(|index| *index < u8::MAX).ok_or(malformed("a measurement has no index"))?;
        let values = match attribute(resource, "active") {
            Some("True") => Some(values(resource)?),
            Some("False") => None,
            _ => return Err(malformed("a measurement is neither active nor inactive")),
        };
        if all.insert(index, values).is_some() {
            return Err(malformed("an index is there twice"));
        }
    }
    let active: BTreeMap<_, _> = all.into_iter().filter_map(|(index, values)| Some((index, values?))).collect();
    if active.is_empty() { Err(malformed("it has no active measurement")) } else { Ok(active) }
}

/// The values that one measurement may have.
fn values(resource: &Element<'_>) -> Result<Vec<Vec<u8>>, ReferenceError> {
    let malformed = ReferenceError::Malformed;
    let number = |name| attribute(resource, name).and_then(|text| text.parse::<usize>().ok());
    let size = number("size").ok_or(malformed("a measurement has no size"))?;
    let count =
        number("alternatives").ok_or(malformed("a measurement does not say how many values it may have"))?;
    let hashes = resource.attributes.iter().filter(|each| each.name.namespace_uri.as_deref() == Some(SHA_384));
    if count == 0 || count > MAX_ALTERNATIVES || hashes.count() != count {
        return Err(malformed("a measurement has more or fewer values than it says"));
    }
    let value = |number: usize| {
        let text = resource.get_attribute_ns(SHA_384, &format!("Hash{number}"));
        let value = text.and_then(|text| hex::decode(text).ok()).filter(|value| value.len() == size);
        value.ok_or(malformed("a value is none, or not of the size that it says"))
    };
    (0..count).map(value).collect()
}

#[cfg(test)]
mod tests;
