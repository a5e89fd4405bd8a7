use super::*;
use aitbc_crypto::{SecretKey, seal};
use aitbc_protocol::{
    Digest, NetworkId,
    attestation::{AttestedInputs, Kinds},
};

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

fn network() -> NetworkId {
    NetworkId::new(NetworkId::LOCAL).expect("a valid name")
}

const HOUR: u64 = 3_600_000;

fn result(peer: u8, tier: Tier, issued_ms: UnixMillis) -> AttestationResult {
    AttestationResult {
        peer: key(peer).node_id(),
        tier,
        score: 900,
        attested: AttestedInputs::default(),
        kinds: Kinds::default(),
        ear: Digest([0; 32]),
        issued_ms,
        expires_ms: issued_ms + RESULT_LIFETIME_MS,
    }
}

fn said(signer: u8, peer: u8, tier: Tier, issued_ms: UnixMillis) -> Signed<AttestationResult> {
    seal(&key(signer), &network(), &result(peer, tier, issued_ms)).expect("it fits")
}

fn takes_back(trust: &Trust, signer: u8, revoke: &Revoke) -> bool {
    trust.revoke(seal(&key(signer), &network(), revoke).expect("it fits"), revoke)
}

fn trust() -> Trust {
    Trust::new(key(1).node_id(), [key(3).node_id(), key(4).node_id()], [key(5).node_id()])
}

#[test]
fn the_word_of_those_who_were_named_counts_and_no_others() {
    let (trust, now, peer) = (trust(), now_ms(), key(2).node_id());
    let tier = |signed: &[Signed<AttestationResult>]| trust.standing(peer, signed, now).tier;
    assert_eq!(tier(&[]), Tier::None);
    assert_eq!(tier(&[said(9, 2, Tier::Affirming, now)]), Tier::None, "a stranger");
    assert_eq!(tier(&[said(2, 2, Tier::Affirming, now)]), Tier::None, "the peer itself");
    assert_eq!(tier(&[said(3, 2, Tier::Affirming, now)]), Tier::Affirming);
    assert_eq!(tier(&[said(3, 7, Tier::Affirming, now)]), Tier::None, "about somebody else");
    assert_eq!(tier(&[said(3, 2, Tier::Affirming, now - RESULT_LIFETIME_MS)]), Tier::None, "over");
    assert_eq!(tier(&[said(3, 2, Tier::Warning, now), said(4, 2, Tier::Affirming, now)]), Tier::Affirming);
    let against = [said(3, 2, Tier::Affirming, now), said(4, 2, Tier::Contraindicated, now)];
    assert_eq!(tier(&against), Tier::Contraindicated, "what speaks against it outweighs");
}

#[test]
fn the_own_eyes_outweigh_all_others() {
    let (trust, now, peer) = (trust(), now_ms(), key(2).node_id());
    let affirmed = [said(3, 2, Tier::Affirming, now)];
    trust.found(&result(2, Tier::Warning, now));
    let standing = trust.standing(peer, &affirmed, now);
    assert_eq!((standing.tier, standing.through), (Tier::Warning, Some(Through::Own)));
    trust.failed(peer, now);
    assert_eq!(trust.standing(peer, &affirmed, now).tier, Tier::Contraindicated);
    assert_eq!(trust.standing(peer, &[], now + RESULT_LIFETIME_MS).tier, Tier::None, "for a day");
}

#[test]
fn what_was_taken_back_does_not_count_and_what_is_newer_does() {
    let (trust, now, peer) = (trust(), now_ms(), key(2).node_id());
    let old = [said(3, 2, Tier::Affirming, now - HOUR)];
    let revoke = Revoke { peer, issued_before_ms: now, issued_ms: now };
    assert!(!takes_back(&trust, 9, &revoke), "by a stranger");
    assert!(takes_back(&trust, 4, &revoke));
    assert_eq!(trust.standing(peer, &old, now).tier, Tier::Affirming, "by another than who had said it");
    assert!(takes_back(&trust, 3, &revoke));
    assert!(!takes_back(&trust, 3, &revoke), "no news");
    assert_eq!(trust.standing(peer, &old, now).tier, Tier::None);
    assert_eq!(trust.standing(peer, &[said(3, 2, Tier::Affirming, now)], now).tier, Tier::Affirming);
    let early = Revoke { peer, issued_before_ms: now + HOUR, issued_ms: now };
    assert!(!takes_back(&trust, 3, &early), "what is to come cannot be taken back");
}

#[test]
fn one_tpm_that_two_peers_show_flags_both() {
    let (trust, now) = (trust(), now_ms());
    let (first, second, third) = (key(2).node_id(), key(6).node_id(), key(7).node_id());
    assert_eq!(trust.proved(first, (1, [1; 32]), now, now + HOUR), None);
    assert_eq!(trust.proved(first, (1, [1; 32]), now, now + HOUR), None, "the same peer again");
    assert_eq!(trust.standing(first, &[], now).tier, Tier::Affirming);
    assert_eq!(trust.proved(second, (1, [1; 32]), now, now + HOUR), Some(first));
    assert_eq!(trust.proved(third, (1, [2; 32]), now, now + HOUR), None);
    let tiers = [first, second, third].map(|peer| trust.standing(peer, &[], now).tier);
    assert_eq!(tiers, [Tier::Warning, Tier::Warning, Tier::Affirming]);
    assert_eq!(trust.proved(first, (1, [1; 32]), now, now + HOUR), Some(second), "the first is asked again");
    assert_eq!(trust.standing(first, &[], now).tier, Tier::Warning, "and stays flagged");
    assert_eq!(trust.standing(third, &[], now + HOUR).tier, Tier::None, "it is asked anew after a while");
}

#[test]
fn any_issuer_ends_a_proof() {
    let (trust, now, peer) = (trust(), now_ms(), key(2).node_id());
    trust.proved(peer, (1, [1; 32]), now - 1, now + HOUR);
    assert_eq!(trust.standing(peer, &[], now).tier, Tier::Affirming);
    assert!(takes_back(&trust, 5, &Revoke { peer, issued_before_ms: now, issued_ms: now }));
    assert_eq!(trust.standing(peer, &[], now).tier, Tier::None);
}

#[test]
fn memory_is_bounded() {
    let (trust, now) = (trust(), now_ms());
    for number in 0..MOST as u64 + 10 {
        let mut peer = [0; 32];
        peer[..8].copy_from_slice(&number.to_be_bytes());
        trust.failed(NodeId(peer), now);
    }
    assert_eq!(trust.known().own.len(), MOST);
}
