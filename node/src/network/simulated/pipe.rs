//! A stream between two simulated nodes: what is written arrives after as long as the way takes, in order, until the way
//! is cut.

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Bytes on their way from which on the writer waits.
const ON_THE_WAY: usize = 256 * 1024;

/// What the sender's end does to each frame that goes out; `None` lets it be.
pub(super) type Forge = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// Takes down each frame that arrives, for comparing runs.
pub(super) type Note = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// One direction of a stream.
#[derive(Default)]
struct State {
    sent: VecDeque<(Instant, Vec<u8>)>,
    /// How much of the first piece was read.
    read: usize,
    bytes: usize,
    /// When the reader learns that nothing more comes.
    closed: Option<Instant>,
    /// When both ends learn that the way broke.
    broken: Option<Instant>,
    /// What is written from now on gets nowhere.
    cut: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        [self.reader.take(), self.writer.take()].into_iter().flatten().for_each(Waker::wake);
    }

    fn is_broken(&self, now: Instant) -> bool {
        self.broken.is_some_and(|at| at <= now)
    }
}

#[derive(Clone, Default)]
struct Lane(Arc<Mutex<State>>);

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts a stream from outside; it may be gone already.
#[derive(Clone)]
pub(super) struct Cutter([Weak<Mutex<State>>; 2]);

impl fmt::Debug for Cutter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Cutter")
    }
}

impl Cutter {
    /// Nothing that is written from now on arrives; both ends learn of it at `told`.
    pub(super) fn cut(&self, told: Instant) {
        for lane in self.0.iter().filter_map(Weak::upgrade) {
            let mut state = lane.lock().unwrap_or_else(PoisonError::into_inner);
            state.cut = true;
            state.broken = Some(state.broken.map_or(told, |at| at.min(told)));
            state.wake();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.iter().all(|lane| lane.strong_count() == 0)
    }
}

/// One end of a stream.
pub(super) struct End {
    incoming: Lane,
    outgoing: Lane,
    delay: Duration,
    alarm: Pin<Box<Sleep>>,
    forge: Option<Forge>,
    note: Note,
}

/// The two ends of a stream over a way of `delay`, and what cuts it. `forge` is what the second end does to what it sends.
pub(super) fn pipe(delay: Duration, forge: Option<Forge>, note: &Note) -> (End, End, Cutter) {
    let (there, back) = (Lane::default(), Lane::default());
    let cutter = Cutter([Arc::downgrade(&there.0), Arc::downgrade(&back.0)]);
    let end = |incoming: &Lane, outgoing: &Lane, forge| End {
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        delay,
        alarm: Box::pin(sleep_until(Instant::now())),
        forge,
        note: note.clone(),
    };
    (end(&back, &there, None), end(&there, &back, forge), cutter)
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection broke")
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let now = Instant::now();
            let mut state = this.incoming.state();
            if let Some((at, piece)) = state.sent.front()
                && *at <= now
            {
                let from = state.read;
                let count = (piece.len() - from).min(into.remaining());
                into.put_slice(&piece[from..from + count]);
                let whole = from + count == piece.len();
                state.read = if whole { 0 } else { from + count };
                state.bytes -= count;
                if whole {
                    state.sent.pop_front();
                }
                if let Some(writer) = state.writer.take() {
                    writer.wake();
                }
                return Poll::Ready(Ok(()));
            }
            if state.is_broken(now) {
                return Poll::Ready(Err(broken()));
            }
            if state.sent.is_empty() && state.closed.is_some_and(|at| at <= now) {
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(cx.waker().clone());
            let arrives = state.sent.front().map(|(at, _)| *at).or(state.closed);
            let next = [arrives, state.broken].into_iter().flatten().min();
            drop(state);
            let Some(next) = next else { return Poll::Pending };
            if this.alarm.deadline() != next || this.alarm.is_elapsed() {
                this.alarm.as_mut().reset(next);
            }
            if this.alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let now = Instant::now();
        let mut state = self.outgoing.state();
        if state.closed.is_some() || state.is_broken(now) {
            return Poll::Ready(Err(broken()));
        }
        if state.bytes >= ON_THE_WAY {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if state.cut {
            return Poll::Ready(Ok(bytes.len()));
        }
        // A frame is written in one piece.
        let frame = self.forge.as_ref().and_then(|forge| forge(bytes)).unwrap_or_else(|| bytes.to_vec());
        (self.note)(&frame);
        state.bytes += frame.len();
        state.sent.push_back((now + self.delay, frame));
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.outgoing.state();
        let at = Instant::now() + self.delay;
        state.closed.get_or_insert(at);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    /// What was not closed is reset: the other end learns of it once all that was sent before has arrived.
    fn drop(&mut self) {
        let at = Instant::now() + self.delay;
        let mut state = self.outgoing.state();
        if state.closed.is_none() && !state.cut {
            state.broken.get_or_insert(at);
        }
        state.wake();
        drop(state);
        let mut state = self.incoming.state();
        if state.closed.is_none() && !state.cut {
            state.broken.get_or_insert(at);
        }
        state.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    const WAY: Duration = Duration::from_millis(30);

    fn quiet() -> Note {
        Arc::new(|_| {})
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_arrives_in_order_after_the_way() {
        let forge: Forge = Arc::new(|bytes| (bytes == b"no").then(|| b"yes".to_vec()));
        let (mut near, mut far, _cutter) = pipe(WAY, Some(forge), &quiet());
        let began = Instant::now();
        near.write_all(b"one").await.unwrap();
        near.write_all(b"two").await.unwrap();
        near.shutdown().await.unwrap();
        let mut got = String::new();
        far.read_to_string(&mut got).await.unwrap();
        assert_eq!((got.as_str(), began.elapsed()), ("onetwo", WAY));
        far.write_all(b"no").await.unwrap();
        drop(far);
        let mut got = [0; 3];
        near.read_exact(&mut got).await.unwrap();
        assert_eq!((&got, began.elapsed()), (b"yes", 2 * WAY));
        assert!(near.read_u8().await.is_err(), "it was not closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_way_that_is_cut_is_silent_until_that_is_noticed() {
        let (mut near, mut far, cutter) = pipe(WAY, None, &quiet());
        near.write_all(b"a").await.unwrap();
        cutter.cut(Instant::now() + 10 * WAY);
        near.write_all(b"b").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'a', "it was on its way");
        assert!(timeout(8 * WAY, far.read_u8()).await.is_err());
        assert!(far.read_u8().await.is_err() && near.write_all(b"c").await.is_err());
        drop((near, far));
        assert!(cutter.is_over());
    }
}
