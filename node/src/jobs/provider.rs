//! What the tasks of all streams share, and what refuses work before it is looked at.

use super::{JobsConfig, desk::Desk, metrics::JobMetrics, place::Place};
use crate::{
    engine::EngineHandle,
    gpu::power::PowerState,
    market::{Ledger, LedgerError, Origin, Strangers},
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::{
    MicroCredits, NodeId,
    credit::{Backing, CreditFault, share_of_capacity},
    evidence::Evidence,
    job::Rejection,
    text::Line,
};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The least that strangers may owe in a day where the owner sets nothing, in micro-credits: some hundred short answers of
/// a small model, so that a slow provider is not closed to whoever comes first.
pub(super) const LEAST_FOR_STRANGERS: MicroCredits = MicroCredits(1_000_000);

/// What the tasks of all streams share.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) config: JobsConfig,
    pub(super) key: SecretKey,
    pub(super) accuse: mpsc::Sender<Evidence>,
    pub(super) me: NodeId,
    pub(super) engine: EngineHandle,
    pub(super) ledger: Ledger,
    pub(super) desk: Desk,
    pub(super) metrics: JobMetrics,
    pub(super) counting: Semaphore,
    pub(super) power: watch::Receiver<Arc<PowerState>>,
    pub(super) place: Place,
    /// Cancelled when nothing new is taken.
    pub(super) stop: CancellationToken,
    /// Cancelled when what still runs ends.
    pub(super) closing: CancellationToken,
}

impl Provider {
    /// Refuses work of a node that is stopping.
    pub(super) fn check_open(&self) -> Result<(), Rejection> {
        if self.stop.is_cancelled() {
            return Err(Rejection::EngineUnavailable(Line::lossy("the provider is stopping")));
        }
        // Which limit it is, only the owner is told: it may be about what somebody does at home.
        if self.power.borrow().closed().is_some() {
            let reason = "the provider's limits of heat, power or hours allow no job now";
            return Err(Rejection::EngineUnavailable(Line::lossy(reason)));
        }
        Ok(())
    }

    /// What clients that have settled nothing may owe, and where `client` comes from.
    pub(super) fn strangers(&self, client: &NodeId) -> Strangers {
        let budget = self.config.strangers.unwrap_or_else(|| {
            let power = Arc::clone(&self.power.borrow());
            let engines = self.engine.status();
            let engines = engines.borrow();
            let models = engines.iter().flat_map(|engine| &engine.models);
            let shares = models.map(|model| {
                share_of_capacity(model.speed.into(), self.config.price_of(model, &power).completion)
            });
            shares.max().unwrap_or_default().max(LEAST_FOR_STRANGERS)
        });
        let from = (!self.config.network.is_local()).then(|| Origin::of(self.place.ip(client)));
        Strangers { budget, from }
    }

    /// Refuses a job that may cost more than the client's credit reaches for. Where there are clients with credit of
    /// their own, strangers leave the last free slot to them.
    pub(super) async fn check_credit(&self, client: NodeId, needed: MicroCredits) -> Result<(), Rejection> {
        match self.ledger.backing(client, needed, self.strangers(&client)).await {
            Ok((Backing::Strangers, true)) => self.desk.check_spare(),
            Ok(_) => Ok(()),
            Err(error) => Err(not_backed(&error)),
        }
    }

    /// Refuses work of a client that is late with a cheque.
    pub(super) async fn check_debt(&self, client: NodeId) -> Result<(), Rejection> {
        match self.ledger.debt(client).await {
            Ok(MicroCredits::ZERO) => Ok(()),
            Ok(late) => Err(Rejection::Debt(late)),
            Err(error) => {
                tracing::error!(%error, "the ledger does not answer");
                Err(Rejection::EngineUnavailable(Line::lossy("the provider cannot read its ledger now")))
            }
        }
    }
}

/// What a client is told whose credit does not reach, or cannot be read.
pub(super) fn not_backed(error: &LedgerError) -> Rejection {
    if let LedgerError::Credit(CreditFault { needed, own, strangers }) = *error {
        return Rejection::Credit { needed, left: own.max(strangers) };
    }
    tracing::error!(%error, "the ledger does not answer");
    Rejection::EngineUnavailable(Line::lossy("the provider cannot read its ledger now"))
}
