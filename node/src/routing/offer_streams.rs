//! Serves `/aitbc/offer/1`: this node's own newest offer, and those of others that it has heard of in the cells asked
//! for.

use super::offers::BookHandle;
use crate::network::{
    IncomingStream, StreamError,
    intake::{Busy, Limits},
};
use aitbc_protocol::{
    offer::{OfferReply, OfferRequest, Statements},
    wire,
};
use std::time::Duration;
use tokio::{sync::watch, time::timeout};

/// Offers are small and cached, and read by every node that looks around.
pub(crate) const OFFER_LIMITS: Limits =
    Limits { streams: 64, per_peer: 4, burst: 10, interval: Duration::from_millis(500) };
/// How long a peer may take to send its request.
const REQUEST: Duration = Duration::from_secs(10);
/// How long it may take to read the answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Answers one request. Who asks too often gets a reset: it has had the same answer before.
pub(super) async fn serve(
    own: watch::Receiver<Option<Statements>>,
    book: BookHandle,
    incoming: IncomingStream,
    turn: Result<(), Busy>,
) {
    let IncomingStream { peer, mut stream } = incoming;
    if turn.is_err() {
        return;
    }
    let exchange = async {
        let request = timeout(REQUEST, stream.receive::<OfferRequest>(wire::MAX_OFFER_FRAME)).await;
        if let Ok(Ok(Some(OfferRequest { near }))) = request {
            let known = if near.is_empty() { Vec::new() } else { book.near(near, peer).await };
            let own = own.borrow().clone();
            stream.send(&OfferReply { own, known }, wire::MAX_OFFER_FRAME).await?;
            stream.close().await?;
        }
        Ok::<_, StreamError>(())
    };
    match timeout(REQUEST + ANSWER, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(peer = %peer.short(), %error, "offer not delivered"),
        Err(_) => tracing::debug!(peer = %peer.short(), "offer not read in time"),
    }
}
