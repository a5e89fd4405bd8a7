//! Settlements outside the network: this node signs what it has received, and brings it to the payer; it takes what payees
//! bring it.
//!
//! ```text
//! CLI -> API -> Settlements::settle -> ledger: signed, on disk
//!                                   `-> payer, now or when it is connected again --> its ledger: verified, on disk
//! ```
//!
//! No money moves here. A statement only tells both ledgers what moved elsewhere.

use crate::{
    market::{Ledger, LedgerError},
    network::{
        IncomingStream, NetworkHandle, Protocol, StreamError,
        intake::{self, Busy, Limits},
    },
};
use aitbc_protocol::{
    MicroCredits, NodeId, Signed,
    credit::{Settlement, SettlementReply},
    text::Line,
    wire::MAX_SETTLEMENT_FRAME,
};
use futures::FutureExt as _;
use serde::Serialize;
use std::time::Duration;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// A payee settles now and then; four at once where several of one owner's nodes do.
const LIMITS: Limits = Limits { streams: 8, per_peer: 1, burst: 4, interval: Duration::from_secs(2) };
/// How long one exchange may take, on each side.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the payer is looked for where it is not connected.
const REACHING: Duration = Duration::from_secs(15);
/// Time between two rounds to payers that have not taken theirs.
const ROUND: Duration = Duration::from_secs(30);
/// Most payers that one round goes to.
const PAYERS: usize = 16;

/// Signs and brings settlements. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Settlements {
    network: NetworkHandle,
    ledger: Ledger,
}

/// A settlement that this node has signed.
#[derive(Clone, Debug, Serialize)]
pub struct Receipted {
    /// Who has paid.
    pub peer: NodeId,
    /// What was received now.
    pub amount: MicroCredits,
    /// And in all.
    pub settled: MicroCredits,
    /// Whether the payer has taken it. If not, it is brought when the payer is connected.
    pub delivered: bool,
    /// Why it has not.
    pub undelivered: Option<String>,
}

/// Why a payer does not have its settlement yet.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error("the payer cannot be reached: {0}")]
    Network(#[from] crate::network::NetworkError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the payer did not answer within {PATIENCE:?}")]
    Timeout,
    #[error("the payer does not take it: {0}")]
    Refused(Line<160>),
    #[error("the payer closed the stream instead of answering")]
    Silent,
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Settlements {
    /// Signs that `peer` has paid `amount` more outside the network, and brings it to the peer if that can be reached.
    pub async fn settle(&self, peer: NodeId, amount: MicroCredits) -> Result<Receipted, LedgerError> {
        let signed = self.ledger.receive(peer, amount).await?;
        let settled = read(&signed);
        tracing::info!(peer = %peer.short(), %amount, "received outside the network");
        let brought = match timeout(REACHING, self.bring(peer, signed)).await {
            Ok(brought) => brought,
            Err(_) => Err(Undelivered::Timeout),
        };
        let undelivered = brought.err().map(|error| error.to_string());
        Ok(Receipted { peer, amount, settled, delivered: undelivered.is_none(), undelivered })
    }

    async fn bring(&self, payer: NodeId, settlement: Signed<Settlement>) -> Result<(), Undelivered> {
        let mut stream = self.network.open(payer, Vec::new(), Protocol::Settlement).await?;
        let exchange = async {
            stream.send(&settlement, MAX_SETTLEMENT_FRAME).await?;
            stream.receive::<SettlementReply>(MAX_SETTLEMENT_FRAME).await
        };
        match timeout(PATIENCE, exchange).await.map_err(|_| Undelivered::Timeout)?? {
            Some(SettlementReply::Taken) => Ok(self.ledger.settlement_delivered(payer, read(&settlement)).await?),
            Some(SettlementReply::Refused(why)) => Err(Undelivered::Refused(why)),
            None => Err(Undelivered::Silent),
        }
    }

    /// Brings what payers have not taken yet, as they are connected.
    async fn rounds(self) {
        let mut ticks = interval(ROUND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let waiting = match self.ledger.undelivered().await {
                Ok(waiting) => waiting,
                Err(error) => {
                    tracing::warn!(%error, "settlements cannot be read");
                    continue;
                }
            };
            let connected = self.network.peers().borrow().clone();
            let waiting =
                waiting.into_iter().filter(|(payer, _)| connected.iter().any(|peer| peer.peer == *payer));
            for (payer, settlement) in waiting.take(PAYERS) {
                if let Err(error) = self.bring(payer, settlement).await {
                    tracing::debug!(peer = %payer.short(), %error, "settlement not delivered");
                }
            }
        }
    }

    /// Serves one stream.
    async fn serve(self, incoming: IncomingStream, turn: Result<(), Busy>) {
        let IncomingStream { peer, mut stream } = incoming;
        let exchange = async {
            let reply = if let Err(Busy { retry_ms }) = turn {
                refusal(&format!("too many settlements: wait {retry_ms} ms"))
            } else {
                let Some(settlement) = stream.receive(MAX_SETTLEMENT_FRAME).await? else { return Ok(()) };
                self.take(peer, settlement).await
            };
            stream.send(&reply, MAX_SETTLEMENT_FRAME).await?;
            stream.close().await
        };
        match timeout(PATIENCE, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(peer = %peer.short(), %error, "settlement not taken"),
            Err(_) => tracing::debug!(peer = %peer.short(), "settlement not taken in time"),
        }
    }

    async fn take(&self, payee: NodeId, settlement: Signed<Settlement>) -> SettlementReply {
        match self.ledger.take_settlement(payee, settlement).await {
            Ok(()) => {
                tracing::info!(peer = %payee.short(), "the peer has signed what it received outside the network");
                SettlementReply::Taken
            }
            Err(error @ (LedgerError::Settlement(_) | LedgerError::Signature(_))) => {
                tracing::debug!(peer = %payee.short(), %error, "settlement refused");
                refusal(&error.to_string())
            }
            Err(error) => {
                tracing::error!(%error, "a settlement could not be recorded");
                refusal("the payer cannot write its ledger now")
            }
        }
    }
}

fn refusal(why: &str) -> SettlementReply {
    SettlementReply::Refused(Line::lossy(why))
}

/// What a settlement that this node has just signed or read from its own disk says.
fn read(settlement: &Signed<Settlement>) -> MicroCredits {
    settlement.read_unverified().map(|settlement| settlement.cumulative).unwrap_or_default()
}

/// Starts taking and bringing settlements, until `stop`.
pub fn start(
    network: NetworkHandle,
    ledger: Ledger,
    streams: mpsc::Receiver<IncomingStream>,
    stop: CancellationToken,
) -> (Settlements, JoinHandle<()>) {
    let settlements = Settlements { network, ledger };
    let bringing = stop.clone().run_until_cancelled_owned(settlements.clone().rounds());
    let server = settlements.clone();
    let serving = intake::serve(streams, LIMITS, stop.clone(), move |incoming, turn| {
        let served = stop.clone().run_until_cancelled_owned(server.clone().serve(incoming, turn));
        served.map(|_| ())
    });
    let both = async {
        tokio::join!(bringing, serving);
    };
    (settlements, tokio::spawn(both.instrument(tracing::info_span!("settlement"))))
}
