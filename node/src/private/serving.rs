//! Serves `/aitbc/fhe/1`: tells clients what they have to know of a model, and takes their evaluation keys.

use crate::{
    clock::now_ms,
    engine::{
        EngineHandle,
        fhe::keys::{Offered, Upload},
    },
    network::{
        FramedStream, IncomingStream, StreamError,
        intake::{Busy, Limits},
    },
};
use aitbc_protocol::{
    NodeId,
    bytes::Digest,
    private::{KeyRefusal, ToKeeper, ToKeyOwner},
    sealed::ProfileName,
    wire::MAX_FHE_FRAME,
};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A client asks twice a job, and sends a key once a month, one at a time: what sixteen streams hold is 10 MB.
pub(super) const LIMITS: Limits =
    Limits { streams: 16, per_peer: 3, burst: 20, interval: Duration::from_millis(250) };
/// How long the first message may take, and a refusal.
const FIRST: Duration = Duration::from_secs(10);
/// How long one part may take: half a mebibyte over a line of 20 kB/s.
const PART: Duration = Duration::from_secs(30);
/// How long one stream may take; the rest of a key comes over another.
const STREAM: Duration = Duration::from_secs(20 * 60);

/// Serves one stream.
pub(super) async fn serve(engine: EngineHandle, incoming: IncomingStream, turn: Result<(), Busy>) {
    let IncomingStream { peer, mut stream } = incoming;
    let served = match turn {
        // Said at once, before anything is read.
        Err(Busy { retry_ms }) => timeout(FIRST, refuse(&mut stream, KeyRefusal::Busy { retry_ms })).await,
        Ok(()) => timeout(STREAM, answer(&engine, peer, &mut stream)).await,
    };
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(peer = %peer.short(), %error, "fhe stream ended"),
        Err(_) => tracing::debug!(peer = %peer.short(), "fhe stream took too long"),
    }
}

async fn answer(engine: &EngineHandle, peer: NodeId, stream: &mut FramedStream) -> Result<(), StreamError> {
    match receive(stream, FIRST).await? {
        Some(ToKeeper::Describe { model, weights }) => match engine.describe(&model, weights.as_ref()) {
            Some(described) => {
                let (weights, interface) = (described.weights, described.interface);
                say(stream, ToKeyOwner::Interface { weights, interface }).await?;
                stream.close().await
            }
            None => refuse(stream, KeyRefusal::UnknownModel).await,
        },
        Some(ToKeeper::Key { profile, digest }) => match take(engine, peer, stream, &profile, digest).await? {
            Ok(()) => stream.close().await,
            Err(refusal) => refuse(stream, refusal).await,
        },
        Some(ToKeeper::Part(_)) => refuse(stream, KeyRefusal::OutOfTurn).await,
        None => Ok(()),
    }
}

/// Takes a key, as far as it comes. What is refused is the inner error.
async fn take(
    engine: &EngineHandle,
    peer: NodeId,
    stream: &mut FramedStream,
    profile: &ProfileName,
    digest: Digest,
) -> Result<Result<(), KeyRefusal>, StreamError> {
    let Some(profile) = engine.profile(profile.as_str()) else { return Ok(Err(KeyRefusal::UnknownProfile)) };
    let (keys, bytes) = (engine.evaluation_keys().clone(), profile.evaluation_key_bytes() as u64);
    let mut upload = match blocking(move || keys.offer(peer, digest, bytes, now_ms())).await {
        Ok(Offered::Held(expires_ms)) => return say(stream, ToKeyOwner::Held { expires_ms }).await.map(Ok),
        Ok(Offered::Wanted(upload)) => upload,
        Err(refusal) => return Ok(Err(refusal)),
    };
    say(stream, ToKeyOwner::SendFrom { offset: upload.offset() }).await?;
    let began = Instant::now();
    while !upload.is_whole() {
        let Some(ToKeeper::Part(part)) = receive(stream, PART).await? else {
            return Ok(Err(KeyRefusal::OutOfTurn));
        };
        upload = match write(upload, part.into_vec()).await {
            Ok(upload) => upload,
            Err(refusal) => return Ok(Err(refusal)),
        };
    }
    match blocking(move || upload.finish(now_ms())).await {
        Ok(_) => {
            tracing::info!(peer = %peer.short(), %profile, took = ?began.elapsed(), "an evaluation key was stored");
            say(stream, ToKeyOwner::Stored).await?;
            Ok(Ok(()))
        }
        Err(refusal) => Ok(Err(refusal)),
    }
}

async fn write(mut upload: Upload, part: Vec<u8>) -> Result<Upload, KeyRefusal> {
    blocking(move || upload.take(&part).map(|()| upload)).await
}

/// Does what waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeyRefusal> + Send + 'static,
) -> Result<T, KeyRefusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "keeping an evaluation key failed");
        Err(KeyRefusal::Failed)
    })
}

async fn receive(stream: &mut FramedStream, within: Duration) -> Result<Option<ToKeeper>, StreamError> {
    timeout(within, stream.receive(MAX_FHE_FRAME)).await.map_err(|_| StreamError::Timeout(within))?
}

async fn say(stream: &mut FramedStream, message: ToKeyOwner) -> Result<(), StreamError> {
    timeout(FIRST, stream.send(&message, MAX_FHE_FRAME)).await.map_err(|_| StreamError::Timeout(FIRST))?
}

async fn refuse(stream: &mut FramedStream, refusal: KeyRefusal) -> Result<(), StreamError> {
    tracing::debug!(peer = %stream.peer().short(), %refusal, "refused");
    say(stream, ToKeyOwner::Rejected(refusal)).await?;
    stream.close().await
}

#[cfg(test)]
mod tests;
