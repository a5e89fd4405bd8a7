//! The paths to a provider, as an attempt at a job sees them.

use super::Shared;
use crate::network::{FramedStream, NetworkError, PathKind, PeerInfo, Protocol};
use aitbc_protocol::NodeId;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Opens another stream to the provider, on whatever path is best now.
pub(super) type Reopen<'a> = dyn Fn() -> BoxFuture<'static, Result<FramedStream, NetworkError>> + Send + Sync + 'a;

/// Ends when streams that are opened from now on take a better path than those before.
pub(super) type Better<'a> = dyn Fn() -> BoxFuture<'static, ()> + Send + Sync + 'a;

/// Opens another stream to `provider` on whatever path is best now; it was `at` these addresses before.
pub(super) fn open(
    shared: &Shared,
    provider: NodeId,
    at: &[Multiaddr],
) -> BoxFuture<'static, Result<FramedStream, NetworkError>> {
    let network = shared.network.clone();
    let addresses = shared.book.addresses_of(provider, at.iter().cloned());
    Box::pin(async move { network.open(provider, addresses, Protocol::Job).await })
}

/// Ends when `provider` is reached directly after it was reached over a relay: what runs there had better move.
pub(super) async fn becomes_direct(mut peers: watch::Receiver<Arc<Vec<PeerInfo>>>, provider: NodeId) {
    let is = |peers: &Arc<Vec<PeerInfo>>, relayed: bool| {
        peers.iter().any(|peer| peer.peer == provider && (peer.path == PathKind::Relayed) == relayed)
    };
    let relayed = peers.wait_for(|peers| is(peers, true)).await.is_ok();
    if !relayed || peers.wait_for(|peers| is(peers, false)).await.is_err() {
        // The network has stopped: nothing becomes better.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const PROVIDER: NodeId = NodeId([7; 32]);

    fn peers(paths: &[(NodeId, PathKind)]) -> Arc<Vec<PeerInfo>> {
        let info = |(peer, path): &(NodeId, PathKind)| PeerInfo {
            peer: *peer,
            address: String::new(),
            path: *path,
            transport: String::new(),
            round_trip_ms: None,
            mean_round_trip_ms: None,
            longest_round_trip_ms: None,
            agent: String::new(),
            score: 0.0,
            paths: Vec::new(),
        };
        Arc::new(paths.iter().map(info).collect())
    }

    #[tokio::test]
    async fn only_a_direct_path_after_a_relayed_one_is_better() {
        let (told, snapshots) = watch::channel(peers(&[(PROVIDER, PathKind::Direct)]));
        let mut better = Box::pin(becomes_direct(snapshots, PROVIDER));
        assert!(better.as_mut().now_or_never().is_none(), "it was direct before");
        for paths in [
            &[(PROVIDER, PathKind::Relayed)][..],
            &[],
            &[(PROVIDER, PathKind::Relayed), (NodeId([8; 32]), PathKind::Direct)],
        ] {
            told.send_replace(peers(paths));
            assert!(better.as_mut().now_or_never().is_none(), "{paths:?}");
        }
        told.send_replace(peers(&[(PROVIDER, PathKind::Direct)]));
        assert!(better.as_mut().now_or_never().is_some());

        let (told, snapshots) = watch::channel(peers(&[(PROVIDER, PathKind::Relayed)]));
        let mut better = Box::pin(becomes_direct(snapshots, PROVIDER));
        assert!(better.as_mut().now_or_never().is_none());
        drop(told);
        assert!(better.as_mut().now_or_never().is_none(), "the end of the network is no path");
    }
}
