//! The one form of XML signature that NVIDIA's reference files have.
//!
//! XML signatures allow much: several references, references to parts, keys beside certificates, transforms that pick
//! and change. Whoever accepts it all can be shown content that nobody signed (signature wrapping). So the form is
//! compared first, element by element, with the only one there is: one signature directly below the root, over the whole
//! document but for itself. Then certificates are checked, then digest and signature, over what bergshamra's Canonical XML
//! makes of the document.

use super::{NO_CHILD, ReferenceError, attribute, elements, only_child};
use crate::tee::x509::{self, CertificateError};
use aitbc_protocol::UnixMillis;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bergshamra_c14n::{C14nMode, canonicalize_doc};
use bergshamra_xml::{Document, NodeId, NodeSet};
use ring::{
    digest::{SHA384, digest},
    signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey},
};

/// The namespace of XML signatures.
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
/// Canonical XML 1.1 without comments.
const C14N_1_1: &str = "http://www.w3.org/2006/12/xml-c14n11";
/// ECDSA with SHA-384 (RFC 9231, section 2.3.6).
const ECDSA_SHA_384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
/// SHA-384 (RFC 9231, section 2.1.3).
const DIGEST_SHA_384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
/// Leaves the signature itself out of what is signed.
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";

/// Verifies that the whole document below `root` is signed by a certificate that leads to one of `roots`, and says until
/// when all the certificates are valid.
pub(super) fn verify(
    document: &Document<'_>,
    root: NodeId,
    roots: &[Vec<u8>],
    now_ms: UnixMillis,
) -> Result<UnixMillis, ReferenceError> {
    let structure = ReferenceError::Structure;
    let signature = only_child(document, root, DSIG, "Signature")
        .map_err(|_| structure("it has not one signature directly below its root"))?;
    let form = check_form(document, signature)?;
    let chain: Vec<&[u8]> = form.certificates.iter().map(Vec::as_slice).collect();
    let trusted: Vec<&[u8]> = roots.iter().map(Vec::as_slice).collect();
    x509::check_chain(&chain, &trusted, now_ms)?;

    // The whole document without the signature (the enveloped transform), and then what states its digest.
    let envelope =
        NodeSet::all_without_comments(document).subtract(&NodeSet::tree_with_comments(signature, document));
    if digest(&SHA384, &canonical(document, &envelope)?).as_ref() != form.digest {
        return Err(ReferenceError::Signature);
    }
    let signed = canonical(document, &NodeSet::tree_without_comments(form.signed_info, document))?;
    let leaf = x509::parse(chain.first().ok_or(CertificateError::Empty)?)?;
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &leaf.public_key().subject_public_key.data);
    key.verify(&signed, &form.value).map_err(|_| ReferenceError::Signature)?;
    expires(&chain)
}

/// Canonical XML 1.1 of a part of a document.
fn canonical(document: &Document<'_>, part: &NodeSet) -> Result<Vec<u8>, ReferenceError> {
    let none: &[&str] = &[];
    canonicalize_doc(document, C14nMode::Inclusive11, Some(part), none).map_err(|_| ReferenceError::Signature)
}

/// What a signature in the one form says.
struct Form {
    /// The element that is signed.
    signed_info: NodeId,
    /// The digest of the document in it.
    digest: Vec<u8>,
    /// The signature: r and s, big-endian (RFC 9231, section 2.3.6).
    value: Vec<u8>,
    /// The certificates (DER), leaf first.
    certificates: Vec<Vec<u8>>,
}

/// Compares a signature with the one form, and takes it apart.
fn check_form(document: &Document<'_>, signature: NodeId) -> Result<Form, ReferenceError> {
    let [info, value, key] =
        children(document, signature, ["SignedInfo", "SignatureValue", "KeyInfo"], "the signature's parts")?;
    let signature_value = base64(document, value).ok_or(ReferenceError::Signature)?;
    let [form, method, reference] = children(
        document,
        info,
        ["CanonicalizationMethod", "SignatureMethod", "Reference"],
        "there is not exactly one reference",
    )?;
    check_algorithm(document, form, C14N_1_1)?;
    check_algorithm(document, method, ECDSA_SHA_384)?;
    let element = document.element(reference).ok_or(NO_CHILD)?;
    // Without the attribute, the application would choose what is signed.
    if attribute(element, "URI") != Some("") || element.attributes.len() != 1 {
        return Err(ReferenceError::Structure("its reference is not to the whole file"));
    }
    let [transforms, method, value] =
        children(document, reference, ["Transforms", "DigestMethod", "DigestValue"], "the reference's parts")?;
    check_algorithm(document, method, DIGEST_SHA_384)?;
    let digest = base64(document, value).ok_or(ReferenceError::Signature)?;
    let [enveloped, form] = children(document, transforms, ["Transform", "Transform"], "the transforms")?;
    check_algorithm(document, enveloped, ENVELOPED)?;
    check_algorithm(document, form, C14N_1_1)?;
    let [data] = children(document, key, ["X509Data"], "it names a key by something else than certificates")?;
    let certificates = elements(document, data);
    if certificates.is_empty() || certificates.len() > x509::MAX_CHAIN + 1 {
        return Err(ReferenceError::Structure("it has no certificates, or too many"));
    }
    let certificates =
        certificates.into_iter().map(|node| certificate(document, node)).collect::<Result<_, _>>()?;
    Ok(Form { signed_info: info, digest, value: signature_value, certificates })
}

/// The children of an element, which must be of these names in this order.
fn children<const COUNT: usize>(
    document: &Document<'_>,
    parent: NodeId,
    names: [&str; COUNT],
    what: &'static str,
) -> Result<[NodeId; COUNT], ReferenceError> {
    let found = elements(document, parent);
    let found: [NodeId; COUNT] = found.try_into().map_err(|_| ReferenceError::Structure(what))?;
    let is_named = |(node, name): (&NodeId, &str)| {
        document.element(*node).is_some_and(|element| element.matches_name_ns(DSIG, name))
    };
    if found.iter().zip(names).all(is_named) { Ok(found) } else { Err(ReferenceError::Structure(what)) }
}

/// Whether an element names this algorithm, and nothing else.
fn check_algorithm(document: &Document<'_>, node: NodeId, algorithm: &str) -> Result<(), ReferenceError> {
    let element = document.element(node).ok_or(NO_CHILD)?;
    let is_it = attribute(element, "Algorithm") == Some(algorithm)
        && element.attributes.len() == 1
        && elements(document, node).is_empty();
    if is_it { Ok(()) } else { Err(ReferenceError::Structure("an algorithm is another than NVIDIA's")) }
}

/// A certificate out of its element.
fn certificate(document: &Document<'_>, node: NodeId) -> Result<Vec<u8>, ReferenceError> {
    let is_certificate = document.element(node).is_some_and(|each| each.matches_name_ns(DSIG, "X509Certificate"));
    if !is_certificate || !elements(document, node).is_empty() {
        return Err(ReferenceError::Structure("it names a key by something else than certificates"));
    }
    base64(document, node).ok_or(CertificateError::Malformed.into())
}

/// The bytes in an element that has base64 with line breaks and nothing else.
fn base64(document: &Document<'_>, node: NodeId) -> Option<Vec<u8>> {
    if !elements(document, node).is_empty() {
        return None;
    }
    let text = document.element_text(node)?;
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(digits).ok()
}

/// The earliest end of validity in a chain.
fn expires(chain: &[&[u8]]) -> Result<UnixMillis, ReferenceError> {
    let mut earliest = UnixMillis::MAX;
    for der in chain {
        let end = x509::parse(der)?.validity().not_after.timestamp();
        earliest = earliest.min(u64::try_from(end).unwrap_or(0).saturating_mul(1000));
    }
    Ok(earliest)
}
