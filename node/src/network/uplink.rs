//! What goes over connections: counted; and what relaying for others takes of the owner's uplink: no more than the owner
//! gives.
//!
//! The relay of libp2p bounds the bytes of a circuit and not their speed, and copies them out of reach. So every stream
//! is watched from below: what it negotiates shows whether it carries a circuit, and one that does shares a bucket with
//! all others that do. The owner's own jobs are not held up.

use super::{
    token_bucket::{Rate, TokenBucket},
    traffic::Traffic,
};
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
/// How long closing a connection may take.
const CLOSING: Duration = Duration::from_secs(2);
/// Bytes a circuit writes at a time, so that one leaves room for others.
const PIECE: usize = 16 * 1024;
/// What may go out at once, as a time.
const BURST: Duration = Duration::from_millis(200);

/// The uplink that circuits share.
#[derive(Clone, Debug)]
pub(super) struct Uplink {
    limit: Option<Limit>,
    carried: Counter,
    traffic: Traffic,
}

#[derive(Clone, Debug)]
struct Limit {
    rate: Rate,
    bucket: Arc<Mutex<TokenBucket>>,
}

impl Uplink {
    /// An uplink that gives circuits `mbit` megabits a second (of a million bits), or all there is; `carried` counts what
    /// they take, `traffic` everything.
    pub(super) fn new(mbit: Option<u32>, carried: Counter, traffic: Traffic) -> Self {
        let limit = mbit.map(|mbit| {
            let per_second = f64::from(mbit) * 1e6 / 8.0;
            let rate = Rate { burst: (per_second * BURST.as_secs_f64()).max(PIECE as f64), per_second };
            Limit { rate, bucket: Arc::new(Mutex::new(TokenBucket::full(rate, Instant::now().into_std()))) }
        });
        Self { limit, carried, traffic }
    }

    /// A connection whose circuits share this uplink.
    pub(super) fn of<M>(&self, muxer: M) -> Watched<M> {
        Watched { inner: muxer, uplink: self.clone(), closing: None }
    }
}

/// What the lines of a negotiation tell of a stream, both ends of which write the protocol they agree on
/// (multistream-select, each line with its length before it): whether it is a circuit, or nothing yet. Takes the lines
/// that tell nothing off `written`: the header, refusals, questions for a list and the answers, as many as come.
fn is_circuit(written: &mut &[u8]) -> Option<bool> {
    loop {
        let (&low, mut rest) = written.split_first()?;
        let mut length = usize::from(low);
        if low >= 128 {
            let (&high, after) = rest.split_first()?;
            if high >= 128 {
                // No line of a negotiation is as long as that.
                return Some(false);
            }
            length = usize::from(low & 127) | usize::from(high) << 7;
            rest = after;
        }
        let (line, rest) = rest.split_at_checked(length)?;
        let name = line.strip_suffix(b"\n").filter(|name| name.starts_with(b"/") && !name.contains(&b'\n'));
        if let Some(name) = name.filter(|name| *name != b"/multistream/1.0.0") {
            return Some(name.starts_with(CIRCUIT));
        }
        *written = rest;
    }
}

/// A connection whose streams are watched.
#[derive(Debug)]
pub(super) struct Watched<M> {
    inner: M,
    uplink: Uplink,
    /// How long closing may still take.
    closing: Option<Pin<Box<Sleep>>>,
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
        let Self { inner, closing, .. } = &mut *self;
        if let Poll::Ready(closed) = Pin::new(inner).poll_close(context) {
            return Poll::Ready(closed);
        }
        // What waits to be sent goes out first, and over a dead path it never does: until the kernel gives up, peers
        // would seem connected.
        let closing = closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSING)));
        closing.poll_unpin(context).map(Ok)
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

#[derive(Debug)]
enum Kind {
    /// What was written of a line that is not finished.
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
        self.uplink.traffic.sent.inc_by(bytes.len() as u64);
        match &mut self.kind {
            Kind::Unknown(written) => {
                written.extend_from_slice(bytes);
                let mut left = written.as_slice();
                match is_circuit(&mut left) {
                    Some(true) => self.kind = Kind::Circuit { allowed: 0, refilled: None },
                    Some(false) => self.kind = Kind::Other,
                    // At most an unfinished line is kept.
                    None => *written = left.to_vec(),
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
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.uplink.traffic.received.inc_by(read as u64);
        Poll::Ready(Ok(read))
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

    fn told(mut written: &[u8]) -> Option<bool> {
        is_circuit(&mut written)
    }

    #[test]
    fn circuits_are_known_by_what_they_negotiate() {
        assert_eq!(told(HOP), Some(true));
        assert_eq!(told(JOB), Some(false));
        for cut in 0..HOP.len() {
            assert_eq!(told(&HOP[..cut]), None, "{cut}");
        }
        let refused_first = b"\x13/multistream/1.0.0\n\x03na\n\x21/libp2p/circuit/relay/0.2.0/stop\n";
        assert_eq!(told(refused_first), Some(true));
        let named_in_the_content = [JOB, HOP].concat();
        assert_eq!(told(&named_in_the_content), Some(false));
    }

    #[test]
    fn questions_before_it_do_not_hide_a_circuit() {
        let (header, hop) = HOP.split_at(20);
        let list = b"\x0d/aitbc/job/1\n".repeat(20);
        let mut listed = vec![0x80 | ((list.len() + 1) as u8 & 127), ((list.len() + 1) >> 7) as u8];
        listed.extend_from_slice(&list);
        listed.push(b'\n');
        let refused = b"\x03na\n".repeat(100);
        assert_eq!(told(&[header, &listed, &refused, hop].concat()), Some(true));
        assert_eq!(told(&[header, &listed, &refused].concat()), None);
        assert_eq!(told(&[header, &[0xff, 0xff, 0x01]].concat()), Some(false), "nothing is as long as that");
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_what_was_told(written in prop::collection::vec(any::<u8>(), 0..300), cut in 0..300usize) {
            let cut = cut.min(written.len());
            let mut left = &written[..cut];
            let known = is_circuit(&mut left);
            prop_assert!(known.is_none() || told(&written) == known);
            if known.is_none() {
                prop_assert_eq!(told(&[left, &written[cut..]].concat()), told(&written), "what was taken off told nothing");
            }
        }
    }

    #[tokio::test]
    async fn circuits_share_what_the_owner_gives_and_jobs_are_not_held_up() {
        let carried = Counter::default();
        // A megabyte a second; the bucket starts full, with a fifth of a second.
        let traffic = Traffic::default();
        let uplink = Uplink::new(Some(8), carried.clone(), traffic.clone());
        let payload = vec![7; 250_000];
        let start = Instant::now();
        let circuits = async { tokio::join!(write(&uplink, HOP, &payload), write(&uplink, HOP, &payload)) };
        let job = async { assert!(write(&uplink, JOB, &payload).now_or_never().is_some(), "a job never waits") };
        tokio::join!(circuits, job);
        assert!(start.elapsed() >= Duration::from_millis(299), "{:?}", start.elapsed());
        assert_eq!(carried.get(), 500_000);
        assert_eq!(
            traffic.sent.get(),
            (2 * HOP.len() + JOB.len() + 3 * payload.len()) as u64,
            "everything is counted"
        );
    }

    #[tokio::test]
    async fn without_a_limit_circuits_are_only_counted() {
        let carried = Counter::default();
        let uplink = Uplink::new(None, carried.clone(), Traffic::default());
        assert!(write(&uplink, HOP, &vec![7; 100_000]).now_or_never().is_some());
        assert_eq!(carried.get(), 100_000);
    }
    /// A connection over a dead path: what waits to be sent never goes out.
    struct Stuck;

    impl StreamMuxer for Stuck {
        type Substream = futures::io::Cursor<Vec<u8>>;
        type Error = io::Error;

        fn poll_inbound(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
            Poll::Pending
        }

        fn poll_outbound(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn closing_ends_although_nothing_goes_out_any_more() {
        let mut connection = Uplink::new(None, Counter::default(), Traffic::default()).of(Stuck);
        let start = Instant::now();
        std::future::poll_fn(|context| Pin::new(&mut connection).poll_close(context)).await.unwrap();
        assert!(start.elapsed() >= CLOSING, "what can still go out has its time");
    }
}
