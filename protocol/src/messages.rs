//! What clients and providers say to each other on quote and job streams.

use crate::{
    bytes::{JobId, Nonce},
    envelope::{Signed, Statement},
    job::{Chunk, JobSpec, Rejection},
    money::MicroCredits,
    price::LatencyClass,
    qos::Served,
    quote::Quote,
    receipt::{Cheque, Receipt},
    text::Line,
    wire,
};
use serde::{Deserialize, Serialize};

/// What a client sends on a job stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToProvider {
    /// Starts the job that `quote` prices. The first message of a job.
    Open {
        /// The provider's own quote, as it gave it.
        quote: Signed<Quote>,
        /// The request whose digest the quote binds.
        spec: JobSpec,
    },
    /// Acknowledges all tokens before `next` and pays for them.
    Ack {
        /// Tokens of this attempt received so far.
        next: u32,
        /// Pays for them.
        cheque: Signed<Cheque>,
    },
    /// Ends the job; what was delivered is paid with the last acknowledgement.
    Cancel,
    /// First message of a stream that settles a job which ended without a receipt or a last cheque: after a crash,
    /// a lost path, a restart of either side.
    Settle {
        /// The job.
        job: JobId,
        /// The quote it ran under.
        quote: Nonce,
        /// The client's newest cheque for that job, if it ever signed one.
        cheque: Option<Signed<Cheque>>,
    },
    /// First message of a stream that goes on with a job whose stream broke. Only the client of its quote may send it;
    /// the higher attempt wins and cuts the older stream. Its newest cheque, which may have been lost on the way,
    /// follows as an `Ack`.
    Resume {
        /// The job.
        job: JobId,
        /// The quote it runs under.
        quote: Nonce,
        /// Grows with every stream of the job; the one that opened it is attempt 0.
        attempt: u32,
        /// Chunks received so far: the number of the first one that is missing.
        next: u32,
    },
    /// The client has the whole answer and its receipt, and has paid: the provider forgets the job. Without it a
    /// provider whose stream broke would wait for a client that misses nothing.
    Done,
}

/// What a provider sends on a job stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToClient {
    /// The job is admitted.
    Accepted {
        /// Jobs before it in the engine's queue.
        queued: u32,
    },
    /// The job is not admitted, and nothing is owed; or it is not resumed or settled.
    Rejected(Rejection),
    /// Answer to `Resume`: the chunks from `next` on follow, and the receipt where the job has ended meanwhile.
    Resumed,
    /// A piece of the answer.
    Chunk(Chunk),
    /// The job ended. The client answers with its last `Ack`, where one is still due, and with `Done`.
    Finished {
        /// What is owed and for what.
        receipt: Signed<Receipt>,
        /// What went wrong, where `finish` is `failed`.
        failure: Option<Line<160>>,
        /// What the client can show others of it. Without, it takes the receipt for none.
        served: Signed<Served>,
    },
    /// The receipt is paid and the last cheque on the disk: nothing is left to settle. The last message of a job, and
    /// said in words, for a stream also ends where its connection breaks.
    Paid {
        /// Everything paid for the job.
        total: MicroCredits,
    },
    /// Answer to `Settle`: what both sides now hold about the job.
    Settled {
        /// Everything paid for the job so far.
        paid: MicroCredits,
        /// The receipt, unless the job never started here.
        receipt: Option<Signed<Receipt>>,
    },
}

/// What a client asks of a provider before a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuoteRequest {
    /// The job, the same over all attempts.
    pub job: JobId,
    /// The provider asked: a request cannot be shown to another one.
    pub provider: crate::NodeId,
    /// The request itself, prompt included: its tokens are counted for the quote.
    pub spec: JobSpec,
    /// How soon the answer is wished: it sets the price.
    #[serde(default)]
    pub latency: LatencyClass,
    /// When it was asked.
    pub issued_ms: crate::UnixMillis,
}

impl Statement for QuoteRequest {
    const DOMAIN: &'static str = "aitbc/quote-request/1";
    const MAX_BYTES: usize = wire::MAX_QUOTE_FRAME - 128;
}

/// The answer to a [`QuoteRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuoteReply {
    /// A binding price.
    Quote(Signed<Quote>),
    /// None, and why.
    Rejected(Rejection),
}
