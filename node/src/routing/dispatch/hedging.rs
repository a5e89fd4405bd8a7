//! A job with the provider of a quote, and beside it with a second one where the first token is late.
//!
//! ```text
//!   quote -> trial A ----------------- late ------------------- first piece of B: B is shown, A is let go
//!                                        |-> quote -> trial B --+
//!                                                               +- first piece of A: A is shown, B is let go
//! ```
//!
//! Whoever is let go cancels as if the user had left: it is paid for what it delivered until it heard of that, and ends in a
//! task of its own. Until its account is known, all that it may cost counts towards the ceiling.

use super::{
    Dispatch, Flow,
    trying::{self, About, Cost, Step, Trial, Tried},
};
use crate::{
    clock::now_ms,
    routing::{
        JobFailure, JobUpdate, Shared,
        candidates::Choice,
        decisions::{Chosen, Prediction},
        metrics,
        quotes::{self, NoQuote, Offered, Order},
    },
};
use aitbc_protocol::{
    MicroCredits, NodeId,
    routing::{USUAL_ANSWER, hedging},
};
use futures::future::BoxFuture;
use std::{future::pending, sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};
use tracing::Instrument;

/// Providers asked, one after the other, until one takes the job beside the first: each of them sees the prompt.
const ASKED: usize = 2;
/// How long the end of a job waits for the account of a provider that was let go.
const ACCOUNT: Duration = Duration::from_millis(500);

/// What came of asking others.
struct Asked {
    offered: Option<Offered>,
    refused: Vec<(NodeId, NoQuote)>,
}

/// Where the second provider of a job stands.
enum Second {
    /// There is none, and will be none.
    No,
    /// The first one is late from then on.
    Due(Instant),
    Asking {
        whom: Vec<NodeId>,
        answer: BoxFuture<'static, Asked>,
    },
}

/// What happens with it.
enum News {
    Late,
    Answered(Box<Asked>),
}

impl Second {
    /// Cancel-safe; pending where nothing happens.
    async fn news(&mut self) -> News {
        match self {
            Self::No => pending().await,
            Self::Due(due) => {
                sleep_until(*due).await;
                News::Late
            }
            Self::Asking { answer, .. } => News::Answered(Box::new(answer.await)),
        }
    }
}

/// A provider that was let go, and whose account is to come.
pub(super) struct Parting {
    provider: NodeId,
    by: NodeId,
    /// The most that it can cost.
    most: MicroCredits,
    account: oneshot::Receiver<Cost>,
}

/// The account of a provider that was let go; pending where there is none.
async fn account(parting: &mut Option<Parting>) -> Cost {
    match parting {
        // A task that was lost with the runtime counts as one that costs all it can.
        Some(parting) => {
            let unknown = Cost { paid: MicroCredits::ZERO, reserved: parting.most };
            (&mut parting.account).await.unwrap_or(unknown)
        }
        None => pending().await,
    }
}

impl Dispatch<'_> {
    /// Takes a quote and runs the job with its provider, and with a second one where that one is late.
    pub(super) async fn attempt(&mut self, offered: Offered) -> Flow {
        let first = self.start(offered, None).await;
        let second = self.second(&first.about);
        self.race(vec![first], second).await
    }

    /// Runs the first of `trials` to its end, and others beside it, until one brings a piece of the answer: that one is shown.
    async fn race(&mut self, mut trials: Vec<Trial>, mut second: Second) -> Flow {
        let (updates, late) = (self.updates.clone(), trials[0].about.provider);
        let (mut shown, mut left) = (false, false);
        loop {
            let mut parting = self.parting.take();
            let step = tokio::select! {
                biased;
                () = updates.closed(), if !left => {
                    left = true;
                    second.forget(self.shared);
                    trials.iter_mut().for_each(Trial::leave);
                    None
                }
                cost = account(&mut parting) => {
                    if let Some(parting) = parting.take() {
                        self.settle_account(&parting, cost).await;
                    }
                    None
                }
                step = trying::next(&mut trials) => Some(step),
                news = second.news() => {
                    let first = trials[0].about;
                    match news {
                        News::Late => second = self.ask_others(&first),
                        News::Answered(asked) => {
                            second = Second::No;
                            trials.extend(self.start_second(*asked, &first).await);
                        }
                    }
                    None
                }
            };
            self.parting = parting;
            match step {
                None => {}
                Some((place, Step::Told(update))) => {
                    if !shown && matches!(*update, JobUpdate::Delta { .. }) {
                        shown = true;
                        second.forget(self.shared);
                        let winner = trials.swap_remove(place);
                        self.let_go(trials.pop(), &winner.about, late);
                        trials.push(winner);
                    }
                    self.tell(*update).await;
                }
                Some((place, Step::Ended(tried))) => {
                    let about = trials.remove(place).about;
                    trying::conclude(self.shared, &about, &tried);
                    let flow = self.take(&about, tried).await;
                    let gone = left || self.shared.stop.is_cancelled();
                    if !trials.is_empty() && (gone || matches!(flow, Flow::Next)) {
                        if !gone {
                            // The other one goes on alone.
                            self.count_hedge(about.provider == late);
                        }
                        continue;
                    }
                    second.forget(self.shared);
                    self.let_go(trials.pop(), &about, late);
                    return flow;
                }
            }
        }
    }

    /// Begins a trial; `beside` is the provider that is late, where there is one.
    async fn start(&mut self, offered: Offered, beside: Option<NodeId>) -> Trial {
        let Offered { choice, quote, .. } = &offered;
        let provider = choice.provider();
        let factors = quote.adjustment.explained();
        self.tell(JobUpdate::Quoted { provider, quote: quote.clone(), factors }).await;
        let usual = self.spec.completion_tokens().min(USUAL_ANSWER);
        let tokens = choice.model.private.as_ref().map_or(usual, |private| private.bootstraps);
        let expected = Prediction::of(&choice.ranked.reasons, tokens);
        let pending = self.decided(Chosen::Provider { provider }, beside, Some(expected));
        let (shared, job, spec, asked) = (Arc::clone(self.shared), self.job, self.spec.clone(), self.asked);
        let about = About {
            provider,
            weights: quote.weights,
            prompt_tokens: quote.prompt_tokens,
            most: quote.max_total,
            cost: choice.ranked.cost,
            began: Instant::now(),
            expected,
            pending,
        };
        Trial::new(about, |updates| Box::pin(trying::run(shared, job, spec, offered, asked, updates)))
    }

    /// Takes what came of a trial that was not let go.
    async fn take(&mut self, about: &About, tried: Tried) -> Flow {
        match tried {
            Tried::Ran(report) => {
                self.prompt_tokens.get_or_insert(about.prompt_tokens);
                self.take_report(about.provider, *report, about.weights).await
            }
            Tried::Left => {
                self.shared.experience.probe_ended(&about.provider, false, now_ms());
                Flow::Done(self.interrupted())
            }
            Tried::Unopened(reason) => {
                self.shared.experience.note(about.provider, false, now_ms());
                self.decline(about.provider, reason).await;
                Flow::Next
            }
            Tried::Unrecorded(message) => Flow::Done(super::End::Failed(JobFailure::Failed { message })),
        }
    }

    /// After how long a trial is late.
    fn patience(&self, about: &About) -> Option<Duration> {
        let error = self.shared.experience.first_error(&about.provider);
        let late_ms = hedging::late_after_ms(about.expected.first_ms, error, self.wishes.latency_class)?;
        Some(Duration::from_millis(late_ms))
    }

    /// When a second provider is asked, if one may be.
    fn second(&self, first: &About) -> Second {
        let may = self.shared.config.hedge
            && !self.hedged
            && self.wishes.provider.is_none()
            && hedging::suits(&self.spec, self.policy().preference)
            && !self.near(first).is_empty();
        let due = self.patience(first).filter(|_| may).and_then(|patience| first.began.checked_add(patience));
        due.map_or(Second::No, Second::Due)
    }

    /// Who ranked near enough to a provider that is late, and is within what the user pays for both.
    fn near(&self, late: &About) -> Vec<Choice> {
        let ceiling = hedging::ceiling_beside(self.ceiling(), late.most);
        let out = |who: NodeId| {
            who == late.provider || self.failed.contains(&who) || self.declined.iter().any(|(out, _)| *out == who)
        };
        let near = |choice: &&Choice| {
            !out(choice.provider())
                && hedging::is_near(late.cost, choice.ranked.cost)
                && ceiling.is_none_or(|ceiling| choice.ranked.reasons.price <= ceiling)
        };
        self.ranked.iter().filter(near).take(ASKED).cloned().collect()
    }

    /// Asks others for a quote beside a trial that is late, one after the other.
    fn ask_others(&mut self, late: &About) -> Second {
        self.hedged = true;
        let (shared, now_ms) = (self.shared, now_ms());
        let mut near = self.near(late);
        near.retain(|choice| {
            shared.experience.admit(&choice.provider(), choice.found.known.offer.issued_ms, now_ms)
        });
        let request = self.spec.digest();
        let (Ok(request), false) = (request, near.is_empty() || shared.stop.is_cancelled()) else {
            shared.metrics.hedged(metrics::Hedge::Unquoted);
            return Second::No;
        };
        let (shared, job, spec) = (Arc::clone(self.shared), self.job, self.spec.clone());
        let (latency, preference) = (self.wishes.latency_class, self.policy().preference);
        let ceiling = hedging::ceiling_beside(self.ceiling(), late.most);
        let whom = near.iter().map(Choice::provider).collect();
        let answer = async move {
            let order = Order { job, spec: &spec, request, latency, ceiling, preference };
            let mut refused = Vec::new();
            for choice in &near {
                let asked = std::slice::from_ref(choice);
                let (offered, no) = quotes::ask_all(&shared, &order, asked, quotes::PATIENCE).await;
                refused.extend(no);
                if let Some(offered) = offered.into_iter().next() {
                    return Asked { offered: Some(offered), refused };
                }
            }
            Asked { offered: None, refused }
        };
        Second::Asking { whom, answer: Box::pin(answer) }
    }

    /// Starts with whoever quoted beside a trial that is late.
    async fn start_second(&mut self, asked: Asked, late: &About) -> Option<Trial> {
        let Asked { offered, refused } = asked;
        for (provider, error) in refused {
            self.shared.experience.probe_ended(&provider, error.is_failure(), now_ms());
            if error.is_lost() {
                // One that waits for a cheque is settled with.
                self.lose(provider, &error);
            } else if !error.is_passing() {
                self.refuse(provider, &error).await;
            }
        }
        let Some(offered) = offered.filter(|_| !self.shared.stop.is_cancelled()) else {
            self.shared.metrics.hedged(metrics::Hedge::Unquoted);
            return None;
        };
        let after_ms = u64::try_from(late.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        // A cast of floating point saturates.
        let expected_ms = late.expected.first_ms.round() as u64;
        let beside = offered.choice.provider();
        self.tell(JobUpdate::Hedged { late: late.provider, after_ms, expected_ms, beside }).await;
        Some(self.start(offered, Some(late.provider)).await)
    }

    fn count_hedge(&self, second_won: bool) {
        self.shared.metrics.hedged(if second_won { metrics::Hedge::Won } else { metrics::Hedge::Lost });
    }

    /// Has a trial end that another one outran, in a task of its own: whoever is late may also be late to answer a
    /// cancellation.
    fn let_go(&mut self, trial: Option<Trial>, winner: &About, late: NodeId) {
        let Some(mut trial) = trial else { return };
        self.count_hedge(winner.provider != late);
        let about = trial.about;
        let (waited, patience) = (about.began.elapsed(), self.patience(&about));
        trial.leave();
        let (tell, account) = oneshot::channel();
        self.parting = Some(Parting { provider: about.provider, by: winner.provider, most: about.most, account });
        let shared = Arc::clone(self.shared);
        let ending = async move {
            let tried = trial.end().await;
            // The job may be over.
            let _ = tell.send(trying::outrun(&shared, &about, &tried, waited, patience));
        };
        self.shared.tasks.spawn(ending.in_current_span());
    }

    async fn settle_account(&mut self, parting: &Parting, cost: Cost) {
        let Parting { provider, by, .. } = *parting;
        let Cost { paid, reserved } = cost;
        self.paid = self.paid.checked_add(paid).unwrap_or(MicroCredits(u64::MAX));
        self.reserved = self.reserved.checked_add(reserved).unwrap_or(MicroCredits(u64::MAX));
        self.tell(JobUpdate::Outrun { provider, by, paid, reserved }).await;
    }

    /// Waits a little for the account of a provider that was let go, before the job ends.
    pub(super) async fn last_account(&mut self) {
        let mut parting = self.parting.take();
        if parting.is_none() {
            return;
        }
        let cost = timeout(ACCOUNT, account(&mut parting)).await;
        if let Some(parting) = parting {
            let unknown = Cost { paid: MicroCredits::ZERO, reserved: parting.most };
            self.settle_account(&parting, cost.unwrap_or(unknown)).await;
        }
    }

    /// What a provider that was let go may cost, while that is not known.
    pub(super) fn parting_most(&self) -> MicroCredits {
        self.parting.as_ref().map_or(MicroCredits::ZERO, |parting| parting.most)
    }
}

impl Second {
    /// Nobody is asked any more, or waited for: whoever was probed by that is to be probed by another job.
    fn forget(&mut self, shared: &Shared) {
        if let Self::Asking { whom, .. } = std::mem::replace(self, Self::No) {
            for provider in whom {
                shared.experience.probe_ended(&provider, false, now_ms());
            }
        }
    }
}

#[cfg(test)]
mod tests;
