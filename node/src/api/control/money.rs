//! Money on the control API: accounts, earnings, the ledger as a file.

use super::{
    ApiState, Failure, Limit, Payload,
    documents::{JobSummary, NothingFound},
    limit, ndjson, streamed,
};
use crate::{
    api::body::{Gone, Writer},
    market::{Account, Earnings, LedgerError, export::Exporter},
    settlement::Receipted,
};
use aitbc_protocol::{MicroCredits, NodeId, UnixMillis};
use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::Response,
};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

/// `aitbc.accounts/1`
#[derive(Debug, Serialize)]
pub(super) struct AccountList {
    schema: &'static str,
    /// Those with the most open first.
    accounts: Vec<Account>,
    /// Accounts beyond the limit.
    left_off: usize,
    /// Open to this node, over all accounts.
    open_to_us: MicroCredits,
    /// Open to others, over all accounts.
    open_to_others: MicroCredits,
}

pub(super) async fn accounts(
    State(state): State<ApiState>,
    query: Result<Query<Limit>, QueryRejection>,
) -> Result<Json<AccountList>, Failure> {
    let limit = limit(query)?;
    let _place = state.place()?;
    let found = state.parts().ledger.accounts(limit).await?;
    Ok(Json(AccountList {
        schema: "aitbc.accounts/1",
        accounts: found.accounts,
        left_off: found.left_off,
        open_to_us: found.open_to_us,
        open_to_others: found.open_to_others,
    }))
}

/// `aitbc.account/1`
#[derive(Debug, Serialize)]
pub(super) struct AccountDocument {
    schema: &'static str,
    peer: NodeId,
    /// Earned and spent, where there is something.
    accounts: Vec<AccountWithJobs>,
}

#[derive(Debug, Serialize)]
struct AccountWithJobs {
    #[serde(flatten)]
    account: Account,
    /// The newest first.
    newest_jobs: Vec<JobSummary>,
}

pub(super) async fn account(
    State(state): State<ApiState>,
    Path(peer): Path<String>,
    query: Result<Query<Limit>, QueryRejection>,
) -> Result<Json<AccountDocument>, Failure> {
    let peer: NodeId = peer.parse().map_err(|error| Failure::invalid("peer", format!("id of a peer: {error}")))?;
    let limit = limit(query)?;
    let _place = state.place()?;
    let found = state.parts().ledger.account(peer, limit).await?;
    if found.is_empty() {
        return Err(Failure::not_found("account_not_found", format!("this node never dealt with {peer}")));
    }
    let accounts = found.into_iter().map(|(account, jobs)| AccountWithJobs {
        account,
        newest_jobs: jobs.iter().map(JobSummary::from).collect(),
    });
    Ok(Json(AccountDocument { schema: "aitbc.account/1", peer, accounts: accounts.collect() }))
}

/// The body of `POST /aitbc/v1/ledger/settle`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleRequest {
    peer: NodeId,
    /// Received now, outside the network.
    amount: MicroCredits,
}

/// `aitbc.settled/1`
#[derive(Debug, Serialize)]
pub(super) struct SettledDocument {
    schema: &'static str,
    #[serde(flatten)]
    receipted: Receipted,
}

pub(super) async fn settle(
    State(state): State<ApiState>,
    body: Payload,
) -> Result<Json<SettledDocument>, Failure> {
    let SettleRequest { peer, amount } = body.json()?;
    let _place = state.place()?;
    let receipted = state.parts().settlements.settle(peer, amount).await.map_err(|error| match error {
        LedgerError::Settlement(fault) => Failure::invalid("amount", fault.to_string()),
        other => other.into(),
    })?;
    Ok(Json(SettledDocument { schema: "aitbc.settled/1", receipted }))
}

/// `?since_ms=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Since {
    since_ms: Option<UnixMillis>,
}

fn since(query: Result<Query<Since>, QueryRejection>) -> Result<UnixMillis, Failure> {
    let Query(Since { since_ms }) = query.map_err(|rejection| Failure::malformed(rejection.body_text()))?;
    Ok(since_ms.unwrap_or_default())
}

/// `aitbc.earnings/1`
#[derive(Debug, Serialize)]
pub(super) struct EarningsDocument {
    schema: &'static str,
    since_ms: UnixMillis,
    #[serde(flatten)]
    earnings: Earnings,
}

pub(super) async fn earnings(
    State(state): State<ApiState>,
    query: Result<Query<Since>, QueryRejection>,
) -> Result<Json<EarningsDocument>, Failure> {
    let since_ms = since(query)?;
    let _place = state.place()?;
    let earnings = state.parts().ledger.earnings(since_ms).await?;
    Ok(Json(EarningsDocument { schema: "aitbc.earnings/1", since_ms, earnings }))
}

pub(super) async fn export(
    State(state): State<ApiState>,
    query: Result<Query<Since>, QueryRejection>,
) -> Result<Response, Failure> {
    let since_ms = since(query)?;
    let place = state.place()?;
    let parts = state.parts();
    let exporter = parts.ledger.export(parts.network.local_id(), since_ms);
    Ok(ndjson(streamed(tracing::info_span!("api_export"), |writer| write_export(writer, exporter, place))))
}

/// Writes an export as fast as it is read. An export that cannot go on ends without its signature, and says why.
async fn write_export(writer: Writer, mut exporter: Exporter, _place: OwnedSemaphorePermit) -> Result<(), Gone> {
    loop {
        match exporter.next().await {
            Ok(Some(piece)) => writer.send(piece.into()).await?,
            Ok(None) => return Ok(()),
            Err(error) => {
                return writer.line(&NothingFound { event: "failed", message: error.to_string() }).await;
            }
        }
    }
}
