//! What watching GPUs costs, what challenges cost, and what the GPUs here reach.

use aitbc_node::gpu::{
    compute::rates::What,
    power::{PowerConfig, Sensors},
    worker,
};
use aitbc_protocol::{
    NodeId, Nonce,
    gpu::{
        challenge::{self, CACHE_ROWS, Cache, Key, OPENED, Task, Tree, Words, opened_lanes, verify},
        classify::{Classified, Reported, classify},
    },
};
use aitbc_tests::{desktop::Desktop, usage::cpu_of};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

/// How long the sensors are watched, once a second.
const WATCHED: u32 = 20;
/// Processes of a busy desktop, and the files that each has open.
const PROCESSES: u32 = 300;
const FILES: u32 = 30;

/// The processes of a desktop, some of which draw with its card.
fn processes(root: &Path) {
    for process in 0..PROCESSES {
        let at = root.join(format!("proc/{}", 1000 + process));
        fs::create_dir_all(at.join("fd")).expect("a directory");
        fs::create_dir_all(at.join("fdinfo")).expect("a directory");
        for file in 0..FILES {
            let draws = process % 10 == 0 && file < 3;
            let target = if draws { "/dev/dri/renderD128" } else { "/dev/null" };
            symlink(target, at.join(format!("fd/{file}"))).expect("a link");
            if draws {
                let client = process * FILES + file;
                let text = format!(
                    "drm-driver:\tamdgpu\ndrm-client-id:\t{client}\ndrm-pdev:\t0000:0b:00.0\n\
                     drm-memory-vram:\t1024 KiB\ndrm-engine-gfx:\t1000000 ns\n"
                );
                fs::write(at.join(format!("fdinfo/{file}")), text).expect("a file");
            }
        }
    }
}

fn telemetry() {
    let desktop = Desktop::default();
    processes(desktop.root());
    let config = PowerConfig { simulated: Some(desktop.root().to_owned()), ..PowerConfig::default() };
    let mut sensors = Sensors::find(&config).expect("sensors");
    // The first reading looks at every process, once.
    sensors.read(&[]);
    let before = cpu_of(std::process::id());
    for _ in 0..WATCHED {
        assert_eq!(sensors.read(&[]).len(), 1);
        std::thread::sleep(Duration::from_secs(1));
    }
    let used = cpu_of(std::process::id()).saturating_sub(before).as_secs_f64();
    let percent = used / f64::from(WATCHED) * 100.0;
    println!(
        "sensors once a second, {PROCESSES} processes with {FILES} files each: {percent:.2} % of a core (goal 0.5 %)"
    );
}

/// Challenges on one core of the CPU: what proving costs, what verifying does, and what it takes who keeps only a part.
fn challenges() {
    let seconds = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64()
    };
    let mut cache = None;
    let making = seconds(&mut || cache = Some(Cache::new(&[1; 32], CACHE_ROWS)));
    let cache = cache.expect("made");
    println!("cache of an epoch, 16 MiB: {making:.2} s");
    let nonce = |value| Nonce([value; Nonce::SIZE]);
    let key = Key::new(&NodeId([7; 32]), &nonce(1), &nonce(2));
    // 32 MiB: more than the caches of most processors, and soon made.
    let task = Task { items: 1 << 19, lanes: 1 << 14, steps: 64 };
    let mut data: Vec<Words> = Vec::new();
    let deriving =
        seconds(&mut || data = (0..task.items).map(|index| challenge::item(&cache, &key, index)).collect());
    let walk = |recomputed: u32| -> Vec<Words> {
        let kept = |index: u32| index.wrapping_mul(0x9e37_79b9) >> 16;
        let read = |index: u32| {
            if kept(index) * 100 < recomputed << 16 {
                challenge::item(&cache, &key, index)
            } else {
                data[index as usize]
            }
        };
        (0..task.lanes).map(|lane| challenge::walk(&key, &task, lane, read)).collect()
    };
    let mut states = Vec::new();
    let walking = seconds(&mut || states = walk(0));
    let mut tree = None;
    let hashing = seconds(&mut || tree = Some(Tree::new(std::mem::take(&mut states))));
    let tree = tree.expect("made");
    let lanes = opened_lanes(&nonce(3), &tree.root(), task.lanes);
    let openings: Vec<_> = lanes.into_iter().map(|lane| tree.open(lane).expect("a lane")).collect();
    let verifying = seconds(&mut || {
        assert_eq!(verify(&cache, &key, &task, &tree.root(), &nonce(3), &openings), Ok(()));
    });
    let proving = deriving + walking + hashing;
    println!(
        "challenge over {} MiB, {} lanes of {} steps: derived in {deriving:.2} s, walked in {walking:.3} s, hashed in \
         {hashing:.3} s",
        task.bytes() >> 20,
        task.lanes,
        task.steps
    );
    println!(
        "verifying {OPENED} lanes: {:.1} ms, {:.2} % of proving (goal 5 %)",
        verifying * 1e3,
        verifying / proving * 100.0
    );
    let lanes_per_second = f64::from(task.lanes) * f64::from(task.steps) / walking;
    println!("random reads of 64 bytes: {:.2} GB/s", lanes_per_second * 64.0 / 1e9);
    for recomputed in [10, 25, 50] {
        let took = seconds(&mut || drop(walk(recomputed)));
        println!(
            "walked with {recomputed} % of the items recomputed: {took:.2} s, {:.0} times as long",
            took / walking
        );
    }
}

/// What each adapter here reaches, beside its data sheet where it has one.
fn rates() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let binary = aitbc_tests::process::binary();
    let adapters = runtime.block_on(worker::adapters(&binary)).expect("adapters");
    for (index, adapter) in adapters.iter().enumerate() {
        let kind = if adapter.software { "software, on the CPU" } else { "a GPU" };
        let name = format!("{} by {} ({kind})", adapter.name, adapter.api.word());
        let sheet = match classify(&Reported { name: &adapter.name, ..Reported::default() }) {
            Classified::Gpu { best, .. } => best.profile.bandwidth,
            Classified::Software | Classified::Unknown(_) => None,
        };
        for what in What::ALL {
            let beside = match sheet {
                Some(_) if !matches!(what, What::Bandwidth | What::RandomReads) => String::new(),
                Some(peak) => format!(", the data sheet says {:.1} G", peak as f64 / 1e9),
                None => ", its peak is not known".to_owned(),
            };
            match runtime.block_on(worker::rate(&binary, index, what)) {
                Ok(Some(rate)) => println!("{name}: {} {:.2} G a second{beside}", what.word(), rate / 1e9),
                Ok(None) => println!("{name}: {} it does not have", what.word()),
                Err(error) => println!("{name}: {} not measured: {error}", what.word()),
            }
        }
    }
}

fn main() {
    // `cargo test` builds and runs benches too.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    telemetry();
    challenges();
    rates();
}
