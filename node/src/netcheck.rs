//! Whether others reach this node, asked of others, and the same service for them; round trips on request.
//!
//! ```text
//! asking: network's candidates --Check--> a peer --Dial--> a third node --dials--> here
//!             ^                                                 |
//!             +---- network: checked(helper, by, results) <---Dialled---+
//! serving: Check -> passes on as Dial    Dial -> network: dial_back    Ping -> Pong
//! ```
//!
//! The network owns what is known of its addresses and judges it; this module only carries questions and answers.

mod asking;
mod sentence;
mod serving;

use crate::{
    clock::now_ms,
    network::{
        FramedStream, IncomingStream, NetworkError, NetworkHandle, PathKind, Protocol, StreamError, intake,
    },
};
use aitbc_protocol::{
    NodeId,
    reach::{ReachReply, ReachRequest},
    wire::MAX_REACH_FRAME,
};
use futures::FutureExt as _;
use libp2p::{Multiaddr, multiaddr};
use serde::Serialize;
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use sentence::sentence;

/// How long the answer to a ping is waited for.
const PING_PATIENCE: Duration = Duration::from_secs(10);

/// Starts asking and serving, until `stop`.
pub(crate) fn start(
    network: NetworkHandle,
    streams: mpsc::Receiver<IncomingStream>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let server = serving::Server::new(network.clone());
    let asking = stop.clone().run_until_cancelled_owned(asking::run(network));
    let serving = intake::serve(streams, serving::LIMITS, stop.clone(), move |incoming, turn| {
        let serve = stop.clone().run_until_cancelled_owned(server.clone().serve(incoming, turn));
        // Nothing is lost where the node stops in the middle of it.
        serve.map(|_| ())
    });
    let both = async {
        tokio::join!(asking, serving);
    };
    tokio::spawn(both.instrument(tracing::info_span!("netcheck")))
}

/// Why there was no answer to a ping.
#[derive(Debug, thiserror::Error)]
pub enum PingError {
    /// It was not reached.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The stream broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It answered with something else.
    #[error("it answered something else")]
    OutOfTurn,
    /// It did not answer.
    #[error("no answer within {PING_PATIENCE:?}")]
    Timeout,
}

/// One answered ping.
#[derive(Clone, Debug, Serialize)]
pub struct Ping {
    /// Who answered.
    pub peer: NodeId,
    /// On what kind of connection, if it still is there.
    pub path: Option<PathKind>,
    /// `quic`, `tcp`.
    pub transport: Option<String>,
    /// The far end.
    pub address: Option<String>,
    /// The round trip in milliseconds.
    pub round_trip_ms: f64,
    /// How far the peer's clock is ahead of this node's, in milliseconds, give or take half the round trip.
    pub clock_ahead_ms: i64,
}

/// Measures a round trip to `peer` on the best connection to it; connects if there is none.
pub async fn ping(network: &NetworkHandle, peer: NodeId) -> Result<Ping, PingError> {
    let exchange = async {
        let mut stream = network.open(peer, Vec::new(), Protocol::Reach).await?;
        // The first question also agrees on the protocol: the second one's time is that of the path.
        once(&mut stream).await?;
        once(&mut stream).await
    };
    let (round_trip, clock_ahead_ms) =
        timeout(PING_PATIENCE, exchange).await.map_err(|_| PingError::Timeout)??;
    let info = network.peers().borrow().iter().find(|known| known.peer == peer).cloned();
    Ok(Ping {
        peer,
        path: info.as_ref().map(|info| info.path),
        transport: info.as_ref().map(|info| info.transport.clone()),
        address: info.map(|info| info.address),
        round_trip_ms: round_trip.as_secs_f64() * 1000.0,
        clock_ahead_ms,
    })
}

async fn once(stream: &mut FramedStream) -> Result<(Duration, i64), PingError> {
    let (asked, asked_ms) = (Instant::now(), now_ms());
    stream.send(&ReachRequest::Ping, MAX_REACH_FRAME).await?;
    let answer = stream.receive::<ReachReply>(MAX_REACH_FRAME).await?;
    let Some(ReachReply::Pong { now_ms: theirs }) = answer else { return Err(PingError::OutOfTurn) };
    let round_trip = asked.elapsed();
    let half_ms = u64::try_from(round_trip.as_millis() / 2).unwrap_or_default();
    let ours = asked_ms.saturating_add(half_ms);
    let ahead = i64::try_from(i128::from(theirs) - i128::from(ours)).unwrap_or(i64::MAX);
    Ok((round_trip, ahead))
}

/// The IP that an address begins with.
fn first_ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        multiaddr::Protocol::Ip4(ip) => Some(ip.into()),
        multiaddr::Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}
