//! Bytes changed at random.

use super::{NOW_MS, SGX, TDX, check, forged::Forged, user_data};
use aitbc_crypto::tee::intel::{IntelTrust, verify};
use aitbc_protocol::bytes::BoundedBytes;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_bytes_says_something_else_or_panics(
        tdx in any::<bool>(),
        part in 0_usize..7,
        places in proptest::collection::vec((any::<proptest::sample::Index>(), 1_u8..), 1..4),
    ) {
        fn change<const MAX: usize>(blob: &mut BoundedBytes<MAX>, places: &[(proptest::sample::Index, u8)]) {
            let mut bytes = blob.to_vec();
            for (place, mask) in places {
                let at = place.index(bytes.len());
                bytes[at] ^= mask;
            }
            *blob = BoundedBytes::new(bytes).expect("as long as before");
        }
        let real = if tdx { &*TDX } else { &*SGX };
        let mut evidence = real.clone();
        let collateral = evidence.collateral.as_mut().expect("there");
        match part {
            0 => change(&mut collateral.root_ca_crl, &places),
            1 => change(&mut collateral.pck_crl, &places),
            2 => change(&mut collateral.tcb_info_issuer_chain, &places),
            3 => change(&mut collateral.tcb_info, &places),
            4 => change(&mut collateral.qe_identity, &places),
            5 => change(&mut collateral.qe_identity_signature, &places),
            _ => change(&mut evidence.quote, &places),
        }
        // Nothing signs the letters around a certificate's base64: who changes them changes nothing that is said.
        if let Ok(appraisal) = verify(&evidence, &user_data(real), &IntelTrust::default(), NOW_MS) {
            prop_assert!(evidence == *real || matches!(part, 2 | 6));
            prop_assert_eq!(appraisal, check(real).expect("genuine"));
        }
    }

    #[test]
    fn no_signed_quote_makes_it_panic(
        tdx in any::<bool>(),
        places in proptest::collection::vec((0_usize..432, any::<u8>()), 1..6),
    ) {
        // Signed by the trusted forged keys, so that everything behind the signatures runs.
        let mut forged = Forged::new(if tdx { "tdx" } else { "sgx" });
        for (at, value) in places {
            forged.signed[at] = value;
        }
        let evidence = forged.evidence();
        let expected = user_data(if tdx { &TDX } else { &SGX });
        let _ = verify(&evidence, &expected, &Forged::trust(), NOW_MS);
    }
}
