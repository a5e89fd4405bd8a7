//! The two probe streams of one connection.

use super::{
    Pace, Report,
    prober::{self, PROBE_BYTES},
};
use aitbc_protocol::wire::PROBE_PROTOCOL;
use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream,
};
use libp2p::{
    Stream, StreamProtocol,
    core::upgrade::ReadyUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use std::{
    fmt, io,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Rest after each echo, so that a peer that probes without end costs nearly nothing.
const ECHO_REST: Duration = Duration::from_millis(50);

/// Streams that do not open before the connection counts as dead: each has ten seconds.
const MAX_FAILURES: u32 = 2;

enum Outbound {
    Wanted,
    Opening,
    Probing(BoxStream<'static, Report>),
    /// The peer does not answer probes; whether it lives, the transport must tell.
    Off,
}

/// Probes one connection and echoes the peer's probes.
pub struct Handler {
    pace: watch::Sender<Pace>,
    outbound: Outbound,
    echo: Option<BoxFuture<'static, io::Result<()>>>,
    /// When the stream was first asked for, and how often it did not open.
    asked: Instant,
    failures: u32,
}

impl Handler {
    pub(super) fn new() -> Self {
        Self {
            pace: watch::Sender::new(Pace::default()),
            outbound: Outbound::Wanted,
            echo: None,
            asked: Instant::now(),
            failures: 0,
        }
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handler").field("pace", &*self.pace.borrow()).finish_non_exhaustive()
    }
}

fn protocol() -> SubstreamProtocol<ReadyUpgrade<StreamProtocol>> {
    SubstreamProtocol::new(ReadyUpgrade::new(StreamProtocol::new(PROBE_PROTOCOL)), ())
}

async fn echo(mut stream: Stream) -> io::Result<()> {
    let mut bytes = [0; PROBE_BYTES];
    loop {
        stream.read_exact(&mut bytes).await?;
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        tokio::time::sleep(ECHO_REST).await;
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Pace;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        protocol()
    }

    fn on_behaviour_event(&mut self, pace: Pace) {
        self.pace.send_replace(pace);
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Report>> {
        if let Some(echo) = &mut self.echo
            && echo.poll_unpin(context).is_ready()
        {
            self.echo = None;
        }
        match &mut self.outbound {
            Outbound::Wanted => {
                self.outbound = Outbound::Opening;
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol: protocol() })
            }
            Outbound::Probing(reports) => match reports.poll_next_unpin(context) {
                Poll::Ready(Some(report)) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report)),
                Poll::Ready(None) => {
                    self.outbound = Outbound::Off;
                    Poll::Pending
                }
                Poll::Pending => Poll::Pending,
            },
            Outbound::Opening | Outbound::Off => Poll::Pending,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: mut stream, .. }) => {
                stream.ignore_for_keep_alive();
                // One a connection: a newer stream replaces the older one.
                self.echo = Some(echo(stream).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: mut stream, .. }) => {
                stream.ignore_for_keep_alive();
                let opening = self.asked.elapsed();
                self.outbound = Outbound::Probing(prober::probe(stream, opening, self.pace.subscribe()).boxed());
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                error: StreamUpgradeError::NegotiationFailed,
                ..
            }) => self.outbound = Outbound::Off,
            ConnectionEvent::DialUpgradeError(_) => {
                self.failures += 1;
                self.outbound = if self.failures < MAX_FAILURES {
                    Outbound::Wanted
                } else {
                    // Not even a stream opens.
                    let dead = Report::Dead(self.asked.elapsed());
                    Outbound::Probing(futures::stream::once(async move { dead }).boxed())
                };
            }
            _ => {}
        }
    }
}
