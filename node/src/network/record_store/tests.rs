use super::*;
use aitbc_protocol::geo::Location;
use libp2p::Multiaddr;
use proptest::prelude::*;
use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr},
};

fn public() -> NetworkId {
    NetworkId::new("test").expect("a name")
}

fn store() -> CellStore {
    CellStore::new(PeerId::random(), public())
}

fn cell(text: &str) -> Cell {
    text.parse().expect("a cell")
}

fn key(text: &str) -> RecordKey {
    RecordKey::from(cell(text).dht_key(&public()))
}

fn record(text: &str, provider: PeerId) -> ProviderRecord {
    ProviderRecord::new(key(text), provider, vec!["/ip4/8.8.8.8/tcp/1".parse().expect("an address")])
}

/// An address in the `subnet`th /24.
fn ip(subnet: u16, host: u8) -> Option<IpAddr> {
    let [high, low] = subnet.to_be_bytes();
    Some(Ipv4Addr::new(80, high, low, host).into())
}

fn add(store: &mut CellStore, text: &str, provider: PeerId, ip: Option<IpAddr>) {
    store.add_from(record(text, provider), provider, ip, Instant::now()).expect("acceptable");
}

fn providers(store: &CellStore, text: &str) -> HashSet<PeerId> {
    store.providers(&key(text)).into_iter().map(|record| record.provider).collect()
}

#[test]
fn refuses_what_is_not_a_peer_announcing_itself_under_a_cell() {
    let mut store = store();
    let (peer, now) = (PeerId::random(), Instant::now());
    let mut refusal = |record: ProviderRecord, source| store.add_from(record, source, ip(1, 1), now).err();
    assert_eq!(refusal(record("u09t", peer), PeerId::random()), Some(Refusal::NotTheSource));
    let other = NetworkId::new("other").expect("a name");
    for key in [b"".to_vec(), vec![0; 64], b"/aitbc/test/cell/u".to_vec(), b"/aitbc/test/cell/u09tvw0z".to_vec()]
        .into_iter()
        .chain([cell("u09t").dht_key(&other)])
    {
        let record = ProviderRecord { key: key.into(), ..record("u09t", peer) };
        assert_eq!(refusal(record, peer), Some(Refusal::NotACell));
    }
    let expired = ProviderRecord { expires: Some(now), ..record("u09t", peer) };
    assert_eq!(refusal(expired, peer), Some(Refusal::Expired));
    let own = store.local;
    assert_eq!(store.add_from(record("u09t", own), own, ip(1, 1), now), Err(Refusal::OwnRecord));
    assert!(store.is_empty());
}

#[test]
fn values_are_never_stored() {
    let mut store = store();
    assert!(store.put(Record::new(key("u09t"), vec![1])).is_err());
    assert!(store.get(&key("u09t")).is_none());
    assert_eq!(store.records().count(), 0);
}

#[test]
fn own_records_are_kept_apart_and_never_pushed_out() {
    let mut store = store();
    let own = store.local;
    store.add_provider(record("u09t", own)).expect("this node's own");
    assert!(store.add_provider(record("u09t", PeerId::random())).is_err(), "others only through add_from");
    assert!(store.add_provider(ProviderRecord::new(RecordKey::from(vec![1]), own, vec![])).is_err());
    for subnet in 0..1000 {
        add(&mut store, "u09t", PeerId::random(), ip(subnet, 1));
    }
    assert_eq!(store.len(), MAX_PROVIDERS);
    assert_eq!(store.provided().count(), 1);
    assert_eq!(store.providers(&key("u09t"))[0].provider, own);
    store.expire(Instant::now() + 2 * TIME_TO_LIVE);
    assert_eq!((store.len(), store.provided().count()), (0, 1));
    store.remove_provider(&key("u09t"), &own);
    assert_eq!(store.provided().count(), 0);
}

#[test]
fn records_live_half_an_hour_at_most_and_announcing_again_renews_them() {
    let mut store = store();
    let (peer, now) = (PeerId::random(), Instant::now());
    let forever = ProviderRecord { expires: Some(now + 100 * TIME_TO_LIVE), ..record("u09t", peer) };
    store.add_from(forever, peer, ip(1, 1), now).expect("acceptable");
    assert_eq!(store.expire(now + TIME_TO_LIVE / 2), 0);
    store.add_from(record("u09t", peer), peer, ip(1, 1), now + TIME_TO_LIVE / 2).expect("acceptable");
    assert_eq!(store.len(), 1);
    assert_eq!(store.expire(now + TIME_TO_LIVE), 0);
    assert_eq!(store.expire(now + TIME_TO_LIVE * 3 / 2), 1);
    assert!(store.is_empty());
    store.shelves.check();
}

#[test]
fn a_provider_that_moves_keeps_its_newest_cells() {
    let mut store = store();
    let peer = PeerId::random();
    let place = Location { latitude: 48.85, longitude: 2.35 };
    let before = Cell::at(&place, 7).ancestry();
    let after = Cell::at(&Location { latitude: -33.9, longitude: 151.2 }, 7).ancestry();
    for cell in before.iter().chain(&after) {
        add(&mut store, &cell.to_string(), peer, ip(1, 1));
    }
    assert_eq!(store.len(), MAX_KEYS);
    assert!(after.iter().all(|cell| providers(&store, &cell.to_string()).contains(&peer)));
}

#[test]
fn a_flood_from_one_subnet_takes_one_share_of_a_key() {
    let mut store = store();
    let honest: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
    let announce = |store: &mut CellStore| {
        for (subnet, &peer) in (0..).zip(&honest) {
            add(store, "u09t", peer, ip(subnet, 7));
        }
    };
    announce(&mut store);
    for host in 0..20_000_u32 {
        add(&mut store, "u09t", PeerId::random(), ip(60_000, (host % 250) as u8));
    }
    let holds = providers(&store, "u09t");
    let kept = honest.iter().filter(|peer| holds.contains(peer)).count();
    // 101 origins want 64 places, so the flood is worth one place, as any other subnet.
    assert!(kept >= MAX_PROVIDERS - 1, "only {kept} honest providers left");

    // Where there is room it gets more, but never beyond the bound of its subnet.
    let mut store = self::store();
    for _ in 0..1000 {
        add(&mut store, "u09t", PeerId::random(), ip(60_000, 1));
    }
    assert_eq!(store.len(), MAX_SUBNET_PROVIDERS);
    let v6 = |subnet: u16, host| Some(IpAddr::from(Ipv6Addr::new(0x2a00, 1, subnet, host, 0, 0, 0, host)));
    for host in 0..1000 {
        add(&mut store, "u09t", PeerId::random(), v6(1, host));
    }
    assert_eq!(store.len(), 2 * MAX_SUBNET_PROVIDERS);
    for _ in 0..1000 {
        add(&mut store, "u09t", PeerId::random(), None);
    }
    assert_eq!(store.len(), 2 * MAX_SUBNET_PROVIDERS + MAX_RELAYED_PROVIDERS);
}

#[test]
fn replacement_is_random_and_not_first_come() {
    let mut store = store();
    let peers: Vec<PeerId> = (0..640).map(|_| PeerId::random()).collect();
    for (subnet, &peer) in (0..).zip(&peers) {
        add(&mut store, "u09t", peer, ip(subnet, 1));
    }
    let holds = providers(&store, "u09t");
    assert_eq!(holds.len(), MAX_PROVIDERS);
    let first = peers[..MAX_PROVIDERS].iter().filter(|peer| holds.contains(peer)).count();
    assert!(first < MAX_PROVIDERS / 2, "{first} of the first {MAX_PROVIDERS} are still there");
}

#[test]
fn one_peer_costs_a_bounded_number_of_records() {
    let mut store = store();
    let (peer, place) = (PeerId::random(), Location { latitude: 0.0, longitude: 0.0 });
    for ring in 0..20 {
        for cell in Cell::at(&place, 5).ring(ring) {
            add(&mut store, &cell.to_string(), peer, ip(1, 1));
        }
    }
    assert_eq!(store.len(), MAX_KEYS);
    store.shelves.check();
}

#[test]
fn memory_stays_under_the_stated_bound() {
    let mut store = store();
    let long: Multiaddr =
        format!("/dns4/{}/tcp/1", "a".repeat(MAX_ADDRESS_BYTES - 10)).parse().expect("an address");
    let cells: Vec<Cell> =
        (0..40).flat_map(|ring| Cell::at(&Location { latitude: 10.0, longitude: 20.0 }, 6).ring(ring)).collect();
    for round in 0..3 * MAX_RECORDS {
        let peer = PeerId::random();
        let key = RecordKey::from(cells[round % cells.len()].dht_key(&public()));
        let record = ProviderRecord::new(key, peer, vec![long.clone(); 100]);
        store.add_from(record, peer, ip((round % 5000) as u16, 1), Instant::now()).expect("acceptable");
    }
    assert_eq!(store.len(), MAX_RECORDS);
    store.shelves.check();
    let bytes = store.shelves.heap_bytes();
    assert!(bytes <= MAX_BYTES, "{bytes} bytes where {MAX_BYTES} are promised");
}

#[test]
fn an_answer_fits_into_a_packet() {
    let mut store = store();
    let long: Multiaddr =
        format!("/dns4/{}/tcp/1", "a".repeat(MAX_ADDRESS_BYTES - 10)).parse().expect("an address");
    for subnet in 0..64 {
        let peer = PeerId::random();
        let record = ProviderRecord::new(key("u09t"), peer, vec![long.clone(); MAX_ADDRESSES]);
        store.add_from(record, peer, ip(subnet, 1), Instant::now()).expect("acceptable");
    }
    let answer = store.providers(&key("u09t"));
    let bytes: usize = answer.iter().flat_map(|record| &record.addresses).map(Multiaddr::len).sum();
    assert!(bytes <= MAX_ANSWER_BYTES && answer.len() > 16, "{} providers, {bytes} bytes", answer.len());
}

#[test]
fn on_the_local_network_every_peer_of_one_machine_counts_for_itself() {
    let network = NetworkId::new(NetworkId::LOCAL).expect("a name");
    let mut store = CellStore::new(PeerId::random(), network.clone());
    let key = RecordKey::from(cell("u09t").dht_key(&network));
    for _ in 0..60 {
        let peer = PeerId::random();
        let record = ProviderRecord::new(key.clone(), peer, vec!["/ip4/127.0.0.1/tcp/1".parse().expect("ok")]);
        store.add_from(record, peer, Some(Ipv4Addr::LOCALHOST.into()), Instant::now()).expect("acceptable");
    }
    assert_eq!(store.providers(&key).len(), 60);
    assert!(store.providers(&key).iter().all(|record| record.addresses.len() == 1));
}

#[derive(Clone, Debug)]
enum Operation {
    Add { cell: usize, peer: usize, ip: Option<IpAddr> },
    Remove { cell: usize, peer: usize },
    Expire { seconds: u64 },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let ip = prop_oneof![
        2 => Just(None),
        6 => (0..12_u16, any::<u8>()).prop_map(|(subnet, host)| ip(subnet, host)),
        2 => (0..4_u16, any::<u16>())
            .prop_map(|(subnet, host)| Some(Ipv6Addr::new(0x2a00, 0, subnet, 0, 0, 0, 0, host).into())),
    ];
    let operation = prop_oneof![
        20 => (0..12_usize, 0..300_usize, ip).prop_map(|(cell, peer, ip)| Operation::Add { cell, peer, ip }),
        2 => (0..12_usize, 0..300_usize).prop_map(|(cell, peer)| Operation::Remove { cell, peer }),
        1 => (1..600_u64).prop_map(|seconds| Operation::Expire { seconds }),
    ];
    proptest::collection::vec(operation, 1..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bounds_hold_for_any_sequence_of_operations(operations in operations()) {
        let mut store = store();
        let peers: Vec<PeerId> = (0..300).map(|_| PeerId::random()).collect();
        let cells: Vec<String> =
            cell("u09t").ring(2).iter().take(12).map(ToString::to_string).collect();
        let mut now = Instant::now();
        for operation in operations {
            match operation {
                Operation::Add { cell, peer, ip } => {
                    let peer = peers[peer];
                    store.add_from(record(&cells[cell], peer), peer, ip, now).expect("acceptable");
                    prop_assert!(providers(&store, &cells[cell]).contains(&peer), "what was added is there");
                }
                Operation::Remove { cell, peer } => store.remove_provider(&key(&cells[cell]), &peers[peer]),
                Operation::Expire { seconds } => {
                    now += Duration::from_secs(seconds);
                    store.expire(now);
                }
            }
            store.shelves.check();
        }
    }

    /// Announcements of others never take an origin below its fair share of a key.
    #[test]
    fn others_cannot_push_an_origin_below_its_share(
        honest in 1..MAX_SUBNET_PROVIDERS,
        flood in proptest::collection::vec(0..20_u16, 100..1500),
    ) {
        let mut store = store();
        let peers: Vec<PeerId> = (0..honest).map(|_| PeerId::random()).collect();
        for &peer in &peers {
            add(&mut store, "u09t", peer, ip(40_000, 1));
        }
        let mut origins = HashSet::new();
        for subnet in flood {
            origins.insert(subnet);
            add(&mut store, "u09t", PeerId::random(), ip(subnet, 1));
            let share = MAX_PROVIDERS / (origins.len() + 1);
            let holds = providers(&store, "u09t");
            let kept = peers.iter().filter(|peer| holds.contains(peer)).count();
            prop_assert!(kept >= honest.min(share), "{kept} of {honest} left of a share of {share}");
        }
    }
}
