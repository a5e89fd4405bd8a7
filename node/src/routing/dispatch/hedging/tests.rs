#![allow(clippy::unwrap_used)]

use super::*;
use crate::routing::{JobRequest, Wishes};
use crate::{
    network::{FramedStream, NetworkError},
    routing::{
        attempt::{
            Attempt, Patience,
            tests::{Peer, stays},
        },
        decisions,
        dispatch::{End, Place},
        fixtures::{Deal, Node, key, model_offer, network, offer, spec},
        metrics::RoutingMetrics,
        search::Found,
    },
    storage::Side,
    telemetry::Metrics,
};
use aitbc_protocol::{JobId, routing::RoundTripBy};
use aitbc_protocol::{
    job::{Finish, JobState, Rejection},
    messages::{ToClient, ToProvider},
    offer::{KnownOffer, Load},
    qos::Quality,
    routing::{Ranked, Reasons, preference::Preference},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const EXPECTED: Prediction =
    Prediction { first_ms: 0.001, generate_ms: 1_000.0, tokens: 100, price: MicroCredits::ZERO };

fn dispatch(node: &Node, wishes: Wishes) -> (Dispatch<'_>, mpsc::Receiver<JobUpdate>) {
    let (updates, listener) = mpsc::channel(1_024);
    let request = JobRequest { spec: spec(), wishes };
    (Dispatch::new(&node.shared, JobId([3; 16]), request, updates, Instant::now()), listener)
}

fn about(dispatch: &Dispatch<'_>, deal: &Deal) -> About {
    let provider = deal.provider_id();
    About {
        provider,
        weights: deal.quote.weights,
        prompt_tokens: deal.quote.prompt_tokens,
        most: deal.quote.max_total,
        cost: 1_000.0,
        began: Instant::now(),
        expected: EXPECTED,
        pending: dispatch.decided(Chosen::Provider { provider }, None, Some(EXPECTED)),
    }
}

/// A trial over a stream to a scripted peer.
async fn trial<'a>(dispatch: &Dispatch<'_>, deal: &'a Deal) -> (Trial, Peer<'a>) {
    deal.open().await;
    let (near, far) = FramedStream::pair(deal.client.node_id(), deal.provider_id());
    let (ledger, provider) = (deal.ledger.clone(), deal.provider_id());
    let (quote, signed, spec) = (deal.quote.clone(), deal.signed_quote(), deal.spec.clone());
    let trial = Trial::new(about(dispatch, deal), |updates| {
        Box::pin(async move {
            let (network, stop) = (network(), CancellationToken::new());
            let metrics = RoutingMetrics::new(&Metrics::default());
            let gone = || -> BoxFuture<'static, Result<FramedStream, NetworkError>> {
                Box::pin(std::future::ready(Err(NetworkError::Stopped)))
            };
            let attempt = Attempt {
                ledger: &ledger,
                network: &network,
                provider,
                quote: &quote,
                signed: &signed,
                spec: &spec,
                patience: Patience::default(),
                updates: &updates,
                asked: Instant::now(),
                stop: &stop,
                reopen: &gone,
                better: &stays,
                longest_round_trip_ms: 0,
                metrics: &metrics,
            };
            Tried::Ran(Box::new(attempt.run(near).await))
        })
    });
    (trial, Peer::new(deal, far))
}

fn all(listener: &mut mpsc::Receiver<JobUpdate>) -> Vec<JobUpdate> {
    std::iter::from_fn(|| listener.try_recv().ok()).collect()
}

fn text(updates: &[JobUpdate]) -> String {
    let text = |update: &JobUpdate| match update {
        JobUpdate::Delta { text, .. } => Some(text.clone()),
        _ => None,
    };
    updates.iter().filter_map(text).collect()
}

/// Whichever of the two is quicker: its answer is whole and comes once, and the other one is paid for what it delivered.
#[tokio::test]
async fn the_quicker_one_answers_and_the_slower_one_is_paid_for_what_it_delivered() {
    for second_is_quicker in [true, false] {
        let node = Node::start().await;
        let (mut dispatch, mut listener) = dispatch(&node, Wishes::default());
        let slow_deal = Deal::new(|_, _| {});
        let quick_deal = slow_deal.rival();
        let (slow, mut slow_peer) = trial(&dispatch, &slow_deal).await;
        let (quick, mut quick_peer) = trial(&dispatch, &quick_deal).await;
        let (slow_about, quick_about) = (slow.about, quick.about);
        let trials = if second_is_quicker { vec![slow, quick] } else { vec![quick, slow] };
        let (admitted, both) = oneshot::channel();
        let race = async {
            let flow = dispatch.race(trials, Second::No).await;
            dispatch.last_account().await;
            flow
        };
        let quick_one = async {
            quick_peer.admit().await;
            both.await.unwrap();
            quick_peer.generate(40).await;
            quick_peer.finish_well(Finish::Stop).await;
        };
        let slow_one = async {
            slow_peer.admit().await;
            admitted.send(()).unwrap();
            assert!(matches!(slow_peer.receive().await, Some(ToProvider::Cancel)));
            // These were on their way when it heard of that.
            slow_peer.generate(2).await;
            slow_peer.finish_well(Finish::Cancelled).await;
        };
        let (flow, (), ()) = tokio::join!(race, quick_one, slow_one);
        let answered = Flow::Done(End::Answered { finish: Finish::Stop, place: Place::Network });
        assert_eq!(format!("{flow:?}"), format!("{answered:?}"));

        let updates = all(&mut listener);
        assert_eq!(text(&updates), quick_peer.text, "whole and once");
        assert_eq!((dispatch.count, dispatch.paid), (40, paid(&[(&quick_deal, 40), (&slow_deal, 2)])));
        assert_eq!(dispatch.reserved, MicroCredits::ZERO);
        for (deal, tokens, state) in [(&quick_deal, 40, JobState::Completed), (&slow_deal, 2, JobState::Cancelled)]
        {
            let record = deal.ledger.job(Side::Client, deal.quote.nonce).await.unwrap().unwrap();
            assert_eq!((record.state, record.paid), (state, paid(&[(deal, tokens)])));
        }
        let outrun = updates.iter().filter_map(|update| match update {
            JobUpdate::Outrun { provider, by, paid, .. } => Some((*provider, *by, *paid)),
            _ => None,
        });
        let expected = (slow_deal.provider_id(), quick_deal.provider_id(), paid(&[(&slow_deal, 2)]));
        assert_eq!(outrun.collect::<Vec<_>>(), [expected]);

        let experience = &node.shared.experience;
        assert!(experience.first_error(&slow_about.provider).is_some(), "it was late");
        assert!(experience.lateness(&slow_about.provider) > 0.0);
        assert!(experience.failures(&slow_about.provider, now_ms()).abs() < f64::EPSILON, "late is not failed");
        let ends = node.shared.decisions.last(2).decisions;
        let end = |about: &About| {
            let provider = about.provider;
            let chosen = Chosen::Provider { provider };
            ends.iter().find(|decision| decision.chosen == chosen).unwrap().outcome.clone()
        };
        assert!(matches!(end(&slow_about), decisions::End::Outrun { .. }));
        assert!(matches!(end(&quick_about), decisions::End::Answered { .. }));
    }
}

fn paid(parts: &[(&Deal, u32)]) -> MicroCredits {
    MicroCredits(parts.iter().map(|(deal, tokens)| deal.quote.total(*tokens).unwrap().0).sum())
}

#[tokio::test]
async fn where_one_does_not_start_the_other_goes_on_alone() {
    let node = Node::start().await;
    let (mut dispatch, mut listener) = dispatch(&node, Wishes::default());
    let (refused_deal, deal) = {
        let deal = Deal::new(|_, _| {});
        (deal.rival(), deal)
    };
    let (refused, mut refusing) = trial(&dispatch, &refused_deal).await;
    let (other, mut peer) = trial(&dispatch, &deal).await;
    let (gone, one_is_out) = oneshot::channel();
    let refusal = async {
        assert!(matches!(refusing.receive().await, Some(ToProvider::Open { .. })));
        refusing.send(&ToClient::Rejected(Rejection::QuoteExpired)).await;
        assert!(refusing.receive().await.is_none(), "the client hangs up");
        gone.send(()).unwrap();
    };
    let answer = async {
        peer.admit().await;
        one_is_out.await.unwrap();
        peer.generate(3).await;
        peer.finish_well(Finish::Stop).await;
    };
    let (flow, (), ()) = tokio::join!(dispatch.race(vec![refused, other], Second::No), refusal, answer);
    assert!(matches!(flow, Flow::Done(End::Answered { .. })), "{flow:?}");
    let updates = all(&mut listener);
    assert_eq!(text(&updates), peer.text);
    assert!(!updates.iter().any(|update| matches!(update, JobUpdate::Outrun { .. })));
    assert_eq!((dispatch.paid, dispatch.parting_most()), (paid(&[(&deal, 3)]), MicroCredits::ZERO));
}

#[tokio::test]
async fn both_are_cancelled_where_whoever_asked_leaves() {
    let node = Node::start().await;
    let (mut dispatch, listener) = dispatch(&node, Wishes::default());
    let (one_deal, other_deal) = {
        let deal = Deal::new(|_, _| {});
        (deal.rival(), deal)
    };
    let (one, one_peer) = trial(&dispatch, &one_deal).await;
    let (other, other_peer) = trial(&dispatch, &other_deal).await;
    let (ready, all_ready) = mpsc::channel::<()>(2);
    let cancelled = async |mut peer: Peer<'_>, ready: mpsc::Sender<()>| {
        peer.admit().await;
        drop(ready);
        assert!(matches!(peer.receive().await, Some(ToProvider::Cancel)));
        peer.finish_well(Finish::Cancelled).await;
    };
    let leave = async {
        let mut all_ready = all_ready;
        assert!(all_ready.recv().await.is_none());
        drop(listener);
    };
    let again = ready.clone();
    let race = dispatch.race(vec![one, other], Second::No);
    let (flow, (), (), ()) = tokio::join!(race, leave, cancelled(one_peer, ready), cancelled(other_peer, again));
    assert!(matches!(flow, Flow::Done(End::Cancelled)), "{flow:?}");
    assert!(dispatch.parting.is_none(), "nobody was outrun");
}

fn choice(n: u8, cost: f64, price: u64) -> Choice {
    let now_ms = now_ms();
    let known = KnownOffer {
        provider: key(n).node_id(),
        offer: Arc::new(offer(1, now_ms)),
        load: Load::default(),
        heard_ms: now_ms,
    };
    let reasons = Reasons {
        round_trip_ms: 1.0,
        round_trip_by: RoundTripBy::Measured,
        distance_km: 0.0,
        queue_ms: 0.0,
        prefill_ms: 0.0,
        generate_ms: cost,
        price: MicroCredits(price),
        failures: 0.0,
        lateness: 0.0,
        speed_seen: false,
        quality: Quality::default(),
    };
    Choice {
        found: Found { known, distance_km: 0.0 },
        model: model_offer(),
        ranked: Ranked { index: 0, cost, reasons, excluded: None },
        trust: crate::trust::Standing::default(),
    }
}

#[tokio::test]
async fn a_second_one_is_asked_where_it_is_near_and_both_are_within_the_ceiling() {
    let node = Node::start().await;
    let deal = Deal::new(|_, _| {});
    let most = deal.quote.max_total.0;
    let due = |wishes: Wishes, change: &dyn Fn(&mut Dispatch<'_>)| {
        let (mut dispatch, _listener) = dispatch(&node, wishes);
        dispatch.ranked = vec![choice(2, 1_000.0, 10), choice(5, 1_500.0, 10)];
        change(&mut dispatch);
        let about = about(&dispatch, &deal);
        match dispatch.second(&about) {
            Second::Due(due) => Some(due.duration_since(about.began)),
            _ => None,
        }
    };
    let none = |_: &mut Dispatch<'_>| {};
    // A stranger's first token is late after four times what was predicted and the bound of the class.
    assert_eq!(due(Wishes::default(), &none), Some(Duration::from_millis(2_001)));
    let priced = |max_price| Wishes { max_price: Some(MicroCredits(max_price)), ..Wishes::default() };
    assert!(due(priced(most + 10), &none).is_some());
    assert!(due(priced(most + 9), &none).is_none(), "not both");
    assert!(due(priced(most + 10), &|dispatch| dispatch.paid = MicroCredits(1)).is_none());
    let named = Wishes { provider: Some(deal.provider_id()), ..Wishes::default() };
    assert!(due(named, &none).is_none());
    let cheapest = Wishes { policy: Some(Preference::Cost), ..Wishes::default() };
    assert!(due(cheapest, &none).is_none());
    assert!(due(Wishes::default(), &|dispatch| dispatch.hedged = true).is_none(), "one a job");
    assert!(due(Wishes::default(), &|dispatch| dispatch.spec.prefix = vec![1]).is_none(), "in mid-answer");
    let others: [&dyn Fn(&mut Dispatch<'_>); 4] = [
        &|dispatch| dispatch.ranked = vec![choice(2, 1_000.0, 10)],
        &|dispatch| dispatch.ranked[1] = choice(5, 3_001.0, 10),
        &|dispatch| dispatch.failed.push(key(5).node_id()),
        &|dispatch| dispatch.declined.push((key(5).node_id(), "full".to_owned())),
    ];
    for change in others {
        assert!(due(Wishes::default(), change).is_none());
    }
}

#[tokio::test]
async fn what_a_provider_that_was_let_go_may_cost_counts_until_its_account_is_known() {
    let node = Node::start().await;
    let wishes = Wishes { max_price: Some(MicroCredits(1_000)), ..Wishes::default() };
    let (mut dispatch, mut listener) = dispatch(&node, wishes);
    let parting = |account| {
        let (provider, by) = (key(2).node_id(), key(5).node_id());
        Some(Parting { provider, by, most: MicroCredits(600), account })
    };
    let (tell, account) = oneshot::channel();
    dispatch.parting = parting(account);
    assert_eq!(dispatch.ceiling(), Some(MicroCredits(400)));
    tell.send(Cost { paid: MicroCredits(50), reserved: MicroCredits(7) }).unwrap();
    dispatch.last_account().await;
    assert_eq!((dispatch.ceiling(), dispatch.paid), (Some(MicroCredits(943)), MicroCredits(50)));
    // One whose task was lost may cost all of it.
    dispatch.parting = parting(oneshot::channel().1);
    dispatch.last_account().await;
    assert_eq!((dispatch.ceiling(), dispatch.paid), (Some(MicroCredits(343)), MicroCredits(50)));
    let told = all(&mut listener);
    assert!(matches!(told[..], [JobUpdate::Outrun { .. }, JobUpdate::Outrun { reserved: MicroCredits(600), .. }]));
}

#[tokio::test]
async fn whoever_is_late_and_deaf_has_failed() {
    let node = Node::start().await;
    let deal = Deal::new(|_, _| {});
    let (dispatch, _listener) = dispatch(&node, Wishes::default());
    let (about, shared) = (about(&dispatch, &deal), &node.shared);
    let second = Duration::from_secs(1);
    for (patience, failures) in [(None, 0.0), (Some(second), 0.0), (Some(Duration::ZERO), 0.5)] {
        let mut report = super::super::tests::left_after(0);
        report.ended = crate::routing::attempt::Ended::Cancelled;
        let cost = trying::outrun(shared, &about, &Tried::Ran(Box::new(report)), second, patience);
        assert_eq!(cost, Cost { paid: MicroCredits(700), reserved: MicroCredits(200) });
        let share = shared.experience.failures(&about.provider, now_ms());
        assert!((share - failures).abs() < 0.01, "{share} after {patience:?}");
    }
}
