use super::*;
use crate::NodeId;
use proptest::prelude::*;
use std::sync::LazyLock;

const TASK: Task = Task { items: 4096, lanes: 256, steps: 16 };
const PROVER: NodeId = NodeId([7; 32]);

static CACHE: LazyLock<Cache> = LazyLock::new(|| Cache::new(&[1; 32], 1 << 10));

fn nonce(value: u8) -> Nonce {
    Nonce([value; Nonce::SIZE])
}

fn data(key: &Key) -> Vec<Words> {
    (0..TASK.items).map(|index| item(&CACHE, key, index)).collect()
}

fn states(key: &Key, read: impl Fn(u32) -> Words + Copy) -> Vec<Words> {
    (0..TASK.lanes).map(|lane| walk(key, &TASK, lane, read)).collect()
}

fn answer(tree: &Tree, fresh: &Nonce) -> Vec<Opening> {
    opened_lanes(fresh, &tree.root(), TASK.lanes)
        .into_iter()
        .map(|lane| tree.open(lane).expect("a lane"))
        .collect()
}

#[test]
fn an_honest_answer_is_right() {
    let key = Key::new(&PROVER, &nonce(1), &nonce(2));
    let data = data(&key);
    let tree = Tree::new(states(&key, |index| data[index as usize]));
    let fresh = nonce(3);
    let openings = answer(&tree, &fresh);
    assert_eq!(verify(&CACHE, &key, &TASK, &tree.root(), &fresh, &openings), Ok(()));

    let other = Key::new(&NodeId([8; 32]), &nonce(1), &nonce(2));
    let found = verify(&CACHE, &other, &TASK, &tree.root(), &fresh, &openings);
    assert!(matches!(found, Err(WrongAnswer::WrongLane(_))), "another peer's answer");
    for (prepare, walk) in [(9, 2), (1, 9)] {
        let key = Key::new(&PROVER, &nonce(prepare), &nonce(walk));
        let found = verify(&CACHE, &key, &TASK, &tree.root(), &fresh, &openings);
        assert!(matches!(found, Err(WrongAnswer::WrongLane(_))), "an old challenge's answer");
    }
    let later = verify(&CACHE, &key, &TASK, &tree.root(), &nonce(4), &openings);
    assert_eq!(later, Err(WrongAnswer::OtherLanes), "what was opened for another nonce");
    let mut forged = openings.clone();
    forged[5].state[0] ^= 1;
    let lane = forged[5].lane;
    let found = verify(&CACHE, &key, &TASK, &tree.root(), &fresh, &forged);
    assert_eq!(found, Err(WrongAnswer::NotUnderRoot(lane)), "made up after the root");
    assert_eq!(verify(&CACHE, &key, &TASK, &tree.root(), &fresh, &openings[1..]), Err(WrongAnswer::OtherLanes));
}

/// Half of the items are wrong, as with half of the memory and no time to derive the rest.
#[test]
fn who_makes_items_up_is_caught() {
    for round in 0..20 {
        let key = Key::new(&PROVER, &nonce(1), &nonce(round));
        let data = data(&key);
        let invented = |index: u32| if index.is_multiple_of(2) { data[index as usize] } else { [index; 16] };
        let tree = Tree::new(states(&key, invented));
        let openings = answer(&tree, &nonce(3));
        let found = verify(&CACHE, &key, &TASK, &tree.root(), &nonce(3), &openings);
        assert!(matches!(found, Err(WrongAnswer::WrongLane(_))), "{round}");
    }
}

#[test]
fn as_many_lanes_are_opened_as_there_are_to_be_and_no_lane_twice() {
    let root = Digest([5; 32]);
    let opened = opened_lanes(&nonce(1), &root, 1 << 20);
    assert_eq!(opened.len(), OPENED);
    assert!(opened.is_sorted_by(|a, b| a < b));
    assert_ne!(opened, opened_lanes(&nonce(2), &root, 1 << 20));
    assert_ne!(
        opened,
        opened_lanes(&nonce(1), &Digest([6; 32]), 1 << 20),
        "the root is told before they are known"
    );
    assert_eq!(opened_lanes(&nonce(1), &root, 64), (0..64).collect::<Vec<_>>());
}

#[test]
fn the_bits_never_change() {
    // Whoever computes something else is caught as a forger. A second implementation, in Python, gave the same numbers.
    let key = Key::new(&PROVER, &nonce(1), &nonce(2));
    let last = CACHE.rows().last().expect("a row")[0];
    let item = item(&CACHE, &key, 4095);
    let state = walk(&key, &TASK, 255, |index| super::item(&CACHE, &key, index));
    assert_eq!((last, item[0], state[0]), (3_006_002_021, 2_109_557_578, 1_295_216_077));
}

#[test]
fn tasks_without_end_are_refused() {
    assert_eq!(TASK.check(), Ok(()));
    assert!(Task { items: 10, ..TASK }.check().is_err());
    for lanes in [0, 32, 65, MAX_LANES * 2] {
        assert!(Task { lanes, ..TASK }.check().is_err(), "{lanes}");
    }
    for steps in [0, MAX_STEPS + 1] {
        assert!(Task { steps, ..TASK }.check().is_err(), "{steps}");
    }
    assert_eq!((TASK.bytes(), TASK.read_bytes()), (4096 * 64, 256 * 16 * 64));
}

proptest! {
    #[test]
    fn every_lane_is_under_the_root_and_nothing_else_is(
        seed: u32,
        height in 0..8_u32,
        lane: u32,
        change in 0..16_usize,
    ) {
        let lanes = 1 << height;
        let states: Vec<Words> = (0..lanes).map(|lane| [seed ^ lane; 16]).collect();
        let tree = Tree::new(states);
        let opening = tree.open(lane % lanes).expect("a lane");
        prop_assert!(opening.is_under(&tree.root(), lanes));
        prop_assert!(!opening.is_under(&tree.root(), lanes * 2));
        let mut other = opening.clone();
        other.state[change] ^= 1;
        prop_assert!(!other.is_under(&tree.root(), lanes));
        if lanes > 1 {
            let moved = Opening { lane: (opening.lane + 1) % lanes, ..opening };
            prop_assert!(!moved.is_under(&tree.root(), lanes));
        }
        prop_assert!(tree.open(lanes).is_none());
    }
}
