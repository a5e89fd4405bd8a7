mod attestation;
mod bytes;
mod evidence;

use super::{findings::MAX_EVIDENCE, *};
use aitbc_crypto::{SecretKey, seal};
use aitbc_protocol::{
    MicroCredits, NetworkId, Signed,
    evidence::Evidence,
    geo::Cell,
    holdback::{Audit, Held},
    job::{Finish, Sampling},
    offer::{Device, DeviceKind, Engine, Equivocation, Offer},
    price::{Adjustment, Inputs, LatencyClass, TokenPrice},
    quote::Quote,
    receipt::{Execution, OutputDigest, Receipt, Timings},
    sla::verdict,
    terms::Terms,
    text::Line,
};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// Names the directory that a test of its own process works in.
const CHILD_DIRECTORY: &str = "AITBC_TEST_CHILD_DIRECTORY";

pub(crate) fn network() -> NetworkId {
    NetworkId::new(NetworkId::LOCAL).expect("a valid name")
}

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

pub(crate) fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    Nonce(nonce)
}

/// A quote of `provider` for `client`, signed.
pub(crate) fn quote(provider: &SecretKey, client: NodeId, number: u64) -> Signed<Quote> {
    let price = TokenPrice { prompt: MicroCredits(300), completion: MicroCredits(1700) };
    let inputs = Inputs {
        latency: LatencyClass::Fast,
        capability: Some(620_000),
        round_trip_ms: None,
        queue: 3,
        utilisation: 750_000,
        cell_utilisation: None,
        hour: 19,
        utc_offset_minutes: 0,
        context_used: 310,
        context: 2048,
    };
    let adjustment = Adjustment::of(inputs, MicroCredits(400));
    let max_total = aitbc_protocol::price::price(&price, &adjustment, 10, 300).expect("small numbers");
    let quote = Quote {
        nonce: nonce(number),
        client,
        job: JobId([7; 16]),
        request: Digest([4; 32]),
        model: Line::lossy("smollm2:135m"),
        weights: Digest([5; 32]),
        prompt_tokens: 10,
        max_completion_tokens: 300,
        price,
        audit: Audit::of(max_total, 1_000),
        max_total,
        adjustment,
        terms: Terms { first_token_ms: 127, penalty_from_ms: 510, speed: 5_000 },
        window: 64,
        declared: false,
        issued_ms: 1_000,
        expires_ms: 301_000,
    };
    seal(provider, &network(), &quote).expect("a small quote")
}

pub(crate) fn execution() -> Execution {
    Execution {
        engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("b1") },
        quantisation: Line::lossy("Q4_1"),
        device: Device { kind: DeviceKind::Cpu, name: Line::lossy("a cpu"), memory_bytes: 1, measured: None },
        sampling: Sampling { temperature: 0.5, top_p: 1.0, seed: 3 },
        sealed: None,
    }
}

/// An honest receipt for `tokens` tokens under `quote`.
pub(crate) fn receipt(quote: &Quote, tokens: u32, finish: Finish) -> Receipt {
    let Execution { engine, quantisation, device, sampling, .. } = execution();
    let mut receipt = Receipt {
        job: quote.job,
        client: quote.client,
        quote: quote.nonce,
        request: quote.request,
        model: quote.model.clone(),
        weights: quote.weights,
        engine,
        quantisation,
        device,
        sampling,
        prompt_tokens: quote.prompt_tokens,
        completion_tokens: tokens,
        output: OutputDigest::Tokens(Digest([6; 32])),
        declared: quote.declared,
        finish,
        price: quote.price,
        total: quote.total(tokens).expect("small numbers"),
        penalty: MicroCredits::ZERO,
        admitted_ms: 1_000,
        timings: Timings::default(),
        sealed: None,
    };
    receipt.penalty = verdict(quote, &receipt).penalty;
    receipt
}

fn record(number: u64, state: JobState) -> JobRecord {
    let quote = quote(&key(2), key(1).node_id(), number);
    JobRecord {
        side: Side::Provider,
        peer: key(1).node_id(),
        addresses: vec!["/ip4/127.0.0.1/tcp/4101".to_owned()],
        job: JobId([7; 16]),
        model: Line::lossy("smollm2:135m"),
        quote,
        state,
        finish: None,
        failure: None,
        tokens: 64,
        paid: MicroCredits(number),
        cheque: None,
        receipt: None,
        refused: false,
        refunded: MicroCredits::ZERO,
        execution: Some(execution()),
        strangers_ms: 0,
        created_ms: 1_000 + number,
        updated_ms: 2_000,
    }
}

fn with_receipt(number: u64) -> JobRecord {
    let mut record = record(number, JobState::Delivered);
    let read = record.quote.read_unverified().expect("signed here");
    record.receipt = Some(seal(&key(2), &network(), &receipt(&read, 64, Finish::Stop)).expect("a small receipt"));
    record
}

fn jobs(records: Vec<JobRecord>) -> Changes {
    Changes { jobs: records, ..Changes::default() }
}

fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(directory.path()).expect("a new database");
    (directory, store)
}

#[test]
fn every_index_follows_the_record() {
    let (directory, store) = open();
    let first = record(1, JobState::Running);
    let second = with_receipt(2);
    let bought = JobRecord { side: Side::Client, ..record(1, JobState::Opening) };
    store.commit(&jobs(vec![first.clone(), second.clone(), bought.clone()])).expect("room");
    assert_eq!(store.job(Side::Provider, &nonce(1)).expect("readable"), Some(first.clone()));
    assert_eq!(store.job(Side::Client, &nonce(1)).expect("readable"), Some(bought.clone()));
    assert_eq!(store.job(Side::Client, &nonce(2)).expect("readable"), None);
    let done = JobRecord { state: JobState::Failed, ..first };
    store.commit(&jobs(vec![done.clone()])).expect("room");
    drop(store);
    let store = Store::open(directory.path()).expect("the same database");
    assert_eq!(store.unfinished().expect("readable"), [bought.clone(), second.clone()]);
    assert_eq!(store.jobs(10).expect("readable")[0], second, "newest first");
    assert_eq!(store.jobs(2).expect("readable").len(), 2);
    assert_eq!(store.attempts(&JobId([7; 16])).expect("readable").len(), 3);
    assert_eq!(store.attempts(&JobId([8; 16])).expect("readable"), []);
    assert_eq!(store.receipts(10).expect("readable"), std::slice::from_ref(&second));
    let id = second.receipt.as_ref().expect("made above").digest();
    assert_eq!(store.receipt(&id).expect("readable"), Some(second));
    assert_eq!(store.receipt(&Digest([0; 32])).expect("readable"), None);
}

#[test]
fn jobs_are_read_page_by_page_and_by_peer() {
    let (_directory, store) = open();
    let other = key(9).node_id();
    let mut records: Vec<JobRecord> = (1..=5).map(|number| record(number, JobState::Completed)).collect();
    records[2].peer = other;
    records[3].paid = MicroCredits::ZERO;
    records.push(with_receipt(6));
    let unpaid = records[5].unpaid();
    assert!(unpaid > MicroCredits::ZERO);
    store.commit(&jobs(records.clone())).expect("room");
    let (first, next) = store.page(&Cursor::since(1_002), 2).expect("readable");
    assert_eq!(first, records[1..3]);
    let (second, next) = store.page(&next.expect("there are more"), 2).expect("readable");
    assert_eq!(second, records[3..5]);
    let (third, next) = store.page(&next.expect("there are more"), 2).expect("readable");
    assert_eq!((third.as_slice(), next.is_none()), (&records[5..], true));
    assert_eq!(store.page(&Cursor::since(9_999), 2).expect("readable").0, []);
    let peer = key(1).node_id();
    let newest = store.jobs_with(Side::Provider, &peer, 2).expect("readable");
    assert_eq!(newest, [records[5].clone(), records[4].clone()]);
    assert_eq!(store.jobs_with(Side::Client, &peer, 2).expect("readable"), []);
    let sums = PeerSums { jobs: 5, paid_jobs: 4, unpaid };
    assert_eq!(store.sums_with(Side::Provider, &peer).expect("readable"), sums);
    let mut all = vec![(Side::Provider, peer, sums)];
    all.push((Side::Provider, other, PeerSums { jobs: 1, paid_jobs: 1, unpaid: MicroCredits::ZERO }));
    all.sort_by_key(|(_, peer, _)| peer.0);
    assert_eq!(store.peer_sums().expect("readable"), all);
    // The entry follows its record.
    store.commit(&jobs(vec![JobRecord { paid: unpaid, ..with_receipt(6) }])).expect("room");
    let paid = JobRecord { state: JobState::ReceiptMissing, ..with_receipt(6) };
    store.commit(&jobs(vec![paid])).expect("room");
    assert_eq!(store.sums_with(Side::Provider, &peer).expect("readable").unpaid, MicroCredits::ZERO);
}

#[test]
fn a_database_without_the_index_by_peer_gets_one() {
    let (directory, store) = open();
    let records: Vec<JobRecord> = (1..=600).map(|number| record(number, JobState::Completed)).collect();
    store.commit(&jobs(records)).expect("room");
    let mut edits = vec![Edit::Put(Column::Meta, b"format".to_vec(), 1u32.to_be_bytes().to_vec())];
    store
        .columns
        .scan(Column::JobsByPeer, Scan::Prefix(&[]), |key, _| {
            edits.push(Edit::Delete(Column::JobsByPeer, key.to_vec()));
            Ok(true)
        })
        .expect("readable");
    store.columns.write(edits, Durability::Synced).expect("room");
    assert_eq!(store.peer_sums().expect("readable"), []);
    drop(store);
    let store = Store::open(directory.path()).expect("an older database");
    let sums = PeerSums { jobs: 600, paid_jobs: 600, unpaid: MicroCredits::ZERO };
    assert_eq!(store.peer_sums().expect("readable"), [(Side::Provider, key(1).node_id(), sums)]);
}

#[test]
fn channels_sums_and_settings_survive() {
    let (directory, store) = open();
    let channel = Channel {
        sequence: 3,
        cumulative: MicroCredits(9),
        allocated: MicroCredits(8),
        refunded: MicroCredits::ZERO,
        held: Held { amount: MicroCredits(4), due_ms: 7 },
        forfeited: MicroCredits(1),
    };
    let sums = Sums { earned: MicroCredits(9), jobs_provided: 1, ..Sums::default() };
    let peer = key(1).node_id();
    let changes =
        Changes { channels: vec![(Side::Provider, peer, channel)], sums: Some(sums), ..Changes::default() };
    store.commit(&changes).expect("room");
    store.put_setting("peers", b"some").expect("room");
    drop(store);
    let store = Store::open(directory.path()).expect("the same database");
    assert_eq!(store.channel(Side::Provider, &peer).expect("readable"), channel);
    assert_eq!(store.channel(Side::Client, &peer).expect("readable"), Channel::default());
    assert_eq!(store.channels().expect("readable"), [(Side::Provider, peer, channel)]);
    assert_eq!(store.sums().expect("readable"), sums);
    assert_eq!(store.setting("peers").expect("readable").as_deref(), Some(&b"some"[..]));
    assert_eq!(store.setting("other").expect("readable"), None);
}

#[test]
fn used_quotes_are_remembered_until_they_expire() {
    let (directory, store) = open();
    let changes = Changes { used_quotes: vec![(nonce(1), 100), (nonce(2), 200)], ..Changes::default() };
    store.commit(&changes).expect("room");
    drop(store);
    let store = Store::open(directory.path()).expect("the same database");
    store.prune_used_quotes(100).expect("room");
    assert!(!store.quote_used(&nonce(1)).expect("readable"));
    assert!(store.quote_used(&nonce(2)).expect("readable"));
}

#[test]
fn sequence_numbers_only_grow() {
    let (directory, store) = open();
    assert_eq!(store.next_offer_sequence(1_000).expect("room"), 1_000);
    assert_eq!(store.next_offer_sequence(1_000).expect("room"), 1_001);
    drop(store);
    let store = Store::open(directory.path()).expect("the same database");
    assert_eq!(store.next_offer_sequence(500).expect("room"), 1_002, "the clock was set back");
    assert_eq!(store.next_offer_sequence(9_000).expect("room"), 9_000);
}

#[test]
fn a_database_in_use_is_told() {
    let (directory, store) = open();
    let error = Store::open(directory.path()).expect_err("it is locked");
    assert!(matches!(&error, StorageError::Locked(path) if path == directory.path()), "{error}");
    drop(store);
    Store::open(directory.path()).expect("it is free again");
}

#[test]
fn a_newer_format_and_a_broken_record_are_told() {
    let (directory, store) = open();
    let put = |column, key: &[u8], value: &[u8]| {
        store
            .columns
            .write(vec![Edit::Put(column, key.to_vec(), value.to_vec())], Durability::Synced)
            .expect("room");
    };
    let key = format::job_key(Side::Client, &nonce(1));
    put(Column::Jobs, &key, &[1, 0xff]);
    assert!(matches!(store.job(Side::Client, &nonce(1)), Err(StorageError::Corrupt(_))));
    put(Column::Jobs, &key, &[9]);
    assert!(matches!(store.job(Side::Client, &nonce(1)), Err(StorageError::Corrupt(_))));
    put(Column::Meta, b"format", &(format::FORMAT + 1).to_be_bytes());
    drop(store);
    let newer = Store::open(directory.path());
    assert!(
        matches!(newer, Err(StorageError::Format { found, known: format::FORMAT }) if found == format::FORMAT + 1)
    );
}

fn spawn_child(test: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test has a file"));
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(CHILD_DIRECTORY, directory);
    command
}

/// The directory of a test that runs in a process of its own; `None` when it is run like any other.
pub(crate) fn child_directory() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIRECTORY).map(PathBuf::from)
}

/// Runs an ignored test of this binary on a file system of a few megabytes. Without the right to mount one it says so
/// and passes.
pub(crate) fn on_a_small_disk(test: &str, megabytes: u32) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let child = spawn_child(test, directory.path());
    let script = format!("mount -t tmpfs -o size={megabytes}m none \"$0\" || exit 77; exec \"$@\"");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(directory.path())
        .arg(child.get_program())
        .args(child.get_args())
        .env(CHILD_DIRECTORY, directory.path())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("1 passed"), "the test did not run: {text}");
        }
        Ok(output) if output.status.code() == Some(101) => {
            panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        other => eprintln!("skipped, no small file system can be mounted here: {other:?}"),
    }
}

/// Takes all space that is left, and gives it back.
pub(crate) struct Filler(PathBuf);

impl Filler {
    pub(crate) fn fill(directory: &Path) -> Self {
        let path = directory.join("filler");
        let mut size = 1 << 20;
        let mut file = std::fs::File::create(&path).expect("a file");
        while size >= 512 {
            if std::io::Write::write_all(&mut file, &vec![0; size]).is_err() {
                size /= 2;
            }
        }
        Self(path)
    }

    pub(crate) fn free(self) {
        std::fs::remove_file(self.0).expect("it is ours");
    }
}

#[test]
fn a_full_disk_loses_nothing_and_heals() {
    on_a_small_disk("storage::tests::full_disk_child", 24);
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn full_disk_child() {
    let Some(directory) = child_directory() else { return };
    let path = directory.join("db");
    let store = Store::open(&path).expect("a new database");
    let write = |number| store.commit(&jobs(vec![with_receipt(number)]));
    let mut written = 0;
    while written < 20 {
        written += 1;
        write(written).expect("room");
    }
    let filler = Filler::fill(&directory);
    let error = loop {
        match write(written + 1) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100_000, "the disk is full");
    };
    assert!(matches!(error, StorageError::Full(_)), "{error:?}");
    assert!(matches!(store.ready(), Err(StorageError::Full(_))));
    assert!(matches!(write(written + 1), Err(StorageError::Full(_))));
    assert!(matches!(store.next_offer_sequence(1), Err(StorageError::Full(_))));
    assert_eq!(store.unfinished().expect("reads go on").len() as u64, written);
    filler.free();
    store.ready().expect("there is room again");
    // The write that failed may have reached the log: it is there whole or not at all.
    let found = store.unfinished().expect("readable").len() as u64;
    assert!(found == written || found == written + 1, "{found} of {written}");
    write(written + 1).expect("room");
    write(written + 2).expect("room");
    drop(store);
    let store = Store::open(&path).expect("the same database");
    assert_eq!(store.unfinished().expect("readable").len() as u64, written + 2);
    assert_eq!(store.jobs(usize::MAX).expect("readable").len() as u64, written + 2);
}

/// One commit of the child below: a job, the channel and the sums all say `number`.
fn consistent(number: u64) -> Changes {
    let state = if number.is_multiple_of(2) { JobState::Running } else { JobState::Failed };
    let sum = MicroCredits(number);
    Changes {
        jobs: vec![record(number, state)],
        channels: vec![(
            Side::Provider,
            key(1).node_id(),
            Channel { sequence: number, cumulative: sum, allocated: sum, ..Channel::default() },
        )],
        settlements: Vec::new(),
        used_quotes: vec![(nonce(number), u64::MAX)],
        sums: Some(Sums { earned: sum, ..Sums::default() }),
    }
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn endless_commits_child() {
    let Some(directory) = child_directory() else { return };
    let store = Store::open(&directory).expect("the database");
    let first = store.sums().expect("readable").earned.0 + 1;
    for number in first.. {
        store.commit(&consistent(number)).expect("room");
        println!("committed {number}");
    }
}

#[test]
fn a_killed_process_leaves_whole_commits_and_none_that_it_reported_is_missing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for round in 1..=4 {
        let mut child = spawn_child("storage::tests::endless_commits_child", directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut reported = 0;
        let mut commits = 0;
        while commits < 17 * round {
            let line = lines.next().expect("it goes on for ever").expect("text");
            if let Some((_, number)) = line.split_once("committed ") {
                reported = number.parse().expect("a number");
                commits += 1;
            }
        }
        child.kill().expect("it runs");
        child.wait().expect("it was killed");
        let store = Store::open(directory.path()).expect("the lock went with the process");
        let last = store.sums().expect("readable").earned.0;
        assert!(last >= reported, "{reported} was reported, {last} is there");
        let channel = store.channel(Side::Provider, &key(1).node_id()).expect("readable");
        assert_eq!((channel.sequence, channel.cumulative.0), (last, last));
        let all = store.jobs(usize::MAX).expect("readable");
        assert_eq!(all.iter().map(|job| job.paid.0).collect::<Vec<_>>(), (1..=last).rev().collect::<Vec<_>>());
        assert_eq!(store.unfinished().expect("readable").len() as u64, last / 2);
        assert!(store.quote_used(&nonce(last)).expect("readable"));
    }
}
