//! Who uses a GPU: what the kernel tells of each process in `/proc/<pid>/fdinfo` (kernel documentation,
//! `gpu/drm-usage-stats`).
//!
//! Finding them means looking at every open file of the machine, so that is done a few processes at a time: new ones at each
//! reading, for a program opens the GPU soon after it has started, the others in turn. The few files found are read each
//! time.

use super::{Shares, sysfs::text};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

/// A process that is younger is looked at in each reading.
const YOUNG: Duration = Duration::from_secs(10);
/// After how many readings every other process has been looked at again.
const TURNS: u32 = 20;
/// Files of GPUs that are watched: a desktop has some dozens.
const MAX_FILES: usize = 1024;

/// What one client of a driver has used so far.
#[derive(Clone, Debug, Default)]
struct Used {
    /// By engine: nanoseconds that it worked for the client, or the cycles, with those that passed.
    engines: BTreeMap<String, (u64, Option<u64>)>,
    memory_bytes: u64,
    own: bool,
}

impl Used {
    /// The part of `elapsed` that the busiest engine worked since `before`.
    fn since(&self, before: &Self, elapsed: Duration) -> f64 {
        let parts = self.engines.iter().filter_map(|(engine, (busy, cycles))| {
            let (busy_before, cycles_before) = before.engines.get(engine)?;
            let passed = match (cycles, cycles_before) {
                (Some(cycles), Some(before)) => cycles.saturating_sub(*before) as f64,
                _ => elapsed.as_nanos() as f64,
            };
            let busy = busy.saturating_sub(*busy_before) as f64;
            (passed > 0.0).then(|| (busy / passed).min(1.0))
        });
        parts.fold(0.0, f64::max)
    }
}

#[derive(Debug)]
struct Process {
    /// When it was first seen; `None` for those that were there at the first reading.
    born: Option<Duration>,
    looked: bool,
    files: Vec<PathBuf>,
}

/// Watches the clients of one GPU.
#[derive(Debug)]
pub(super) struct Clients {
    proc: PathBuf,
    /// PCI address.
    address: String,
    /// What is known of each process.
    processes: HashMap<u32, Process>,
    reading: u32,
    before: Option<(Duration, HashMap<u64, Used>)>,
}

impl Clients {
    /// Watches the GPU at the PCI `address` through the tree `root`.
    pub(super) fn new(root: &Path, address: &str) -> Self {
        Self {
            proc: root.join("proc"),
            address: address.to_owned(),
            processes: HashMap::new(),
            reading: 0,
            before: None,
        }
    }

    /// What this node (`own` processes) and others use at `now`, since any fixed moment. Parts of time are known from the
    /// second reading on.
    pub(super) fn read(&mut self, now: Duration, own: &[u32]) -> Shares {
        self.search(now, own);
        let used = self.used(own);
        let memory = |of_own: bool| {
            used.values().filter(|used| used.own == of_own).map(|used| used.memory_bytes).sum::<u64>()
        };
        let mut shares =
            Shares { own_memory: Some(memory(true)), others_memory: Some(memory(false)), ..Shares::default() };
        if let Some((at, before)) = &self.before {
            let elapsed = now.saturating_sub(*at);
            let part = |of_own: bool| {
                let of = used.iter().filter(|(_, used)| used.own == of_own);
                // A client that is new has a past of which nothing is known.
                let parts = of.filter_map(|(client, used)| Some(used.since(before.get(client)?, elapsed)));
                (parts.sum::<f64>() as f32).min(1.0)
            };
            let own_is_new = used.iter().any(|(client, used)| used.own && !before.contains_key(client));
            shares.own_utilisation = (!own_is_new).then(|| part(true));
            shares.others_utilisation = Some(part(false));
        }
        self.before = Some((now, used));
        shares
    }

    fn search(&mut self, now: Duration, own: &[u32]) {
        let first = self.reading == 0;
        self.reading = self.reading.wrapping_add(1);
        let turn = self.reading % TURNS;
        let Ok(entries) = std::fs::read_dir(&self.proc) else { return };
        let running: Vec<u32> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        let mut known = std::mem::take(&mut self.processes);
        let mut room = MAX_FILES;
        for pid in running {
            // What was there before this node began is as old as it needs to be.
            let born = if first { None } else { Some(now) };
            let mut process = known.remove(&pid).unwrap_or(Process { born, looked: false, files: Vec::new() });
            let young = process.born.is_some_and(|born| now.saturating_sub(born) < YOUNG);
            // What this node has begun must not count for somebody else's until its turn comes.
            if !process.looked || young || own.contains(&pid) || pid % TURNS == turn {
                process.files = gpu_files(&self.proc.join(pid.to_string()));
                process.looked = true;
            }
            process.files.truncate(room);
            room -= process.files.len();
            self.processes.insert(pid, process);
        }
    }

    /// By client id; a client that several files share counts once.
    fn used(&self, own: &[u32]) -> HashMap<u64, Used> {
        let mut clients = HashMap::new();
        for (pid, process) in &self.processes {
            for content in process.files.iter().filter_map(|file| text(file)) {
                if let Some((client, mut used)) = parse(&content, &self.address) {
                    used.own = own.contains(pid);
                    clients.entry(client).or_insert(used);
                }
            }
        }
        clients
    }
}

/// The files in which the kernel tells what a process does with GPUs.
fn gpu_files(process: &Path) -> Vec<PathBuf> {
    let Ok(files) = std::fs::read_dir(process.join("fd")) else { return Vec::new() };
    // Links to devices tell by their target, without being opened.
    let is_gpu = |file: &Path| std::fs::read_link(file).is_ok_and(|target| target.starts_with("/dev/dri"));
    let files = files.flatten().map(|file| file.path()).filter(|file| is_gpu(file));
    files.filter_map(|file| Some(process.join("fdinfo").join(file.file_name()?))).collect()
}

/// The client of a file and what it used, where the file is of the GPU at `address`.
fn parse(content: &str, address: &str) -> Option<(u64, Used)> {
    let lines: BTreeMap<&str, &str> =
        content.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim())).collect();
    if lines.get("drm-pdev") != Some(&address) {
        return None;
    }
    let client = lines.get("drm-client-id")?.parse().ok()?;
    let number =
        |key: &str, unit: &str| -> Option<u64> { lines.get(key)?.strip_suffix(unit)?.trim().parse().ok() };
    let engines = lines.keys().filter_map(|key| {
        if let Some(engine) = key.strip_prefix("drm-cycles-") {
            let passed = number(&format!("drm-total-cycles-{engine}"), "");
            return Some((engine.to_owned(), (number(key, "")?, passed)));
        }
        Some((key.strip_prefix("drm-engine-")?.to_owned(), (number(key, "ns")?, None)))
    });
    let memory = |prefix: &str| -> Option<u64> {
        let regions = lines.iter().filter(|(key, _)| {
            key.strip_prefix(prefix)
                .is_some_and(|region| region.starts_with("vram") || region.starts_with("local"))
        });
        regions.map(|(_, value)| bytes(value)).reduce(u64::saturating_add)
    };
    let memory_bytes =
        ["drm-resident-", "drm-total-", "drm-memory-"].into_iter().find_map(memory).unwrap_or_default();
    Some((client, Used { engines: engines.collect(), memory_bytes, own: false }))
}

/// `512 KiB` as bytes.
fn bytes(value: &str) -> u64 {
    let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
    let factor = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => 1,
    };
    number.parse::<u64>().unwrap_or(0).saturating_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    const AMD: &str = "pos:\t0\nflags:\t02100002\nmnt_id:\t25\nino:\t437\ndrm-driver:\tamdgpu\ndrm-client-id:\t7\n\
        drm-pdev:\t0000:0b:00.0\npasid:\t32774\ndrm-total-vram:\t2048 MiB\ndrm-memory-vram:\t2097152 KiB\n\
        drm-memory-gtt: \t2048 KiB\ndrm-engine-gfx:\t400000000 ns\ndrm-engine-compute:\t900000000 ns\n";
    const XE: &str = "drm-driver:\txe\ndrm-client-id:\t9\ndrm-pdev:\t0000:03:00.0\ndrm-resident-vram0:\t512 MiB\n\
        drm-total-cycles-rcs:\t1000\ndrm-cycles-rcs:\t100\ndrm-total-cycles-ccs:\t1000\ndrm-cycles-ccs:\t50\n";

    fn client(root: &Path, pid: u32, fd: u32, content: &str) {
        let process = root.join(format!("proc/{pid}"));
        fs::create_dir_all(process.join("fd")).unwrap();
        fs::create_dir_all(process.join("fdinfo")).unwrap();
        let link = process.join(format!("fd/{fd}"));
        if !link.is_symlink() {
            symlink("/dev/dri/renderD128", link).unwrap();
        }
        fs::write(process.join(format!("fdinfo/{fd}")), content).unwrap();
    }

    #[test]
    fn what_drivers_tell_of_a_client_is_read() {
        let (client, used) = parse(AMD, "0000:0b:00.0").expect("this GPU");
        assert_eq!((client, used.engines["compute"], used.engines.len()), (7, (900_000_000, None), 2));
        assert_eq!(used.memory_bytes, 2 << 30, "what it asked for, where nothing says how much is there");
        let (client, used) = parse(XE, "0000:03:00.0").expect("this GPU");
        assert_eq!((client, used.engines["rcs"], used.memory_bytes), (9, (100, Some(1000)), 512 << 20));
        let later =
            XE.replace("cycles-ccs:\t1000", "cycles-ccs:\t2000").replace("cycles-ccs:\t50", "cycles-ccs:\t850");
        let (_, later) = parse(&later, "0000:03:00.0").expect("this GPU");
        let part = later.since(&used, Duration::from_secs(1));
        assert!((part - 0.8).abs() < 1e-9, "one engine works, the busier one of before does not: {part}");
        assert!(parse(XE, "0000:0b:00.0").is_none(), "another GPU");
        assert!(parse("drm-pdev:\t0000:03:00.0\ndrm-client-id:\tx", "0000:03:00.0").is_none());
    }

    #[test]
    fn own_processes_and_others_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let with = |nanoseconds: u64, id: u32| {
            AMD.replace("900000000", &nanoseconds.to_string())
                .replace("client-id:\t7", &format!("client-id:\t{id}"))
        };
        client(root.path(), 100, 3, &with(900_000_000, 7));
        // The same client twice, as a desktop has it.
        client(root.path(), 100, 4, &with(900_000_000, 7));
        client(root.path(), 200, 5, &with(1_000_000_000, 8));
        let mut clients = Clients::new(root.path(), "0000:0b:00.0");
        let first = clients.read(Duration::from_secs(1), &[100]);
        assert_eq!((first.own_memory, first.others_memory), (Some(2 << 30), Some(2 << 30)));
        assert_eq!(first.own_utilisation, None);

        client(root.path(), 100, 3, &with(1_400_000_000, 7));
        client(root.path(), 200, 5, &with(1_250_000_000, 8));
        let second = clients.read(Duration::from_secs(2), &[100]);
        assert_eq!((second.own_utilisation, second.others_utilisation), (Some(0.5), Some(0.25)));

        // An engine that starts is known at once, and its past is nobody's.
        client(root.path(), 300, 3, &with(5_000_000_000, 9));
        let started = clients.read(Duration::from_millis(2_500), &[100, 300]);
        assert_eq!((started.own_utilisation, started.own_memory), (None, Some(4 << 30)));
        assert_eq!(started.others_memory, Some(2 << 30));

        fs::remove_dir_all(root.path().join("proc/200")).unwrap();
        let third = clients.read(Duration::from_millis(4_500), &[100, 300]);
        assert_eq!((third.others_utilisation, third.others_memory), (Some(0.0), Some(0)));
    }
}
