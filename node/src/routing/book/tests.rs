use super::{hearing::RACE_MS, *};
use crate::{
    network::Verdict,
    routing::fixtures::{key, network, offer, paris},
};
use aitbc_crypto::{SecretKey, seal};
use aitbc_protocol::{
    attestation::exchange::Revoke, envelope::NetworkId, gossip::Gossip, offer::OFFER_LIFETIME_MS, text::Line, wire,
};
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000_000;

fn book() -> Book {
    Book::new(network(), paris(), [])
}

fn home() -> Cell {
    Cell::at(&paris(), 4)
}

fn gossip_offer(key: &SecretKey, offer: &Offer) -> Vec<u8> {
    let signed = seal(key, &network(), offer).expect("an offer of usual size");
    wire::encode(&Gossip::Offer(signed), wire::MAX_GOSSIP_BYTES).expect("an offer of usual size")
}

fn gossip_beat(key: &SecretKey, offer: u64, issued_ms: u64) -> Vec<u8> {
    let beat = Heartbeat { offer, issued_ms, running: 1, queued: 0 };
    let signed = seal(key, &network(), &beat).expect("a heartbeat");
    wire::encode(&Gossip::Heartbeat(signed), wire::MAX_GOSSIP_BYTES).expect("a heartbeat")
}

fn live(book: &Book, now_ms: u64) -> Vec<NodeId> {
    book.lines(now_ms).filter(|line| line.live).map(|line| line.known.provider).collect()
}

#[test]
fn what_is_accepted_ignored_and_rejected() {
    type Message = fn() -> (Cell, Vec<u8>);
    let cases: [(&str, Message, Verdict); 19] = [
        ("a newer offer", || (home(), gossip_offer(&key(2), &offer(11, NOW))), Verdict::Accept),
        ("on a coarser topic", || (home().coarsened(2), gossip_offer(&key(2), &offer(11, NOW))), Verdict::Accept),
        ("of a stranger", || (home(), gossip_offer(&key(3), &offer(1, NOW))), Verdict::Accept),
        ("the same again", || (home(), gossip_offer(&key(2), &offer(10, NOW - 1_000))), Verdict::Ignore),
        ("an older one, overtaken", || (home(), gossip_offer(&key(2), &offer(9, NOW - 2_000))), Verdict::Ignore),
        ("another with the same number", || (home(), gossip_offer(&key(2), &offer(10, NOW))), Verdict::Ignore),
        ("future-dated", || (home(), gossip_offer(&key(3), &offer(1, NOW + 30_001))), Verdict::Reject),
        (
            "as early as clocks may differ",
            || (home(), gossip_offer(&key(3), &offer(1, NOW + 30_000))),
            Verdict::Accept,
        ),
        (
            "long expired",
            || (home(), gossip_offer(&key(3), &offer(1, NOW - OFFER_LIFETIME_MS - 30_000))),
            Verdict::Reject,
        ),
        (
            "just expired",
            || (home(), gossip_offer(&key(3), &offer(1, NOW - OFFER_LIFETIME_MS - 1_000))),
            Verdict::Ignore,
        ),
        (
            "valid for too long",
            || {
                let long = Offer { expires_ms: NOW + OFFER_LIFETIME_MS + 1, ..offer(1, NOW) };
                (home(), gossip_offer(&key(3), &long))
            },
            Verdict::Reject,
        ),
        (
            "without models",
            || (home(), gossip_offer(&key(3), &Offer { models: Vec::new(), ..offer(1, NOW) })),
            Verdict::Reject,
        ),
        (
            "on the topic of another cell",
            || {
                let london = aitbc_protocol::geo::Location::new(51.5, -0.1).expect("in range");
                (Cell::at(&london, 4), gossip_offer(&key(3), &offer(1, NOW)))
            },
            Verdict::Reject,
        ),
        (
            "signed for another network",
            || {
                let other = NetworkId::new("other").expect("a valid name");
                let signed = seal(&key(3), &other, &offer(1, NOW)).expect("an offer");
                (home(), wire::encode(&Gossip::Offer(signed), wire::MAX_GOSSIP_BYTES).expect("an offer"))
            },
            Verdict::Reject,
        ),
        (
            "mis-signed",
            || {
                let signed = seal(&key(3), &network(), &offer(1, NOW)).expect("an offer");
                let forged = Signed::from_parts(key(4).node_id(), *signed.signature(), signed.payload().to_vec());
                (home(), wire::encode(&Gossip::Offer(forged), wire::MAX_GOSSIP_BYTES).expect("an offer"))
            },
            Verdict::Reject,
        ),
        ("oversized", || (home(), vec![1; wire::MAX_GOSSIP_BYTES + 1]), Verdict::Reject),
        ("malformed", || (home(), vec![1, 0xa1, 0xff]), Verdict::Reject),
        ("empty", || (home(), Vec::new()), Verdict::Reject),
        (
            "of another version",
            || {
                let mut bytes = gossip_offer(&key(3), &offer(1, NOW));
                bytes[0] = 9;
                (home(), bytes)
            },
            Verdict::Reject,
        ),
    ];
    for (name, message, verdict) in cases {
        let mut book = book();
        let heard = book.hear(home(), &gossip_offer(&key(2), &offer(10, NOW - 1_000)), NOW - 1_000);
        assert_eq!(heard.verdict, Verdict::Accept, "{name}");
        let (topic, bytes) = message();
        assert_eq!(book.hear(topic, &bytes, NOW).verdict, verdict, "{name}");
    }
}

#[test]
fn heartbeats_that_are_accepted_ignored_and_rejected() {
    type Message = fn() -> (Cell, Vec<u8>);
    let cases: [(&str, Message, Verdict, bool); 10] = [
        ("newer", || (home(), gossip_beat(&key(2), 10, NOW)), Verdict::Accept, false),
        ("again", || (home(), gossip_beat(&key(2), 10, NOW - 500)), Verdict::Ignore, false),
        ("older", || (home(), gossip_beat(&key(2), 10, NOW - 700)), Verdict::Ignore, false),
        ("of an older offer", || (home(), gossip_beat(&key(2), 9, NOW)), Verdict::Ignore, false),
        ("of an offer that is missing here", || (home(), gossip_beat(&key(2), 11, NOW)), Verdict::Ignore, true),
        ("of a stranger", || (home(), gossip_beat(&key(3), 1, NOW)), Verdict::Ignore, true),
        ("future-dated", || (home(), gossip_beat(&key(2), 10, NOW + 30_001)), Verdict::Reject, false),
        ("minutes old", || (home(), gossip_beat(&key(2), 10, NOW - 120_001)), Verdict::Reject, false),
        ("on a coarse topic", || (home().coarsened(3), gossip_beat(&key(2), 10, NOW)), Verdict::Reject, false),
        (
            "mis-signed",
            || {
                let mut bytes = gossip_beat(&key(2), 10, NOW);
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                (home(), bytes)
            },
            Verdict::Reject,
            false,
        ),
    ];
    for (name, message, verdict, wanted) in cases {
        let mut book = book();
        book.hear(home(), &gossip_offer(&key(2), &offer(10, NOW - 1_000)), NOW - 1_000);
        book.hear(home(), &gossip_beat(&key(2), 10, NOW - 500), NOW - 500);
        let (topic, bytes) = message();
        let heard = book.hear(topic, &bytes, NOW);
        assert_eq!((heard.verdict, heard.wanted.is_some()), (verdict, wanted), "{name}");
    }
}

#[test]
fn a_provider_is_gone_ninety_seconds_after_its_last_sign_of_life() {
    let mut book = book();
    let provider = key(2).node_id();
    book.take_moved();
    book.hear(home(), &gossip_offer(&key(2), &offer(10, NOW)), NOW);
    assert_eq!(live(&book, NOW + 89_999), [provider]);
    assert!(live(&book, NOW + 90_000).is_empty());
    book.hear(home(), &gossip_beat(&key(2), 10, NOW + 60_000), NOW + 60_000);
    assert_eq!(live(&book, NOW + 149_999), [provider]);
    book.expire(NOW + 149_000);
    assert!(book.expire(NOW + 150_000), "its silence is news");
    assert!(!book.expire(NOW + 151_000), "and only once");
    book.hear(home(), &gossip_beat(&key(2), 10, NOW + 200_000), NOW + 200_000);
    assert!(!book.expire(NOW + 289_999), "it is heard again");
    assert!(book.expire(NOW + 290_000), "and is silent again");
    assert!(book.take_moved(), "somebody came");
    assert!(!book.take_moved(), "and nobody since");
    assert_eq!(book.lines(NOW + 150_000).count(), 1, "silent, but its offer stands");
    assert!(book.expire(NOW + OFFER_LIFETIME_MS));
    assert_eq!(book.lines(NOW + OFFER_LIFETIME_MS).count(), 0);
    assert!(book.take_moved(), "it is forgotten");
}

#[test]
fn whoever_moves_or_is_caught_has_moved() {
    let mut book = book();
    book.hear(home(), &gossip_offer(&key(2), &offer(10, NOW)), NOW);
    assert!(book.take_moved());
    book.hear(home(), &gossip_offer(&key(2), &offer(11, NOW)), NOW);
    assert!(!book.take_moved(), "it is where it was");
    let next_door = home().neighbours().first().copied().expect("a neighbour");
    let moved = Offer { cell: next_door, ..offer(12, NOW) };
    book.hear(next_door, &gossip_offer(&key(2), &moved), NOW);
    assert!(book.take_moved());
    let other = Offer { slots: 1, ..moved };
    book.hear(next_door, &gossip_offer(&key(2), &other), NOW);
    assert!(book.take_moved(), "it told people different things");
}

/// What happens to a book, to one of three providers.
#[derive(Clone, Debug)]
enum Step {
    Offer { of: u8, lifetime_ms: u64, itself: bool },
    Again { of: u8 },
    Beat { of: u8, late_ms: u64 },
    Silence { of: u8 },
    Nothing,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let of = || 1..4_u8;
    let step = prop_oneof![
        (of(), 1_000..OFFER_LIFETIME_MS, any::<bool>()).prop_map(|(of, lifetime_ms, itself)| Step::Offer {
            of,
            lifetime_ms,
            itself
        }),
        of().prop_map(|of| Step::Again { of }),
        (of(), 0..100_000_u64).prop_map(|(of, late_ms)| Step::Beat { of, late_ms }),
        of().prop_map(|of| Step::Silence { of }),
        Just(Step::Nothing),
    ];
    proptest::collection::vec((0..120_000_u64, step), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Looking only when somebody is due finds what looking every time does.
    #[test]
    fn nobody_is_missed_who_goes(steps in steps()) {
        let (mut lazy, mut eager) = (book(), book());
        let mut now_ms = NOW;
        let mut newest = std::collections::BTreeMap::<u8, Offer>::new();
        for (number, (pause_ms, step)) in steps.into_iter().enumerate() {
            now_ms += pause_ms;
            for book in [&mut lazy, &mut eager] {
                let taken = |book: &mut Book, of: u8, offer: &Offer, source| {
                    let signed = seal(&key(of), &network(), offer).expect("an offer of usual size");
                    let _ = book.take(VerifiedOffer::open(signed, &network()).expect("signed"), source, now_ms);
                };
                match &step {
                    Step::Offer { of, lifetime_ms, itself } => {
                        let expires_ms = now_ms + lifetime_ms;
                        let offer = Offer { expires_ms, ..offer(number as u64 + 1, now_ms) };
                        let source = if *itself { Source::Provider } else { Source::Gossip };
                        taken(book, *of, &offer, source);
                        newest.insert(*of, offer);
                    }
                    Step::Again { of } => {
                        if let Some(offer) = newest.get(of) {
                            taken(book, *of, offer, Source::Provider);
                        }
                    }
                    Step::Beat { of, late_ms } => {
                        if let Some(offer) = newest.get(of) {
                            book.hear(home(), &gossip_beat(&key(*of), offer.sequence, now_ms - late_ms), now_ms);
                        }
                    }
                    Step::Silence { of } => {
                        book.silence(&key(*of).node_id());
                    }
                    Step::Nothing => {}
                }
            }
            eager.due_ms = 0;
            prop_assert_eq!(lazy.expire(now_ms), eager.expire(now_ms));
            prop_assert_eq!(lazy.take_moved(), eager.take_moved());
            prop_assert_eq!(lazy.entries.len(), eager.entries.len());
        }
    }
}

#[test]
fn a_replay_is_no_sign_of_life_but_the_provider_itself_is() {
    let mut book = book();
    let bytes = gossip_offer(&key(2), &offer(10, NOW));
    book.hear(home(), &bytes, NOW);
    book.hear(home(), &bytes, NOW + 80_000);
    assert!(live(&book, NOW + 95_000).is_empty());
    let old = gossip_offer(&key(3), &offer(1, NOW));
    assert_eq!(book.hear(home(), &old, NOW + 100_000).verdict, Verdict::Accept);
    assert!(live(&book, NOW + 100_000).is_empty(), "an offer of old date proves no life now");
    let signed = seal(&key(2), &network(), &offer(10, NOW)).expect("an offer");
    let verified = VerifiedOffer::open(signed, &network()).expect("a good signature");
    assert_eq!(book.take(verified, Source::Provider, NOW + 100_000), Ok(true));
    assert_eq!(live(&book, NOW + 100_000), [key(2).node_id()]);
}

#[test]
fn replays_long_after_cost_the_forwarder() {
    let mut book = book();
    let old = gossip_offer(&key(2), &offer(9, NOW - 5_000));
    book.hear(home(), &gossip_offer(&key(2), &offer(10, NOW)), NOW);
    assert_eq!(book.hear(home(), &old, NOW + RACE_MS - 1).verdict, Verdict::Ignore);
    assert_eq!(book.hear(home(), &old, NOW + RACE_MS).verdict, Verdict::Reject);
}

#[test]
fn two_offers_with_one_number_are_kept_as_evidence() {
    let mut book = book();
    let first = offer(10, NOW);
    let second = Offer { slots: 99, ..offer(10, NOW) };
    book.hear(home(), &gossip_offer(&key(2), &first), NOW);
    let heard = book.hear(home(), &gossip_offer(&key(2), &second), NOW);
    assert!(heard.changed && heard.verdict == Verdict::Ignore);
    let evidence = book.take_evidence();
    assert_eq!(evidence.len(), 1);
    assert_eq!(aitbc_crypto::open(&evidence[0].first, &network()).ok(), Some(first));
    assert_eq!(aitbc_crypto::open(&evidence[0].second, &network()).ok(), Some(second));
    assert_eq!(book.lines(NOW).count(), 0, "no candidate any more");
    let later = book.hear(home(), &gossip_offer(&key(2), &offer(11, NOW)), NOW);
    assert_eq!((later.verdict, book.lines(NOW).count()), (Verdict::Ignore, 0), "and for long none");
    assert!(book.take_evidence().is_empty(), "one proof is enough");
    let mut restarted = Book::new(network(), paris(), [(key(2).node_id(), NOW + 1_000)]);
    restarted.hear(home(), &gossip_offer(&key(2), &offer(12, NOW)), NOW);
    assert_eq!(restarted.lines(NOW).count(), 0, "over restarts too");
    let over = NOW + 1_000;
    restarted.hear(home(), &gossip_offer(&key(2), &offer(12, NOW)), over);
    assert_eq!(restarted.lines(over).count(), 1, "until its time is over");
}

#[test]
fn one_provider_cannot_keep_the_book_busy() {
    let mut book = book();
    let accepted = (0..100)
        .filter(|n| book.hear(home(), &gossip_offer(&key(2), &offer(10 + n, NOW)), NOW).verdict == Verdict::Accept)
        .count();
    assert!(accepted <= 8, "{accepted} offers at once");
}

#[test]
fn a_full_book_prefers_the_near() {
    let mut book = book();
    let sydney = Cell::at(&aitbc_protocol::geo::Location::new(-33.87, 151.21).expect("in range"), 4);
    for n in 0..MAX_OFFERS as u32 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        let signed = Signed::from_parts(NodeId(id), [0; 64], Vec::new());
        let verified = VerifiedOffer { signed, offer: Arc::new(Offer { cell: sydney, ..offer(1, NOW) }) };
        assert_eq!(book.take(verified, Source::Provider, NOW), Ok(true));
    }
    book.hear(home(), &gossip_offer(&key(2), &offer(1, NOW)), NOW);
    assert_eq!(book.lines(NOW).count(), MAX_OFFERS);
    assert!(book.lines(NOW).any(|line| line.known.provider == key(2).node_id()), "Paris came in");
    let far = Offer { cell: sydney, ..offer(1, NOW) };
    let heard = book.hear(sydney, &gossip_offer(&key(3), &far), NOW);
    assert_eq!(heard.verdict, Verdict::Accept, "good for others");
    assert!(
        !book.lines(NOW).any(|line| line.known.provider == key(3).node_id()),
        "no room for one more so far away"
    );
}

#[test]
fn others_are_told_of_the_nearest_cells_first_and_of_no_more_than_fits() {
    let mut book = book();
    let place = |latitude, longitude| {
        Cell::at(&aitbc_protocol::geo::Location::new(latitude, longitude).expect("in range"), 4)
    };
    let (lille, sydney) = (place(50.63, 3.06), place(-33.87, 151.21));
    for n in 0..60 {
        let cell = if n < 20 { home() } else { lille };
        book.hear(cell, &gossip_offer(&key(n), &Offer { cell, ..offer(1, NOW) }), NOW);
    }
    book.hear(home(), &gossip_beat(&key(3), 1, NOW + 500), NOW + 500);
    book.hear(sydney, &gossip_offer(&key(60), &Offer { cell: sydney, ..offer(1, NOW) }), NOW);
    let near = [home(), home().coarsened(2), lille.coarsened(2)];
    let told = book.near(&near, &key(0).node_id(), NOW + 1_000);
    assert_eq!(told.len(), MAX_KNOWN);
    let signers: Vec<NodeId> = told.iter().map(|statements| statements.offer.signer()).collect();
    assert_eq!(signers[0], key(3).node_id(), "heard last");
    assert!(told[0].heartbeat.is_some());
    assert!((1..20).all(|n| signers[..19].contains(&key(n).node_id())), "Paris before Lille");
    assert!(!signers.contains(&key(0).node_id()), "not of the asker itself");
    let reply = aitbc_protocol::offer::OfferReply { own: Some(told[0].clone()), known: told };
    wire::encode(&reply, wire::MAX_OFFER_FRAME).expect("fits a frame");
    assert!(
        book.near(&near, &key(0).node_id(), NOW + OFFER_LIFETIME_MS).is_empty(),
        "what has expired is not told"
    );
}

#[test]
fn an_answer_fits_its_frame_whatever_offers_are_known() {
    let mut book = book();
    let long = |n: usize| Line::<96>::new("x".repeat(n)).expect("a line");
    for n in 0..40 {
        let device = aitbc_protocol::offer::Device { name: long(96), ..crate::routing::fixtures::device() };
        let model = aitbc_protocol::offer::ModelOffer { device, ..crate::routing::fixtures::model_offer() };
        let large = Offer { models: vec![model; 32], ..offer(1, NOW) };
        book.hear(home(), &gossip_offer(&key(n), &large), NOW);
    }
    let told = book.near(&[home()], &key(99).node_id(), NOW);
    assert!((1..MAX_KNOWN).contains(&told.len()), "{}", told.len());
    let own = Signed::from_parts(key(1).node_id(), [0; 64], vec![0; Offer::MAX_BYTES]);
    let reply = aitbc_protocol::offer::OfferReply {
        own: Some(Statements { offer: own, heartbeat: told[0].heartbeat.clone() }),
        known: told,
    };
    wire::encode(&reply, wire::MAX_OFFER_FRAME).expect("fits a frame");
}

#[test]
fn an_offer_shows_only_what_others_have_signed_about_its_provider() {
    use aitbc_protocol::gpu::challenge::exchange::Shown;
    let (provider, other) = (key(2), key(3));
    let verdict = |signer: &SecretKey, prover: NodeId, network: &NetworkId| {
        let shown = Shown {
            prover,
            device: Line::lossy("a card"),
            bytes: 1,
            rate: 1,
            simulated: false,
            issued_ms: NOW,
            expires_ms: NOW + 1,
        };
        let shown = vec![seal(signer, network, &shown).expect("it fits")];
        book().hear(home(), &gossip_offer(&provider, &Offer { shown, ..offer(1, NOW) }), NOW).verdict
    };
    let about = provider.node_id();
    assert_eq!(verdict(&other, about, &network()), Verdict::Accept);
    assert_eq!(verdict(&provider, about, &network()), Verdict::Reject, "its own word");
    assert_eq!(verdict(&other, other.node_id(), &network()), Verdict::Reject, "about somebody else");
    let elsewhere = NetworkId::new("elsewhere").expect("a name");
    assert_eq!(verdict(&other, about, &elsewhere), Verdict::Reject, "of another network");
}

fn gossip_revoke(signer: u8, peer: u8, issued_ms: u64) -> Vec<u8> {
    let revoke = Revoke { peer: key(peer).node_id(), issued_before_ms: issued_ms, issued_ms };
    let signed = seal(&key(signer), &network(), &revoke).expect("it fits");
    wire::encode(&Gossip::Revoke(signed), wire::MAX_GOSSIP_BYTES).expect("it fits")
}

#[test]
fn only_who_said_something_or_is_counted_on_takes_it_back() {
    use aitbc_protocol::{
        Digest,
        attestation::{AttestedInputs, Kinds, Tier, exchange::AttestationResult},
    };
    let result = AttestationResult {
        peer: key(2).node_id(),
        tier: Tier::Affirming,
        score: 1_000,
        attested: AttestedInputs::default(),
        kinds: Kinds::default(),
        ear: Digest([0; 32]),
        issued_ms: NOW,
        expires_ms: NOW + 1_000,
    };
    let attested = vec![seal(&key(5), &network(), &result).expect("it fits")];
    let shown = Offer { attested, ..offer(1, NOW) };
    let private = Offer { policies: vec![Line::lossy("affirmed")], ..offer(1, NOW) };
    let cases = [
        ("by its verifier", &shown, 5, 2, NOW, home(), Verdict::Accept),
        ("by a stranger", &shown, 6, 2, NOW, home(), Verdict::Ignore),
        ("by somebody counted on", &shown, 7, 2, NOW, home(), Verdict::Accept),
        ("about one who hides its verifiers", &private, 6, 2, NOW, home(), Verdict::Accept),
        ("about nobody known", &shown, 5, 3, NOW, home(), Verdict::Ignore),
        ("on another cell's topic", &shown, 5, 2, NOW, "9q8y".parse().expect("a cell"), Verdict::Ignore),
        ("of the future", &shown, 5, 2, NOW + 60_000, home(), Verdict::Ignore),
    ];
    for (what, offer, signer, about, at_ms, topic, verdict) in cases {
        let mut book = book().heeding([key(7).node_id()].into());
        assert_eq!(book.hear(home(), &gossip_offer(&key(2), offer), NOW).verdict, Verdict::Accept);
        let heard = book.hear(topic, &gossip_revoke(signer, about, at_ms), NOW);
        assert_eq!(heard.verdict, verdict, "{what}");
        assert_eq!(heard.revoked.is_some(), verdict == Verdict::Accept, "{what}");
    }
    let mut forged = gossip_revoke(5, 2, NOW);
    *forged.last_mut().expect("not empty") ^= 1;
    let mut book = book();
    book.hear(home(), &gossip_offer(&key(2), &shown), NOW);
    assert_eq!(book.hear(home(), &forged, NOW).verdict, Verdict::Reject);
    // What one provider's verifiers say is paced.
    let heard = |book: &mut Book| book.hear(home(), &gossip_revoke(5, 2, NOW), NOW).verdict;
    let accepted = (0..20).filter(|_| heard(&mut book) == Verdict::Accept).count();
    assert!(accepted < 10, "{accepted}");
    let mut book = book.heeding([key(7).node_id()].into());
    assert_eq!(
        book.hear(home(), &gossip_revoke(7, 2, NOW), NOW).verdict,
        Verdict::Accept,
        "strangers crowd nobody out"
    );
}
