//! Serves `/aitbc/job/1`: admits a job under its quote, lets one go on whose stream broke, or settles one that ended
//! without its last words.

use super::{
    ENGINE_ANSWER, FIRST_MESSAGE, Provider, SHORT_ANSWER,
    delivery::Binding,
    desk::Ticket,
    provider::not_backed,
    quotes::with_weights,
    resuming,
    run::{Job, KEPT, Surroundings, run_job},
    settle,
};
use crate::{
    blocking,
    clock::now_ms,
    engine::Generation,
    market::{Ledger, LedgerError, Strangers},
    network::{FramedStream, IncomingStream, intake::Busy},
};
use aitbc_crypto::signing;
use aitbc_protocol::messages::{ToClient, ToProvider};
use aitbc_protocol::{
    NetworkId, NodeId, Signed, UnixMillis,
    job::{JobSpec, Rejection},
    quote::Quote,
    receipt::Execution,
    sealed::Sealed,
    text::Line,
    wire,
};
use std::sync::Arc;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

/// Serves one stream from its first message to its end.
pub(super) async fn serve(provider: Arc<Provider>, incoming: IncomingStream, turn: Result<(), Busy>) {
    let IncomingStream { peer, mut stream } = incoming;
    if let Err(Busy { retry_ms }) = turn {
        reject(&provider, &mut stream, Rejection::RateLimited { retry_ms }).await;
        return;
    }
    match timeout(FIRST_MESSAGE, stream.receive::<ToProvider>(wire::MAX_JOB_FRAME)).await {
        Ok(Ok(Some(ToProvider::Open { quote, spec }))) => provider.open(peer, stream, quote, spec).await,
        Ok(Ok(Some(ToProvider::Settle { job, quote, cheque }))) => {
            let span = tracing::info_span!("settle", %job, peer = %peer.short());
            settle::serve(&provider.ledger, &provider.desk, stream, quote, cheque).instrument(span).await;
        }
        Ok(Ok(Some(ToProvider::Resume { job, quote, attempt, next }))) => {
            let span = tracing::info_span!("resume", %job, peer = %peer.short());
            let Provider { desk, metrics, .. } = &*provider;
            resuming::serve(desk, metrics, stream, quote, attempt, next).instrument(span).await;
        }
        Ok(Ok(Some(ToProvider::Ack { .. } | ToProvider::Cancel | ToProvider::Done))) => {
            let out_of_turn = Rejection::Invalid(Line::lossy("a job stream starts with open, resume or settle"));
            reject(&provider, &mut stream, out_of_turn).await;
        }
        Ok(Ok(None)) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(peer = %peer.short(), %error, "job stream not read"),
    }
}

async fn reject(provider: &Provider, stream: &mut FramedStream, rejection: Rejection) {
    provider.metrics.rejected(&rejection);
    tracing::debug!(peer = %stream.peer().short(), %rejection, "job refused");
    let sent = timeout(SHORT_ANSWER, async {
        stream.send(&ToClient::Rejected(rejection), wire::MAX_JOB_FRAME).await?;
        stream.close().await
    });
    if let Ok(Err(error)) = sent.await {
        tracing::debug!(%error, "refusal not delivered");
    }
}

/// Judges whether `quote` is this provider's own, for this client and request, and still binds. Whether it was used
/// is for the desk and the ledger to say. A quote from before a restart holds: it needs no memory but the key.
pub(super) fn verify(
    network: &NetworkId,
    me: NodeId,
    client: NodeId,
    signed: &Signed<Quote>,
    spec: &JobSpec,
    now_ms: UnixMillis,
) -> Result<Quote, Rejection> {
    let mismatch = |what: &str| Rejection::QuoteMismatch(Line::lossy(what));
    if signed.signer() != me {
        return Err(mismatch("another provider signed it"));
    }
    let quote = signing::open(signed, network).map_err(|_| mismatch("it was altered"))?;
    if quote.client != client {
        return Err(mismatch("it is for another client"));
    }
    if quote.expires_ms <= now_ms {
        return Err(Rejection::QuoteExpired);
    }
    spec.validate().map_err(|error| Rejection::Invalid(Line::lossy(&error.to_string())))?;
    if spec.digest().ok() != Some(quote.request) {
        return Err(mismatch("it is for another request"));
    }
    Ok(quote)
}

/// Makes the job durable: its quote is used up, and a crash from here on ends it in one settled state.
pub(super) async fn record(
    ledger: &Ledger,
    client: NodeId,
    quote: Signed<Quote>,
    execution: Execution,
    ticket: &Ticket,
    strangers: Strangers,
) -> Result<(), Rejection> {
    match ledger.admit(client, quote, execution, strangers).await {
        Ok(()) => {
            ticket.recorded_as_used();
            Ok(())
        }
        Err(LedgerError::QuoteUsed) => {
            ticket.recorded_as_used();
            Err(Rejection::QuoteUsed)
        }
        Err(error @ LedgerError::Credit(_)) => Err(not_backed(&error)),
        Err(error) => {
            tracing::error!(%error, "a job could not be recorded");
            Err(Rejection::EngineUnavailable(Line::lossy("the provider cannot record jobs now")))
        }
    }
}

/// A job that is admitted and generating.
struct Admitted {
    ticket: Ticket,
    execution: Execution,
    generation: Generation,
    since: Instant,
    since_ms: UnixMillis,
}

impl Provider {
    async fn open(self: Arc<Self>, peer: NodeId, mut stream: FramedStream, signed: Signed<Quote>, spec: JobSpec) {
        let this = Arc::clone(&self);
        let verifying = blocking::run(move || {
            let verified = verify(&this.config.network, this.me, peer, &signed, &spec, now_ms());
            (verified, signed, spec)
        });
        let (verified, signed, spec) = match verifying.await {
            Ok(verified) => verified,
            Err(error) => return tracing::error!(%error, "verifying a quote failed"),
        };
        let quote = match verified {
            Ok(quote) => quote,
            Err(rejection) => return reject(&self, &mut stream, rejection).await,
        };
        let span = tracing::info_span!("job", job = %quote.job, peer = %peer.short());
        async {
            let binding = Binding::of(&spec.input, quote.declared);
            let admitted = match self.admit(peer, &quote, signed, spec).await {
                Ok(admitted) => admitted,
                Err(rejection) => return reject(&self, &mut stream, rejection).await,
            };
            let Admitted { ticket, execution, generation, since, since_ms } = admitted;
            let _running = self.metrics.start();
            let surroundings = Surroundings {
                key: self.key.clone(),
                network: self.config.network.clone(),
                ledger: self.ledger.clone(),
                accuse: self.accuse.clone(),
                metrics: self.metrics.clone(),
                closing: self.closing.clone(),
                patience: self.config.payment_patience,
                kept: KEPT,
            };
            let job = Job { quote, execution, binding, ticket, since, since_ms };
            run_job(job, generation, stream, surroundings).await;
        }
        .instrument(span)
        .await;
    }

    /// Takes a slot, lets the engine begin, and records the job while the prompt is already being read: nothing is
    /// sent before the record is on disk, and a job that is not recorded is dropped on the device.
    async fn admit(
        &self,
        client: NodeId,
        quote: &Quote,
        signed: Signed<Quote>,
        spec: JobSpec,
    ) -> Result<Admitted, Rejection> {
        self.check_open()?;
        let model = self
            .engine
            .model(&quote.model, Some(&quote.weights))
            .ok_or_else(|| Rejection::EngineUnavailable(Line::lossy("the quoted model is not loaded any more")))?;
        self.check_debt(client).await?;
        let ticket = self.desk.admit(quote, &model, now_ms())?;
        let (since, since_ms) = (Instant::now(), now_ms());
        let execution = Execution {
            engine: model.engine,
            quantisation: model.quantisation,
            device: model.device,
            sampling: spec.sampling.clone(),
            sealed: spec.input.sealed().map(Sealed::work),
        };
        let is_private = execution.sealed.is_some();
        let spec = with_weights(spec, quote.weights);
        let generating = async {
            if is_private {
                let computing = self.engine.compute(client, spec, quote.window).await;
                return computing.map_err(|error| self.rejection(error))?.ok_or(Rejection::UnknownEvaluationKey);
            }
            self.engine.generate(spec, quote.window).await.map_err(|error| self.rejection(error))
        };
        let generation = timeout(ENGINE_ANSWER, generating)
            .await
            .map_err(|_| Rejection::EngineUnavailable(Line::lossy("the engine does not answer")))??;
        let strangers = self.strangers(&client);
        record(&self.ledger, client, signed, execution.clone(), &ticket, strangers).await?;
        Ok(Admitted { ticket, execution, generation, since, since_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{self, EngineModel},
        jobs::tests::{client_key, engine_model, network, provider, provider_key, quote, spec},
    };
    use aitbc_protocol::{Digest, holdback::Audit};

    const NOW: UnixMillis = 1_700_000_000_000;

    fn check(quote: &Quote, client: NodeId, spec: &JobSpec) -> Result<Quote, Rejection> {
        let signed = signing::seal(&provider_key(), &network(), quote).unwrap();
        verify(&network(), provider_key().node_id(), client, &signed, spec, NOW)
    }

    fn live() -> Quote {
        let quote = quote();
        let audit = Audit::of(quote.max_total, NOW - 60_000);
        Quote { issued_ms: NOW - 60_000, expires_ms: NOW + 240_000, audit, ..quote }
    }

    #[test]
    fn a_quote_holds_for_its_client_its_request_and_its_lifetime_only() {
        let client = client_key().node_id();
        assert_eq!(check(&live(), client, &spec()), Ok(live()));
        assert!(matches!(check(&live(), NodeId([9; 32]), &spec()), Err(Rejection::QuoteMismatch(_))));
        let other = JobSpec { max_tokens: spec().max_tokens + 1, ..spec() };
        assert!(matches!(check(&live(), client, &other), Err(Rejection::QuoteMismatch(_))));
        let old = Quote { expires_ms: NOW, ..live() };
        assert_eq!(check(&old, client, &spec()), Err(Rejection::QuoteExpired));
    }

    #[tokio::test]
    async fn the_engine_whose_weights_were_quoted_runs_the_job() {
        let first = EngineModel { weights: Digest([8; 32]), ..engine_model() };
        let (engine, mut asked) = engine::fixtures::asked(vec![first, engine_model()]);
        let (provider, _directory) = provider(engine);
        let quote = quote();
        assert_eq!((spec().weights, quote.weights), (None, engine_model().weights), "the client named no weights");
        let signed = signing::seal(&provider_key(), &network(), &quote).unwrap();
        let admitted = provider.admit(client_key().node_id(), &quote, signed, spec()).await;
        assert!(admitted.is_ok(), "{:?}", admitted.err());
        let (weights, request) = asked.recv().await.unwrap();
        assert_eq!((weights, request.weights), (quote.weights, Some(quote.weights)));
    }

    #[test]
    fn a_quote_that_was_altered_or_signed_by_another_is_not_ours() {
        let client = client_key().node_id();
        let me = provider_key().node_id();
        let signed = signing::seal(&provider_key(), &network(), &live()).unwrap();
        let mut payload = signed.payload().to_vec();
        *payload.last_mut().unwrap() ^= 1;
        let altered = Signed::from_parts(me, *signed.signature(), payload);
        let foreign = signing::seal(&client_key(), &network(), &live()).unwrap();
        for quote in [altered, foreign] {
            let verified = verify(&network(), me, client, &quote, &spec(), NOW);
            assert!(matches!(verified, Err(Rejection::QuoteMismatch(_))));
        }
    }
}
