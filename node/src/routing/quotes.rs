//! Asking providers for quotes. Whoever is asked reads the prompt, for its tokens are what the price counts; nobody
//! else does.

use super::{Shared, candidates::Choice};
use crate::{
    clock::now_ms,
    network::{FramedStream, NetworkError, Protocol, StreamError},
};
use aitbc_crypto::SignatureError;
use aitbc_protocol::messages::{QuoteReply, QuoteRequest};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, NetworkId, NodeId, Signed,
    evidence::Evidence,
    job::{JobSpec, Rejection},
    offer::ModelOffer,
    price::LatencyClass,
    quote::{Asked, Quote, QuoteFault},
    routing::preference::Preference,
    wire,
};
use futures::{StreamExt, stream::FuturesUnordered};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// How long a provider may take for its first quote, connecting included.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// The longest it is given when it is asked once more.
pub(super) const LAST_PATIENCE: Duration = Duration::from_secs(12);
/// How long others are waited for once there is a quote: about a round trip, for a better one is worth no more.
const OTHERS: Duration = Duration::from_millis(200);

/// What quotes are asked for.
#[derive(Clone, Debug)]
pub(super) struct Order<'a> {
    pub(super) job: JobId,
    pub(super) spec: &'a JobSpec,
    /// Digest of `spec`.
    pub(super) request: Digest,
    pub(super) latency: LatencyClass,
    pub(super) ceiling: Option<MicroCredits>,
    pub(super) preference: Preference,
}

/// A quote that can be taken.
#[derive(Clone, Debug)]
pub(super) struct Offered {
    pub(super) choice: Choice,
    pub(super) signed: Signed<Quote>,
    pub(super) quote: Quote,
}

/// Why there is no quote to take.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoQuote {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error(transparent)]
    Fault(#[from] QuoteFault),
    #[error("the quote is signed by somebody else")]
    Signer,
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("the quote is for other weights than were offered")]
    Weights,
    #[error("it closed the stream instead of answering")]
    Silent,
    #[error("no quote within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the request is too large for a quote: {0}")]
    TooLarge(#[from] wire::WireError),
}

impl NoQuote {
    /// Whether the same provider may well quote a moment later.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Rejected(Rejection::Full { .. } | Rejection::TooManyQuotes(_) | Rejection::RateLimited { .. })
        )
    }

    /// Whether the reason may pass within seconds: the way to the provider was lost and may be found again, or it waits
    /// for a cheque that is on its way.
    pub(super) const fn is_lost(&self) -> bool {
        match self {
            Self::Timeout(_)
            | Self::Silent
            | Self::Rejected(Rejection::Debt(_))
            | Self::Network(NetworkError::Unreachable { .. }) => true,
            Self::Stream(error) | Self::Network(NetworkError::Stream(error)) => error.is_passing(),
            _ => false,
        }
    }

    /// Whether the provider, and not the request or its load, is to blame.
    pub(super) fn is_failure(&self) -> bool {
        !matches!(
            self,
            Self::Rejected(_)
                | Self::TooLarge(_)
                | Self::Fault(QuoteFault::TooExpensive { .. })
                | Self::Network(
                    NetworkError::Stopped
                        | NetworkError::Busy(_)
                        | NetworkError::TooManyDials(_)
                        | NetworkError::Stream(StreamError::Busy(_))
                )
        )
    }
}

/// Asks all of `choices` at the same time, for `patience` at most. Returns the quotes that can be taken, best first, and
/// the refusals. Whoever has not answered soon after the first quote is in neither.
pub(super) async fn ask_all(
    shared: &Shared,
    order: &Order<'_>,
    choices: &[Choice],
    patience: Duration,
) -> (Vec<Offered>, Vec<(NodeId, NoQuote)>) {
    let asked = choices.iter().map(|choice| async move { (choice, ask(shared, order, choice, patience).await) });
    let (mut offered, mut refused) = (Vec::new(), Vec::new());
    for (choice, result) in first_and_soon_after(asked, Result::is_ok).await {
        match result {
            Ok((signed, quote)) => offered.push(Offered { choice: choice.clone(), signed, quote }),
            Err(error) => refused.push((choice.provider(), error)),
        }
    }
    let cost = |offered: &Offered| offered.choice.ranked.cost_at(offered.quote.max_total, order.preference);
    offered.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    (offered, refused)
}

/// What `asked` answers until `OTHERS` after the first answer that is good, or until all have answered.
async fn first_and_soon_after<C, A>(
    asked: impl Iterator<Item = impl Future<Output = (C, A)>>,
    good: impl Fn(&A) -> bool,
) -> Vec<(C, A)> {
    let mut asked: FuturesUnordered<_> = asked.collect();
    let mut answers = Vec::new();
    let mut until = None;
    loop {
        let answer = tokio::select! {
            biased;
            answer = asked.next() => answer,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => None,
        };
        let Some((who, answer)) = answer else { return answers };
        if until.is_none() && good(&answer) {
            until = Some(Instant::now() + OTHERS);
        }
        answers.push((who, answer));
    }
}

async fn ask(
    shared: &Shared,
    order: &Order<'_>,
    choice: &Choice,
    patience: Duration,
) -> Result<(Signed<Quote>, Quote), NoQuote> {
    let provider = choice.provider();
    let request = QuoteRequest {
        job: order.job,
        provider,
        spec: order.spec.clone(),
        latency: order.latency,
        issued_ms: now_ms(),
    };
    let request = aitbc_crypto::seal(&shared.key, &shared.config.network, &request)?;
    let exchange = async {
        let stream = shared.network.open(provider, choice.found.addresses(), Protocol::Quote).await?;
        converse(stream, &request).await
    };
    let signed = timeout(patience, exchange).await.unwrap_or(Err(NoQuote::Timeout(patience)))?;
    let asked = Asked {
        client: shared.key.node_id(),
        job: order.job,
        request: order.request,
        spec: order.spec,
        latency: order.latency,
        ceiling: order.ceiling,
    };
    match judge(&signed, provider, &shared.config.network, &asked, &choice.model, now_ms()) {
        Ok(quote) => Ok((signed, quote)),
        Err(error) => {
            // A price that the rule does not make is a fault that anybody can see.
            if let NoQuote::Fault(QuoteFault::Adjustment(_) | QuoteFault::Hour { .. } | QuoteFault::Total) = error
            {
                shared.book.accuse(Evidence::Quote(signed));
            }
            Err(error)
        }
    }
}

async fn converse(mut stream: FramedStream, request: &Signed<QuoteRequest>) -> Result<Signed<Quote>, NoQuote> {
    stream.send(request, wire::MAX_QUOTE_FRAME).await?;
    match stream.receive::<QuoteReply>(wire::MAX_QUOTE_FRAME).await? {
        Some(QuoteReply::Quote(quote)) => Ok(quote),
        Some(QuoteReply::Rejected(rejection)) => Err(rejection.into()),
        None => Err(NoQuote::Silent),
    }
}

/// Judges a quote: by whom, for whom, for what, until when, and that it keeps the word of the offer it was chosen by.
fn judge(
    signed: &Signed<Quote>,
    provider: NodeId,
    network: &NetworkId,
    asked: &Asked<'_>,
    offer: &ModelOffer,
    now_ms: u64,
) -> Result<Quote, NoQuote> {
    if signed.signer() != provider {
        return Err(NoQuote::Signer);
    }
    let quote: Quote = aitbc_crypto::open(signed, network)?;
    quote.check(asked, now_ms)?;
    if quote.weights != offer.weights || quote.declared != offer.declared {
        return Err(NoQuote::Weights);
    }
    quote.check_offer(offer)?;
    Ok(quote)
}

#[cfg(test)]
mod tests;
