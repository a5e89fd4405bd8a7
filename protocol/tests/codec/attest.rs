//! Messages of attestation.

use super::{digest, line, node, sealed};
use aitbc_protocol::{
    attestation::{
        EvidenceKind, Kinds, Tier,
        exchange::{
            AttestationResult, Claims, Issued, Missing, Piece, Presentation, ProofRequest, Revoke, ToAttester,
            ToVerifier,
        },
    },
    bytes::BoundedBytes,
    wire::{self, WireError},
};
use proptest::{collection::vec, prelude::*};

fn bytes<const MAX: usize>() -> impl Strategy<Value = BoundedBytes<MAX>> {
    vec(any::<u8>(), 0..200).prop_map(|bytes| BoundedBytes::new(bytes).expect("few"))
}

fn kind() -> impl Strategy<Value = EvidenceKind> {
    proptest::sample::select(EvidenceKind::ALL.to_vec())
}

fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![Just(Tier::None), Just(Tier::Warning), Just(Tier::Affirming), Just(Tier::Contraindicated)]
}

prop_compose! {
    pub(crate) fn claims()(
        nonce in digest(), agent in line(), binary in digest(), system in line(), gpus in vec(line(), 0..=16),
        firmware_age_days: Option<u32>, suspicious_processes: u32, debugged: bool,
        missing in vec((kind(), line()).prop_map(|(kind, reason)| Missing { kind, reason }), 0..=8),
    ) -> Claims {
        Claims {
            nonce, agent, binary, system, gpus, firmware_age_days, suspicious_processes, debugged, missing,
        }
    }
}

prop_compose! {
    pub(crate) fn result()(
        peer in node(), tier in tier(), score: u16, kinds: u16, ear in digest(), issued_ms: u64, expires_ms: u64,
    ) -> AttestationResult {
        let (attested, kinds) = (aitbc_protocol::attestation::AttestedInputs::default(), Kinds::from_mask(kinds));
        AttestationResult { peer, tier, score, attested, kinds, ear, issued_ms, expires_ms }
    }
}

prop_compose! {
    pub(crate) fn revoke()(peer in node(), issued_before_ms: u64, issued_ms: u64) -> Revoke {
        Revoke { peer, issued_before_ms, issued_ms }
    }
}

pub(crate) fn to_attester() -> impl Strategy<Value = ToAttester> {
    prop_oneof![
        Just(ToAttester::Begin),
        (digest(), proptest::option::of(bytes())).prop_map(|(nonce, tpm)| ToAttester::Challenge { nonce, tpm }),
        (sealed(result()), line(), proptest::option::of(bytes())).prop_map(|(result, ear, credential)| {
            ToAttester::Issued(Box::new(Issued { result, ear, credential }))
        }),
        line().prop_map(ToAttester::Failed),
        (line(), any::<u64>(), any::<u64>(), digest(), proptest::option::of(sealed(revoke()))).prop_map(
            |(policy, now_ms, epoch, nonce, revoked)| ToAttester::Prove(ProofRequest {
                policy,
                now_ms,
                epoch,
                nonce,
                revoked
            })
        ),
    ]
}

pub(crate) fn to_verifier() -> impl Strategy<Value = ToVerifier> {
    let piece = (kind(), bytes()).prop_map(|(kind, bytes)| Piece { kind, bytes });
    prop_oneof![
        proptest::option::of(bytes()).prop_map(|tpm| ToVerifier::Identity { tpm }),
        (sealed(claims()), vec(piece, 0..4)).prop_map(|(claims, pieces)| ToVerifier::Evidence { claims, pieces }),
        (bytes(), digest()).prop_map(|(proof, nullifier)| ToVerifier::Proof(Presentation { proof, nullifier })),
        line().prop_map(ToVerifier::Refused),
    ]
}

#[test]
fn bytes_beyond_their_bound_are_refused() {
    let long = BoundedBytes::<8>::new(vec![1; 8]).expect("just fits");
    let bytes = wire::encode(&long, 64).expect("encodes");
    assert!(wire::decode::<BoundedBytes<8>>(&bytes, 64).is_ok());
    assert!(matches!(wire::decode::<BoundedBytes<7>>(&bytes, 64), Err(WireError::Malformed(_))));
    assert!(BoundedBytes::<7>::new(vec![1; 8]).is_err());
}
