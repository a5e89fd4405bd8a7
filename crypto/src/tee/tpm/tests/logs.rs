//! Logs: recorded ones against the PCRs of their machines, and built ones for what an adversary would do.

use super::*;
use event_log::extend;

const SECURE_BOOT_LOGS: [(&str, SecureBoot); 9] = [
    ("arch-linux-workstation", SecureBoot::Off),
    ("cos-101-amd-sev", SecureBoot::On),
    ("crypto_agile_eventlog", SecureBoot::Off),
    ("eventlogwithsp800155", SecureBoot::On),
    ("gdc-host", SecureBoot::Off),
    ("glinux-alex", SecureBoot::Off),
    ("rhel8-uefi", SecureBoot::On),
    ("ubuntu-2104-no-secure-boot", SecureBoot::Off),
    ("ubuntu-2404-amd-sevsnp", SecureBoot::Off),
];

#[test]
fn recorded_logs_give_the_pcrs_of_their_machines() {
    let known = String::from_utf8(read("event_logs/pcrs.txt")).unwrap();
    let mut compared = 0;
    for line in known.lines().filter(|line| !line.starts_with('#')) {
        let [name, pcr, value] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let bytes = read(&format!("event_logs/{name}.bin"));
        let log = EventLog::parse(&bytes).unwrap();
        assert_eq!(hex::encode(log.replay(pcr.parse().unwrap())), value, "{name}, PCR {pcr}");
        compared += 1;
    }
    assert_eq!(compared, 64, "eight PCRs of eight machines");
}

#[test]
fn recorded_logs_prove_whether_secure_boot_was_on() {
    for (name, state) in SECURE_BOOT_LOGS {
        let bytes = read(&format!("event_logs/{name}.bin"));
        let policy = EventLog::parse(&bytes).unwrap().policy();
        assert_eq!(policy, Policy { secure_boot: state, debug: false, no_dma_protection: false }, "{name}");
    }
}

#[test]
fn logs_without_sha256_are_named_as_such() {
    for name in ["debian-10", "short_no_action_eventlog"] {
        let bytes = read(&format!("event_logs/{name}.bin"));
        assert_eq!(EventLog::parse(&bytes), Err(TpmError::OldEventLog), "{name}");
    }
    // A crypto-agile one that lists SHA-1 alone.
    assert_eq!(EventLog::parse(&header(&[(4, 20)])), Err(TpmError::OldEventLog));
    assert_eq!(EventLog::parse(&vec![0; MAX_EVENT_LOG_BYTES + 1]), Err(TpmError::TooLarge("event log")));
}

/// The first event of a crypto-agile log.
fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    data.extend((algorithms.len() as u32).to_le_bytes());
    for (algorithm, size) in algorithms {
        data.extend(algorithm.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(0);
    let mut bytes = [0, 0, 0, 0, 3, 0, 0, 0].to_vec();
    bytes.extend([0; 20]);
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

/// A log with SHA-256 alone.
#[derive(Clone)]
struct Log(Vec<u8>);

impl Log {
    fn new() -> Self {
        Self(header(&[(0x0b, 32)]))
    }

    fn with(mut self, pcr: u32, kind: u32, digest: [u8; 32], data: &[u8]) -> Self {
        self.0.extend(pcr.to_le_bytes());
        self.0.extend(kind.to_le_bytes());
        self.0.extend([1, 0, 0, 0, 0x0b, 0]);
        self.0.extend(digest);
        self.0.extend((data.len() as u32).to_le_bytes());
        self.0.extend(data);
        self
    }

    fn proved(self, pcr: u32, kind: u32, data: &[u8]) -> Self {
        self.with(pcr, kind, Digest::of(data).0, data)
    }

    fn policy(&self) -> Policy {
        EventLog::parse(&self.0).unwrap().policy()
    }
}

const NO_ACTION: u32 = 3;
const SEPARATOR: u32 = 4;
const VARIABLE: u32 = 0x8000_0001;
const ACTION: u32 = 0x8000_0007;

/// `UEFI_VARIABLE_DATA` of a global variable.
fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    let mut data =
        vec![0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
    data.extend((name.encode_utf16().count() as u64).to_le_bytes());
    data.extend((value.len() as u64).to_le_bytes());
    data.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
    data.extend(value);
    data
}

#[test]
fn secure_boot_is_the_proved_variable_at_the_beginning_of_pcr_7() {
    let (on, off) = (variable("SecureBoot", &[1]), variable("SecureBoot", &[0]));
    assert_eq!(Log::new().policy().secure_boot, SecureBoot::Unknown);
    assert_eq!(Log::new().proved(7, VARIABLE, &on).policy().secure_boot, SecureBoot::On);
    assert_eq!(Log::new().proved(7, VARIABLE, &off).policy().secure_boot, SecureBoot::Off);
    let lies = [
        // Data that the digest does not prove.
        Log::new().with(7, VARIABLE, Digest::of(&off).0, &on),
        // Another PCR.
        Log::new().proved(1, VARIABLE, &on),
        // Off, relabelled as something unknown; then on, measured by whatever ran later.
        Log::new().with(7, ACTION, Digest::of(&off).0, b"UEFI Debug Mode").proved(7, VARIABLE, &on),
        Log::new().with(7, SEPARATOR, Digest::of(&off).0, &[0; 4]).proved(7, VARIABLE, &on),
        Log::new().proved(7, SEPARATOR, &[0; 4]).proved(7, VARIABLE, &on),
        // Another variable of the name, longer and shorter names, another value, bytes behind it.
        Log::new().proved(7, VARIABLE, &variable("SecureBoo", &[1])),
        Log::new().proved(7, VARIABLE, &variable("SecureBoots", &[1])),
        Log::new().proved(7, VARIABLE, &variable("SecureBoot", &[2])),
        Log::new().proved(7, VARIABLE, &[&on[..], &[1]].concat()),
        Log::new().proved(7, VARIABLE, &[&[0], &on[1..]].concat()),
    ];
    for (case, log) in lies.iter().enumerate() {
        assert_eq!(log.policy().secure_boot, SecureBoot::Unknown, "case {case}");
    }
    // The first one stands, whatever is measured later and whatever it is called.
    let disguised = Log::new().proved(7, ACTION, &off).proved(7, VARIABLE, &on);
    assert_eq!(disguised.policy().secure_boot, SecureBoot::Off);
}

#[test]
fn debug_mode_and_open_memory_stand_before_the_policy() {
    let on = variable("SecureBoot", &[1]);
    let log = Log::new().proved(7, ACTION, b"UEFI Debug Mode\0").proved(7, VARIABLE, &on);
    assert_eq!(log.policy(), Policy { secure_boot: SecureBoot::On, debug: true, no_dma_protection: false });
    let log = Log::new().proved(7, ACTION, b"DMA Protection Disabled").proved(7, VARIABLE, &on);
    assert_eq!(log.policy(), Policy { secure_boot: SecureBoot::On, debug: false, no_dma_protection: true });
}

#[test]
fn what_the_firmware_admits_counts_in_the_appraisal() {
    let on = variable("SecureBoot", &[1]);
    let judge = |log: Log| {
        let pcrs = QUOTED_PCRS.map(|pcr| Digest(EventLog::parse(&log.0).unwrap().replay(pcr)));
        let mut recorded = Recorded::load("p256");
        recorded.evidence.pcrs = pcrs;
        recorded.evidence.ima_log = None;
        recorded.evidence.event_log = Some(log.0.try_into().unwrap());
        appraise::appraise(&recorded.pending(), &recorded.evidence, &[]).unwrap()
    };
    let start = || Log::new().proved(0, 8, b"version");
    assert_eq!(judge(start().proved(7, VARIABLE, &on)).tier(), Tier::Affirming);
    let debug = judge(start().proved(7, ACTION, b"UEFI Debug Mode").proved(7, VARIABLE, &on));
    assert_eq!((debug.tier(), debug.vector.configuration), (Tier::Contraindicated, 96));
    let open = judge(start().proved(7, ACTION, b"DMA Protection Disabled").proved(7, VARIABLE, &on));
    assert_eq!((open.tier(), open.vector.configuration), (Tier::Warning, 32));
    // Nothing in PCR 0: nobody measured what came first.
    let unmeasured = judge(Log::new().proved(7, VARIABLE, &on));
    assert_eq!((unmeasured.tier(), unmeasured.vector.executables), (Tier::Warning, 33));
}

#[test]
fn what_has_no_action_is_not_extended() {
    let log = Log::new().with(4, NO_ACTION, [9; 32], b"note").proved(4, SEPARATOR, &[0; 4]);
    let log = EventLog::parse(&log.0).unwrap();
    assert_eq!(log.replay(4), extend(&[0; 32], &Digest::of(&[0; 4]).0));
    assert_eq!(log.events.len(), 1);
}

#[test]
fn the_first_value_of_pcr_0_is_the_startup_locality() {
    let locality = |value: &[u8]| [&b"StartupLocality\0"[..], value].concat();
    let started = Log::new().with(0, NO_ACTION, [0; 32], &locality(&[3]));
    let log = started.clone().proved(0, SEPARATOR, &[0; 4]);
    let mut first = [0; 32];
    first[31] = 3;
    assert_eq!(EventLog::parse(&log.0).unwrap().replay(0), extend(&first, &Digest::of(&[0; 4]).0));
    assert_eq!(EventLog::parse(&log.0).unwrap().replay(1), [0; 32]);

    let malformed = Err(TpmError::Malformed("event log"));
    let late = Log::new().proved(0, SEPARATOR, &[0; 4]).with(0, NO_ACTION, [0; 32], &locality(&[3]));
    assert_eq!(EventLog::parse(&late.0), malformed);
    let twice = started.with(0, NO_ACTION, [0; 32], &locality(&[4]));
    assert_eq!(EventLog::parse(&twice.0), malformed);
    for value in [&[5][..], &[], &[3, 0]] {
        let log = Log::new().with(0, NO_ACTION, [0; 32], &locality(value));
        assert_eq!(EventLog::parse(&log.0), malformed);
    }
    // In another PCR it is a note.
    let elsewhere = Log::new().with(1, NO_ACTION, [0; 32], &locality(&[3]));
    assert_eq!(EventLog::parse(&elsewhere.0).unwrap().startup_locality, 0);
}

#[test]
fn logs_that_do_not_add_up_are_malformed() {
    let malformed = Err(TpmError::Malformed("event log"));
    let log = Log::new().proved(4, SEPARATOR, &[0; 4]).0;
    let first = header(&[(0x0b, 32)]).len();
    for length in 0..log.len() {
        // The header alone is a log without events.
        let expected =
            if length == first { Ok(EventLog { events: vec![], startup_locality: 0 }) } else { malformed.clone() };
        assert_eq!(EventLog::parse(&log[..length]), expected, "{length}");
    }
    // An algorithm of another size, one that is listed twice, and lists without end.
    assert_eq!(EventLog::parse(&header(&[(0x0b, 20)])), malformed);
    assert_eq!(EventLog::parse(&header(&[(0x0b, 32), (0x0b, 32)])), malformed);
    assert_eq!(EventLog::parse(&header(&(0..9).map(|n| (0x100 + n, 8)).collect::<Vec<_>>())), malformed);
    // Twice the same digest in one event.
    let mut doubled = header(&[(0x0b, 32), (0x0c, 48)]);
    doubled.extend([4, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0x0b, 0]);
    doubled.extend([1; 32]);
    doubled.extend([0x0b, 0]);
    doubled.extend([1; 32]);
    doubled.extend([0; 4]);
    assert_eq!(EventLog::parse(&doubled), malformed);
}

/// An entry of an IMA log.
fn ima_entry(pcr: u32, sha1: [u8; 20], template: &str, data: &[u8]) -> Vec<u8> {
    let mut entry = pcr.to_le_bytes().to_vec();
    entry.extend(sha1);
    entry.extend((template.len() as u32).to_le_bytes());
    entry.extend(template.as_bytes());
    if template != "ima" {
        entry.extend((data.len() as u32).to_le_bytes());
    }
    entry.extend(data);
    entry
}

fn padded(sha1: [u8; 20]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest[..20].copy_from_slice(&sha1);
    digest
}

#[test]
fn ima_is_replayed_as_each_kernel_extends() {
    let zero = [0; 32];
    let log = [ima_entry(10, [1; 20], "ima-ng", b"first"), ima_entry(10, [2; 20], "ima-sig", b"second")].concat();
    let covered = |entries, later, only_sha1| Ok(Covered { entries, later, only_sha1 });
    let first = extend(&zero, &Digest::of(b"first").0);
    let second = extend(&first, &Digest::of(b"second").0);
    assert_eq!(covered_prefix(&log, &zero), covered(0, 2, false));
    assert_eq!(covered_prefix(&log, &first), covered(1, 1, false));
    assert_eq!(covered_prefix(&log, &second), covered(2, 0, false));
    assert_eq!(covered_prefix(&log, &[1; 32]), Err(TpmError::ImaLog));
    assert_eq!(covered_prefix(&[], &zero), covered(0, 0, false));
    // Before 5.8: SHA-1 with zeros behind it.
    let old = extend(&extend(&zero, &padded([1; 20])), &padded([2; 20]));
    assert_eq!(covered_prefix(&log, &old), covered(2, 0, true));

    // A violation is extended as ones, and other PCRs are none of it.
    let log = [ima_entry(11, [3; 20], "ima-ng", b"other"), ima_entry(10, [0; 20], "ima-ng", b"open")].concat();
    assert_eq!(covered_prefix(&log, &extend(&zero, &[0xff; 32])), covered(1, 0, false));
    assert_eq!(covered_prefix(&log, &extend(&zero, &padded([0xff; 20]))), covered(1, 0, true));

    // The oldest template pads the name.
    let data = [&[7; 20][..], &5_u32.to_le_bytes(), b"/init"].concat();
    let log = ima_entry(10, [1; 20], "ima", &data);
    let hashed = [&[7; 20][..], b"/init", &[0; 251]].concat();
    assert_eq!(covered_prefix(&log, &extend(&zero, &Digest::of(&hashed).0)), covered(1, 0, false));

    let malformed = Err(TpmError::Malformed("IMA log"));
    let log = ima_entry(10, [1; 20], "ima-ng", b"first");
    for length in 1..log.len() {
        assert_eq!(covered_prefix(&log[..length], &zero), malformed);
    }
    assert_eq!(covered_prefix(&vec![0; MAX_IMA_LOG_BYTES + 1], &zero), Err(TpmError::TooLarge("IMA log")));
}
