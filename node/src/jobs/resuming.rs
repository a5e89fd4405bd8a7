//! A client that comes back to its job on another stream: found, and handed to the task that runs the job.

use super::{
    SHORT_ANSWER,
    desk::Desk,
    metrics::JobMetrics,
    resumption::{Refusal, Resumption},
};
use crate::network::FramedStream;
use aitbc_protocol::{Nonce, job::Rejection, messages::ToClient, wire};
use tokio::{sync::mpsc::error::TrySendError, time::timeout};

/// When a client may try again whose last attempt is still waiting at the job.
const BUSY_MS: u32 = 200;

/// Serves one [`aitbc_protocol::messages::ToProvider::Resume`]: until the job has taken the stream, or the client was
/// told why not.
pub(super) async fn serve(
    desk: &Desk,
    metrics: &JobMetrics,
    stream: FramedStream,
    quote: Nonce,
    attempt: u32,
    next: u32,
) {
    let Some(Refusal { mut stream, rejection }) = hand_over(desk, stream, quote, attempt, next).await else {
        return;
    };
    metrics.resume_refused();
    tracing::debug!(%rejection, attempt, "not resumed");
    let sent = timeout(SHORT_ANSWER, async {
        stream.send(&ToClient::Rejected(rejection), wire::MAX_JOB_FRAME).await?;
        stream.close().await
    });
    if let Ok(Err(error)) = sent.await {
        tracing::debug!(%error, "refusal not delivered");
    }
}

/// Hands a stream to the job that runs under `quote` for the peer at the other end; what comes back was refused.
async fn hand_over(desk: &Desk, stream: FramedStream, quote: Nonce, attempt: u32, next: u32) -> Option<Refusal> {
    // Whether the job exists is nobody's business but its client's.
    let Some(door) = desk.door(&quote, &stream.peer()) else {
        return Some(Refusal { stream, rejection: Rejection::UnknownJob });
    };
    let (resumption, refusal) = Resumption::new(stream, attempt, next);
    match door.try_send(resumption) {
        // The job answers by taking the stream, which drops the sender, or by giving it back.
        Ok(()) => refusal.await.ok(),
        Err(TrySendError::Full(resumption)) => {
            let rejection = Rejection::RateLimited { retry_ms: BUSY_MS };
            Some(Refusal { stream: resumption.accept(), rejection })
        }
        Err(TrySendError::Closed(resumption)) => {
            Some(Refusal { stream: resumption.accept(), rejection: Rejection::UnknownJob })
        }
    }
}
