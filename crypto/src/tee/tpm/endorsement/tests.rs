//! The certificates that ship, and chains that must not count.

use super::*;
use crate::tee::tpm::{challenge, tests::Recorded};

/// 2026-06-01.
const NOW_MS: u64 = 1_780_272_000_000;

#[test]
fn every_shipped_certificate_issues_others_and_leads_to_a_shipped_root() {
    let roots = Roots::shipped();
    assert_eq!((roots.roots.len(), roots.intermediates.len()), (24, 114));
    let (mut usable, mut lost) = (0, Vec::new());
    for der in roots.roots.iter().map(|root| &root.der).chain(&roots.intermediates) {
        let certificate = x509::parse(der).unwrap();
        let subject = x509::subject(&certificate);
        assert!(certificate.is_ca(), "{subject}");
        match roots.lead(der, &[], NOW_MS) {
            Ok(_) => usable += 1,
            // Of no use, and of no harm.
            Err(TpmError::Certificate(CertificateError::Expired(_))) => {}
            Err(error) => lost.push(format!("{subject}: {error}")),
        }
    }
    assert!(lost.is_empty(), "{lost:#?}");
    assert!(usable >= 128, "{usable}");
}

#[test]
fn dates_count() {
    let recorded = Recorded::load("p256");
    let at = |now_ms| challenge(&recorded.identity, &recorded.roots, now_ms).map(|_| ()).unwrap_err();
    assert!(matches!(at(0), TpmError::Certificate(CertificateError::NotYetValid(_))));
    assert!(matches!(at(u64::MAX), TpmError::Certificate(CertificateError::Expired(_))));
}

#[test]
fn a_chain_needs_all_of_its_links_and_a_root_of_the_configuration() {
    let recorded = Recorded::load("p256");
    let mut cut = recorded.identity.clone();
    cut.intermediates.clear();
    let refused = challenge(&cut, &recorded.roots, recorded.now_ms).unwrap_err();
    assert!(matches!(refused, TpmError::Certificate(CertificateError::UnknownRoot(_))), "{refused}");
    let refused = challenge(&recorded.identity, &Roots::shipped(), recorded.now_ms).unwrap_err();
    assert!(matches!(refused, TpmError::Certificate(CertificateError::UnknownRoot(_))), "{refused}");
    // The root that the attester sends along is no root for that.
    let mut presented = recorded.identity.clone();
    let root = recorded.roots.roots.last().unwrap().der.clone();
    presented.intermediates.push(root.try_into().unwrap());
    let refused = challenge(&presented, &Roots::shipped(), recorded.now_ms).unwrap_err();
    assert!(matches!(refused, TpmError::Certificate(_)), "{refused}");
    assert!(Roots::shipped().with(vec![0; 40]).is_err());
}

#[test]
fn a_certificate_for_something_else_endorses_nothing() {
    let recorded = Recorded::load("p256");
    let mut other = recorded.identity.clone();
    // The CA's own.
    other.ek_certificate = Some(other.intermediates[0].clone());
    let refused = challenge(&other, &recorded.roots, recorded.now_ms).unwrap_err();
    assert_eq!(refused, TpmError::NotAnEndorsementCertificate);
}

#[test]
fn a_certificate_for_another_key_endorses_nothing() {
    let recorded = Recorded::load("p256");
    let mut other = recorded.identity.clone();
    let mut public = other.ek_public.to_vec();
    // Within the modulus, which stays odd and of 2,048 bits.
    let middle = public.len() - 100;
    public[middle] ^= 1;
    other.ek_public = public.try_into().unwrap();
    let refused = challenge(&other, &recorded.roots, recorded.now_ms).unwrap_err();
    assert_eq!(refused, TpmError::OtherEndorsementKey);
}

#[test]
fn virtual_tpms_are_told_apart() {
    let roots = Roots::shipped();
    let google: Vec<_> = read_pem(ROOTS[1].0).collect();
    assert!(!google.is_empty());
    for root in &roots.roots {
        assert_eq!(root.is_virtual, google.contains(&root.der));
    }
}
