//! The job state machine: every state ends, no final state is left, no event is taken where it makes no sense.

use aitbc_protocol::job::{
    Finish,
    JobEvent::{self, Accepted, GaveUp, Paid, Receipt, Refused, Settled},
    JobState::{self, Cancelled, Completed, Delivered, Failed, Opening, ReceiptMissing, Rejected, Running},
};
use proptest::prelude::*;
use std::collections::HashSet;

const STATES: [JobState; 8] =
    [Opening, Running, Delivered, Completed, Cancelled, Failed, Rejected, ReceiptMissing];
const FINISHES: [Finish; 4] = [Finish::Stop, Finish::Length, Finish::Cancelled, Finish::Failed];

fn events() -> Vec<JobEvent> {
    let mut events = vec![Accepted, Refused, Settled, GaveUp];
    events.extend(FINISHES.map(Receipt));
    events.extend(FINISHES.map(Paid));
    events
}

#[test]
fn the_usual_ways_through() {
    let walk = |events: &[JobEvent]| events.iter().try_fold(Opening, |state, event| state.on(*event));
    assert_eq!(walk(&[Accepted, Receipt(Finish::Stop), Paid(Finish::Stop)]), Ok(Completed));
    assert_eq!(walk(&[Accepted, Receipt(Finish::Cancelled), Paid(Finish::Cancelled)]), Ok(Cancelled));
    assert_eq!(walk(&[Accepted, Receipt(Finish::Failed), Paid(Finish::Failed)]), Ok(Failed));
    assert_eq!(walk(&[Refused]), Ok(Rejected));
    assert_eq!(walk(&[Accepted, Settled]), Ok(Failed));
    assert_eq!(walk(&[Accepted, GaveUp]), Ok(ReceiptMissing));
    assert_eq!(walk(&[Accepted, GaveUp, Settled]), Ok(Failed));
    assert_eq!(walk(&[Accepted, GaveUp, Receipt(Finish::Stop), Paid(Finish::Stop)]), Ok(Completed));
}

#[test]
fn every_state_can_end() {
    for start in STATES {
        let mut reached = HashSet::from([start]);
        let mut frontier = vec![start];
        while let Some(state) = frontier.pop() {
            for next in events().into_iter().filter_map(|event| state.on(event).ok()) {
                if reached.insert(next) {
                    frontier.push(next);
                }
            }
        }
        assert!(reached.iter().any(|state| state.is_final()), "{start:?} cannot end");
    }
}

proptest! {
    #[test]
    fn a_final_state_stays_but_for_a_receipt_that_was_missing(state in 0..STATES.len(), event in 0..12usize) {
        let (state, event) = (STATES[state], events()[event]);
        if state.is_final() {
            match state.on(event) {
                Ok(next) => {
                    prop_assert_eq!(state, ReceiptMissing);
                    prop_assert_eq!(next, if event == Settled { Failed } else { Delivered });
                }
                Err(error) => prop_assert_eq!((error.state, error.event), (state, event)),
            }
        }
    }
}
