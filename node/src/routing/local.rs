//! Jobs that this node's own device answers: no quote, no cheque, nobody else who reads the prompt.

use super::{JobUpdate, Wishes};
use crate::engine::{EngineError, EngineEvent, EngineHandle};
use aitbc_protocol::{
    Digest, NodeId,
    job::{Finish, JobSpec},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// How a job on the own device ended.
#[derive(Debug)]
pub(super) enum LocalEnd {
    /// The answer is whole.
    Whole { finish: Finish, prompt_tokens: u32 },
    /// Whoever asked left.
    Cancelled,
    /// The device does not take it now; others may.
    Refused(EngineError),
    /// It failed on the way.
    Failed(EngineError),
}

/// What a job on the own device brought.
#[derive(Debug)]
pub(super) struct LocalReport {
    pub(super) end: LocalEnd,
    pub(super) count: u32,
    pub(super) tokens: Vec<u32>,
    pub(super) has_ids: bool,
    pub(super) delivered: bool,
    pub(super) first_piece: Option<Instant>,
    /// Weights that answered.
    pub(super) weights: Digest,
}

/// Who runs the job, and who listens.
pub(super) struct LocalJob<'a> {
    pub(super) me: NodeId,
    pub(super) engine: &'a EngineHandle,
    pub(super) spec: &'a JobSpec,
    pub(super) updates: &'a mpsc::Sender<JobUpdate>,
    pub(super) asked: Instant,
    pub(super) stop: &'a CancellationToken,
}

/// The weights this node's own engine would answer with, if it may.
pub(super) fn serves(engine: &EngineHandle, me: NodeId, spec: &JobSpec, wishes: &Wishes) -> Option<Digest> {
    // What this node may read, it need not encrypt.
    if spec.input.sealed().is_some()
        || wishes.remote_only
        || wishes.provider.is_some_and(|provider| provider != me)
    {
        return None;
    }
    let model = engine.model(&spec.model, spec.weights.as_ref())?;
    (wishes.allow_declared || !model.declared).then_some(model.weights)
}

impl LocalJob<'_> {
    /// Runs the job to its end.
    pub(super) async fn run(self, weights: Digest) -> LocalReport {
        let mut report = LocalReport {
            end: LocalEnd::Cancelled,
            count: 0,
            tokens: Vec::new(),
            has_ids: true,
            delivered: false,
            first_piece: None,
            weights,
        };
        report.end = self.generate(&mut report).await;
        report
    }

    async fn generate(&self, report: &mut LocalReport) -> LocalEnd {
        // By its name alone another engine could answer.
        let spec = JobSpec { weights: Some(report.weights), ..self.spec.clone() };
        let prefix = u32::try_from(self.spec.prefix.len()).unwrap_or(u32::MAX);
        let prompt_tokens = match self.engine.count_tokens(&spec).await {
            Ok(count) => count.saturating_add(prefix),
            Err(error) => return LocalEnd::Refused(error),
        };
        // Nobody is paid, so nothing has to pause.
        let mut generation = match self.engine.generate(spec, self.spec.max_tokens).await {
            Ok(generation) => generation,
            Err(error) => return LocalEnd::Refused(error),
        };
        let after_ms = u64::try_from(self.asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.updates.send(JobUpdate::Started { provider: self.me, after_ms }).await.is_err() {
            return LocalEnd::Cancelled;
        }
        loop {
            let event = tokio::select! {
                biased;
                () = self.updates.closed() => return LocalEnd::Cancelled,
                () = self.stop.cancelled() => return LocalEnd::Cancelled,
                event = generation.events.recv() => event,
            };
            let update = match event {
                Some(EngineEvent::Started) => continue,
                Some(EngineEvent::Token { id, text, logprobs }) => {
                    report.count += 1;
                    report.has_ids &= id.is_some();
                    report.tokens.extend(id);
                    JobUpdate::Delta {
                        text,
                        tokens: id.into_iter().collect(),
                        logprobs: logprobs.into_iter().collect(),
                    }
                }
                Some(EngineEvent::Embeddings(vectors)) => JobUpdate::Embeddings { vectors },
                Some(EngineEvent::Sealed(answer)) => JobUpdate::Sealed { answer },
                Some(EngineEvent::Finished { finish, text }) => {
                    if !text.is_empty() {
                        let rest = JobUpdate::Delta { text, tokens: Vec::new(), logprobs: Vec::new() };
                        if self.updates.send(rest).await.is_err() {
                            return LocalEnd::Cancelled;
                        }
                    }
                    return LocalEnd::Whole { finish, prompt_tokens };
                }
                Some(EngineEvent::Failed(error)) => return LocalEnd::Failed(error),
                None => return LocalEnd::Failed(EngineError::Crashed("it ended without a word".to_owned())),
            };
            report.first_piece.get_or_insert_with(Instant::now);
            report.delivered = true;
            if self.updates.send(update).await.is_err() {
                return LocalEnd::Cancelled;
            }
        }
    }
}
