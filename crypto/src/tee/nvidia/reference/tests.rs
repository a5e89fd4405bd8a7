//! Files that are signed, changed, moved and wrapped.

use super::*;
use crate::tee::x509;

const DRIVER: &str =
    include_str!("../../../../../tests/fixtures/attestation/nvidia/NV_GPU_DRIVER_GH100_550.90.07.xml");
const VBIOS: &str =
    include_str!("../../../../../tests/fixtures/attestation/nvidia/NV_GPU_VBIOS_1010_0200_882_96009F0001.xml");
const ROOT: &[u8] = include_bytes!("../roots/reference.pem");
const DEVICE_ROOT: &[u8] = include_bytes!("../roots/device.pem");
/// 2025-09-01.
const NOW_MS: u64 = 1_756_684_800_000;
/// A measurement that nobody signed.
const FORGED: &str = r#"<ns0:Payload xmlns:ns0="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"><ns0:Resource type="Measurement" index="7" active="True" alternatives="1" xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384" ns2:Hash0="00" size="1"/></ns0:Payload>"#;

fn read(xml: &str) -> Result<Reference, ReferenceError> {
    super::read(xml.as_bytes(), &x509::pem_chain(ROOT).unwrap(), NOW_MS)
}

/// The file with one change, which must be one.
fn changed(from: &str, to: &str) -> String {
    let changed = DRIVER.replacen(from, to, 1);
    assert_ne!(changed, DRIVER, "{from} is not in the file");
    changed
}

/// What lies between the signature's tags, with them.
fn signature() -> &'static str {
    let start = DRIVER.find("<ds:Signature ").unwrap();
    let end = DRIVER.find("</ds:Signature>").unwrap() + "</ds:Signature>".len();
    &DRIVER[start..end]
}

#[test]
fn real_files_say_what_they_are_for() {
    let driver = read(DRIVER).unwrap();
    assert_eq!((driver.version.as_str(), driver.chip.as_str()), ("550.90.07", "GH100"));
    assert_eq!(driver.active.len(), 21);
    // Of its four values each may be.
    assert_eq!(driver.active[&35].len(), 4);
    assert!(driver.active.values().flatten().all(|value| value.len() == 48));
    // 2026-06-01 02:08:29, when the signer's certificate ends.
    assert_eq!(driver.expires_ms, 1_780_279_709_000);
    let vbios = read(VBIOS).unwrap();
    assert_eq!((vbios.version.as_str(), vbios.active.len()), ("96.00.9F.00.01", 12));
    assert_eq!(vbios.check_subject("96.00.9f.00.01", "GH100"), Ok(()));
    assert!(matches!(vbios.check_subject("96.00.9F.00.02", "GH100"), Err(ReferenceError::VersionMismatch { .. })));
    assert!(matches!(vbios.check_subject("96.00.9F.00.01", "GB100"), Err(ReferenceError::ChipMismatch { .. })));
}

#[test]
fn dates_and_roots_count() {
    let roots = x509::pem_chain(ROOT).unwrap();
    let at = |now_ms| super::read(DRIVER.as_bytes(), &roots, now_ms);
    assert!(at(1_780_279_709_000).is_ok());
    let after = ReferenceError::Chain(CertificateError::Expired(String::new()));
    let is_same = |error| std::mem::discriminant(&error) == std::mem::discriminant(&after);
    assert!(is_same(at(1_780_279_710_000).unwrap_err()));
    assert!(matches!(at(0), Err(ReferenceError::Chain(CertificateError::NotYetValid(_)))));
    assert!(matches!(at(u64::MAX), Err(ReferenceError::Chain(CertificateError::Expired(_)))));
    let others = x509::pem_chain(DEVICE_ROOT).unwrap();
    assert!(matches!(
        super::read(DRIVER.as_bytes(), &others, NOW_MS),
        Err(ReferenceError::Chain(CertificateError::UnknownRoot(_)))
    ));
    assert!(super::read(DRIVER.as_bytes(), &[], NOW_MS).is_err());
}

#[test]
fn what_is_signed_cannot_be_changed() {
    for (from, to) in [
        ("550.90.07", "550.90.08"),
        (r#"product="GH100""#, r#"product="GB100""#),
        (r#"index="7""#, r#"index="64""#),
        (r#"index="7" active="True""#, r#"index="7" active="False""#),
        ("80161aac", "80161aad"),
        ("gMJpwhbI", "gMJpwhbJ"),
        ("uA3a8vHy", "uA3a8vHz"),
        ("<ds:SignatureValue>", "<ds:SignatureValue>AAAA"),
        ("    <ns0:Entity", "   <ns0:Entity"),
    ] {
        assert_eq!(read(&changed(from, to)), Err(ReferenceError::Signature), "{from}");
    }
}

#[test]
fn certificates_cannot_be_changed() {
    let from = "MIICkDCCAhagAwIBAgIJANafELRsBdIB";
    let xml = changed(from, "MIICkDCCAhagAwIBAgIJANafELRsBdIC");
    assert!(matches!(read(&xml), Err(ReferenceError::Chain(CertificateError::Signature(_)))));
    let xml = changed(from, "!IICkDCCAhagAwIBAgIJANafELRsBdIB");
    assert_eq!(read(&xml), Err(ReferenceError::Chain(CertificateError::Malformed)));
    // The leaf left out: the next may issue, and did not sign this.
    let start = DRIVER.find("<ds:X509Certificate>").unwrap();
    let end = DRIVER.find("</ds:X509Certificate>").unwrap() + "</ds:X509Certificate>".len();
    assert_eq!(read(&DRIVER.replacen(&DRIVER[start..end], "", 1)), Err(ReferenceError::Signature));
}

#[test]
fn a_signature_of_another_form_is_refused() {
    let reference_start = DRIVER.find("<ds:Reference ").unwrap();
    let reference_end = DRIVER.find("</ds:Reference>").unwrap() + "</ds:Reference>".len();
    let reference = &DRIVER[reference_start..reference_end];
    let twice = reference.repeat(2);
    let keyed = "<ds:KeyInfo><ds:KeyValue/>";
    for (from, to) in [
        (reference, twice.as_str()),
        (reference, ""),
        (r#"URI="""#, r##"URI="#id""##),
        (r#"URI="""#, r#"URI="file.xml""#),
        (r#" URI="""#, ""),
        (r#"URI="""#, r#"URI="" Id="id""#),
        ("xmldsig#enveloped-signature", "xmldsig#base64"),
        (r#"<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>"#, ""),
        ("2006/12/xml-c14n11", "2001/10/xml-exc-c14n#"),
        ("xmldsig-more#ecdsa-sha384", "xmldsig-more#hmac-sha384"),
        ("xmldsig-more#sha384", "xmlenc#sha256"),
        ("<ds:KeyInfo>", keyed),
        ("<ds:X509Data>", "<ds:X509Data><ds:X509SubjectName>NVIDIA</ds:X509SubjectName>"),
        ("</ds:Signature>", "<ds:Object/></ds:Signature>"),
        ("</ds:Signature>", "<ds:Manifest/></ds:Signature>"),
    ] {
        let error = read(&changed(from, to)).unwrap_err();
        assert!(matches!(error, ReferenceError::Structure(_)), "{from} {to}: {error}");
    }
}

#[test]
fn what_was_signed_cannot_be_moved_or_wrapped() {
    // Forged measurements inside the signature, which the enveloped transform leaves out.
    let inside = changed("</ds:Signature>", &format!("<ds:Object>{FORGED}</ds:Object></ds:Signature>"));
    assert!(matches!(read(&inside), Err(ReferenceError::Structure(_))));
    let inside = changed("</ds:KeyInfo>", &format!("{FORGED}</ds:KeyInfo>"));
    assert!(matches!(read(&inside), Err(ReferenceError::Structure(_))));

    // Beside the signed payload, before it or after it.
    for (from, to) in
        [("<ns0:Payload", format!("{FORGED}<ns0:Payload")), ("<ds:Signature ", format!("{FORGED}<ds:Signature "))]
    {
        assert!(read(&changed(from, &to)).is_err());
    }
    let twice = changed("<ds:Signature ", &format!("{FORGED}<ds:Signature "));
    assert_eq!(read(&twice), Err(ReferenceError::Signature));

    // The signed tag whole, below a tag of the attacker's: once as it is, once with its signature taken out.
    let open = r#"<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd">"#;
    let wrapped = format!("{open}{FORGED}{DRIVER}</SoftwareIdentity>");
    assert!(matches!(read(&wrapped), Err(ReferenceError::Structure(_))));
    let content = DRIVER.replacen(signature(), "", 1);
    let moved =
        format!("{open}{FORGED}{}<ds:Object xmlns:ds=\"x\">{content}</ds:Object></SoftwareIdentity>", signature());
    assert_eq!(read(&moved), Err(ReferenceError::Signature));
    let referred = moved.replacen(r#"URI="""#, r##"URI="#signed""##, 1).replacen(
        "<SoftwareIdentity xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" xmlns:ns0",
        "<SoftwareIdentity Id=\"signed\" xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" xmlns:ns0",
        1,
    );
    assert!(matches!(read(&referred), Err(ReferenceError::Structure(_))));

    // Two signatures, and none.
    let two = changed("</SoftwareIdentity>", &format!("{}</SoftwareIdentity>", signature()));
    assert!(matches!(read(&two), Err(ReferenceError::Structure(_))));
    assert!(matches!(read(&content), Err(ReferenceError::Structure(_))));
}

#[test]
fn document_types_entities_comments_and_instructions_are_refused() {
    for before in [
        "<!DOCTYPE SoftwareIdentity>",
        r#"<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>"#,
        r#"<!DOCTYPE x SYSTEM "file:///etc/passwd">"#,
        "<!-- a comment -->",
    ] {
        assert_eq!(read(&format!("{before}{DRIVER}")), Err(ReferenceError::Dtd), "{before}");
    }
    // A comment would not change what is signed, and cuts a text in two for some readers.
    assert_eq!(read(&changed("<ds:SignatureValue>", "<ds:SignatureValue><!-- -->")), Err(ReferenceError::Dtd));
    assert!(matches!(read(&changed("<ds:KeyInfo>", "<ds:KeyInfo><?x y?>")), Err(ReferenceError::Structure(_))));
    assert!(matches!(read(&changed("550.90.07", "&a;")), Err(ReferenceError::Malformed(_))));
}

#[test]
fn what_is_no_file_is_refused() {
    assert_eq!(read(&" ".repeat(MAX_REFERENCE_BYTES + 1)), Err(ReferenceError::TooLarge));
    for xml in ["", "<a/>", "<a", "text", &"<a>".repeat(20_000), &DRIVER[..DRIVER.len() - 1]] {
        assert!(matches!(read(xml), Err(ReferenceError::Malformed(_))), "{}", xml.len());
    }
    assert!(matches!(
        super::read(&[0xff, 0xfe], &x509::pem_chain(ROOT).unwrap(), NOW_MS),
        Err(ReferenceError::Malformed(_))
    ));
}

/// The measurements of a payload, not signed.
fn payload(resources: &str) -> Result<BTreeMap<u8, Vec<Vec<u8>>>, ReferenceError> {
    let xml = format!(r#"<a xmlns="{SWID}" xmlns:h="{SHA_384}" xmlns:o="other">{resources}</a>"#);
    let document = Parser::new().parse(&xml).unwrap();
    measurements(&document, document.document_element().unwrap())
}

#[test]
fn measurements_say_exactly_what_may_be() {
    let one = r#"<Resource type="Measurement" index="3" active="True" alternatives="1" h:Hash0="0a" size="1"/>"#;
    let off = r#"<Resource type="Measurement" index="4" active="False" alternatives="1" h:Hash0="0b" size="1"/>"#;
    let two = r#"<Resource type="Measurement" index="5" active="True" alternatives="2" h:Hash0="01" h:Hash1="02" size="1"/>"#;
    let read = payload(&format!("{one}{off}{two}")).unwrap();
    assert_eq!(read, BTreeMap::from([(3, vec![vec![10]]), (5, vec![vec![1], vec![2]])]));
    for wrong in [
        String::new(),
        off.to_owned(),
        one.repeat(2),
        one.replace("Resource", "Other"),
        one.replace("Measurement", "File"),
        one.replace("\"3\"", "\"255\""),
        one.replace("\"3\"", "\"-1\""),
        one.replace("True", "true"),
        one.replace("alternatives=\"1\"", "alternatives=\"2\""),
        one.replace("alternatives=\"1\"", "alternatives=\"0\""),
        one.replace("h:Hash0", "o:Hash0"),
        one.replace("h:Hash0", "h:Hash1"),
        one.replace("size=\"1\"", "size=\"2\""),
        one.replace("0a", "0g"),
        two.replace("h:Hash1", "h:Hash2"),
    ] {
        assert!(matches!(payload(&wrong), Err(ReferenceError::Malformed(_))), "{wrong}");
    }
}

#[test]
fn a_file_that_would_take_long_to_canonicalise_is_not_read() {
    let many = |what: &dyn Fn(usize) -> String, count: usize| (0..count).map(what).collect::<String>();
    let namespaces = many(&|n| format!(" xmlns:n{n}=\"x\""), 4_000);
    let elements = many(&|_| "<a/>".to_owned(), 12_000);
    let attributes = many(&|n| format!(" a{n}=\"\""), 10_000);
    for xml in [format!("<a{namespaces}/>"), format!("<a>{elements}</a>"), format!("<a{attributes}/>")] {
        assert!(xml.len() <= MAX_REFERENCE_BYTES);
        let started = std::time::Instant::now();
        assert!(
            matches!(read(&xml).unwrap_err(), ReferenceError::Malformed(why) if why.contains("more elements"))
        );
        assert!(started.elapsed().as_secs() < 1);
    }
}
