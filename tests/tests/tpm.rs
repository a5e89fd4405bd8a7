//! Evidence of a live software TPM: collected through tss-esapi, verified without it.

#![cfg(feature = "tpm")]
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use aitbc_crypto::tee::{
    tpm::{EventLog, Expected, Identity, Roots, TpmError, challenge},
    x509::CertificateError,
};
use aitbc_node::attestation::collect::tpm::{AttestationKey, CollectError, LogReason, Settings, answer, identity};
use aitbc_protocol::attestation::{Appraisal, Measurement, Tier};
use aitbc_tests::swtpm::Swtpm;
use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

const BINDING: [u8; 32] = [7; 32];
const KEYS: [AttestationKey; 4] =
    [AttestationKey::P256, AttestationKey::P384, AttestationKey::RsaSsa, AttestationKey::RsaPss];
/// How many entries of the IMA log are in PCR 10; the rest was measured later.
const IMA_COVERED: usize = 250;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/attestation/tpm").join(name)
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A TPM whose machine started as a recorded log says, and where its evidence comes from.
struct Machine {
    tpm: Swtpm,
    settings: Settings,
}

impl Machine {
    fn start(tpm: Swtpm, log: &str) -> Self {
        let event_log = fixture("event_logs").join(log);
        let settings = Settings {
            tcti: tpm.tcti(),
            key: AttestationKey::default(),
            ima_log: event_log.with_extension("absent"),
            event_log,
        };
        let mut machine = Self { tpm, settings };
        machine.boot();
        machine
    }

    /// Loses power, and starts again as the log says.
    fn boot(&mut self) {
        let log = std::fs::read(&self.settings.event_log).unwrap();
        let log = EventLog::parse(&log).unwrap();
        self.tpm.restart(log.startup_locality).unwrap();
        self.settings.tcti = self.tpm.tcti();
        self.tpm.replay(&log).unwrap();
    }

    /// Vendor roots, and the CA of this TPM by the test's configuration.
    fn roots(&self) -> Roots {
        match self.tpm.root_certificate() {
            Ok(root) => Roots::shipped().with(root).unwrap(),
            Err(_) => Roots::shipped(),
        }
    }

    /// Its identity, with the CA's intermediate certificate, which swtpm does not put into NV memory.
    fn identity(&self) -> Identity {
        let mut identity = identity(&self.settings).unwrap();
        if identity.ek_certificate.is_some() {
            identity.intermediates.push(self.tpm.issuer_certificate().unwrap().try_into().unwrap());
        }
        identity
    }

    fn attest(&self, measurement: Option<Measurement>) -> Result<Appraisal, TpmError> {
        let (challenge, pending) = challenge(&self.identity(), &self.roots(), now_ms())?;
        let collected = answer(&self.settings, &challenge, &BINDING).unwrap();
        pending.verify(&collected.evidence, &Expected { binding: BINDING, approved: measurement.as_slice() })
    }
}

#[test]
fn an_endorsed_tpm_is_affirmed_until_its_pcrs_change() {
    let mut machine = Machine::start(Swtpm::start().unwrap(), "rhel8-uefi.bin");
    let mut seen = Vec::new();
    for key in KEYS {
        machine.settings.key = key;
        let first = machine.attest(None).unwrap();
        assert_eq!(first.tier(), Tier::Affirming, "{key:?}: {first:?}");
        let again = machine.attest(Some(first.measurement)).unwrap();
        assert_eq!(again.tier(), Tier::Affirming);
        assert_eq!(again.vector.executables, 3, "approved at boot");
        seen.push((first.hardware.unwrap(), first.measurement));
    }
    seen.dedup();
    let [(_, measurement)] = seen[..] else { panic!("one TPM has one identity, whichever key attests: {seen:?}") };

    // The log does not tell of it.
    machine.tpm.extend(4, &[1; 32]).unwrap();
    assert_eq!(machine.attest(Some(measurement)), Err(TpmError::EventLog { pcr: 4 }));
    // Nobody shows a log: the values themselves are compared.
    machine.settings.event_log = machine.settings.ima_log.clone();
    assert!(matches!(
        machine.attest(Some(measurement)),
        Err(TpmError::PcrsChanged { expected, found }) if expected == measurement && found != measurement
    ));
    let unexplained = machine.attest(None).unwrap();
    assert_eq!(unexplained.tier(), Tier::Warning, "without a log Secure Boot is unknown");
}

#[test]
fn a_ca_is_trusted_by_configuration_alone() {
    let machine = Machine::start(Swtpm::start().unwrap(), "rhel8-uefi.bin");
    let identity = machine.identity();
    let refused = challenge(&identity, &Roots::shipped(), now_ms()).unwrap_err();
    assert!(matches!(refused, TpmError::Certificate(CertificateError::UnknownRoot(_))), "{refused}");
    // Another TPM's CA of the same name.
    let other = Swtpm::start().unwrap();
    let roots = Roots::shipped().with(other.root_certificate().unwrap()).unwrap();
    let refused = challenge(&identity, &roots, now_ms()).unwrap_err();
    assert!(matches!(refused, TpmError::Certificate(CertificateError::Signature(_))), "{refused}");
    assert!(challenge(&identity, &machine.roots(), now_ms()).is_ok());
}

#[test]
fn a_tpm_without_a_certificate_is_at_most_a_warning() {
    let machine = Machine::start(Swtpm::start_unendorsed().unwrap(), "rhel8-uefi.bin");
    assert_eq!(machine.identity().ek_certificate, None);
    let appraisal = machine.attest(None).unwrap();
    assert_eq!(appraisal.tier(), Tier::Warning);
    assert_eq!(appraisal.vector.configuration, 2, "Secure Boot was on");
}

#[test]
fn recorded_logs_explain_the_pcrs_that_they_filled() {
    let mut machine = Machine::start(Swtpm::start().unwrap(), "rhel8-uefi.bin");
    for (log, tier) in [
        ("arch-linux-workstation.bin", Tier::Warning),
        ("cos-101-amd-sev.bin", Tier::Affirming),
        ("crypto_agile_eventlog.bin", Tier::Warning),
        ("eventlogwithsp800155.bin", Tier::Affirming),
        ("gdc-host.bin", Tier::Warning),
        ("glinux-alex.bin", Tier::Warning),
        ("ubuntu-2104-no-secure-boot.bin", Tier::Warning),
    ] {
        machine.settings.event_log = fixture("event_logs").join(log);
        machine.boot();
        let appraisal = machine.attest(None).unwrap();
        assert_eq!(appraisal.tier(), tier, "{log}: {appraisal:?}");
    }
}

#[test]
fn a_restart_between_the_messages_is_found() {
    let mut machine = Machine::start(Swtpm::start().unwrap(), "rhel8-uefi.bin");
    let (question, pending) = challenge(&machine.identity(), &machine.roots(), now_ms()).unwrap();
    machine.boot();
    let collected = answer(&machine.settings, &question, &BINDING).unwrap();
    let expected = Expected { binding: BINDING, approved: &[] };
    assert_eq!(pending.verify(&collected.evidence, &expected), Err(TpmError::Restarted));
}

#[test]
fn an_answer_fits_one_challenge_and_one_tpm() {
    let machine = Machine::start(Swtpm::start().unwrap(), "rhel8-uefi.bin");
    let identity = machine.identity();
    let (first, pending) = challenge(&identity, &machine.roots(), now_ms()).unwrap();
    let (_, later) = challenge(&identity, &machine.roots(), now_ms()).unwrap();
    let collected = answer(&machine.settings, &first, &BINDING).unwrap();
    let expected = Expected { binding: BINDING, approved: &[] };
    assert!(pending.verify(&collected.evidence, &expected).is_ok());
    assert_eq!(later.verify(&collected.evidence, &expected), Err(TpmError::WrongSecret));
    let elsewhere = Expected { binding: [8; 32], ..expected };
    assert_eq!(pending.verify(&collected.evidence, &elsewhere), Err(TpmError::WrongBinding));

    // Another TPM does not open it, nor does this one for another key.
    let other = Machine::start(Swtpm::start().unwrap(), "rhel8-uefi.bin");
    assert!(matches!(answer(&other.settings, &first, &BINDING), Err(CollectError::Refused { .. })));
    assert!(other.attest(None).is_ok(), "a foreign credential does the TPM no harm");
    let settings = Settings { key: AttestationKey::RsaSsa, ..machine.settings.clone() };
    assert!(matches!(answer(&settings, &first, &BINDING), Err(CollectError::Refused { .. })));
    // A refusal leaves nothing in the TPM, which has room for three objects.
    for _ in 0..4 {
        assert!(answer(&settings, &first, &BINDING).is_err());
    }
    assert!(answer(&machine.settings, &first, &BINDING).is_ok());
}

/// The digests by which a kernel extends PCR 10 for a log of the template ima-ng.
fn ima_digests(log: &[u8]) -> Vec<[u8; 32]> {
    let (mut rest, mut digests) = (log, Vec::new());
    while !rest.is_empty() {
        let length = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
        let data = 28 + length(24);
        let end = data + 4 + length(data);
        digests.push(aitbc_protocol::Digest::of(&rest[data + 4..end]).0);
        rest = &rest[end..];
    }
    digests
}

#[test]
fn an_ima_log_may_go_on_after_the_quote() {
    let mut machine = Machine::start(Swtpm::start().unwrap(), "rhel8-uefi.bin");
    machine.settings.ima_log = fixture("ima-ng.bin");
    let digests = ima_digests(&std::fs::read(&machine.settings.ima_log).unwrap());
    for digest in &digests[..IMA_COVERED] {
        machine.tpm.extend(10, digest).unwrap();
    }
    let appraisal = machine.attest(None).unwrap();
    assert_eq!(appraisal.tier(), Tier::Affirming);
    assert!(appraisal.notes.iter().any(|note| note.contains("250 entries")), "{:?}", appraisal.notes);
    machine.tpm.extend(10, &[1; 32]).unwrap();
    assert_eq!(machine.attest(None), Err(TpmError::ImaLog));
}

#[test]
fn logs_that_are_missing_are_named() {
    let mut machine = Machine::start(Swtpm::start().unwrap(), "rhel8-uefi.bin");
    machine.settings.event_log = machine.settings.ima_log.clone();
    let (question, _) = challenge(&machine.identity(), &machine.roots(), now_ms()).unwrap();
    let collected = answer(&machine.settings, &question, &BINDING).unwrap();
    assert_eq!(collected.missing.len(), 2);
    assert!(collected.missing.iter().all(|problem| matches!(problem.reason, LogReason::Absent)));
}

#[test]
#[ignore = "records the fixtures of the tests of crypto anew"]
fn record() {
    let mut machine = Machine::start(Swtpm::start().unwrap(), "rhel8-uefi.bin");
    for digest in &ima_digests(&std::fs::read(fixture("ima-ng.bin")).unwrap())[..IMA_COVERED] {
        machine.tpm.extend(10, digest).unwrap();
    }
    for key in KEYS {
        machine.settings.key = key;
        let identity = machine.identity();
        let (challenge, _) = challenge(&identity, &machine.roots(), now_ms()).unwrap();
        let mut evidence = answer(&machine.settings, &challenge, &BINDING).unwrap().evidence;
        // It is a file beside it.
        evidence.event_log = None;
        let recorded = serde_json::json!({
            "now_ms": now_ms(),
            "root": machine.tpm.root_certificate().map(|der| aitbc_protocol::bytes::BoundedBytes::<8192>::new(der).unwrap()).unwrap(),
            "identity": identity,
            "challenge": challenge,
            "evidence": evidence,
        });
        let name = format!("{key:?}.json").to_lowercase();
        std::fs::write(fixture(&name), serde_json::to_string_pretty(&recorded).unwrap() + "\n").unwrap();
    }
}
