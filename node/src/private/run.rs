//! One private job: with one provider after the other until enough have answered, and only then opened.

use super::{
    PrivateRequest, PrivateStep, PrivateUpdate, Shared, Verify,
    answer::{self, Closed},
    setup::{self, KeyOnItsWay, SetupError},
};
use crate::{
    clock::now_ms,
    routing::{JobFailure, JobRequest, JobUpdate, PrivateGoal, RankedCandidate, Wishes},
};
use aitbc_crypto::fhe::{InputError, Interface, Profile};
use aitbc_protocol::{
    Digest, MicroCredits, NodeId,
    bytes::BoundedBytes,
    private::{self, PrivateOffer},
    sealed::{MAX_SEALED_OUTPUT, Sealed},
};
use std::{fmt, sync::Arc};
use tokio::sync::mpsc;

/// Providers tried.
const MAX_ATTEMPTS: usize = 4;
/// The last update of a job that could not begin.
pub(super) fn failed(message: String) -> PrivateUpdate {
    PrivateUpdate::Step(PrivateStep::PrivateFailed(JobFailure::Failed { message }))
}

/// Runs a job to its end and says so.
pub(super) async fn run(shared: &Arc<Shared>, request: PrivateRequest, updates: mpsc::Sender<PrivateUpdate>) {
    let mut run =
        Run { shared, request, updates: updates.clone(), paid: MicroCredits::ZERO, receipts: Vec::new() };
    // Whoever leaves drops the job, and with it all that runs for it.
    let last = tokio::select! {
        biased;
        () = updates.closed() => return,
        () = shared.stop.cancelled() => failed("this node is stopping".to_owned()),
        ended = run.answer() => PrivateUpdate::Step(ended.unwrap_or_else(PrivateStep::PrivateFailed)),
    };
    // Whoever asked may have left by now.
    let _ = updates.send(last).await;
}

/// Why a provider brought no answer.
enum Fault {
    /// It is the request: nobody else would do.
    Request(JobFailure),
    /// It is the provider, or the way to it.
    Provider(String),
}

impl From<SetupError> for Fault {
    fn from(error: SetupError) -> Self {
        Self::Provider(error.to_string())
    }
}

/// The failure of a job that had its chances.
fn gave_up(answered: usize, wanted: usize, log: &[String]) -> JobFailure {
    JobFailure::Failed { message: format!("{answered} of {wanted} providers answered; {}", log.join("; ")) }
}

fn own(message: impl fmt::Display) -> Fault {
    Fault::Request(JobFailure::Failed { message: message.to_string() })
}

fn invalid(message: impl fmt::Display) -> Fault {
    Fault::Request(JobFailure::Invalid { message: message.to_string() })
}

struct Run<'a> {
    shared: &'a Arc<Shared>,
    request: PrivateRequest,
    updates: mpsc::Sender<PrivateUpdate>,
    /// Paid, and what may yet be paid for jobs that broke off.
    paid: MicroCredits,
    receipts: Vec<Digest>,
}

impl Run<'_> {
    async fn step(&self, step: PrivateStep) {
        // A reader that left ends the job from outside.
        let _ = self.updates.send(PrivateUpdate::Step(step)).await;
    }

    async fn job(&self, update: JobUpdate) {
        let _ = self.updates.send(PrivateUpdate::Job(update)).await;
    }

    async fn answer(&mut self) -> Result<PrivateStep, JobFailure> {
        self.request
            .validate()
            .map_err(|(field, problem)| JobFailure::Invalid { message: format!("{field}: {problem}") })?;
        let closed = self.closed().await?;
        // From here on all jobs are over: paid, settled or left to settling, and taken down in what routing knows of
        // their providers. What follows knows the answer, and touches nothing that others see.
        self.open(closed).await
    }

    /// Answers of as many providers as are wanted, each of them from a job that is over.
    async fn closed(&mut self) -> Result<Vec<Closed>, JobFailure> {
        let wanted = if self.request.verify == Some(Verify::Redundancy) { 2 } else { 1 };
        let (mut closed, mut tried, mut log) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let missing = wanted - closed.len();
            let candidates = match self.candidates(&tried, missing).await {
                Ok(candidates) if candidates.len() >= missing => candidates,
                Ok(candidates) if tried.is_empty() => {
                    // Nobody is paid for a part of it.
                    let message =
                        format!("{wanted} providers are to compute it, and {} can be asked", candidates.len());
                    return Err(JobFailure::NoProvider {
                        model: self.request.model.clone(),
                        message,
                        ruled_out: Vec::new(),
                    });
                }
                Err(failure) if tried.is_empty() => return Err(failure),
                _ => return Err(gave_up(closed.len(), wanted, &log)),
            };
            for candidate in candidates {
                if tried.len() == MAX_ATTEMPTS {
                    return Err(gave_up(closed.len(), wanted, &log));
                }
                let provider = candidate.provider;
                tried.push(provider);
                match self.attempt(candidate).await {
                    Ok(one) => closed.push(one),
                    Err(Fault::Request(failure)) => return Err(failure),
                    Err(Fault::Provider(reason)) => {
                        log.push(format!("{}: {reason}", provider.short()));
                        self.step(PrivateStep::ProviderFailed { provider, reason }).await;
                    }
                }
                if closed.len() == wanted {
                    return Ok(closed);
                }
            }
        }
    }

    /// Whom to ask, best first: those that others contradicted on earlier days after all that were not.
    async fn candidates(&self, tried: &[NodeId], least: usize) -> Result<Vec<RankedCandidate>, JobFailure> {
        let (sender, mut receiver) = mpsc::channel(super::UPDATES);
        let PrivateRequest { model, input, wishes, .. } = &self.request;
        let values = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let wanted = PrivateGoal { model, values, wishes, tried, least };
        let finding = async move { self.shared.routing.find_private(&wanted, &sender).await };
        let forwarding = async {
            while let Some(update) = receiver.recv().await {
                self.job(update).await;
            }
        };
        let (found, ()) = tokio::join!(finding, forwarding);
        let mut found = found?;
        let shared = Arc::clone(self.shared);
        let known = tokio::task::spawn_blocking(move || shared.verdicts.known(now_ms())).await.unwrap_or_default();
        found.sort_by_key(|candidate| known.get(&candidate.provider).copied().unwrap_or_default());
        Ok(found)
    }

    /// One job with one provider, to its end.
    async fn attempt(&mut self, candidate: RankedCandidate) -> Result<Closed, Fault> {
        let RankedCandidate { provider, weights, private, .. } = candidate;
        let offer = private.ok_or_else(|| Fault::Provider("it would have to read the input".to_owned()))?;
        let interface = setup::describe(self.shared, provider, &self.request.model, weights).await?;
        let profile = self.check(&interface, &offer)?;
        self.step(PrivateStep::Described {
            provider,
            weights,
            profile: offer.profile.clone(),
            values: interface.values(),
            bootstraps: interface.bootstraps(),
            key_bytes: offer.key_bytes,
        })
        .await;
        let bootstraps = interface.bootstraps();
        let (key, digest) = self.key(provider, profile, bootstraps > 0).await?;
        let (input, encrypting, by) = (self.request.input.clone(), Arc::clone(&key), Arc::clone(&interface));
        let ciphertext = tokio::task::spawn_blocking(move || encrypting.encrypt(&by, &input))
            .await
            .map_err(own)?
            .map_err(|error| match error {
                InputError::Randomness(_) | InputError::Profile { .. } => own(error),
                InputError::Count { .. } | InputError::NotFinite { .. } => invalid(format!("input: {error}")),
            })?;
        let bytes = ciphertext.len();
        self.step(PrivateStep::Encrypted { provider, bytes }).await;
        let sealed = Sealed {
            profile: offer.profile,
            evaluation_key: (bootstraps > 0).then_some(digest),
            values: u32::try_from(interface.values()).unwrap_or(u32::MAX),
            ciphertext: BoundedBytes::new(ciphertext).map_err(invalid)?,
        };
        let spec = private::spec(self.request.model.clone(), weights, sealed, bootstraps);
        let sealed = self.submit(provider, spec).await?;
        Ok(Closed { provider, interface, key, sealed })
    }

    /// Holds what a provider says of its model against what it offers, and against the input.
    fn check(&self, interface: &Interface, offer: &PrivateOffer) -> Result<Profile, Fault> {
        let profile = interface.profile();
        if profile.name() != offer.profile.as_str() || interface.bootstraps() != offer.bootstraps {
            return Err(Fault::Provider("it describes another model than it offers".to_owned()));
        }
        let (expected, got) = (interface.values(), self.request.input.len());
        if expected != got {
            return Err(invalid(format!("input: {got} values, the model takes {expected}")));
        }
        Ok(profile)
    }

    /// The secret key for one more job with `provider`, whose evaluation key is there when this returns.
    async fn key(
        &self,
        provider: NodeId,
        profile: Profile,
        is_sent: bool,
    ) -> Result<(Arc<aitbc_crypto::fhe::ClientKey>, Digest), Fault> {
        // One job makes and sends the key, and those beside it find it done.
        let turn = self.shared.ring.turn(provider, profile);
        let _turn = turn.lock().await;
        let ring = Arc::clone(&self.shared.ring);
        let held = tokio::task::spawn_blocking(move || ring.take(&provider, profile, now_ms()));
        let held = held.await.map_err(own)?.map_err(own)?;
        if held.is_new {
            self.step(PrivateStep::KeyMade { provider }).await;
        }
        if is_sent {
            let sending = KeyOnItsWay {
                shared: self.shared,
                provider,
                profile,
                key: &held.key,
                digest: held.digest,
                updates: &self.updates,
            };
            sending.send().await?;
        }
        Ok((held.key, held.digest))
    }

    /// Has the job done by `provider` alone, and waits until routing has said its last word: until then the answer stays
    /// as it came.
    async fn submit(
        &mut self,
        provider: NodeId,
        spec: aitbc_protocol::job::JobSpec,
    ) -> Result<BoundedBytes<MAX_SEALED_OUTPUT>, Fault> {
        let left = self.request.wishes.max_price.map(|most| most.checked_sub(self.paid).unwrap_or_default());
        let wishes = Wishes {
            max_price: left,
            provider: Some(provider),
            remote_only: true,
            weights: spec.weights,
            ..self.request.wishes.clone()
        };
        let mut running = self.shared.routing.submit(JobRequest { spec, wishes });
        let (mut sealed, mut failure, mut finished) = (None, None, None);
        let (mut at_most, mut started) = (MicroCredits::ZERO, false);
        while let Some(update) = running.updates.recv().await {
            match update {
                JobUpdate::Sealed { answer } => {
                    sealed = Some(answer);
                    continue;
                }
                JobUpdate::Failed(why) => {
                    failure = Some(why);
                    continue;
                }
                // Who may do it was found before.
                JobUpdate::Searching { .. } | JobUpdate::Found { .. } | JobUpdate::Ranked { .. } => continue,
                JobUpdate::Quoted { ref quote, .. } => at_most = quote.max_total,
                JobUpdate::Started { .. } => started = true,
                JobUpdate::Receipt { id, .. } => self.receipts.push(id),
                JobUpdate::Finished { paid, .. } => finished = Some(paid),
                _ => {}
            }
            self.job(update).await;
        }
        // A job that broke off may yet be paid in full when it is settled.
        let paid = finished.unwrap_or(if started { at_most } else { MicroCredits::ZERO });
        self.paid = self.paid.checked_add(paid).unwrap_or(MicroCredits(u64::MAX));
        match (finished, sealed, failure) {
            (Some(_), Some(sealed), _) => Ok(sealed),
            (_, _, Some(invalid @ JobFailure::Invalid { .. })) => Err(Fault::Request(invalid)),
            (_, _, Some(failure)) => Err(Fault::Provider(failure.to_string())),
            _ => Err(Fault::Provider("the job ended without an answer".to_owned())),
        }
    }

    /// Opens what came, on a thread that has nothing else.
    async fn open(&self, closed: Vec<Closed>) -> Result<PrivateStep, JobFailure> {
        let providers = closed.iter().map(|one| one.provider).collect();
        let opened = tokio::task::spawn_blocking(move || answer::open(&closed)).await;
        let opened =
            opened.map_err(|error| JobFailure::Failed { message: error.to_string() })?.map_err(|error| {
                JobFailure::Verification { message: format!("the answer cannot be opened: {error}") }
            })?;
        let agree = opened.verdict.as_ref().map(|verdict| verdict.agree);
        if let Some(verdict) = opened.verdict {
            let shared = Arc::clone(self.shared);
            // Where it cannot be kept, the answer is still one.
            let _ = tokio::task::spawn_blocking(move || shared.verdicts.note(&verdict, now_ms())).await;
        }
        Ok(PrivateStep::Answer {
            values: opened.answer.values,
            labels: opened.labels,
            class: opened.answer.class,
            agree,
            providers,
            receipts: self.receipts.clone(),
            paid: self.paid,
        })
    }
}
