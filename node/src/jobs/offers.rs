//! Serves `/aitbc/offer/1`: the newest offer with its heartbeat, to whoever asks.

use super::{FIRST_MESSAGE, SHORT_ANSWER, announce::Announced, gate::Busy};
use crate::network::IncomingStream;
use aitbc_protocol::{offer::OfferRequest, wire};
use std::sync::Arc;
use tokio::{sync::watch, time::timeout};

/// Answers one request. Who asks too often gets a reset: it has had the same answer before.
pub(super) async fn serve(
    announced: watch::Receiver<Announced>,
    incoming: IncomingStream,
    turn: Result<(), Busy>,
) {
    let IncomingStream { peer, mut stream } = incoming;
    if turn.is_err() {
        return;
    }
    let exchange = async {
        let request = timeout(FIRST_MESSAGE, stream.receive::<OfferRequest>(wire::MAX_OFFER_FRAME)).await;
        if let Ok(Ok(Some(OfferRequest {}))) = request {
            let reply = Arc::clone(&announced.borrow().reply);
            stream.send(&*reply, wire::MAX_OFFER_FRAME).await?;
            stream.close().await?;
        }
        Ok::<_, crate::network::StreamError>(())
    };
    match timeout(FIRST_MESSAGE + SHORT_ANSWER, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(peer = %peer.short(), %error, "offer not delivered"),
        Err(_) => tracing::debug!(peer = %peer.short(), "offer not read in time"),
    }
}
