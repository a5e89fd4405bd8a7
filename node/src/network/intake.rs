//! Takes incoming streams of one protocol: one task each, within the limits of a [`Gate`].

use super::IncomingStream;
use aitbc_protocol::NodeId;
use gate::Gate;
use std::collections::HashMap;
use tokio::{
    sync::mpsc,
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) use gate::{Busy, Limits};

mod gate;

/// Streams that are being told to come back later; beyond them streams are dropped without a word.
const REFUSALS: usize = 32;

/// Serves `streams` until `closing` is cancelled or the network is gone, and then until the tasks it started have
/// ended. `handle` is told where a stream is over the limits, so that it can say so without reading it. Dropping the
/// future aborts the tasks.
pub(crate) async fn serve<F>(
    mut streams: mpsc::Receiver<IncomingStream>,
    limits: Limits,
    closing: CancellationToken,
    handle: impl Fn(IncomingStream, Result<(), Busy>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut gate = Gate::new(limits);
    let mut tasks = JoinSet::new();
    // Who is let in by which task; a task that refuses is in neither.
    let mut inside: HashMap<Id, NodeId> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            Some(ended) = tasks.join_next_with_id() => {
                // A task that panicked gives its place back like any other.
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                if let Some(peer) = inside.remove(&id) {
                    gate.leave(&peer);
                }
            }
            () = closing.cancelled() => break,
            incoming = streams.recv() => {
                let Some(incoming) = incoming else { break };
                let peer = incoming.peer;
                match gate.enter(peer, Instant::now()) {
                    Ok(()) => {
                        let task = tasks.spawn(handle(incoming, Ok(())));
                        inside.insert(task.id(), peer);
                    }
                    Err(busy) if tasks.len() - inside.len() < REFUSALS => {
                        tasks.spawn(handle(incoming, Err(busy)));
                    }
                    Err(_) => tracing::debug!(peer = %peer.short(), "stream dropped: too many are being refused"),
                }
            }
        }
    }
    drop(streams);
    while tasks.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::FramedStream;
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    const LIMITS: Limits = Limits { streams: 2, per_peer: 2, burst: 100, interval: Duration::from_millis(1) };

    fn incoming() -> IncomingStream {
        let (peer, me) = (NodeId([1; 32]), NodeId([2; 32]));
        IncomingStream { peer, stream: FramedStream::pair(me, peer).0 }
    }

    #[tokio::test]
    async fn streams_over_the_limits_are_refused_and_their_places_come_back() {
        let (sender, streams) = mpsc::channel(16);
        let closing = CancellationToken::new();
        let turns = Arc::new(Mutex::new(Vec::new()));
        // The first two stay until they are let go, the others are over in an instant.
        let (release, released) = tokio::sync::watch::channel(false);
        let (told, mut ended) = mpsc::channel(16);
        let server = tokio::spawn(serve(streams, LIMITS, closing.clone(), {
            let turns = Arc::clone(&turns);
            move |_, turn| {
                turns.lock().unwrap().push(turn.is_ok());
                let (mut released, told) = (released.clone(), told.clone());
                async move {
                    if turn.is_ok() {
                        released.wait_for(|released| *released).await.unwrap();
                    }
                    told.send(turn.is_ok()).await.unwrap();
                }
            }
        }));
        for _ in 0..3 {
            sender.send(incoming()).await.unwrap();
        }
        assert_eq!(ended.recv().await, Some(false), "the third is refused while two are served");
        release.send(true).unwrap();
        assert_eq!((ended.recv().await, ended.recv().await), (Some(true), Some(true)));
        sender.send(incoming()).await.unwrap();
        assert_eq!(ended.recv().await, Some(true));
        assert_eq!(*turns.lock().unwrap(), [true, true, false, true]);
        closing.cancel();
        server.await.unwrap();
        assert!(sender.is_closed());
    }
}
