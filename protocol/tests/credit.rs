//! Settlements and the credit that grows by them.

use aitbc_protocol::{
    MicroCredits, NodeId,
    credit::{
        ALLOWANCE_MS, Allowance, Backing, Balance, CreditFault, Settlement, SettlementFault, back, limit,
        share_of_capacity, unused_ms,
    },
};
use proptest::prelude::*;

const PAYER: NodeId = NodeId([1; 32]);
const NOW: u64 = 1_700_000_000_000;

fn uc(amount: u64) -> MicroCredits {
    MicroCredits(amount)
}

fn settled(cumulative: u64) -> Settlement {
    Settlement { payer: PAYER, cumulative: uc(cumulative), issued_ms: NOW }
}

#[test]
fn a_settlement_only_grows_and_never_above_the_promise() {
    let balance = Balance { promised: uc(100), settled: uc(40), ..Balance::default() };
    assert_eq!(balance.open(), uc(60));
    assert_eq!(balance.receive(PAYER, uc(60), NOW), Ok(settled(100)));
    assert_eq!(balance.receive(PAYER, uc(0), NOW), Err(SettlementFault::Nothing));
    let above = SettlementFault::AbovePromised { promised: uc(100), got: uc(101) };
    assert_eq!(balance.receive(PAYER, uc(61), NOW), Err(above));
    assert!(balance.receive(PAYER, uc(u64::MAX), NOW).is_err(), "a sum that does not fit");
    let after = balance.accept(PAYER, &settled(70)).expect("more than before");
    assert_eq!(after, Balance { settled: uc(70), ..balance });
    let late = Balance { refunded: uc(10), ..balance };
    assert_eq!(late.open(), uc(50), "what is given back is not owed");
    let held = Balance { held: uc(25), ..balance };
    assert_eq!((held.open(), held.payable()), (uc(60), uc(35)));
    let both = Balance { refunded: uc(10), ..held };
    assert_eq!(
        (both.open(), both.payable()),
        (uc(50), uc(35)),
        "penalties are set off against what is held first"
    );
    assert_eq!(Balance { refunded: uc(30), ..held }.payable(), uc(30));
    let lost = Balance { forfeited: uc(25), ..balance };
    assert_eq!((lost.open(), lost.payable()), (uc(35), uc(35)), "what was lost by a fault is owed no more");
    assert_eq!(after.accept(PAYER, &settled(70)), Ok(after), "twice changes nothing");
    assert_eq!(after.accept(PAYER, &settled(69)), Err(SettlementFault::Lower { had: uc(70), got: uc(69) }));
    assert_eq!(after.accept(PAYER, &settled(101)), Err(above));
    assert_eq!(after.accept(NodeId([2; 32]), &settled(80)), Err(SettlementFault::OtherPayer));
}

#[test]
fn own_credit_comes_before_that_of_strangers() {
    let backing =
        |settled, exposure, strangers, needed| back(uc(settled), uc(exposure), uc(strangers), uc(needed));
    assert_eq!(backing(100, 60, 0, 40), Ok(Backing::Own));
    assert_eq!(
        backing(100, 60, 40, 41),
        Err(CreditFault { needed: uc(41), own: uc(40), strangers: uc(40) }),
        "the two are not added up"
    );
    assert_eq!(backing(100, 60, 41, 41), Ok(Backing::Strangers));
    assert_eq!(backing(0, 0, 5, 5), Ok(Backing::Strangers));
    assert_eq!(backing(0, 0, 0, 0), Ok(Backing::Own), "what costs nothing needs no credit");
    assert_eq!(backing(10, 60, 0, 1), Err(CreditFault { needed: uc(1), own: uc(0), strangers: uc(0) }));
}

#[test]
fn the_share_of_capacity_is_a_hundredth_of_a_day() {
    // 20 tokens a second at 1,000 uc for a thousand: 1,728,000 uc a day.
    assert_eq!(share_of_capacity(20_000, uc(1_000)), uc(17_280));
    assert_eq!(share_of_capacity(u64::MAX, uc(u64::MAX)), uc(u64::MAX));
    assert_eq!(share_of_capacity(0, uc(1_000)), uc(0));
}

#[test]
fn an_allowance_comes_back_within_a_day() {
    let budget = uc(1_000);
    let (used, took_ms) = Allowance::default().take(budget, uc(1_000), NOW).expect("all of it is there");
    assert_eq!(took_ms, ALLOWANCE_MS);
    assert_eq!(used.left(budget, NOW), uc(0));
    assert_eq!(used.take(budget, uc(1), NOW), None);
    assert_eq!(used.left(budget, NOW + ALLOWANCE_MS / 2), uc(500));
    assert_eq!(used.left(budget, NOW + ALLOWANCE_MS), budget);
    assert!(used.is_whole(NOW + ALLOWANCE_MS) && !used.is_whole(NOW + ALLOWANCE_MS - 1));
    assert_eq!(used.left(budget, 0), uc(0), "a clock that was set back");
    assert_eq!(used.take(uc(0), uc(1), NOW), None);
    assert!(Allowance::default().take(uc(0), uc(0), NOW).is_some());
    let half = used.give_back(unused_ms(took_ms, uc(1_000), uc(500)));
    assert!((499..=500).contains(&half.left(budget, NOW).0), "{:?}", half.left(budget, NOW));
}

proptest! {
    /// What is taken and not given back stays under the budget and its share of the time that has passed.
    #[test]
    fn no_more_is_taken_than_the_budget_and_what_came_back(
        budget in 1u64..1_000_000_000,
        steps in prop::collection::vec((0u64..10_000_000, 0u64..400_000_000, 0u64..=100), 1..60),
    ) {
        let (mut allowance, mut now, mut taken) = (Allowance::default(), NOW, 0u128);
        for (wait, amount, returned) in steps {
            now += wait;
            let left = allowance.left(uc(budget), now);
            match allowance.take(uc(budget), uc(amount), now) {
                None => prop_assert!(amount > left.0),
                Some((after, took_ms)) => {
                    prop_assert!(amount <= left.0);
                    let returned = amount * returned / 100;
                    allowance = after.give_back(unused_ms(took_ms, uc(amount), uc(amount - returned)));
                    taken += u128::from(amount - returned);
                    prop_assert!(allowance.left(uc(budget), now) <= left);
                }
            }
            let day = u128::from(ALLOWANCE_MS);
            prop_assert!(taken * day <= u128::from(budget) * (day + u128::from(now - NOW)));
        }
    }

    /// Settling more never makes what backs a job disappear.
    #[test]
    fn settling_never_leaves_a_client_worse_off(
        promised in 0u64..1_000_000, before in 0u64..1_000_000, more in 0u64..1_000_000, strangers in 0u64..1_000_000,
        needed in 0u64..1_000_000,
    ) {
        let before = before.min(promised);
        let after = before.saturating_add(more).min(promised);
        let backed = |settled: u64| back(uc(settled), uc(promised - settled), uc(strangers), uc(needed));
        if backed(before).is_ok() {
            prop_assert!(backed(after).is_ok());
        }
    }

    /// A client on its own credit owes no more than it has settled, whatever it asks for in which order.
    #[test]
    fn own_credit_is_never_above_what_was_settled(
        steps in prop::collection::vec((0u64..1000, 0u64..1000), 1..80),
    ) {
        let mut balance = Balance::default();
        for (needed, settle) in steps {
            if back(balance.settled, balance.open(), uc(0), uc(needed)) == Ok(Backing::Own) {
                balance.promised = uc(balance.promised.0 + needed);
                prop_assert!(balance.open() <= limit(balance.settled));
            }
            // What a first job on strangers' credit leaves to be settled.
            balance.promised = uc(balance.promised.0 + settle);
            if let Ok(settlement) = balance.receive(PAYER, uc(settle), NOW) {
                balance = balance.accept(PAYER, &settlement).expect("its own settlement");
            }
        }
    }
}
