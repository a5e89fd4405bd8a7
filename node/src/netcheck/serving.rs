//! Answers `/aitbc/reach/1`: passes questions on to a third node, dials for others, and answers pings.

use super::first_ip;
use crate::{
    clock::now_ms,
    network::{
        IncomingStream, NetworkError, NetworkHandle, NotDialled, PeerInfo, Protocol, StreamError,
        intake::{Busy, Limits},
    },
};
use aitbc_protocol::{
    NodeId,
    reach::{DIAL_MS, Dialled, ReachReply, ReachRequest, Refusal},
    text::Line,
    wire::MAX_REACH_FRAME,
};
use futures::future::join_all;
use libp2p::Multiaddr;
use rand::seq::SliceRandom;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};

/// A ping a second is usual, a check every few minutes.
pub(super) const LIMITS: Limits =
    Limits { streams: 64, per_peer: 4, burst: 20, interval: Duration::from_millis(500) };
/// Requests on one stream.
const MAX_REQUESTS: usize = 8;
/// How long a peer may take to send a request, and to read the answer.
const REQUEST: Duration = Duration::from_secs(10);
/// Third nodes asked for one check.
const MAX_THIRDS: usize = 3;
/// How long a third node may take.
const THIRD: Duration = Duration::from_millis(DIAL_MS + 2_000);
/// Checks and dials served at a time. Each makes packets go to addresses that somebody named.
const AT_ONCE: usize = 4;
/// How long each of them keeps its place: the long-run rate of what this node can be made to send.
const PLACE: Duration = Duration::from_secs(2);

/// Serves others. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Server {
    network: NetworkHandle,
    places: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(network: NetworkHandle) -> Self {
        Self { network, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Answers the requests of one stream.
    pub(super) async fn serve(self, incoming: IncomingStream, turn: Result<(), Busy>) {
        let IncomingStream { peer, mut stream } = incoming;
        let exchange = async {
            if turn.is_err() {
                let busy = stream.send(&ReachReply::Refused(Refusal::Busy), MAX_REACH_FRAME);
                return timeout(REQUEST, busy).await.unwrap_or(Err(StreamError::Timeout(REQUEST)));
            }
            for _ in 0..MAX_REQUESTS {
                let request = timeout(REQUEST, stream.receive::<ReachRequest>(MAX_REACH_FRAME)).await;
                let reply = match request {
                    Ok(Ok(Some(ReachRequest::Ping))) => ReachReply::Pong { now_ms: now_ms() },
                    Ok(Ok(Some(ReachRequest::Check { addresses }))) => self.check(peer, addresses).await,
                    Ok(Ok(Some(ReachRequest::Dial { node, addresses, acquainted }))) => {
                        self.dial(node, &addresses, acquainted).await
                    }
                    Ok(Ok(None)) | Err(_) => break,
                    Ok(Err(error)) => return Err(error),
                };
                match timeout(REQUEST, stream.send(&reply, MAX_REACH_FRAME)).await {
                    Ok(sent) => sent?,
                    Err(_) => return Err(StreamError::Timeout(REQUEST)),
                }
            }
            timeout(REQUEST, stream.close()).await.unwrap_or(Ok(()))
        };
        if let Err(error) = exchange.await {
            tracing::debug!(peer = %peer.short(), %error, "not answered");
        }
    }

    /// Has a third node dial `peer`, at those addresses that its own connection comes from.
    async fn check(&self, peer: NodeId, addresses: Vec<Line<256>>) -> ReachReply {
        let Ok(_place) = self.places.try_acquire() else { return ReachReply::Refused(Refusal::Busy) };
        let peers = self.network.peers().borrow().clone();
        let Some(from) = peers.iter().find(|known| known.peer == peer).and_then(PeerInfo::ip) else {
            return ReachReply::Refused(Refusal::Addresses);
        };
        let own = |address: &Line<256>| {
            address.as_str().parse::<Multiaddr>().is_ok_and(|address| first_ip(&address) == Some(from))
        };
        let addresses: Vec<Line<256>> = addresses.into_iter().filter(own).collect();
        if addresses.is_empty() {
            return ReachReply::Refused(Refusal::Addresses);
        }
        let elsewhere = |known: &&PeerInfo| {
            // One that is reached over IPv4 may have no IPv6, and the other way round.
            let suits = |ip: IpAddr| ip != from && ip.is_ipv4() == from.is_ipv4();
            known.peer != peer && !known.agent.is_empty() && known.ip().is_some_and(suits)
        };
        let mut thirds: Vec<NodeId> = peers.iter().filter(elsewhere).map(|known| known.peer).collect();
        thirds.shuffle(&mut rand::rng());
        thirds.truncate(MAX_THIRDS);
        let mut refusal = Refusal::Nobody;
        let mut acquaintance = None;
        for third in thirds {
            match self.pass_on(third, peer, &addresses, false).await {
                Some(ReachReply::Refused(Refusal::Acquainted)) => acquaintance = Some(third),
                Some(ReachReply::Refused(reason)) => refusal = reason,
                Some(ReachReply::Dialled { results, .. }) => return ReachReply::Dialled { by: third, results },
                Some(ReachReply::Pong { .. }) | None => {}
            }
        }
        // In a young network everybody knows everybody, and that even an acquaintance fails still tells.
        let Some(third) = acquaintance else { return ReachReply::Refused(refusal) };
        match self.pass_on(third, peer, &addresses, true).await {
            Some(ReachReply::Dialled { results, .. }) => ReachReply::Dialled { by: third, results },
            _ => ReachReply::Refused(Refusal::Acquainted),
        }
    }

    /// Asks `third` to dial; `None` if it does not answer.
    async fn pass_on(
        &self,
        third: NodeId,
        node: NodeId,
        addresses: &[Line<256>],
        acquainted: bool,
    ) -> Option<ReachReply> {
        let dial = ReachRequest::Dial { node, addresses: addresses.to_vec(), acquainted };
        let exchange = async {
            let mut stream = self.network.open(third, Vec::new(), Protocol::Reach).await?;
            stream.send(&dial, MAX_REACH_FRAME).await?;
            Ok::<_, NetworkError>(stream.receive(MAX_REACH_FRAME).await?)
        };
        match timeout(THIRD, exchange).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                tracing::debug!(peer = %third.short(), %error, "does not dial");
                None
            }
            Err(_) => None,
        }
    }

    /// Dials `node` at each of `addresses`, all at the same time, unless it is connected and that matters.
    async fn dial(&self, node: NodeId, addresses: &[Line<256>], acquainted: bool) -> ReachReply {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return ReachReply::Refused(Refusal::Busy);
        };
        tokio::spawn(async move {
            tokio::time::sleep(PLACE).await;
            drop(place);
        });
        if !acquainted && self.network.peers().borrow().iter().any(|known| known.peer == node) {
            return ReachReply::Refused(Refusal::Acquainted);
        }
        let dials = addresses.iter().map(|line| async move {
            let address = line.as_str().parse().ok()?;
            let error = match self.network.dial_back(node, address).await {
                Ok(()) => None,
                Err(NotDialled::Failed(reason)) => Some(Line::lossy(&reason)),
                Err(NotDialled::Untried(reason)) => {
                    tracing::debug!(address = line.as_str(), reason, "not dialled");
                    return None;
                }
            };
            Some(Dialled { address: line.clone(), error })
        });
        let results: Vec<Dialled> = join_all(dials).await.into_iter().flatten().collect();
        if results.is_empty() {
            return ReachReply::Refused(Refusal::Unable);
        }
        ReachReply::Dialled { by: self.network.local_id(), results }
    }
}
