//! Fetching a provider's newest offer from itself.

use super::book::VerifiedOffer;
use crate::network::{FramedStream, NetworkError, NetworkHandle, Protocol, StreamError};
use aitbc_crypto::SignatureError;
use aitbc_protocol::{
    NetworkId, NodeId,
    offer::{Heartbeat, OfferReply, OfferRequest},
    wire,
};
use libp2p::Multiaddr;
use std::time::Duration;
use tokio::time::timeout;

/// How long connecting and answering may take together.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a provider answered; both statements are its own and verified.
#[derive(Debug)]
pub(super) struct FetchedOffer {
    pub(super) offer: VerifiedOffer,
    pub(super) beat: Option<Heartbeat>,
}

/// Why there is no offer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("no answer within {PATIENCE:?}")]
    Timeout,
    #[error("it offers nothing")]
    Nothing,
    #[error("it answered with somebody else's offer")]
    NotItsOwn,
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// Asks `provider` for its offer, connecting if need be.
pub(super) async fn fetch_offer(
    network: &NetworkHandle,
    id: &NetworkId,
    provider: NodeId,
    addresses: Vec<Multiaddr>,
) -> Result<FetchedOffer, FetchError> {
    let fetch = async {
        let stream = network.open(provider, addresses, Protocol::Offer).await?;
        ask(stream, id).await
    };
    timeout(PATIENCE, fetch).await.unwrap_or(Err(FetchError::Timeout))
}

async fn ask(mut stream: FramedStream, id: &NetworkId) -> Result<FetchedOffer, FetchError> {
    stream.send(&OfferRequest {}, wire::MAX_OFFER_FRAME).await?;
    let reply: Option<OfferReply> = stream.receive(wire::MAX_OFFER_FRAME).await?;
    let reply = reply.ok_or(FetchError::Nothing)?;
    let signed = reply.offer.ok_or(FetchError::Nothing)?;
    if signed.signer() != stream.peer() {
        return Err(FetchError::NotItsOwn);
    }
    let offer = VerifiedOffer::open(signed, id)?;
    // A heartbeat is a courtesy here: a bad one is as good as none.
    let beat = reply
        .heartbeat
        .filter(|beat| beat.signer() == stream.peer())
        .and_then(|beat| aitbc_crypto::open(&beat, id).ok());
    Ok(FetchedOffer { offer, beat })
}
