mod attestation;

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

fn offer(sequence: u64) -> Offer {
    Offer {
        sequence,
        issued_ms: 1,
        expires_ms: 2,
        cell: "u09t".parse::<Cell>().expect("a valid cell"),
        addresses: Vec::new(),
        devices: Vec::new(),
        models: Vec::new(),
        slots: 1,
        attested: Vec::new(),
        policies: Vec::new(),
        shown: Vec::new(),
        bandwidth: None,
        coordinate: None,
        agent: Line::lossy("aitbc"),
    }
}

fn offers(of: u16, sequence: u64, learned_ms: u64) -> EvidenceRecord {
    let mut seed = [0; 32];
    seed[..2].copy_from_slice(&of.to_le_bytes());
    let signed = |agent: &str| {
        let offer = Offer { agent: Line::lossy(agent), ..offer(sequence) };
        seal(&SecretKey::from_bytes(&seed), &network(), &offer).expect("a small offer")
    };
    EvidenceRecord { evidence: Evidence::Offers(signed("one"), signed("other")), learned_ms }
}

#[test]
fn one_proof_a_node_and_fault_is_kept_and_the_newest() {
    let (_directory, store) = open();
    let second = offers(2, 2, 20);
    store.put_evidence(&offers(2, 1, 10)).expect("room");
    store.put_evidence(&second).expect("room");
    assert_eq!(store.evidence().expect("readable"), [second]);
}

#[test]
fn evidence_has_an_end_and_what_was_learnt_first_goes() {
    let (_directory, store) = open();
    let broken = Edit::Put(Column::Evidence, vec![0; 33], vec![9]);
    store.columns.write(vec![broken], Durability::Relaxed).expect("room");
    for n in 0..MAX_EVIDENCE as u16 + 3 {
        store.put_evidence(&offers(n, 1, u64::from(n))).expect("room");
    }
    let kept = store.evidence().expect("readable");
    assert_eq!(kept.len(), MAX_EVIDENCE);
    assert!(kept.iter().all(|record| record.learned_ms >= 3));
}

#[test]
fn equivocations_of_older_nodes_are_evidence() {
    let (_directory, store) = open();
    let EvidenceRecord { evidence: Evidence::Offers(first, second), .. } = offers(7, 1, 0) else { unreachable!() };
    let older = Equivocation { first, second };
    let bytes = format::encode(&older).expect("fits");
    let edit = Edit::Put(Column::Evidence, older.first.signer().0.to_vec(), bytes);
    store.columns.write(vec![edit], Durability::Synced).expect("room");
    let read = store.evidence().expect("readable");
    assert_eq!(read, [EvidenceRecord { evidence: older.into(), learned_ms: 1 }]);
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

/// A change of these bytes is a change of the format: it needs a new number and an upgrade, unless it only adds a
/// field with a default.
#[test]
fn the_byte_format_is_what_it_was() {
    let mut lines = Vec::new();
    let mut show = |what: &str, bytes: &[u8]| {
        lines.push(format!("{what}:"));
        lines.extend(bytes.chunks(50).map(hex::encode));
    };
    let job = format::job_key(Side::Client, &nonce(1));
    show("job", &job);
    show("provider's job", &format::job_key(Side::Provider, &nonce(1)));
    show("job by time", &format::time_key(2, &job));
    show("job by id", &format::id_key(&JobId([3; 16]), &job));
    show("job by receipt", &format::receipt_key(&Digest([4; 32]), &job));
    if let Edit::Put(_, key, value) = format::peer_edit(&with_receipt(1), &job) {
        show("job by peer", &key);
        show("sums by peer", &value);
    }
    show("channel", &format::channel_key(Side::Client, &NodeId([5; 32])));
    let encoded = |record: Result<Vec<u8>, StorageError>| record.expect("a small record");
    let channel = Channel {
        sequence: 1,
        cumulative: MicroCredits(1_000_000),
        allocated: MicroCredits(2),
        ..Channel::default()
    };
    show("channel record", &encoded(format::encode(&channel)));
    show("sums record", &encoded(format::encode(&Sums { earned: MicroCredits(300), ..Sums::default() })));
    show("job record", &encoded(format::encode(&with_receipt(1))));
    insta::assert_snapshot!(lines.join("\n"), @"
    job:
    6300000000000000010000000000000000
    provider's job:
    7000000000000000010000000000000000
    job by time:
    00000000000000026300000000000000010000000000000000
    job by id:
    030303030303030303030303030303036300000000000000010000000000000000
    job by receipt:
    04040404040404040404040404040404040404040404040404040404040404046300000000000000010000000000000000
    job by peer:
    708a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c00000000000003e9630000000000000001
    0000000000000000
    sums by peer:
    00000000000000010000000000000149
    channel:
    630505050505050505050505050505050505050505050505050505050505050505
    channel record:
    01a66873657175656e6365016a63756d756c61746976651a000f424069616c6c6f63617465640268726566756e6465640064
    68656c64a266616d6f756e7400666475655f6d730069666f7266656974656400
    sums record:
    01a6666561726e656419012c657370656e74006a676976656e5f6261636b0068676f745f6261636b006d6a6f62735f70726f
    7669646564006b6a6f62735f626f7567687400
    job record:
    01b264736964656870726f7669646572647065657258208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf37488
    01b40f6f5c6961646472657373657381772f6970342f3132372e302e302e312f7463702f34313031636a6f62500707070707
    07070707070707070707076571756f74655903568139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9
    b39492734dfa8c6f91eb9c133e9a9c6635a013d2e49bacf9b5bbaef3ac4f9fa37d0c6e6d86d6383b7403e1fc26f590fef518
    2deb7b26b1cd3b5d4c4eb5c2a5e8b006b1656e6f6e6365500000000000000001000000000000000066636c69656e7458208a
    88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c636a6f62500707070707070707070707070707
    0707677265717565737458200404040404040404040404040404040404040404040404040404040404040404656d6f64656c
    6c736d6f6c6c6d323a3133356d67776569676874735820050505050505050505050505050505050505050505050505050505
    05050505056d70726f6d70745f746f6b656e730a756d61785f636f6d706c6574696f6e5f746f6b656e7319012c6570726963
    65a26670726f6d707419012c6a636f6d706c6574696f6e1906a46a61646a7573746d656e74a366696e70757473aa676c6174
    656e637964666173746a6361706162696c6974791a000975e06d726f756e645f747269705f6d73f6657175657565036b7574
    696c69736174696f6e1a000b71b07063656c6c5f7574696c69736174696f6ef664686f757213727574635f6f66667365745f
    6d696e75746573006c636f6e746578745f7573656419013667636f6e7465787419080067666163746f727387a2646b696e64
    676c6174656e63796370706d1a001e8480a2646b696e646a6361706162696c6974796370706d1a00102ca0a2646b696e6468
    64697374616e63656370706d1a000f4240a2646b696e646571756575656370706d1a000f7cd8a2646b696e646b7574696c69
    736174696f6e6370706d1a0010c8e0a2646b696e6464686f75726370706d1a00124f80a2646b696e646a636f6d706c657869
    74796370706d1a000fd6116b656c656374726963697479190190657465726d73a36e66697273745f746f6b656e5f6d73187f
    6f70656e616c74795f66726f6d5f6d731901fe657370656564191388656175646974a3647261746519c3506468656c641976
    34666475655f6d731a05265fe8696d61785f746f74616c1905e96677696e646f771840686465636c61726564f46969737375
    65645f6d731903e86a657870697265735f6d731a000497c8656d6f64656c6c736d6f6c6c6d323a3133356d65737461746569
    64656c6976657265646666696e697368f6676661696c757265f666746f6b656e73184064706169640166636865717565f667
    7265636569707459028a8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394386a1cce02e66580
    95ef76d801c2ee9ced32f2d993e5f8a78b0c4b6cd3d402a5ffd0d241031888b8273fc7ba1f37fcd1a95aa9d303d6f899191d
    e2c174e06701b4636a6f62500707070707070707070707070707070766636c69656e7458208a88e3dd7409f195fd52db2d3c
    ba5d72ca6709bf1d94121bf3748801b40f6f5c6571756f746550000000000000000100000000000000006772657175657374
    58200404040404040404040404040404040404040404040404040404040404040404656d6f64656c6c736d6f6c6c6d323a31
    33356d67776569676874735820050505050505050505050505050505050505050505050505050505050505050566656e6769
    6e65a2646e616d65696c6c616d612e6370706776657273696f6e6262316c7175616e7469736174696f6e6451345f31666465
    76696365a3646b696e6463637075646e616d656561206370756c6d656d6f72795f6279746573016873616d706c696e67a36b
    74656d7065726174757265fa3f00000065746f705f70fa3f8000006473656564036d70726f6d70745f746f6b656e730a7163
    6f6d706c6574696f6e5f746f6b656e731840666f7574707574a166746f6b656e735820060606060606060606060606060606
    0606060606060606060606060606060606686465636c61726564f46666696e6973686473746f70657072696365a26670726f
    6d707419012c6a636f6d706c6574696f6e1906a465746f74616c19014a6770656e616c7479006b61646d69747465645f6d73
    1903e86774696d696e6773a4697175657565645f6d73006e66697273745f746f6b656e5f6d730068746f74616c5f6d730069
    7061757365645f6d73006772656675736564f468726566756e6465640069657865637574696f6ea466656e67696e65a2646e
    616d65696c6c616d612e6370706776657273696f6e6262316c7175616e7469736174696f6e6451345f3166646576696365a3
    646b696e6463637075646e616d656561206370756c6d656d6f72795f6279746573016873616d706c696e67a36b74656d7065
    726174757265fa3f00000065746f705f70fa3f8000006473656564036a637265617465645f6d731903e96a75706461746564
    5f6d731907d0
    ");
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
