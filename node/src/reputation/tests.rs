use super::*;
use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, MicroCredits, Signed,
    evidence::{Fault, Slashed},
    job::Finish,
    qos::{Tier, UNIT, Unrated},
};

const NOW: u64 = 1_800_000_000_000;

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn job(n: u8, total: u64, latency: u32) -> OwnJob {
    OwnJob { job: Digest([n; 32]), total, latency: Some(latency), verified: None }
}

fn tell(reputation: &Reputation, author: u8, n: u8, first_token_ms: u32, now_ms: u64) -> bool {
    let served =
        Served { client: node(author), receipt: Digest([n; 32]), total: MicroCredits(1_000), ended_ms: now_ms };
    let said = Observation {
        served: Signed::from_parts(node(1), [0; 64], Vec::new()),
        first_token_ms: Some(first_token_ms),
        speed: None,
        total_ms: 60_000,
        finish: Finish::Stop,
        verified: None,
        uptime: Some(Uptime { heard: 9, of: 10 }),
        issued_ms: now_ms,
    };
    reputation.take(node(1), node(author), &said, &served)
}

#[test]
fn own_jobs_and_heartbeats_make_a_rating_and_a_day_later_there_is_none() {
    let reputation = Reputation::new(node(9));
    let provider = node(1);
    for slot in 0..10 {
        let now = NOW + slot * 120_000;
        reputation.listen(now);
        reputation.heartbeat(provider, now);
    }
    let now = NOW + 10 * 120_000;
    reputation.job(provider, job(1, 500, ONE), now);
    reputation.job(provider, job(2, 500, 800_000), now);
    let report = reputation.report(provider, Beside::default(), now);
    assert_eq!(report.rating.unrated, Some(Unrated::Jobs { have: 2, least: 3 }));
    reputation.job(provider, job(3, 500, 0), now);
    let report = reputation.report(provider, Beside::default(), now);
    // The median of the three, and all of the time: (0.3 x 0.8 + 0.2) / 0.5.
    assert_eq!((report.rating.score, report.rating.tier), (Some(880_000), Tier::Gold));
    assert_eq!(report.heard, Some(Uptime { heard: 10, of: 10 }));
    assert_eq!(report.job, 500);
    let quality = reputation.quality(provider, Beside::default, now);
    assert_eq!(quality, Quality { score: Some(880_000), tier: Tier::Gold, slashed: None });
    reputation.verified(provider, false, now);
    let worse = reputation.report(provider, Beside::default(), now);
    assert_eq!(worse.rating.parts[1].value, Some(0));
    assert_eq!(reputation.last_verified(&provider, now), Some(false));
    let later = now + WINDOW_MS;
    reputation.refresh(BTreeMap::new(), later);
    assert!(reputation.providers().is_empty());
    assert_eq!(reputation.quality(provider, Beside::default, later), Quality::default());
    assert_eq!(reputation.last_verified(&provider, later), None);
}

#[test]
fn others_count_by_what_was_settled_with_them_and_strangers_as_one_job() {
    let reputation = Reputation::new(node(9));
    let provider = node(1);
    reputation.job(node(2), job(1, 1_000, ONE), NOW);
    reputation.refresh(BTreeMap::from([(node(3), 50_000)]), NOW);
    for n in 0..5 {
        assert!(tell(&reputation, 3, n, 100, NOW));
        assert!(tell(&reputation, 20 + n, 100 + n, 60_000, NOW));
    }
    assert!(!tell(&reputation, 3, 0, 60_000, NOW), "one job is told of once");
    let report = reputation.report(provider, Beside::default(), NOW);
    let weights: Vec<u64> = report.witnesses.iter().map(|witness| witness.weight).collect();
    assert_eq!(weights, [5_000 * UNIT, 200 * UNIT, 200 * UNIT, 200 * UNIT, 200 * UNIT, 200 * UNIT]);
    assert_eq!(report.witnesses[0].through, Through::Direct);
    assert_eq!((report.rating.jobs, report.rating.parts[0].value), (6, Some(ONE)));
    assert_eq!(report.rating.tier, Tier::Platinum, "{report:?}");
    assert!(reputation.has_settled_with(&node(3)) && !reputation.has_settled_with(&node(20)));
}

#[test]
fn what_i_said_myself_is_not_counted_twice() {
    let reputation = Reputation::new(node(9));
    assert!(tell(&reputation, 9, 1, 100, NOW));
    assert!(reputation.report(node(1), Beside::default(), NOW).witnesses.is_empty());
    assert!(reputation.knows(&Digest([1; 32])) && !reputation.knows(&Digest([2; 32])));
}

#[test]
fn own_memory_is_bounded() {
    let reputation = Reputation::new(node(9));
    for n in 0..MAX_PROVIDERS as u64 + 20 {
        let mut id = [7; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        reputation.job(NodeId(id), job(1, 1, ONE), NOW + n);
    }
    assert_eq!(reputation.providers().len(), MAX_PROVIDERS);
    for n in 0..200 {
        reputation.job(node(1), job(n, 1, ONE), NOW + 10_000);
    }
    let own = reputation.report(node(1), Beside::default(), NOW + 10_000).own.unwrap();
    assert_eq!(own.jobs as usize, MAX_JOBS);
}

#[test]
fn a_fault_costs_jobs_score_and_trust_for_its_time() {
    let (reputation, provider) = (Reputation::new(node(9)), node(1));
    for n in 0..3 {
        reputation.job(provider, job(n, 500, ONE), NOW);
    }
    let beside = || Beside { power: Some(ONE), cost: Some(ONE) };
    assert_eq!(reputation.quality(provider, beside, NOW).score, Some(ONE));
    assert!(reputation.convict(provider, Fault::Quote, Some(NOW), NOW));
    let again = reputation.convict(provider, Fault::Quote, Some(NOW + 5), NOW + 5);
    assert!(!again, "it is known, and its time does not begin anew");
    let until_ms = NOW + Fault::Quote.penalty().excluded_ms;
    let quality = reputation.quality(provider, beside, NOW);
    assert_eq!(quality.slashed, Some(Slashed { fault: Fault::Quote, until_ms }));
    assert_eq!((quality.score, quality.tier), (Some(ONE / 2), Tier::Silver));
    assert_eq!(reputation.most_trust(&provider, NOW), Some(aitbc_protocol::attestation::Tier::Warning));
    assert!(reputation.convict(provider, Fault::Receipts, Some(NOW), NOW));
    let quality = reputation.quality(provider, beside, NOW);
    assert_eq!(quality.slashed.unwrap().fault, Fault::Receipts, "what stands longest");
    assert_eq!(quality.score, Some(0));
    let later = NOW + Fault::Receipts.penalty().excluded_ms;
    assert_eq!(reputation.quality(provider, beside, later).slashed, None);
    assert_eq!(reputation.most_trust(&provider, later), None);
    let report = reputation.report(provider, beside(), later);
    assert_eq!(report.faults.iter().map(|known| known.stands).collect::<Vec<_>>(), [false, false]);
}

#[test]
fn a_fault_costs_again_what_was_done_again_and_never_twice_what_was_done_once() {
    let (reputation, provider) = (Reputation::new(node(9)), node(1));
    let over = NOW + Fault::Quote.penalty().excluded_ms;
    assert!(reputation.convict(provider, Fault::Quote, Some(NOW), NOW));
    assert!(!reputation.convict(provider, Fault::Quote, Some(NOW), over), "the same once more");
    let since = NOW + CLOCK_TOLERANCE_MS + 1;
    assert!(!reputation.would_convict(&provider, Fault::Quote, Some(since), over - 1), "the first still stands");
    assert!(reputation.would_convict(&provider, Fault::Quote, Some(since), over));
    assert!(reputation.convict(provider, Fault::Quote, Some(since), over));
    let until_ms = over + Fault::Quote.penalty().excluded_ms;
    assert_eq!(reputation.slashed(&provider, over), Some(Slashed { fault: Fault::Quote, until_ms }));
    // Statements without a date count once.
    let over = NOW + Fault::Cheques.penalty().excluded_ms;
    assert!(reputation.convict(provider, Fault::Cheques, None, NOW));
    assert!(!reputation.convict(provider, Fault::Cheques, None, over));
}

#[test]
fn whoever_accuses_thousands_of_its_own_keys_hides_no_other_fault() {
    let (reputation, partner) = (Reputation::new(node(9)), node(1));
    reputation.job(partner, job(1, 500, ONE), NOW);
    assert!(reputation.convict(partner, Fault::Receipts, Some(NOW), NOW));
    let invented = |n: u64| {
        let mut id = [7; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        NodeId(id)
    };
    for n in 0..faults::MAX_CONVICTED as u64 + 10 {
        assert!(reputation.convict(invented(n), Fault::Offers, Some(NOW), NOW + n), "{n}");
    }
    assert!(reputation.slashed(&partner, NOW).is_some(), "this node had a job with it");
    assert_eq!(reputation.slashed(&invented(0), NOW), None, "the first of the strangers gave way");
    assert!(reputation.convict(node(2), Fault::Receipts, Some(NOW), NOW + 100_000));
}

#[test]
fn the_word_of_who_is_convicted_counts_for_nothing() {
    let reputation = Reputation::new(node(9));
    reputation.refresh(BTreeMap::from([(node(3), 50_000)]), NOW);
    assert!(tell(&reputation, 3, 1, 100, NOW));
    assert_eq!(reputation.report(node(1), Beside::default(), NOW).witnesses.len(), 1);
    assert!(reputation.convict(node(3), Fault::Cheques, None, NOW));
    assert!(reputation.report(node(1), Beside::default(), NOW).witnesses.is_empty());
}
