//! What relaying for others takes of the owner's uplink: counted, and no more than the owner gives.
//!
//! The relay of libp2p bounds the bytes of a circuit and not their speed, and copies them out of reach. So every stream
//! is watched from below: what it negotiates shows whether it carries a circuit, and one that does shares a bucket with
//! all others that do. The owner's own jobs are not held up.

use super::token_bucket::{Rate, TokenBucket};
use futures::{AsyncRead, AsyncWrite, FutureExt as _};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use prometheus_client::metrics::counter::Counter;
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// Protocols that carry circuits begin so: `hop` towards who asked for the circuit, `stop` towards who takes it.
const CIRCUIT: &[u8] = b"/libp2p/circuit/relay/";
/// Most bytes that a stream's negotiation may take before it is given up as not a circuit.
const NEGOTIATION: usize = 256;
/// Bytes a circuit writes at a time, so that one leaves room for others.
const PIECE: usize = 16 * 1024;
/// What may go out at once, as a time.
const BURST: Duration = Duration::from_millis(200);

/// The uplink that circuits share.
#[derive(Clone, Debug)]
pub(super) struct Uplink {
    limit: Option<Limit>,
    carried: Counter,
}

#[derive(Clone, Debug)]
struct Limit {
    rate: Rate,
    bucket: Arc<Mutex<TokenBucket>>,
}

impl Uplink {
    /// An uplink that gives circuits `mbit` megabits a second (of a million bits), or all there is; `carried` counts.
    pub(super) fn new(mbit: Option<u32>, carried: Counter) -> Self {
        let limit = mbit.map(|mbit| {
            let per_second = f64::from(mbit) * 1e6 / 8.0;
            let rate = Rate { burst: (per_second * BURST.as_secs_f64()).max(PIECE as f64), per_second };
            Limit { rate, bucket: Arc::new(Mutex::new(TokenBucket::full(rate, Instant::now().into_std()))) }
        });
        Self { limit, carried }
    }

    /// A connection whose circuits share this uplink.
    pub(super) fn of<M>(&self, muxer: M) -> Watched<M> {
        Watched { inner: muxer, uplink: self.clone() }
    }
}

/// What its first written bytes tell of a stream, both ends of which write the protocol they agree on (multistream-select,
/// each line with its length before it): whether it is a circuit, or nothing yet.
fn is_circuit(mut written: &[u8]) -> Option<bool> {
    loop {
        let (&length, rest) = written.split_first()?;
        // A longer line has more than one byte of length; no circuit has.
        if length >= 128 {
            return Some(false);
        }
        let (line, rest) = rest.split_at_checked(length.into())?;
        if !matches!(line, b"/multistream/1.0.0\n" | b"na\n") {
            return Some(line.starts_with(CIRCUIT));
        }
        written = rest;
    }
}

/// A connection whose streams are watched.
#[derive(Debug)]
pub(super) struct Watched<M> {
    inner: M,
    uplink: Uplink,
}

impl<M: StreamMuxer + Unpin> Watched<M> {
    fn watch<S>(&self, inner: S) -> WatchedStream<S> {
        WatchedStream { inner, kind: Kind::Unknown(Vec::new()), uplink: self.uplink.clone() }
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Watched<M>
where
    M::Substream: Unpin,
{
    type Substream = WatchedStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(context))?;
        Poll::Ready(Ok(self.watch(stream)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(context))?;
        Poll::Ready(Ok(self.watch(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        Pin::new(&mut self.inner).poll_close(context)
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

#[derive(Debug)]
enum Kind {
    /// What was written so far.
    Unknown(Vec<u8>),
    Circuit {
        /// Bytes it took from the bucket and has not written yet.
        allowed: usize,
        refilled: Option<Pin<Box<Sleep>>>,
    },
    Other,
}

/// A stream that counts, and waits for its share, once it is known to carry a circuit.
#[derive(Debug)]
pub(super) struct WatchedStream<S> {
    inner: S,
    kind: Kind,
    uplink: Uplink,
}

impl<S> WatchedStream<S> {
    /// How many of `wanted` bytes may be written now.
    fn poll_allowed(&mut self, context: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        let (Kind::Circuit { allowed, refilled }, Some(limit)) = (&mut self.kind, &self.uplink.limit) else {
            return Poll::Ready(wanted);
        };
        while *allowed == 0 {
            if let Some(sleep) = refilled {
                ready!(sleep.poll_unpin(context));
                *refilled = None;
            }
            let piece = wanted.min(PIECE);
            let mut bucket = limit.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = bucket.take(limit.rate, piece as f64, Instant::now().into_std());
            drop(bucket);
            if taken {
                *allowed = piece;
            } else {
                let wait = Duration::from_secs_f64(piece as f64 / limit.rate.per_second);
                *refilled = Some(Box::pin(tokio::time::sleep(wait)));
            }
        }
        Poll::Ready(wanted.min(*allowed))
    }

    fn wrote(&mut self, bytes: &[u8]) {
        match &mut self.kind {
            Kind::Unknown(written) => {
                let room = NEGOTIATION - written.len();
                written.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
                match is_circuit(written) {
                    Some(true) => self.kind = Kind::Circuit { allowed: 0, refilled: None },
                    None if written.len() < NEGOTIATION => {}
                    Some(false) | None => self.kind = Kind::Other,
                }
            }
            Kind::Circuit { allowed, .. } => {
                *allowed = allowed.saturating_sub(bytes.len());
                self.uplink.carried.inc_by(bytes.len() as u64);
            }
            Kind::Other => {}
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let allowed = ready!(self.poll_allowed(context, bytes.len()));
        let bytes = bytes.get(..allowed).unwrap_or(bytes);
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        self.wrote(bytes.get(..written).unwrap_or(bytes));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::AsyncWriteExt as _;
    use proptest::prelude::*;

    const HOP: &[u8] = b"\x13/multistream/1.0.0\n\x20/libp2p/circuit/relay/0.2.0/hop\n";
    const JOB: &[u8] = b"\x13/multistream/1.0.0\n\x0d/aitbc/job/1\n";

    fn stream(uplink: &Uplink) -> WatchedStream<futures::io::Cursor<Vec<u8>>> {
        let inner = futures::io::Cursor::new(Vec::new());
        WatchedStream { inner, kind: Kind::Unknown(Vec::new()), uplink: uplink.clone() }
    }

    /// Writes `payload` after `negotiation`.
    async fn write(uplink: &Uplink, negotiation: &[u8], payload: &[u8]) {
        let mut stream = stream(uplink);
        stream.write_all(negotiation).await.unwrap();
        stream.write_all(payload).await.unwrap();
        assert_eq!(stream.inner.into_inner(), [negotiation, payload].concat(), "nothing is lost");
    }

    #[test]
    fn circuits_are_known_by_what_they_negotiate() {
        assert_eq!(is_circuit(HOP), Some(true));
        assert_eq!(is_circuit(JOB), Some(false));
        for cut in 0..HOP.len() {
            assert_eq!(is_circuit(&HOP[..cut]), None, "{cut}");
        }
        let refused_first = b"\x13/multistream/1.0.0\n\x03na\n\x21/libp2p/circuit/relay/0.2.0/stop\n";
        assert_eq!(is_circuit(refused_first), Some(true));
        let named_in_the_content = [JOB, HOP].concat();
        assert_eq!(is_circuit(&named_in_the_content), Some(false));
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_what_was_told(written in prop::collection::vec(any::<u8>(), 0..300), cut in 0..300usize) {
            let cut = cut.min(written.len());
            if let Some(told) = is_circuit(&written[..cut]) {
                prop_assert_eq!(is_circuit(&written), Some(told));
            }
        }
    }

    #[tokio::test]
    async fn circuits_share_what_the_owner_gives_and_jobs_are_not_held_up() {
        let carried = Counter::default();
        // A megabyte a second; the bucket starts full, with a fifth of a second.
        let uplink = Uplink::new(Some(8), carried.clone());
        let payload = vec![7; 250_000];
        let start = Instant::now();
        let circuits = async { tokio::join!(write(&uplink, HOP, &payload), write(&uplink, HOP, &payload)) };
        let job = async { assert!(write(&uplink, JOB, &payload).now_or_never().is_some(), "a job never waits") };
        tokio::join!(circuits, job);
        assert!(start.elapsed() >= Duration::from_millis(299), "{:?}", start.elapsed());
        assert_eq!(carried.get(), 500_000);
    }

    #[tokio::test]
    async fn without_a_limit_circuits_are_only_counted() {
        let carried = Counter::default();
        let uplink = Uplink::new(None, carried.clone());
        assert!(write(&uplink, HOP, &vec![7; 100_000]).now_or_never().is_some());
        assert_eq!(carried.get(), 100_000);
    }
}
