//! Messages of private jobs.

use super::*;
use aitbc_protocol::{
    bytes::BoundedBytes,
    private::{KeyRefusal, PrivateOffer, ToKeeper, ToKeyOwner},
    sealed::{Sealed, SealedWork},
};

pub(super) fn bytes<const MAX: usize>() -> impl Strategy<Value = BoundedBytes<MAX>> {
    vec(any::<u8>(), 0..200).prop_map(|bytes| BoundedBytes::new(bytes).expect("few bytes"))
}

prop_compose! {
    pub(super) fn sealed()(
        profile in line(), evaluation_key in proptest::option::of(digest()), values: u32, ciphertext in bytes(),
    ) -> Sealed {
        Sealed { profile, evaluation_key, values, ciphertext }
    }
}

prop_compose! {
    pub(super) fn work()(
        profile in line(), evaluation_key in proptest::option::of(digest()), input in digest(),
    ) -> SealedWork {
        SealedWork { profile, evaluation_key, input }
    }
}

prop_compose! {
    pub(super) fn offer()(profile in line(), bootstraps: u32, key_bytes: u64) -> PrivateOffer {
        PrivateOffer { profile, bootstraps, key_bytes }
    }
}

pub(super) fn to_keeper() -> impl Strategy<Value = ToKeeper> {
    prop_oneof![
        (line(), proptest::option::of(digest()))
            .prop_map(|(model, weights)| ToKeeper::Describe { model, weights }),
        (line(), digest()).prop_map(|(profile, digest)| ToKeeper::Key { profile, digest }),
        bytes().prop_map(ToKeeper::Part),
    ]
}

pub(super) fn to_key_owner() -> impl Strategy<Value = ToKeyOwner> {
    let refusals = prop_oneof![
        Just(KeyRefusal::UnknownModel),
        Just(KeyRefusal::UnknownProfile),
        any::<(u64, u64)>().prop_map(|(expected, got)| KeyRefusal::Length { expected, got }),
        Just(KeyRefusal::Digest),
        Just(KeyRefusal::Full),
        any::<u32>().prop_map(|retry_ms| KeyRefusal::Busy { retry_ms }),
        Just(KeyRefusal::OutOfTurn),
        Just(KeyRefusal::Failed),
    ];
    prop_oneof![
        (digest(), bytes()).prop_map(|(weights, interface)| ToKeyOwner::Interface { weights, interface }),
        any::<u64>().prop_map(|expires_ms| ToKeyOwner::Held { expires_ms }),
        any::<u64>().prop_map(|offset| ToKeyOwner::SendFrom { offset }),
        Just(ToKeyOwner::Stored),
        refusals.prop_map(ToKeyOwner::Rejected),
    ]
}
