//! Evidence of NVIDIA's GPUs: a changed report, certificate or reference file beside genuine rest, or evidence as it
//! comes over the wire. None of it may panic, and none but the genuine may be accepted.

#![no_main]

use aitbc_crypto::tee::{
    nvidia::{NvidiaEvidence, NvidiaTrust, ReferenceFile, reference_names, verify},
    x509::pem_chain,
};
use aitbc_protocol::{bytes::BoundedBytes, text::Line};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// 2025-09-01.
const NOW_MS: u64 = 1_756_684_800_000;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/fixtures/attestation/nvidia/", $name))
    };
}

static REAL: LazyLock<NvidiaEvidence> = LazyLock::new(|| {
    let report = hex::decode(fixture!("hopperAttestationReport.txt").trim_ascii()).expect("hexadecimal digits");
    let chain = pem_chain(fixture!("hopperCertChain.txt")).expect("certificates");
    let file = |id: &str, xml: &[u8]| ReferenceFile {
        id: Line::new(id).expect("a name"),
        xml: BoundedBytes::new(xml.to_vec()).expect("a file of some size"),
    };
    NvidiaEvidence {
        report: BoundedBytes::new(report).expect("a report of some size"),
        certificates: chain.into_iter().map(|der| BoundedBytes::new(der).expect("a certificate")).collect(),
        references: vec![
            file("NV_GPU_DRIVER_GH100_550.90.07", fixture!("NV_GPU_DRIVER_GH100_550.90.07.xml")),
            file("NV_GPU_VBIOS_1010_0200_882_96009F0001", fixture!("NV_GPU_VBIOS_1010_0200_882_96009F0001.xml")),
        ],
    }
});
static TRUST: LazyLock<NvidiaTrust> = LazyLock::new(|| NvidiaTrust::new(Vec::new()));

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let mut evidence = REAL.clone();
    match which % 4 {
        0 => match BoundedBytes::new(data.to_vec()) {
            Ok(report) => evidence.report = report,
            Err(_) => return,
        },
        1 => match BoundedBytes::new(data.to_vec()) {
            Ok(certificate) => evidence.certificates[0] = certificate,
            Err(_) => return,
        },
        2 => match BoundedBytes::new(data.to_vec()) {
            Ok(xml) => evidence.references[0].xml = xml,
            Err(_) => return,
        },
        _ => match cbor4ii::serde::from_slice(data) {
            Ok(read) => evidence = read,
            Err(_) => return,
        },
    }
    let _ = reference_names(&evidence);
    let nonce: [u8; 32] =
        evidence.report.as_slice().get(4..36).and_then(|nonce| nonce.try_into().ok()).unwrap_or_default();
    if let Ok(appraisal) = verify(&evidence, &nonce, &TRUST, NOW_MS) {
        let real: [u8; 32] = REAL.report.as_slice()[4..36].try_into().expect("32 bytes");
        let genuine = verify(&REAL, &real, &TRUST, NOW_MS).expect("genuine evidence");
        assert_eq!(appraisal, genuine, "something else than the genuine was accepted");
    }
});
