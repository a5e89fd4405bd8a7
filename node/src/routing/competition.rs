//! This node's own offer beside those of the others in its cell, as their clients see them.

use super::Shared;
use crate::clock::now_ms;
use aitbc_protocol::{
    NodeId, Signed,
    attestation::{Tier, exchange::AttestationResult},
    competition::{Comparison, Contender, compare},
    offer::{Load, Offer},
};

/// Compares the offer and load of this node with those heard in its cell.
pub(super) fn competition(shared: &Shared, offer: &Offer, load: Load) -> Comparison {
    let (snapshot, me) = (shared.book.snapshot(), shared.key.node_id());
    let tier = |peer: NodeId, attested: &[Signed<AttestationResult>]| -> Tier {
        shared.trust.standing(peer, attested, now_ms()).tier
    };
    let others = snapshot.offers.iter().filter(|known| known.provider != me && known.offer.cell == offer.cell);
    let others: Vec<Contender<'_>> = others
        .map(|known| Contender {
            provider: known.provider,
            models: &known.offer.models,
            slots: known.offer.slots,
            load: known.load,
            tier: tier(known.provider, &known.offer.attested),
        })
        .collect();
    let own = Contender {
        provider: me,
        models: &offer.models,
        slots: offer.slots,
        load,
        tier: tier(me, &offer.attested),
    };
    compare(&own, &others)
}
