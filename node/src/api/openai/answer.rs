//! From the updates of a job to an answer: who did it, what it cost, what came.

use crate::{
    api::error::Failure,
    routing::{JobUpdate, RunningRequest},
};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, NodeId,
    job::{Finish, Logprobs},
};
use axum::http::{HeaderMap, HeaderValue};
use serde::Serialize;
use std::fmt::Display;
use tokio::sync::OwnedSemaphorePermit;

/// Most bytes of an answer that is put together before it is sent; one token may carry any amount of text, by its
/// provider's word.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The `aitbc` object of an answer: who gave it and what it cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Account {
    /// The job.
    pub(super) job: JobId,
    /// Providers that took part, in order.
    pub(super) providers: Vec<NodeId>,
    /// Ids of the receipts that came and were checked.
    pub(super) receipts: Vec<Digest>,
    /// Paid in all to providers.
    pub(super) paid_micro_credits: MicroCredits,
    /// The cloud of the settings, where it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cloud: Option<CloudAccount>,
}

/// The cloud that answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct CloudAccount {
    /// Host and port.
    pub(super) host: String,
    /// What it calls its model.
    pub(super) model: String,
    /// What the answer costs there, by the price that the settings name; `null` until it is whole.
    pub(super) cost_micro_credits: Option<MicroCredits>,
}

impl Account {
    /// The `x-aitbc-*` headers: what is known when they are written.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: String| {
            if !value.is_empty()
                && let Ok(value) = HeaderValue::from_str(&value)
            {
                headers.insert(name, value);
            }
        };
        put("x-aitbc-job", self.job.to_string());
        put("x-aitbc-provider", list(&self.providers));
        put("x-aitbc-receipt", list(&self.receipts));
        put("x-aitbc-cloud", self.cloud.as_ref().map(|cloud| cloud.host.clone()).unwrap_or_default());
        headers
    }
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// Why a whole answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FinishReason {
    /// The model ended it, or a stop sequence did.
    Stop,
    /// The limit of tokens or the context was reached.
    Length,
}

/// A piece of an answer.
#[derive(Debug)]
pub(super) enum Part {
    /// Text.
    Text {
        /// The text; may be empty while a stop sequence may still come.
        text: String,
        /// If asked for.
        logprobs: Vec<Logprobs>,
    },
    /// Vectors.
    Vectors(Vec<Vec<f32>>),
    /// The end.
    End {
        /// Why.
        finish: FinishReason,
        /// Tokens.
        usage: Usage,
    },
}

/// Tokens, under OpenAI's names.
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Usage {
    /// Of the prompt.
    pub(super) prompt_tokens: u32,
    /// Of the answer.
    pub(super) completion_tokens: u32,
    /// Both.
    pub(super) total_tokens: u32,
}

/// A job that is being answered. Dropping it cancels the job and gives its place in this API back.
#[derive(Debug)]
pub(super) struct Reader {
    running: RunningRequest,
    account: Account,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    /// Reads `running`, which holds `place`.
    pub(super) fn new(running: RunningRequest, place: OwnedSemaphorePermit) -> Self {
        let account = Account {
            job: running.job,
            providers: Vec::new(),
            receipts: Vec::new(),
            paid_micro_credits: MicroCredits::ZERO,
            cloud: None,
        };
        Self { running, account, _place: place }
    }

    /// Who does the job and what it cost, so far.
    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// The next part; after an end or a failure there is none.
    pub(super) async fn next(&mut self) -> Result<Part, Failure> {
        loop {
            let update =
                self.running.updates.recv().await.ok_or_else(|| {
                    Failure::internal("the job ended without a result: see the log of this node")
                })?;
            match update {
                JobUpdate::Started { provider, .. } => {
                    if !self.account.providers.contains(&provider) {
                        self.account.providers.push(provider);
                    }
                }
                JobUpdate::Cloud { host, model, .. } => {
                    self.account.cloud = Some(CloudAccount { host, model, cost_micro_credits: None });
                }
                JobUpdate::CloudBill { cost, .. } => {
                    if let Some(cloud) = &mut self.account.cloud {
                        cloud.cost_micro_credits = Some(cost);
                    }
                }
                JobUpdate::CloudFailed { .. } => self.account.cloud = None,
                JobUpdate::Delta { text, logprobs, .. } => return Ok(Part::Text { text, logprobs }),
                JobUpdate::Embeddings { vectors } => return Ok(Part::Vectors(vectors)),
                JobUpdate::Receipt { id, .. } => self.account.receipts.push(id),
                JobUpdate::Finished { finish, prompt_tokens, completion_tokens, paid } => {
                    self.account.paid_micro_credits = paid;
                    let finish = match finish {
                        Finish::Stop => FinishReason::Stop,
                        Finish::Length => FinishReason::Length,
                        Finish::Cancelled => return Err(Failure::broken("the job was cancelled")),
                        Finish::Failed => return Err(Failure::broken("the provider failed")),
                    };
                    let total_tokens = prompt_tokens.saturating_add(completion_tokens);
                    let usage = Usage { prompt_tokens, completion_tokens, total_tokens };
                    return Ok(Part::End { finish, usage });
                }
                JobUpdate::Failed(failure) => return Err(failure.into()),
                // The first two are of private jobs, which have their own route.
                JobUpdate::Computed { .. }
                | JobUpdate::Sealed { .. }
                | JobUpdate::Searching { .. }
                | JobUpdate::Found { .. }
                | JobUpdate::Ranked { .. }
                | JobUpdate::Declined { .. }
                | JobUpdate::Retrying { .. }
                | JobUpdate::Quoted { .. }
                | JobUpdate::Paid { .. }
                | JobUpdate::PathLost { .. }
                | JobUpdate::Resumed { .. }
                | JobUpdate::FailedOver { .. }
                | JobUpdate::Hedged { .. }
                | JobUpdate::Outrun { .. }
                | JobUpdate::ReceiptMissing { .. } => {}
            }
        }
    }

    /// The whole answer, [`MAX_ANSWER`] bytes at most.
    pub(super) async fn whole(mut self) -> Result<Answer, Failure> {
        let (mut text, mut logprobs, mut vectors) = (String::new(), Vec::new(), Vec::new());
        let mut bytes = 0usize;
        loop {
            match self.next().await? {
                Part::Text { text: more, logprobs: entries } => {
                    bytes =
                        bytes.saturating_add(more.len()).saturating_add(entries.iter().map(size).sum::<usize>());
                    text.push_str(&more);
                    logprobs.extend(entries);
                }
                Part::Vectors(more) => {
                    let numbers: usize = more.iter().map(Vec::len).sum();
                    bytes = bytes.saturating_add(numbers.saturating_mul(size_of::<f32>()));
                    vectors.extend(more);
                }
                Part::End { finish, usage } => {
                    return Ok(Answer { text, logprobs, vectors, finish, usage, account: self.account });
                }
            }
            if bytes > MAX_ANSWER {
                return Err(Failure::broken(format!("the answer is over {MAX_ANSWER} bytes: ask for a stream")));
            }
        }
    }
}

fn size(logprobs: &Logprobs) -> usize {
    std::iter::once(&logprobs.chosen)
        .chain(&logprobs.top)
        .map(|entry| size_of_val(entry) + entry.bytes.len())
        .sum()
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Text.
    pub(super) text: String,
    /// If asked for.
    pub(super) logprobs: Vec<Logprobs>,
    /// Vectors.
    pub(super) vectors: Vec<Vec<f32>>,
    /// Why it ended.
    pub(super) finish: FinishReason,
    /// Tokens.
    pub(super) usage: Usage,
    /// Who and how much.
    pub(super) account: Account,
}
