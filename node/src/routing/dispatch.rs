//! One job from request to answer: the own device, or quotes and attempts with one provider after the other, and with a
//! second one at the same time where the first is late.
//!
//! **Why an answer has no seam.** An engine emits with each token the text that became certain with it (complete UTF-8,
//! nothing a stop sequence may still take back), and that text depends on the tokens before it and on nothing else. So
//! the text of all chunks received is exactly what the tokens received make certain. The next provider is given these
//! tokens as prefix, brings its detokenizer to the same point, and emits only what comes after. Text held back to the
//! very end travels in a chunk without tokens and is shown only with a good receipt, so that it never comes twice. An
//! answer is continued only on the same weights, and never where the token ids are not known.

mod clouding;
mod finding;
mod hedging;
mod trying;

use super::{
    JobFailure, JobRequest, JobUpdate, Shared, Wishes,
    attempt::{Ended, Report},
    candidates::Choice,
    decisions::{self, Chosen, Decision, Pending, Prediction},
    local::{self, LocalEnd, LocalJob, LocalReport},
    metrics::Outcome,
    quotes::Offered,
};
use crate::{clock::now_ms, network::PeerInfo};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, NodeId,
    job::{Finish, Input, JobSpec, Rejection},
    routing::fallback::{CloudReason, Fallback},
};
use hedging::Parting;
use std::{collections::HashSet, sync::Arc};
use tokio::{sync::mpsc, time::Instant};
use tracing::info;

/// Providers that may fail on the way before the job does.
const MAX_ATTEMPTS: usize = 4;

/// How a job ends.
#[derive(Debug)]
enum End {
    Answered { finish: Finish, place: Place },
    Cancelled,
    Failed(JobFailure),
}

/// Where a job was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// By this node's own device.
    Device,
    /// By providers.
    Network,
    /// By the cloud of the settings.
    Cloud,
}

/// Where a job goes.
#[derive(Debug)]
enum Road {
    /// To the provider of this quote.
    Provider(Box<Offered>),
    /// To the cloud, before any provider.
    Cloud(CloudReason),
}

fn stopping() -> End {
    End::Failed(JobFailure::Failed { message: "this node is stopping".to_owned() })
}

/// What comes after a step: another provider, or the end.
#[derive(Debug)]
enum Flow {
    Next,
    Done(End),
}

/// Runs a job to its end and says so.
pub(super) async fn run(shared: &Arc<Shared>, job: JobId, request: JobRequest, updates: mpsc::Sender<JobUpdate>) {
    let asked = Instant::now();
    let mut dispatch = Dispatch::new(shared, job, request, updates, asked);
    let end = dispatch.run().await;
    if !matches!(end, End::Cancelled) {
        dispatch.last_account().await;
    }
    if let Some(first_piece) = dispatch.first_piece {
        shared.metrics.first_token(first_piece.duration_since(asked));
    }
    let (outcome, last) = match end {
        End::Answered { finish, place } => (
            match place {
                Place::Device => Outcome::Local,
                Place::Network => Outcome::Answered,
                Place::Cloud => Outcome::Cloud,
            },
            Some(JobUpdate::Finished {
                finish,
                prompt_tokens: dispatch.prompt_tokens.unwrap_or(0),
                completion_tokens: dispatch.count,
                paid: dispatch.paid,
            }),
        ),
        End::Cancelled => (Outcome::Cancelled, None),
        End::Failed(failure) => {
            info!(%failure, "job failed");
            let outcome = match failure {
                JobFailure::NoProvider { .. } | JobFailure::TooExpensive { .. } => Outcome::NoProvider,
                _ => Outcome::Failed,
            };
            (outcome, Some(JobUpdate::Failed(failure)))
        }
    };
    shared.metrics.job(outcome);
    if let Some(last) = last {
        // Whoever asked may have left by now.
        let _ = dispatch.updates.send(last).await;
    }
}

struct Dispatch<'a> {
    shared: &'a Arc<Shared>,
    job: JobId,
    /// The request; its prefix grows with every provider that fails.
    spec: JobSpec,
    wishes: Wishes,
    updates: mpsc::Sender<JobUpdate>,
    asked: Instant,
    /// Providers that failed this job.
    failed: Vec<NodeId>,
    /// Providers that did not take it, and why.
    declined: Vec<(NodeId, String)>,
    /// What those of them asked whose quote was above the ceiling, and nothing else.
    dear: Vec<(NodeId, MicroCredits)>,
    /// Providers reported as found.
    told: HashSet<NodeId>,
    /// The weights that began the answer: the only ones that may go on with it.
    weights: Option<Digest>,
    prompt_tokens: Option<u32>,
    /// Tokens of the answer so far.
    count: u32,
    paid: MicroCredits,
    /// What settling may still promise to providers that failed.
    reserved: MicroCredits,
    /// Whether a piece of the answer has reached whoever asked.
    delivered: bool,
    /// One line an attempt.
    log: Vec<String>,
    /// Whether the last attempt ended by waiting in vain.
    stalled: bool,
    /// Providers of the last ranking that could do the job, and those that were ruled out.
    looked_at: (usize, usize),
    /// The former, in order of rank.
    ranked: Vec<Choice>,
    /// Whether a second provider was asked beside one that was late.
    hedged: bool,
    /// A provider that another one outran, and whose account is to come.
    parting: Option<Parting>,
    /// Why the cloud is of no use to this job any more.
    cloud_failed: Option<String>,
    first_piece: Option<Instant>,
}

impl<'a> Dispatch<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        job: JobId,
        request: JobRequest,
        updates: mpsc::Sender<JobUpdate>,
        asked: Instant,
    ) -> Self {
        let JobRequest { spec, wishes } = request;
        Self {
            shared,
            job,
            spec,
            wishes,
            updates,
            asked,
            failed: Vec::new(),
            declined: Vec::new(),
            dear: Vec::new(),
            told: HashSet::new(),
            weights: None,
            prompt_tokens: None,
            count: 0,
            paid: MicroCredits::ZERO,
            reserved: MicroCredits::ZERO,
            delivered: false,
            log: Vec::new(),
            stalled: false,
            looked_at: (0, 0),
            ranked: Vec::new(),
            hedged: false,
            parting: None,
            cloud_failed: None,
            first_piece: None,
        }
    }

    async fn run(&mut self) -> End {
        if let Err(failure) = self.check() {
            return End::Failed(failure);
        }
        if let Some(Flow::Done(end)) = self.run_local().await {
            return end;
        }
        if self.wishes.provider == Some(self.me()) {
            return End::Failed(self.give_up("this node was asked for and does not answer the request itself"));
        }
        for _ in 0..MAX_ATTEMPTS {
            if self.spec.input.sealed().is_none() && self.spec.prefix.len() >= self.spec.max_tokens as usize {
                // The own device failed after it had delivered all there was to deliver.
                return End::Answered { finish: Finish::Length, place: Place::Network };
            }
            let flow = match self.find_quote().await {
                Ok(Road::Provider(offered)) => self.attempt(*offered).await,
                Ok(Road::Cloud(reason)) => self.run_cloud(reason).await,
                Err(end) => return self.or_cloud(end).await,
            };
            if let Flow::Done(end) = flow {
                return end;
            }
        }
        let failure = self.give_up(&format!("{MAX_ATTEMPTS} providers failed"));
        self.or_cloud(End::Failed(failure)).await
    }

    fn me(&self) -> NodeId {
        self.shared.key.node_id()
    }

    /// Refuses what no provider may be asked to do.
    fn check(&mut self) -> Result<(), JobFailure> {
        let invalid = |message: String| JobFailure::Invalid { message };
        match (self.spec.weights, self.wishes.weights) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                return Err(invalid("the request and its wishes name different weights: name one".to_owned()));
            }
            (None, Some(weights)) => self.spec.weights = Some(weights),
            _ => {}
        }
        if let Some(fallback) = self.wishes.fallback.filter(|fallback| *fallback != Fallback::Never)
            && self.shared.cloud.is_none()
        {
            let message = format!(
                "fallback is {fallback}, and this node has no cloud to fall back to: set [client.cloud] in its settings"
            );
            return Err(invalid(message));
        }
        self.spec.validate().and_then(|()| self.spec.digest()).map_err(|error| invalid(error.to_string()))?;
        Ok(())
    }

    /// Ends a phase early when nobody listens any more or the node stops.
    async fn unless_gone<T>(&self, phase: impl Future<Output = T>) -> Result<T, End> {
        tokio::select! {
            biased;
            () = self.updates.closed() => Err(End::Cancelled),
            () = self.shared.stop.cancelled() => Err(stopping()),
            done = phase => Ok(done),
        }
    }

    /// How a job ends that was cut off: by whoever asked, or by the end of this node.
    fn interrupted(&self) -> End {
        if self.shared.stop.is_cancelled() { stopping() } else { End::Cancelled }
    }

    async fn tell(&self, update: JobUpdate) {
        // A reader that left is noticed at the next wait.
        let _ = self.updates.send(update).await;
    }

    async fn decline(&mut self, provider: NodeId, reason: String) {
        self.tell(JobUpdate::Declined { provider, reason: reason.clone() }).await;
        self.declined.push((provider, reason));
    }

    /// The failure of a job that had its chances.
    fn give_up(&self, last: &str) -> JobFailure {
        let mut lines = self.log.clone();
        lines.push(last.to_owned());
        let message = lines.join("; ");
        if self.stalled { JobFailure::Timeout { message } } else { JobFailure::Failed { message } }
    }

    /// Keeps where the job goes, beside which provider that is late, and what is expected of that.
    fn decided(&self, chosen: Chosen, beside: Option<NodeId>, predicted: Option<Prediction>) -> Pending {
        let (among, ruled_out) = self.looked_at;
        self.shared.decisions.made(Decision {
            job: self.job,
            at_ms: now_ms(),
            model: self.spec.model.clone(),
            policy: self.policy().preference,
            chosen,
            beside,
            among,
            ruled_out,
            predicted,
            outcome: decisions::End::Running,
        })
    }

    /// Runs the job on this node's own device, where that serves the model. `None` where it does not.
    async fn run_local(&mut self) -> Option<Flow> {
        let engine = self.shared.engine.as_ref()?;
        let weights = local::serves(engine, self.me(), &self.spec, &self.wishes)?;
        let pending = self.decided(Chosen::Device, None, None);
        let job = LocalJob {
            me: self.me(),
            engine,
            spec: &self.spec,
            updates: &self.updates,
            asked: self.asked,
            stop: &self.shared.stop,
        };
        let LocalReport { end, count, tokens, has_ids, delivered, first_piece, weights } = job.run(weights).await;
        self.first_piece = first_piece;
        let outcome = match &end {
            LocalEnd::Whole { .. } => decisions::End::Answered { came: None },
            LocalEnd::Cancelled => decisions::End::Cancelled,
            LocalEnd::Refused(error) | LocalEnd::Failed(error) => {
                decisions::End::Failed { reason: error.to_string() }
            }
        };
        self.shared.decisions.ended(pending, outcome);
        match end {
            LocalEnd::Whole { finish, prompt_tokens } => {
                self.count = count;
                self.prompt_tokens = Some(prompt_tokens);
                Some(Flow::Done(End::Answered { finish, place: Place::Device }))
            }
            LocalEnd::Cancelled => Some(Flow::Done(self.interrupted())),
            LocalEnd::Refused(error) => {
                self.tell(JobUpdate::Declined { provider: self.me(), reason: error.to_string() }).await;
                None
            }
            LocalEnd::Failed(error) => {
                let broken = Broken { from: self.me(), reason: error.to_string(), tokens, has_ids, delivered };
                Some(self.fail_over(broken, count, weights).await)
            }
        }
    }

    async fn take_report(&mut self, provider: NodeId, report: Report, weights: Digest) -> Flow {
        let Report { ended, count, tokens, has_ids, delivered, paid, reserved, tail, first_piece, answer, .. } =
            report;
        self.first_piece = self.first_piece.or(first_piece);
        self.paid = self.paid.checked_add(paid).unwrap_or(MicroCredits(u64::MAX));
        self.reserved = self.reserved.checked_add(reserved).unwrap_or(MicroCredits(u64::MAX));
        let good = matches!(ended, Ended::Whole(_));
        if matches!(ended, Ended::Cancelled | Ended::Refused(_) | Ended::Own(_)) {
            self.shared.experience.probe_ended(&provider, false, now_ms());
        } else {
            self.shared.experience.note(provider, good, now_ms());
        }
        if let Some(answer) = answer.filter(|_| good) {
            self.shared.experience.answered(provider, weights, answer, now_ms());
        }
        match ended {
            Ended::Whole(finish) => {
                self.count = self.count.saturating_add(count);
                Flow::Done(End::Answered { finish, place: Place::Network })
            }
            Ended::Cancelled => Flow::Done(self.interrupted()),
            Ended::Refused(rejection) => {
                if matches!(rejection, Rejection::Debt(_)) {
                    self.shared.settle.owing(provider);
                }
                self.decline(provider, rejection.to_string()).await;
                Flow::Next
            }
            Ended::BadReceipt(message) => Flow::Done(End::Failed(JobFailure::Verification {
                message: format!("{}: {message}", provider.short()),
            })),
            Ended::Own(error) => Flow::Done(End::Failed(JobFailure::Failed { message: error.to_string() })),
            Ended::Broken { reason, stalled, receipted } => {
                self.stalled = stalled;
                if !receipted && count > 0 {
                    self.tell(JobUpdate::ReceiptMissing { provider, paid, reason: reason.clone() }).await;
                }
                if self.spec.input.sealed().is_none() && count > 0 && count >= self.spec.completion_tokens() {
                    return self.complete(provider, &reason, tail, count).await;
                }
                self.fail_over(Broken { from: provider, reason, tokens, has_ids, delivered }, count, weights).await
            }
        }
    }

    /// Ends a job whose provider failed after it had delivered all there was to deliver. Nobody says again what was
    /// held back, so it is shown now.
    async fn complete(&mut self, provider: NodeId, reason: &str, tail: String, count: u32) -> Flow {
        info!(peer = %provider, %reason, "the answer is whole all the same");
        self.count = self.count.saturating_add(count);
        if !tail.is_empty() {
            self.tell(JobUpdate::Delta { text: tail, tokens: Vec::new(), logprobs: Vec::new() }).await;
        }
        Flow::Done(End::Answered { finish: Finish::Length, place: Place::Network })
    }

    /// Prepares the job for the next provider: after the tokens at hand, or from the start where nothing was shown.
    async fn fail_over(&mut self, broken: Broken, count: u32, weights: Digest) -> Flow {
        let Broken { from, reason, tokens, has_ids, delivered } = broken;
        self.log.push(format!("{}: {reason}", from.short()));
        self.failed.push(from);
        self.delivered |= delivered;
        if self.spec.input.sealed().is_some() {
            // Another provider has another key of this client's: whoever has the values encrypts them anew.
            return Flow::Done(End::Failed(self.give_up("an encrypted input is for one provider only")));
        }
        if self.delivered && (!has_ids || matches!(self.spec.input, Input::Embed(_))) {
            return Flow::Done(End::Failed(self.give_up(
                "the answer cannot go on elsewhere, for the engine that began it does not tell token ids",
            )));
        }
        if has_ids && !tokens.is_empty() {
            self.spec.prefix.extend(tokens);
            self.count = self.count.saturating_add(count);
            self.weights = Some(weights);
        }
        self.shared.metrics.failover();
        let kept = u32::try_from(self.spec.prefix.len()).unwrap_or(u32::MAX);
        info!(peer = %from, %reason, kept, "failing over");
        self.tell(JobUpdate::FailedOver { from, reason, kept }).await;
        Flow::Next
    }
}

/// The longest of the latest round trips to a provider; nothing where none is measured.
fn longest_round_trip_ms(peers: &[PeerInfo], provider: &NodeId) -> u64 {
    let peer = peers.iter().find(|peer| peer.peer == *provider);
    // A cast of floating point saturates.
    peer.and_then(|peer| peer.longest_round_trip_ms).map_or(0, |time| time.ceil() as u64)
}

/// What a failed provider left.
struct Broken {
    from: NodeId,
    reason: String,
    tokens: Vec<u32>,
    has_ids: bool,
    delivered: bool,
}

#[cfg(test)]
mod tests;
