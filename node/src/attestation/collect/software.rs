//! What this node says of itself: the binary, the system, its GPUs, and what might watch it. Nobody else vouches for it.

use crate::gpu;
use aitbc_protocol::{
    Digest, UnixMillis,
    attestation::exchange::{Claims, Missing},
    text::Line,
};
use sha2::{Digest as _, Sha256};
use std::{io::Read as _, path::Path, sync::OnceLock};

/// Programs that read or change the memory of others, by the name of their process.
const SUSPICIOUS: [&str; 14] = [
    "gdb",
    "lldb",
    "lldb-server",
    "strace",
    "ltrace",
    "frida",
    "frida-server",
    "radare2",
    "r2",
    "rr",
    "bpftrace",
    "valgrind",
    "perf",
    "mitmproxy",
];
/// Largest file of a process that is read, in bytes.
const STATUS_BYTES: u64 = 16 * 1024;

/// What can be said without a nonce.
pub(super) fn claims(nonce: Digest, missing: Vec<Missing>, now_ms: UnixMillis) -> Claims {
    let root = Path::new("/");
    let gpus = gpu::gpus().into_iter().map(|gpu| Line::lossy(gpu.device.name.as_str())).take(16).collect();
    Claims {
        nonce,
        agent: Line::lossy(concat!("aitbc/", env!("CARGO_PKG_VERSION"))),
        binary: binary(),
        system: Line::lossy(&system()),
        gpus,
        firmware_age_days: firmware_age_days(root, now_ms),
        suspicious_processes: suspicious_processes(root),
        debugged: is_debugged(root),
        missing,
    }
}

/// SHA-256 of the binary that runs; zeros where it cannot be read. Read once: the file may be replaced by an update.
fn binary() -> Digest {
    static BINARY: OnceLock<Digest> = OnceLock::new();
    *BINARY.get_or_init(|| {
        let digest = || -> std::io::Result<Digest> {
            let mut file = std::fs::File::open(std::env::current_exe()?)?;
            let mut hash = Sha256::new();
            let mut block = vec![0; 1 << 20];
            loop {
                let read = file.read(&mut block)?;
                if read == 0 {
                    return Ok(Digest(hash.finalize().into()));
                }
                hash.update(&block[..read]);
            }
        };
        digest().unwrap_or_else(|error| {
            tracing::warn!(%error, "this node's own binary cannot be read: its digest is told as zeros");
            Digest([0; 32])
        })
    })
}

fn system() -> String {
    let name = sysinfo::System::long_os_version().unwrap_or_else(|| std::env::consts::OS.to_owned());
    match sysinfo::System::kernel_version() {
        Some(kernel) => format!("{name}, kernel {kernel}, {}", std::env::consts::ARCH),
        None => format!("{name}, {}", std::env::consts::ARCH),
    }
}

/// How old the firmware is by the date that it tells the system (SMBIOS, type 0), which is MM/DD/YYYY.
fn firmware_age_days(root: &Path, now_ms: UnixMillis) -> Option<u32> {
    let text = std::fs::read_to_string(root.join("sys/class/dmi/id/bios_date")).ok()?;
    let mut parts = text.trim().split('/').map(|part| part.parse::<i16>().ok());
    let (month, day, year) = (parts.next()??, parts.next()??, parts.next()??);
    let made = jiff::civil::Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let made_ms = made.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond();
    let age_ms = i64::try_from(now_ms).ok()?.checked_sub(made_ms)?;
    u32::try_from(age_ms / 86_400_000).ok()
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(STATUS_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Processes whose name is that of a tool that reads the memory of others, and those that are being traced.
fn suspicious_processes(root: &Path) -> u32 {
    let Ok(processes) = std::fs::read_dir(root.join("proc")) else { return 0 };
    let is_suspicious = |directory: &Path| {
        let name = read(&directory.join("comm")).unwrap_or_default();
        SUSPICIOUS.contains(&name.trim())
    };
    let found = processes
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit))
        .filter(|entry| is_suspicious(&entry.path()))
        .count();
    u32::try_from(found).unwrap_or(u32::MAX)
}

/// Whether a process traces this one (`TracerPid` of proc(5)).
fn is_debugged(root: &Path) -> bool {
    let status = read(&root.join("proc/self/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_age_of_firmware_is_counted_from_its_date() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let directory = root.path().join("sys/class/dmi/id");
        fs::create_dir_all(&directory).expect("made");
        let age = |date: &str| {
            fs::write(directory.join("bios_date"), date).expect("written");
            // 2025-01-11T00:00:00Z.
            firmware_age_days(root.path(), 1_736_553_600_000)
        };
        assert_eq!(age("01/01/2025\n"), Some(10));
        assert_eq!(age("01/11/2025\n"), Some(0));
        assert_eq!(age("12/31/2025\n"), None, "of the future");
        assert_eq!(age("2025-01-01\n"), None);
        assert_eq!(age("13/01/2025\n"), None);
    }

    #[test]
    fn tools_and_tracers_are_found_by_name_and_status() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let process = |id: &str, name: &str, tracer: u32| {
            let directory = root.path().join("proc").join(id);
            fs::create_dir_all(&directory).expect("made");
            fs::write(directory.join("comm"), format!("{name}\n")).expect("written");
            fs::write(directory.join("status"), format!("Name:\t{name}\nTracerPid:\t{tracer}\n"))
                .expect("written");
        };
        process("1", "systemd", 0);
        process("17", "gdb", 0);
        process("sys", "gdb", 0);
        assert_eq!(suspicious_processes(root.path()), 1);
        process("self", "aitbc", 0);
        assert!(!is_debugged(root.path()));
        process("self", "aitbc", 17);
        assert!(is_debugged(root.path()));
    }

    #[test]
    fn this_process_describes_itself() {
        let nonce = Digest([7; 32]);
        let claims = claims(nonce, Vec::new(), crate::clock::now_ms());
        assert_eq!(claims.nonce, nonce);
        assert_ne!(claims.binary, Digest([0; 32]));
        assert!(!claims.system.as_str().is_empty());
    }
}
