//! Fetching offers: a provider's newest from itself, those of a neighbourhood from whoever has heard of them.

use super::book::{VerifiedBeat, VerifiedOffer};
use crate::network::{FramedStream, NetworkError, NetworkHandle, Protocol, StreamError};
use aitbc_crypto::SignatureError;
use aitbc_protocol::{
    NetworkId, NodeId,
    geo::Cell,
    offer::{OfferReply, OfferRequest, Statements},
    wire,
};
use libp2p::Multiaddr;
use std::time::Duration;
use tokio::time::timeout;

/// How long connecting and answering may take together.
const PATIENCE: Duration = Duration::from_secs(5);

/// The newest statements of a provider, verified.
#[derive(Debug)]
pub(super) struct FetchedOffer {
    pub(super) offer: VerifiedOffer,
    pub(super) beat: Option<VerifiedBeat>,
}

/// What a peer knows of a neighbourhood.
#[derive(Debug)]
pub(super) struct Neighbourhood {
    /// Its own offer.
    pub(super) own: Option<FetchedOffer>,
    /// What it has heard of others.
    pub(super) known: Vec<FetchedOffer>,
    /// Something in the answer did not hold.
    pub(super) broken: bool,
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
        let reply = ask(stream, OfferRequest::default()).await?;
        verify(reply.own.ok_or(FetchError::Nothing)?, Some(provider), id)
    };
    timeout(PATIENCE, fetch).await.unwrap_or(Err(FetchError::Timeout))
}

/// Asks a connected `peer` what it knows of the providers in `cells`.
pub(super) async fn fetch_near(
    network: &NetworkHandle,
    id: &NetworkId,
    peer: NodeId,
    cells: Vec<Cell>,
) -> Result<Neighbourhood, FetchError> {
    let fetch = async {
        let stream = network.open(peer, Vec::new(), Protocol::Offer).await?;
        ask(stream, OfferRequest { near: cells.clone() }).await
    };
    let OfferReply { own, known } = timeout(PATIENCE, fetch).await.unwrap_or(Err(FetchError::Timeout))?;
    let claimed = usize::from(own.is_some()) + known.len();
    let own = own.and_then(|own| verify(own, Some(peer), id).ok());
    let known: Vec<_> = known
        .into_iter()
        .filter_map(|statements| verify(statements, None, id).ok())
        .filter(|fetched| cells.iter().any(|cell| cell.contains(&fetched.offer.cell())))
        .collect();
    let broken = usize::from(own.is_some()) + known.len() < claimed;
    Ok(Neighbourhood { own, known, broken })
}

async fn ask(mut stream: FramedStream, request: OfferRequest) -> Result<OfferReply, FetchError> {
    stream.send(&request, wire::MAX_OFFER_FRAME).await?;
    stream.receive(wire::MAX_OFFER_FRAME).await?.ok_or(FetchError::Nothing)
}

fn verify(statements: Statements, provider: Option<NodeId>, id: &NetworkId) -> Result<FetchedOffer, FetchError> {
    let Statements { offer, heartbeat } = statements;
    let signer = offer.signer();
    if provider.is_some_and(|provider| provider != signer) {
        return Err(FetchError::NotItsOwn);
    }
    let offer = VerifiedOffer::open(offer, id)?;
    // A heartbeat is a courtesy here: a bad one is as good as none.
    let beat = heartbeat.filter(|beat| beat.signer() == signer).and_then(|beat| VerifiedBeat::open(beat, id).ok());
    Ok(FetchedOffer { offer, beat })
}
