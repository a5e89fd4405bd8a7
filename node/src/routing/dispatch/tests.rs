use super::*;
use crate::routing::{
    fixtures::{Node, key, spec},
    quotes::NoQuote,
};

fn dispatch(node: &Node, max_price: Option<u64>) -> (Dispatch<'_>, mpsc::Receiver<JobUpdate>) {
    let (updates, listener) = mpsc::channel(64);
    let wishes = Wishes { max_price: max_price.map(MicroCredits), ..Wishes::default() };
    let request = JobRequest { spec: spec(), wishes };
    (Dispatch::new(&node.shared, JobId([3; 16]), request, updates, Instant::now()), listener)
}

/// The report of a provider that left after `count` tokens.
pub(super) fn left_after(count: u32) -> Report {
    Report {
        ended: Ended::Broken { reason: "it left".to_owned(), stalled: false, receipted: false },
        count,
        tokens: (0..count).collect(),
        has_ids: true,
        delivered: count > 0,
        paid: MicroCredits(700),
        reserved: MicroCredits(200),
        tail: " held back".to_owned(),
        first_piece: None,
        answer: None,
        settled: false,
        served: None,
        evidence: None,
    }
}

fn shown(listener: &mut mpsc::Receiver<JobUpdate>) -> String {
    let mut shown = String::new();
    while let Ok(update) = listener.try_recv() {
        if let JobUpdate::Delta { text, .. } = update {
            shown.push_str(&text);
        }
    }
    shown
}

#[tokio::test]
async fn text_held_back_is_shown_where_nobody_says_it_again() {
    let node = Node::start().await;
    let (mut dispatch, mut listener) = dispatch(&node, None);
    let provider = key(2).node_id();
    let flow = dispatch.take_report(provider, left_after(100), Digest([7; 32])).await;
    assert!(matches!(flow, Flow::Next), "{flow:?}");
    assert_eq!(shown(&mut listener), "", "the next provider says it again");
    let rest = spec().max_tokens - 100;
    let flow = dispatch.take_report(provider, left_after(rest), Digest([7; 32])).await;
    assert!(
        matches!(flow, Flow::Done(End::Answered { finish: Finish::Length, place: Place::Network })),
        "all tokens are there: {flow:?}"
    );
    assert_eq!(shown(&mut listener), " held back");
    assert_eq!(dispatch.count, spec().max_tokens);
}

#[tokio::test]
async fn what_settling_may_still_cost_counts_towards_the_ceiling() {
    let node = Node::start().await;
    let (mut dispatch, _listener) = dispatch(&node, Some(1_000));
    assert_eq!(dispatch.ceiling(), Some(MicroCredits(1_000)));
    dispatch.take_report(key(2).node_id(), left_after(10), Digest([7; 32])).await;
    assert_eq!(dispatch.ceiling(), Some(MicroCredits(100)));
    assert_eq!(dispatch.paid, MicroCredits(700));
    dispatch.take_report(key(3).node_id(), left_after(10), Digest([7; 32])).await;
    assert_eq!(dispatch.ceiling(), Some(MicroCredits::ZERO));
}

#[tokio::test]
async fn a_job_that_the_end_of_this_node_cuts_off_says_so() {
    let node = Node::start().await;
    let (dispatch, _listener) = dispatch(&node, None);
    assert!(matches!(dispatch.interrupted(), End::Cancelled), "whoever asked has left");
    node.shared.stop.cancel();
    let end = dispatch.interrupted();
    assert!(
        matches!(&end, End::Failed(JobFailure::Failed { message }) if message.contains("stopping")),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_provider_that_asks_for_its_money_is_settled_with() {
    let node = Node::start().await;
    let (mut dispatch, _listener) = dispatch(&node, None);
    let owing = Rejection::Debt(MicroCredits(5));
    dispatch.lose(key(2).node_id(), &NoQuote::Rejected(owing.clone()));
    let report = Report { ended: Ended::Refused(owing), ..left_after(0) };
    dispatch.take_report(key(3).node_id(), report, Digest([7; 32])).await;
    let expected = HashSet::from([key(2).node_id(), key(3).node_id()]);
    assert_eq!(node.shared.settle.take_creditors(), expected);
}
