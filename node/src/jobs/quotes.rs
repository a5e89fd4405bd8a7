//! Serves `/aitbc/quote/1`: one request, one binding quote or a typed refusal.

use super::{
    ENGINE_ANSWER, FIRST_MESSAGE, Provider, SHORT_ANSWER, electricity_of,
    estimate::{Demand, fits},
    place::Wanted,
};
use crate::{
    blocking,
    clock::now_ms,
    draw::draw,
    engine::{EngineError, EngineModel, EngineState},
    network::{IncomingStream, intake::Busy},
};
use aitbc_crypto::signing;
use aitbc_protocol::messages::{QuoteReply, QuoteRequest};
use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, Digest, NetworkId, NodeId, Nonce, Signed, UnixMillis,
    holdback::Audit,
    job::{JobSpec, Rejection, WINDOW_TOKENS},
    price::{Adjustment, TokenPrice, price},
    quote::{QUOTE_LIFETIME_MS, Quote},
    sla::PROMISED_PART,
    terms::Terms,
    text::Line,
    wire,
};
use std::sync::Arc;
use tokio::time::timeout;
use tracing::Instrument;

/// Answers one request.
pub(super) async fn serve(provider: Arc<Provider>, incoming: IncomingStream, turn: Result<(), Busy>) {
    let IncomingStream { peer, mut stream } = incoming;
    let reply = if let Err(Busy { retry_ms }) = turn {
        Err(Rejection::RateLimited { retry_ms })
    } else {
        let request = stream.receive::<Signed<QuoteRequest>>(wire::MAX_QUOTE_FRAME);
        let Ok(Ok(Some(request))) = timeout(FIRST_MESSAGE, request).await else {
            return tracing::debug!(peer = %peer.short(), "no quote request came");
        };
        let span = tracing::info_span!("quote", peer = %peer.short());
        provider.quote(peer, request).instrument(span).await
    };
    let reply = match reply {
        Ok(quote) => {
            provider.metrics.quoted();
            QuoteReply::Quote(quote)
        }
        Err(rejection) => {
            provider.metrics.rejected(&rejection);
            tracing::debug!(peer = %peer.short(), %rejection, "no quote");
            QuoteReply::Rejected(rejection)
        }
    };
    let sent = timeout(SHORT_ANSWER, async {
        stream.send(&reply, wire::MAX_QUOTE_FRAME).await?;
        stream.close().await
    });
    if let Ok(Err(error)) = sent.await {
        tracing::debug!(peer = %peer.short(), %error, "quote not delivered");
    }
}

/// A request that is what it says it is.
#[derive(Debug)]
struct Verified {
    request: QuoteRequest,
    digest: Digest,
}

/// Verifies signature, addressee, date and shape. Takes a few milliseconds for a large prompt.
fn verify(
    network: &NetworkId,
    me: NodeId,
    peer: NodeId,
    signed: &Signed<QuoteRequest>,
    now_ms: UnixMillis,
) -> Result<Verified, Rejection> {
    let invalid = |reason: &str| Rejection::Invalid(Line::lossy(reason));
    if signed.signer() != peer {
        return Err(invalid("the request is signed by another node than the one that sends it"));
    }
    let request = signing::open(signed, network).map_err(|error| invalid(&error.to_string()))?;
    if request.provider != me {
        return Err(invalid("the request is addressed to another provider"));
    }
    if request.issued_ms.abs_diff(now_ms) > CLOCK_TOLERANCE_MS {
        return Err(invalid("the request is dated more than 30 s from now: check the clocks of both nodes"));
    }
    request.spec.validate().map_err(|error| invalid(&error.to_string()))?;
    let digest = request.spec.digest().map_err(|error| invalid(&error.to_string()))?;
    Ok(Verified { request, digest })
}

/// What a quote says beyond the request.
struct Stated {
    nonce: Nonce,
    client: NodeId,
    prompt_tokens: u32,
    price: TokenPrice,
    adjustment: Adjustment,
    /// Milli-tokens a second that are promised.
    speed: u32,
    issued_ms: UnixMillis,
}

/// The request as it is put to an engine: for the weights that are quoted and billed. A client may name the model
/// only, and by its name alone another engine could answer.
pub(super) fn with_weights(spec: JobSpec, weights: Digest) -> JobSpec {
    JobSpec { weights: Some(weights), ..spec }
}

fn build(verified: &Verified, model: &EngineModel, stated: Stated) -> Result<Quote, Rejection> {
    let Verified { request, digest } = verified;
    let max_completion_tokens = request.spec.completion_tokens();
    let max_total = price(&stated.price, &stated.adjustment, stated.prompt_tokens, max_completion_tokens)
        .map_err(|error| Rejection::Invalid(Line::lossy(&error.to_string())))?;
    Ok(Quote {
        nonce: stated.nonce,
        client: stated.client,
        job: request.job,
        request: *digest,
        model: model.model.clone(),
        weights: model.weights,
        prompt_tokens: stated.prompt_tokens,
        max_completion_tokens,
        price: stated.price,
        adjustment: stated.adjustment,
        terms: Terms::of(request.latency, &request.spec, stated.prompt_tokens, stated.speed),
        audit: Audit::of(max_total, stated.issued_ms),
        max_total,
        window: WINDOW_TOKENS,
        declared: model.declared,
        issued_ms: stated.issued_ms,
        expires_ms: stated.issued_ms.saturating_add(QUOTE_LIFETIME_MS),
    })
}

impl Provider {
    async fn quote(
        self: &Arc<Self>,
        peer: NodeId,
        request: Signed<QuoteRequest>,
    ) -> Result<Signed<Quote>, Rejection> {
        self.check_open()?;
        let this = Arc::clone(self);
        let verified = blocking::run(move || verify(&this.config.network, this.me, peer, &request, now_ms()));
        let verified = verified.await.map_err(|error| {
            tracing::error!(%error, "verifying a request failed");
            Rejection::EngineUnavailable(Line::lossy("internal error"))
        })??;
        let spec = &verified.request.spec;
        let model = self.model(spec)?;
        self.check_debt(peer).await?;
        // The client would learn of it only once it has opened the job.
        if !self.engine.holds_key(peer, spec).await {
            return Err(Rejection::UnknownEvaluationKey);
        }
        let nonce = Nonce(draw());
        // The slot is kept before the prompt is counted, or requests that are counted together would overbook it.
        let least = spec.context_needed(spec.prefix_tokens());
        self.desk.promise(nonce, peer, &model, least, now_ms())?;
        let quote = self.price(peer, nonce, &verified, &model).await;
        if quote.is_err() {
            self.desk.withdraw(&nonce);
        }
        quote
    }

    /// Counts the prompt and signs the quote under a nonce that already holds a slot.
    async fn price(
        &self,
        client: NodeId,
        nonce: Nonce,
        verified: &Verified,
        model: &EngineModel,
    ) -> Result<Signed<Quote>, Rejection> {
        let spec = &verified.request.spec;
        let count = async {
            let _permit = self.counting.acquire().await.expect("the semaphore is never closed");
            // By the tokenizer of the weights that are quoted: the name alone may mean several.
            self.engine.count_tokens(&with_weights(spec.clone(), model.weights)).await
        };
        let latency = verified.request.latency;
        let (counted, ()) = tokio::join!(timeout(ENGINE_ANSWER, count), self.place.measure(&client, latency));
        let counted = counted.map_err(|_| {
            Rejection::EngineUnavailable(Line::lossy("the engine is too busy to count the prompt's tokens"))
        })?;
        let counted = counted.map_err(|error| self.rejection(error))?;
        // More than the client's own bound would only be refused by it.
        let prompt_tokens = counted.min(spec.input.max_prompt_tokens()).saturating_add(spec.prefix_tokens());
        let context_used = spec.context_needed(prompt_tokens);
        fits(Demand { tokens: context_used, context: model.context })?;
        let power = Arc::clone(&self.power.borrow());
        let price = self.config.price_of(model, &power);
        let wanted = Wanted { client, latency, context_used };
        let issued_ms = now_ms();
        let inputs = self.place.inputs(&self.desk, model, &wanted, issued_ms);
        let adjustment = Adjustment::of(inputs, electricity_of(model, &power));
        let speed = model.speed / PROMISED_PART;
        let stated = Stated { nonce, client, prompt_tokens, price, adjustment, speed, issued_ms };
        let quote = build(verified, model, stated)?;
        self.check_credit(client, quote.max_total).await?;
        signing::seal(&self.key, &self.config.network, &quote).map_err(|error| {
            tracing::error!(%error, "a quote could not be signed");
            Rejection::EngineUnavailable(Line::lossy("internal error"))
        })
    }

    fn model(&self, spec: &JobSpec) -> Result<EngineModel, Rejection> {
        if let Some(model) = self.engine.model(&spec.model, spec.weights.as_ref()) {
            return Ok(model);
        }
        let engines = self.engine.status();
        let engines = engines.borrow();
        match engines.iter().find(|engine| engine.state != EngineState::Ready) {
            // It may be this model that is missing: the client may come back.
            Some(engine) => Err(Rejection::EngineUnavailable(Line::lossy(match &engine.state {
                EngineState::Loading { .. } => "a model is being loaded",
                _ => "an engine has stopped",
            }))),
            None => Err(Rejection::UnknownModel),
        }
    }

    /// What a client is told where the engine does not take its job. The engine's own words stay here but for those
    /// about the request: they can name paths of the owner's machine.
    pub(super) fn rejection(&self, error: EngineError) -> Rejection {
        match error {
            EngineError::UnknownModel(_) => Rejection::UnknownModel,
            EngineError::ContextTooSmall { needed, context } => Rejection::ContextTooSmall { needed, context },
            EngineError::Unsupported(what) => Rejection::Unsupported(Line::lossy(&what)),
            EngineError::Request(what) => Rejection::Invalid(Line::lossy(&what)),
            EngineError::Memory { .. } => Rejection::EngineUnavailable(Line::lossy(
                "the provider has no memory for another evaluation key now",
            )),
            EngineError::Full => self.desk.full(),
            EngineError::NotReady(_) | EngineError::Crashed(_) | EngineError::Failed(_) => {
                tracing::warn!(%error, "the engine does not take a job");
                Rejection::EngineUnavailable(Line::lossy("the engine does not take jobs now"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine,
        jobs::desk::Desk,
        jobs::tests::{client_key, engine_model, network, nowhere, provider, provider_key, spec},
    };
    use aitbc_protocol::{JobId, price::LatencyClass, quote::Asked};

    const NOW: UnixMillis = 1_700_000_000_000;

    fn request() -> QuoteRequest {
        QuoteRequest {
            job: JobId([7; 16]),
            provider: provider_key().node_id(),
            spec: spec(),
            latency: LatencyClass::Fast,
            issued_ms: NOW,
        }
    }

    fn check(request: &QuoteRequest) -> Result<Verified, Rejection> {
        let signed = signing::seal(&client_key(), &network(), request).unwrap();
        verify(&network(), provider_key().node_id(), client_key().node_id(), &signed, NOW)
    }

    #[test]
    fn a_request_holds_for_its_sender_its_provider_and_its_time_only() {
        assert!(check(&request()).is_ok());
        let refused = |request: QuoteRequest| matches!(check(&request), Err(Rejection::Invalid(_)));
        assert!(refused(QuoteRequest { provider: NodeId([9; 32]), ..request() }));
        assert!(refused(QuoteRequest { issued_ms: NOW - CLOCK_TOLERANCE_MS - 1, ..request() }));
        assert!(refused(QuoteRequest { issued_ms: NOW + CLOCK_TOLERANCE_MS + 1, ..request() }));
        assert!(refused(QuoteRequest { spec: JobSpec { max_tokens: 0, ..spec() }, ..request() }));

        let signed = signing::seal(&client_key(), &network(), &request()).unwrap();
        let me = provider_key().node_id();
        assert!(verify(&network(), me, NodeId([9; 32]), &signed, NOW).is_err(), "sent by another node");
        let other = NetworkId::new("other").unwrap();
        assert!(verify(&other, me, client_key().node_id(), &signed, NOW).is_err(), "of another network");
    }

    #[test]
    fn a_quote_passes_the_clients_own_checks_also_where_an_answer_is_continued() {
        let spec = JobSpec { prefix: vec![1, 2, 3], ..spec() };
        let request = QuoteRequest { spec: spec.clone(), ..request() };
        let verified = check(&request).unwrap();
        let client = client_key().node_id();
        let price =
            TokenPrice { prompt: aitbc_protocol::MicroCredits(10), completion: aitbc_protocol::MicroCredits(30) };
        let wanted = Wanted { client, latency: LatencyClass::Fast, context_used: spec.context_needed(8) };
        let inputs = nowhere().inputs(&Desk::new(4), &engine_model(), &wanted, NOW);
        let adjustment = Adjustment::of(inputs, aitbc_protocol::MicroCredits(30));
        let stated = Stated {
            nonce: Nonce([1; 16]),
            client,
            prompt_tokens: 8,
            price,
            adjustment,
            speed: 0,
            issued_ms: NOW,
        };
        let quote = build(&verified, &engine_model(), stated).unwrap();
        assert_eq!(quote.max_completion_tokens, spec.max_tokens - 3);
        let asked = Asked {
            client,
            job: request.job,
            request: spec.digest().unwrap(),
            spec: &spec,
            latency: LatencyClass::Fast,
            ceiling: None,
        };
        assert_eq!(quote.check(&asked, NOW), Ok(()));
    }

    #[tokio::test]
    async fn the_engine_whose_weights_are_quoted_counts_the_prompt() {
        let first = EngineModel { weights: Digest([8; 32]), ..engine_model() };
        let (engine, mut asked) = engine::fixtures::asked(vec![first, engine_model()]);
        let (provider, _directory) = provider(engine);
        let verified = check(&request()).unwrap();
        assert_eq!(verified.request.spec.weights, None, "the client names the model only");
        let client = client_key().node_id();
        let quote = provider.price(client, Nonce([1; 16]), &verified, &engine_model()).await.unwrap();
        let quote = quote.read_unverified().unwrap();
        assert_eq!(quote.weights, engine_model().weights);
        let inputs = quote.adjustment.check(&quote.price).expect("an honest price");
        assert_eq!(inputs.latency, LatencyClass::Fast, "as the request says");
        assert_eq!(asked.recv().await.unwrap().0, engine_model().weights);
    }
}
