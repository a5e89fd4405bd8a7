//! What the statement about attested hardware costs, next to its goals.

use aitbc_circuits::{
    Attributes, Fixed, IssuerKey, Measurement, Parameters, Presentation, Prover, ProvingKey, Request, Verifier,
    attestation::circuit::MAX_CONSTRAINTS,
    hw_tag,
    parameters::{File, Keys, PolicyFile},
    prover::Moment,
    rand::rngs::OsRng,
    relation::Relation,
    setup,
    verifier::Claim,
};
use aitbc_protocol::{NetworkId, NodeId, text::Line};
use criterion::Criterion;
use std::{
    fs,
    hint::black_box,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

const NOW_S: u64 = 1_800_000_000;
/// Tells a copy of this program to prove and to say how much memory that took: the key's file.
const CHILD: &str = "AITBC_BENCH_PROVING_KEY";

fn file(key: &ProvingKey, issuers: &[IssuerKey]) -> File {
    File {
        network: NetworkId::new(NetworkId::LOCAL).expect("a name"),
        epoch_ms: 86_400_000,
        keys: Keys {
            proving: key.digest(),
            verifying: key.verifying_key().digest(),
            development: true,
            contributions: Vec::new(),
        },
        verifiers: issuers.iter().map(|issuer| issuer.public(&mut OsRng)).collect(),
        nodes: (0..issuers.len()).map(|index| NodeId([index as u8 + 1; 32])).collect(),
        policies: vec![PolicyFile {
            name: Line::new("standard").expect("a line"),
            private: true,
            required_kinds: 5,
            least_score: 700,
            measurements: (0..200u8).map(|index| hex::encode([index; 48])).collect(),
        }],
    }
}

/// A network, and a credential that fulfils its policy.
fn network(key: &ProvingKey, holder: NodeId) -> (Arc<Parameters>, aitbc_circuits::Credential) {
    let issuers: Vec<_> = (0..8).map(|_| IssuerKey::generate(&mut OsRng)).collect();
    let parameters = Arc::new(Parameters::new(file(key, &issuers)).expect("parameters in order"));
    let attributes = Attributes {
        kinds: 7,
        measurement: Measurement::new(&[3; 48]).expect("48 bytes"),
        score: 850,
        attested_inputs: 3,
        firmware_age_days: 120,
        gpu_class: 9,
        hw_tag: hw_tag(&[1; 32], &[2; 32]),
        holder,
        issued_s: NOW_S - 60,
        expires_s: NOW_S + 3600,
    };
    let credential = issuers[5].issue(&attributes, &mut OsRng).expect("attributes in order");
    (parameters, credential)
}

fn request(parameters: &Parameters, nonce: u8) -> Request {
    Request {
        policy: Line::new("standard").expect("a line"),
        now_s: NOW_S,
        epoch: parameters.epoch_at(NOW_S),
        issued_after_s: 0,
        nonce: [nonce; 32],
        session: [5; 32],
    }
}

const MOMENT: Moment = Moment { now_s: NOW_S, revoked_before_s: None };

/// In the child: proves three times and prints the peak of this process's memory in MiB.
fn prove_and_weigh(path: &Path) {
    let key = ProvingKey::from_bytes(&fs::read(path).expect("the key that the parent wrote")).expect("a key");
    let (parameters, credential) = network(&key, NodeId([7; 32]));
    let prover = Prover::new(parameters.clone(), key).expect("the pinned key");
    for nonce in 0..3 {
        black_box(prover.prove(&credential, &request(&parameters, nonce), &MOMENT, &mut OsRng).expect("a proof"));
    }
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells a process's memory");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line with the peak");
    let kib: u64 = peak.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    println!("{}", kib / 1024);
}

/// What all threads of this process have used of processors: what other work on the machine takes does not count. Linux
/// counts it in hundredths of a second (proc(5), fields 14 and 15 of stat).
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux tells a process's time");
    let fields = stat.rsplit_once(')').expect("the name is in parentheses").1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn timed<T>(count: usize, mut work: impl FnMut() -> T) -> f64 {
    median(
        (0..count)
            .map(|_| {
                let start = Instant::now();
                black_box(work());
                start.elapsed()
            })
            .collect(),
    )
}

fn line(what: &str, measured: f64, unit: &str, goal: f64) {
    let verdict = if measured <= goal { "" } else { "  MISSED" };
    println!("{what:<38} {measured:>10.1} {unit:<12} goal <= {goal}{verdict}");
}

fn main() {
    if let Some(path) = std::env::var_os(CHILD) {
        return prove_and_weigh(Path::new(&path));
    }
    let holder = NodeId([7; 32]);
    let (key, verifying) = setup::development(&mut OsRng).expect("a set-up");
    let (parameters, credential) = network(&key, holder);
    let bytes = key.to_bytes();

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proving.key");
    fs::write(&path, &bytes).expect("room for the key");
    let child = Command::new(std::env::current_exe().expect("this program"))
        .env(CHILD, &path)
        .output()
        .expect("a copy of this program");
    let peak: f64 = String::from_utf8_lossy(&child.stdout).trim().parse().expect("the child prints its peak");

    let loading = timed(3, || ProvingKey::from_bytes(&bytes));
    let prover = Prover::new(parameters.clone(), key).expect("the pinned key");
    let verifier = Verifier::new(parameters.clone(), &verifying).expect("the pinned key");
    let asked = request(&parameters, 0);
    let shown = prover.prove(&credential, &asked, &MOMENT, &mut OsRng).expect("a proof");
    let claims: Vec<Claim> =
        (0..100).map(|_| Claim { request: asked.clone(), peer: holder, presentation: shown.clone() }).collect();

    let before = processor_time();
    let proving = timed(11, || prover.prove(&credential, &asked, &MOMENT, &mut OsRng));
    let of_both_cores = processor_time().saturating_sub(before).as_secs_f64() * 1e3 / 11.0 / 2.0;
    let verifying = timed(51, || verifier.verify(&asked, &holder, &shown));
    let before = processor_time();
    let batch = timed(21, || verifier.verify_batch(&claims, &mut OsRng));

    let batch_of_both = processor_time().saturating_sub(before).as_secs_f64() * 1e3 / 21.0 / 2.0;

    println!("the statement about attested hardware, medians");
    line("constraints", Relation::attestation().constraints() as f64, "", MAX_CONSTRAINTS as f64);
    line("prove", proving, "ms", 500.0);
    line("verify", verifying, "ms", 3.0);
    line("verify 100 in a batch", batch, "ms", 45.0);
    line("proof", shown.proof.len() as f64, "bytes", 128.0);
    line("proof with nullifier", Presentation::SIZE as f64, "bytes", 160.0);
    line("proving key", bytes.len() as f64 / 1e6, "MB", 4.0);
    line("peak memory of proving", peak, "MiB", 160e6 / 1024.0 / 1024.0);
    println!("{:<38} {of_both_cores:>10.1} ms", "prove, of each of two cores");
    println!("{:<38} {batch_of_both:>10.1} ms", "verify 100, of each of two cores");
    println!("{:<38} {loading:>10.1} ms", "reading the proving key");

    let mut criterion =
        Criterion::default().sample_size(10).measurement_time(Duration::from_secs(5)).configure_from_args();
    criterion.bench_function("attestation/prove", |bencher| {
        bencher.iter(|| prover.prove(&credential, &asked, &MOMENT, &mut OsRng));
    });
    criterion
        .bench_function("attestation/verify", |bencher| bencher.iter(|| verifier.verify(&asked, &holder, &shown)));
    criterion.bench_function("attestation/verify 100 in a batch", |bencher| {
        bencher.iter(|| verifier.verify_batch(&claims, &mut OsRng));
    });
    criterion.final_summary();
}
