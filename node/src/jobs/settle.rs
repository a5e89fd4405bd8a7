//! The end of a job: the receipt, the wait for the last cheque, and settling on another stream what a crash or a lost
//! path left open.

use super::{SHORT_ANSWER, desk::Desk};
use crate::{market::Ledger, network::FramedStream};
use aitbc_protocol::messages::ToClient;
use aitbc_protocol::{MicroCredits, Nonce, Signed, job::Rejection, receipt::Cheque, text::Line, wire};
use std::time::Duration;
use tokio::time::timeout;

/// How long settling waits for a job that is ended for it: a decode step and a synced write are far below.
const INTERRUPTED: Duration = Duration::from_secs(10);

/// Answers one [`aitbc_protocol::messages::ToProvider::Settle`]. A job that still runs here on another stream is ended
/// first, so that its receipt is final.
pub(super) async fn serve(
    ledger: &Ledger,
    desk: &Desk,
    mut stream: FramedStream,
    quote: Nonce,
    cheque: Option<Signed<Cheque>>,
) {
    let client = stream.peer();
    if let Some(recorded) = desk.interrupt(&quote, &client)
        && timeout(INTERRUPTED, recorded.cancelled()).await.is_err()
    {
        tracing::warn!("the running job did not end in time; settling without its receipt");
    }
    let answer = match ledger.settle(quote, client, cheque).await {
        Ok(Some((paid, receipt))) => ToClient::Settled { paid, receipt },
        Ok(None) => ToClient::Settled { paid: MicroCredits::ZERO, receipt: None },
        Err(error) => {
            tracing::info!(%error, "not settled");
            ToClient::Rejected(Rejection::Invalid(Line::lossy(&error.to_string())))
        }
    };
    let sent = timeout(SHORT_ANSWER, async {
        stream.send(&answer, wire::MAX_JOB_FRAME).await?;
        stream.close().await
    });
    if let Ok(Err(error)) = sent.await {
        tracing::debug!(%error, "settlement not delivered: the client will ask again");
    }
}
