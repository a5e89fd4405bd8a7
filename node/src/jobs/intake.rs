//! Takes incoming streams of one protocol: one task each, within the limits of a [`Gate`].

use super::gate::{Busy, Gate, Limits};
use crate::network::IncomingStream;
use aitbc_protocol::NodeId;
use std::collections::HashMap;
use tokio::{
    sync::mpsc,
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Streams that are being told to come back later; beyond them streams are dropped without a word.
const REFUSALS: usize = 32;

/// Serves `streams` until `closing` is cancelled or the network is gone, and then until the tasks it started have
/// ended. `handle` is told where a stream is over the limits, so that it can say so without reading it. Dropping the
/// future aborts the tasks.
pub(super) async fn serve<F>(
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
