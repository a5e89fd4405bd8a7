//! Messages of challenges.

use super::{cell, digest, line, node, nonce, sealed};
use aitbc_protocol::gpu::challenge::{
    Opening, Task,
    exchange::{Claim, Opened, Refusal, Root, Shown, ToProver, ToVerifier},
};
use proptest::{collection::vec, prelude::*};

prop_compose! {
    pub(crate) fn shown()(
        prover in node(), device in line(), bytes: u64, rate: u64, simulated: bool, issued_ms: u64, expires_ms: u64,
    ) -> Shown {
        Shown { prover, device, bytes, rate, simulated, issued_ms, expires_ms }
    }
}

prop_compose! {
    fn task()(items: u32, lanes: u32, steps: u32) -> Task { Task { items, lanes, steps } }
}

prop_compose! {
    fn root()(
        verifier in node(), cell in cell(), slot: u64, nonce in nonce(), task in task(), root in digest(),
    ) -> Root {
        Root { verifier, cell, slot, nonce, task, root }
    }
}

prop_compose! {
    fn opening()(lane: u32, state: [u32; 16], path in vec(digest(), 0..=22)) -> Opening {
        Opening { lane, state, path }
    }
}

prop_compose! {
    fn opened()(root in root(), nonce in nonce(), openings in vec(opening(), 0..=8)) -> Opened {
        Opened { root, nonce, openings }
    }
}

pub(crate) fn to_prover() -> impl Strategy<Value = ToProver> {
    prop_oneof![
        (any::<u64>(), cell()).prop_map(|(slot, cell)| ToProver::Book { slot, cell }),
        (nonce(), task()).prop_map(|(nonce, task)| ToProver::Walk { nonce, task }),
        nonce().prop_map(|nonce| ToProver::Open { nonce }),
        sealed(shown()).prop_map(ToProver::Shown),
        line().prop_map(ToProver::Failed),
    ]
}

pub(crate) fn to_verifier() -> impl Strategy<Value = ToVerifier> {
    prop_oneof![
        (line(), any::<u64>(), any::<bool>()).prop_map(|(device, bytes, simulated)| ToVerifier::Booked(Claim {
            device,
            bytes,
            simulated
        })),
        Just(ToVerifier::Refused(Refusal::Busy)),
        any::<u64>().prop_map(|rate| ToVerifier::Ready { rate }),
        sealed(root()).prop_map(ToVerifier::Root),
        sealed(opened()).prop_map(ToVerifier::Opened),
    ]
}

#[test]
fn the_largest_answer_fits_its_frame() {
    use aitbc_protocol::{Digest, NodeId, Nonce, Signed, envelope::Statement as _, wire};
    let full = Opening { lane: u32::MAX, state: [u32::MAX; 16], path: vec![Digest([255; 32]); 22] };
    let root = Root {
        verifier: NodeId([255; 32]),
        cell: "u09tvw0".parse().expect("a cell"),
        slot: u64::MAX,
        nonce: Nonce([255; 16]),
        task: Task { items: u32::MAX, lanes: u32::MAX, steps: u32::MAX },
        root: Digest([255; 32]),
    };
    let opened = Opened { root, nonce: Nonce([255; 16]), openings: vec![full.clone(); 64] };
    let payload = wire::encode_payload(&opened, Opened::MAX_BYTES).expect("it fits");
    let message = ToVerifier::Opened(Signed::from_parts(NodeId([255; 32]), [255; 64], payload));
    wire::encode_frame(&message, wire::MAX_CHALLENGE_FRAME).expect("it fits");
    let more = Opened { openings: vec![full; 65], ..opened };
    let payload = wire::encode_payload(&more, usize::MAX).expect("it is encoded");
    assert!(wire::decode_payload::<Opened>(&payload, usize::MAX).is_err(), "more lanes than are ever opened");
}
