//! Which gossip topics this node hears: the finest ring of cells that shows it enough offers.

use aitbc_protocol::{
    UnixMillis,
    geo::{COARSEST, Cell, FINEST_TOPIC, Location},
};

/// Offers that the heard cells should show.
const ENOUGH: usize = 16;
/// Offers that a finer ring must show before the coarser one is left: more than [`ENOUGH`], so that one provider that
/// comes and goes does not make the node come and go.
const PLENTY: usize = 20;
/// For how long it must show them, in milliseconds.
const PLENTY_FOR_MS: u64 = 60_000;

/// The rule: a node hears the ring (its cell and the neighbours) of precision 4, for heartbeats travel there only. While
/// fewer than 16 known offers lie in the coarsest ring heard, the ring of the next coarser precision is heard too, one
/// step a review. The coarsest ring is left once the next finer one has shown 20 for a minute. Three rings of at most
/// nine cells are at most 27 topics.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// One ring for each precision, finest first.
    rings: Vec<Vec<Cell>>,
    /// Offers that each of them shows.
    shown: Vec<usize>,
    heard: usize,
    plenty_since_ms: Option<UnixMillis>,
}

impl Subscriptions {
    pub(super) fn new(here: &Location) -> Self {
        let ring = |precision| {
            let cell = Cell::at(here, precision);
            std::iter::once(cell).chain(cell.neighbours()).collect()
        };
        let rings: Vec<_> = (COARSEST..=FINEST_TOPIC).rev().map(ring).collect();
        Self { shown: vec![0; rings.len()], rings, heard: 1, plenty_since_ms: None }
    }

    /// The cells whose topics are heard.
    pub(super) fn cells(&self) -> Vec<Cell> {
        self.rings[..self.heard].concat()
    }

    /// Counts what each ring shows, going by the cells of the offers known.
    pub(super) fn count(&mut self, offers: &[Cell]) {
        let shown =
            |ring: &Vec<Cell>| offers.iter().filter(|offer| ring.iter().any(|cell| cell.contains(offer))).count();
        self.shown = self.rings.iter().map(shown).collect();
    }

    /// Whether the cells heard show fewer offers than they should.
    pub(super) fn lacks(&self) -> bool {
        self.shown[self.heard - 1] < ENOUGH
    }

    /// Judges by what was counted last; true where the cells to hear changed.
    pub(super) fn review(&mut self, now_ms: UnixMillis) -> bool {
        if self.lacks() {
            self.plenty_since_ms = None;
            let wider = self.heard < self.rings.len();
            self.heard += usize::from(wider);
            return wider;
        }
        if self.heard == 1 || self.shown[self.heard - 2] < PLENTY {
            self.plenty_since_ms = None;
            return false;
        }
        let since_ms = *self.plenty_since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) < PLENTY_FOR_MS {
            return false;
        }
        self.plenty_since_ms = None;
        self.heard -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paris() -> Location {
        Location::new(48.85, 2.35).expect("in range")
    }

    fn offers(count: usize, precision: u8) -> Vec<Cell> {
        vec![Cell::at(&paris(), precision); count]
    }

    fn reviewed(subscriptions: &mut Subscriptions, offers: &[Cell], now_ms: UnixMillis) -> bool {
        subscriptions.count(offers);
        subscriptions.review(now_ms)
    }

    #[test]
    fn an_empty_world_is_heard_widely_within_32_topics() {
        let mut subscriptions = Subscriptions::new(&paris());
        assert_eq!(subscriptions.cells().len(), 9);
        assert!(subscriptions.review(0));
        assert!(subscriptions.review(1));
        assert!(!subscriptions.review(2));
        let cells = subscriptions.cells();
        assert_eq!(cells.len(), 27);
        assert!(cells.contains(&Cell::at(&Location::new(51.5, -0.1).expect("in range"), 2)), "London");
    }

    #[test]
    fn a_crowded_neighbourhood_stays_alone() {
        let mut subscriptions = Subscriptions::new(&paris());
        assert!(!reviewed(&mut subscriptions, &offers(16, 4), 0));
        assert_eq!(subscriptions.cells().len(), 9);
    }

    #[test]
    fn narrowing_needs_plenty_for_a_while() {
        let mut subscriptions = Subscriptions::new(&paris());
        assert!(reviewed(&mut subscriptions, &offers(15, 4), 0));
        assert!(!reviewed(&mut subscriptions, &offers(19, 4), 60_000), "enough and not plenty");
        assert!(!reviewed(&mut subscriptions, &offers(20, 4), 70_000));
        assert!(!reviewed(&mut subscriptions, &offers(19, 4), 100_000), "the count starts again");
        assert!(!reviewed(&mut subscriptions, &offers(20, 4), 110_000));
        assert!(!reviewed(&mut subscriptions, &offers(20, 4), 169_999));
        assert!(reviewed(&mut subscriptions, &offers(20, 4), 170_000));
        assert_eq!(subscriptions.cells().len(), 9);
    }

    #[test]
    fn at_the_pole_and_at_the_antimeridian() {
        for place in [(90.0, 0.0), (-90.0, 180.0), (0.0, 180.0), (0.0, -180.0)] {
            let mut subscriptions = Subscriptions::new(&Location::new(place.0, place.1).expect("in range"));
            while subscriptions.review(0) {}
            assert!((3..=32).contains(&subscriptions.cells().len()));
        }
    }
}
