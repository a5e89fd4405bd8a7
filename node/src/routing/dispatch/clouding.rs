//! A job in the cloud: whether it may go there, and its answer.

use super::{Dispatch, End, Flow, Place};
use crate::{
    clock::now_ms,
    engine::{EngineError, EngineEvent},
    routing::{
        JobFailure, JobUpdate, RuledOut,
        cloud::{Bill, Cloud, CloudEnd, CloudJob},
        decisions::{self, Came, Chosen, Prediction},
        experience::Answer,
    },
};
use aitbc_protocol::{
    MicroCredits,
    job::{Finish, Input, JobSpec},
    routing::{
        Reasons, USUAL_ANSWER,
        fallback::{CloudEstimate, CloudReason, Demands, Fallback, barred, cloud_reason},
    },
};
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tracing::info;

/// Events of the cloud that wait for their reader.
const EVENTS: usize = 64;
/// Longest silence of a cloud before and within an answer.
const SILENCE: Duration = Duration::from_secs(60);

/// What came of an answer so far.
#[derive(Debug, Default)]
struct Progress {
    pieces: u32,
    first: Option<Instant>,
    last: Option<Instant>,
    finish: Option<Finish>,
}

impl Dispatch<'_> {
    /// When this job may go to the cloud.
    pub(super) fn fallback(&self) -> Fallback {
        self.wishes.fallback.unwrap_or(self.shared.config.fallback)
    }

    /// Why this job goes to the cloud rather than to the best provider that could do it; `None` where it does not.
    pub(super) fn cloud_before(&self, best: Option<&Reasons>) -> Option<CloudReason> {
        let fallback = self.fallback();
        // Without a provider, the search and the questions decide that nobody is left, and not their first look.
        let best = best?;
        let cloud = self.shared.cloud.as_ref().filter(|_| self.out_of_cloud(fallback).is_none())?;
        let estimate = cloud.estimate(&self.spec, cloud.model(&self.spec.model)?);
        cloud_reason(fallback, &estimate, Some(best))
    }

    /// What keeps this job out of the cloud, as a row of the table of who was ruled out. `None` where nothing does.
    fn out_of_cloud(&self, fallback: Fallback) -> Option<RuledOut> {
        let out =
            |by: &str, reason: String| Some(RuledOut { provider: None, cell: None, by: by.to_owned(), reason });
        if fallback == Fallback::Never {
            return None;
        }
        let cloud = self.shared.cloud.as_ref()?;
        if let Some(reason) = &self.cloud_failed {
            return out("failed", reason.clone());
        }
        let Some(model) = cloud.model(&self.spec.model) else {
            let reason = format!("`client.cloud.models` names no model that stands in for {}", self.spec.model);
            return out("model", reason);
        };
        let bar = barred(&self.demands(), &cloud.estimate(&self.spec, model))?;
        out(bar.what(), bar.to_string())
    }

    fn demands(&self) -> Demands {
        Demands {
            sealed: self.spec.input.sealed().is_some(),
            min_trust: self.policy().least_trust(false),
            least_shown: u64::from(self.wishes.min_shown_mib),
            one_provider: self.wishes.provider.is_some(),
            weights: self.spec.weights.is_some(),
            vectors: matches!(self.spec.input, Input::Embed(_)),
            logprobs: self.spec.top_logprobs.is_some(),
            begun: self.delivered,
            ceiling: self.ceiling(),
        }
    }

    /// The end of a job that no provider has answered: by the cloud, where the user's `fallback` and the job allow it.
    pub(super) async fn or_cloud(&mut self, end: End) -> End {
        let End::Failed(failure) = end else { return end };
        let fallback = self.fallback();
        if fallback == Fallback::Never
            || matches!(failure, JobFailure::Invalid { .. })
            || self.shared.stop.is_cancelled()
        {
            return End::Failed(failure);
        }
        if let Some(row) = self.out_of_cloud(fallback) {
            return End::Failed(match failure {
                // Nobody but the cloud could do it, and it is above the ceiling.
                JobFailure::NoProvider { model, message, ruled_out }
                    if ruled_out.is_empty() && row.by == "price" =>
                {
                    let message =
                        format!("no provider for {model}, and the cloud is above the ceiling: {message}");
                    JobFailure::TooExpensive { message, ruled_out: Vec::new() }.with(row)
                }
                failure => failure.with(row),
            });
        }
        match self.run_cloud(CloudReason::NoEdge).await {
            Flow::Done(end) => end,
            Flow::Next => match self.out_of_cloud(fallback) {
                Some(row) => End::Failed(failure.with(row)),
                None => End::Failed(failure),
            },
        }
    }

    /// Has the cloud answer the whole job. [`Flow::Next`] where it failed before anything was shown: others may do it.
    pub(super) async fn run_cloud(&mut self, reason: CloudReason) -> Flow {
        let shared = self.shared;
        let Some((cloud, model)) =
            shared.cloud.as_ref().and_then(|cloud| Some((cloud, cloud.model(&self.spec.model)?)))
        else {
            return Flow::Next;
        };
        // What failed providers began was never shown: the cloud begins anew.
        let spec = JobSpec { prefix: Vec::new(), ..self.spec.clone() };
        let CloudEstimate { price: most, first_ms, time_ms } = cloud.estimate(&spec, model);
        let generate_ms = time_ms - first_ms;
        let predicted =
            Prediction { first_ms, generate_ms, tokens: spec.max_tokens.min(USUAL_ANSWER), price: most };
        let pending = self.decided(Chosen::Cloud { host: cloud.host().to_owned() }, None, Some(predicted));
        let host = cloud.host().to_owned();
        info!(cloud = %host, model, %reason, "going to the cloud");
        self.tell(JobUpdate::Cloud { host: host.clone(), model: model.to_owned(), most, reason }).await;
        let (sender, events) = mpsc::channel(EVENTS);
        let (began, mut progress) = (Instant::now(), Progress::default());
        let both = async {
            let asked = cloud.ask(&spec, model, sender);
            tokio::try_join!(asked, read(events, &self.updates, &mut progress)).map(|(usage, ())| usage)
        };
        let asked = self.unless_gone(both).await;
        let note = |end: CloudEnd, bill: &Bill, answer| {
            let job = CloudJob {
                job: self.job,
                model: spec.model.clone(),
                cloud_model: model.to_owned(),
                reason,
                end,
                cost: bill.cost,
                tokens: bill.completion_tokens,
                created_ms: now_ms(),
            };
            cloud.note(job, answer);
        };
        self.first_piece = self.first_piece.or(progress.first);
        let usage = match asked {
            Err(end) => {
                note(CloudEnd::Cancelled, &so_far(cloud, &spec, &progress), None);
                shared.decisions.ended(pending, decisions::End::Cancelled);
                return Flow::Done(end);
            }
            Ok(Err(error)) => {
                let failure = told(&error);
                note(CloudEnd::Failed { failure: failure.clone() }, &so_far(cloud, &spec, &progress), None);
                shared.decisions.ended(pending, decisions::End::Failed { reason: failure.clone() });
                return self.cloud_fails(host, failure, progress.pieces > 0).await;
            }
            Ok(Ok(usage)) => usage,
        };
        let bill = cloud.bill(&spec, progress.pieces, usage);
        let answer = speed(&progress, began, bill.prompt_tokens);
        note(CloudEnd::Completed, &bill, answer);
        let came = answer.map(|answer| Came {
            first_ms: answer.first_ms,
            whole_ms: answer.whole_ms,
            predicted_ms: Some(predicted.whole_ms(answer.tokens)),
            tokens: answer.tokens,
            paid: bill.cost,
        });
        shared.decisions.ended(pending, decisions::End::Answered { came });
        let Bill { prompt_tokens, completion_tokens, counted, cost } = bill;
        self.prompt_tokens = Some(prompt_tokens);
        self.count = completion_tokens;
        self.tell(JobUpdate::CloudBill {
            host,
            model: model.to_owned(),
            prompt_tokens,
            completion_tokens,
            counted,
            cost,
        })
        .await;
        Flow::Done(End::Answered { finish: progress.finish.unwrap_or(Finish::Stop), place: Place::Cloud })
    }

    async fn cloud_fails(&mut self, host: String, failure: String, shown: bool) -> Flow {
        info!(cloud = %host, %failure, "the cloud failed");
        self.tell(JobUpdate::CloudFailed { host: host.clone(), reason: failure.clone() }).await;
        if shown {
            self.delivered = true;
            let message = format!("the cloud {host} failed in mid-answer: {failure}");
            return Flow::Done(End::Failed(JobFailure::Failed { message }));
        }
        self.cloud_failed = Some(format!("{host} failed: {failure}"));
        Flow::Next
    }
}

/// What an answer that did not come to its end costs: its prompt where anything came, and what came.
fn so_far(cloud: &Cloud, spec: &JobSpec, progress: &Progress) -> Bill {
    let bill = cloud.bill(spec, progress.pieces, crate::engine::upstream::Usage::default());
    if progress.pieces == 0 { Bill { cost: MicroCredits::ZERO, ..bill } } else { bill }
}

/// How fast an answer came.
fn speed(progress: &Progress, began: Instant, prompt_tokens: u32) -> Option<Answer> {
    let (first, last) = (progress.first?, progress.last?);
    let took = last.saturating_duration_since(first);
    let tokens = progress.pieces.saturating_sub(1);
    // Casts of floating point saturate.
    let speed = (f64::from(tokens) * 1000.0 / took.as_secs_f64()) as u32;
    Some(Answer {
        first_ms: first.saturating_duration_since(began).as_secs_f64() * 1000.0,
        whole_ms: last.saturating_duration_since(began).as_secs_f64() * 1000.0,
        prompt_tokens,
        tokens: progress.pieces,
        speed: (tokens >= 16 && took >= Duration::from_millis(50)).then_some(speed),
    })
}

/// The failure in words of this side.
fn told(error: &EngineError) -> String {
    match error {
        EngineError::Full => {
            "it answers 429: too many requests at a time, or the account behind `client.cloud.key_file` is used up"
                .to_owned()
        }
        error => error.to_string(),
    }
}

/// Passes on what the cloud tells until it says no more.
async fn read(
    mut events: mpsc::Receiver<EngineEvent>,
    updates: &mpsc::Sender<JobUpdate>,
    progress: &mut Progress,
) -> Result<(), EngineError> {
    loop {
        let event = timeout(SILENCE, events.recv())
            .await
            .map_err(|_| EngineError::Failed(format!("nothing came of it for {} s", SILENCE.as_secs())))?;
        match event {
            None => return Ok(()),
            Some(EngineEvent::Token { text, .. }) => {
                progress.pieces = progress.pieces.saturating_add(1);
                if text.is_empty() {
                    continue;
                }
                let now = Instant::now();
                progress.first.get_or_insert(now);
                progress.last = Some(now);
                // Whoever left is noticed by the one who waits for this.
                let _ = updates.send(JobUpdate::Delta { text, tokens: Vec::new(), logprobs: Vec::new() }).await;
            }
            Some(EngineEvent::Finished { finish, .. }) => progress.finish = Some(finish),
            Some(_) => {}
        }
    }
}
