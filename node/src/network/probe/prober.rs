//! One probe after the other over one stream.

use super::{Pace, Report};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, stream};
use std::{io, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

/// Bytes of a probe: its number.
pub(super) const PROBE_BYTES: usize = 8;
/// A connection is dead when nothing came back for this long, or for [`DEAD_ROUND_TRIPS`].
const DEAD_AFTER: Duration = Duration::from_secs(3);
const DEAD_ROUND_TRIPS: u32 = 8;
/// An answer is late after this, or after [`LATE_ROUND_TRIPS`].
const LATE_AFTER: Duration = Duration::from_secs(1);
const LATE_ROUND_TRIPS: u32 = 3;

/// What the opening of the stream counts for at most as the first round trip.
const LONGEST_OPENING: Duration = Duration::from_secs(1);

struct Prober<S> {
    stream: S,
    pace: watch::Receiver<Pace>,
    /// Of the answers so far, newer ones weighing more: see [`smoothed`]. Before the first, what opening the stream
    /// took: where that was long, packets get lost, and the first answer may take long as well.
    round_trip: Duration,
    number: u64,
    /// When the last probe was sent; `None` before the first.
    sent: Option<Instant>,
    waiting: bool,
    late: bool,
    answer: [u8; PROBE_BYTES],
    read: usize,
}

/// Probes the other end of `stream` in the given pace until the stream breaks or nothing comes back any more. `opening`
/// is what the stream took to open, a round trip at least.
pub(super) fn probe<S>(
    stream: S,
    opening: Duration,
    pace: watch::Receiver<Pace>,
) -> impl futures::Stream<Item = Report> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let prober = Prober {
        stream,
        pace,
        round_trip: opening.min(LONGEST_OPENING),
        number: 0,
        sent: None,
        waiting: false,
        late: false,
        answer: [0; PROBE_BYTES],
        read: 0,
    };
    stream::unfold(Some(prober), |prober| async move {
        let mut prober = prober?;
        let report = prober.step().await.ok()?;
        let next = if matches!(report, Report::Dead(_)) { None } else { Some(prober) };
        Some((report, next))
    })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Prober<S> {
    /// The next report; an error where the stream has broken or the peer answers something else.
    async fn step(&mut self) -> io::Result<Report> {
        if !self.waiting {
            self.rest().await;
            self.number += 1;
            self.sent = Some(Instant::now());
            self.waiting = true;
            self.stream.write_all(&self.number.to_be_bytes()).await?;
            self.stream.flush().await?;
        }
        let sent = self.sent.unwrap_or_else(Instant::now);
        let patience = if self.late {
            DEAD_AFTER.max(self.round_trip * DEAD_ROUND_TRIPS)
        } else {
            LATE_AFTER.max(self.round_trip * LATE_ROUND_TRIPS)
        };
        match timeout_at(sent + patience, self.receive()).await {
            Ok(answer) => {
                answer?;
                let round_trip = sent.elapsed();
                // What opening took has served its purpose.
                self.round_trip =
                    if self.number == 1 { round_trip } else { smoothed(self.round_trip, round_trip) };
                (self.waiting, self.late, self.read) = (false, false, 0);
                Ok(Report::RoundTrip(round_trip))
            }
            Err(_) if self.late => Ok(Report::Dead(sent.elapsed())),
            Err(_) => {
                self.late = true;
                Ok(Report::Late)
            }
        }
    }

    /// Waits until the next probe is due, in the pace that holds by then.
    async fn rest(&mut self) {
        while let Some(last) = self.sent {
            let interval = self.pace.borrow_and_update().interval();
            tokio::select! {
                () = sleep_until(last + interval) => return,
                changed = self.pace.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Takes the rest of an answer: what came of it before a time-out is kept.
    async fn receive(&mut self) -> io::Result<()> {
        while self.read < PROBE_BYTES {
            match self.stream.read(&mut self.answer[self.read..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.read += count,
            }
        }
        if self.answer == self.number.to_be_bytes() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// A round trip with the weights of TCP's (RFC 6298), except that one much longer counts for half at once: where packets
/// get lost an answer comes late now and then, and a path like that must not be taken for dead the next time.
fn smoothed(so_far: Duration, latest: Duration) -> Duration {
    if so_far.is_zero() {
        latest
    } else if latest > so_far * LATE_ROUND_TRIPS {
        (so_far + latest) / 2
    } else {
        (so_far * 7 + latest) / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_answers_are_remembered_and_forgotten() {
        let usual = Duration::from_millis(300);
        assert_eq!(smoothed(Duration::ZERO, usual), usual);
        let late = smoothed(usual, Duration::from_millis(2700));
        assert_eq!(late, Duration::from_millis(1500));
        let later = (0..20).fold(late, |so_far, _| smoothed(so_far, usual));
        assert!(later < usual * 2, "{later:?}");
    }
    use futures::StreamExt as _;
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    /// A prober and the other end of its stream.
    fn prober(
        pace: Pace,
    ) -> (impl futures::Stream<Item = Report> + Unpin, tokio::io::DuplexStream, watch::Sender<Pace>) {
        opened_in(Duration::ZERO, pace)
    }

    fn opened_in(
        opening: Duration,
        pace: Pace,
    ) -> (impl futures::Stream<Item = Report> + Unpin, tokio::io::DuplexStream, watch::Sender<Pace>) {
        let (ours, theirs) = tokio::io::duplex(64);
        let (sender, receiver) = watch::channel(pace);
        (Box::pin(probe(ours.compat(), opening, receiver)), theirs, sender)
    }

    #[tokio::test]
    async fn a_stream_that_opened_late_is_given_more_time_for_its_first_answer() {
        let opening = Duration::from_millis(450);
        let (mut reports, _theirs, _pace) = opened_in(opening, Pace::InUse);
        assert_eq!(reports.next().await, Some(Report::Late));
        let dead = reports.next().await;
        assert!(matches!(dead, Some(Report::Dead(silent)) if silent >= opening * DEAD_ROUND_TRIPS), "{dead:?}");
    }

    async fn answer(theirs: &mut tokio::io::DuplexStream, after: Duration) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut bytes = [0; PROBE_BYTES];
        theirs.read_exact(&mut bytes).await.unwrap();
        tokio::time::sleep(after).await;
        // In two pieces, as a transport may deliver it.
        theirs.write_all(&bytes[..3]).await.unwrap();
        theirs.write_all(&bytes[3..]).await.unwrap();
    }

    fn is_round_trip_of(report: Option<Report>, delay: Duration) -> bool {
        matches!(report, Some(Report::RoundTrip(time)) if time >= delay)
    }

    #[tokio::test]
    async fn round_trips_are_measured_in_the_pace_that_is_set() {
        let (mut reports, mut theirs, pace) = prober(Pace::Idle);
        let start = Instant::now();
        let delay = Duration::from_millis(40);
        let (report, ()) = tokio::join!(reports.next(), answer(&mut theirs, delay));
        assert!(is_round_trip_of(report, delay), "the first at once: {report:?}");
        // A pace that changes while the prober rests counts at once.
        let (report, (), ()) = tokio::join!(reports.next(), answer(&mut theirs, delay), async {
            pace.send_replace(Pace::InUse);
        });
        assert!(is_round_trip_of(report, delay), "{report:?}");
        assert!((Pace::InUse.interval()..Pace::Idle.interval()).contains(&start.elapsed()));
    }

    #[tokio::test]
    async fn silence_is_late_and_then_dead() {
        let (mut reports, mut theirs, _pace) = prober(Pace::InUse);
        let delay = Duration::from_millis(10);
        let (report, ()) = tokio::join!(reports.next(), answer(&mut theirs, delay));
        assert!(is_round_trip_of(report, delay), "{report:?}");
        assert_eq!(reports.next().await, Some(Report::Late));
        let dead = reports.next().await;
        assert!(matches!(dead, Some(Report::Dead(silent)) if silent >= DEAD_AFTER), "{dead:?}");
        assert_eq!(reports.next().await, None);
    }

    #[tokio::test]
    async fn a_long_way_is_given_more_time() {
        let (mut reports, mut theirs, _pace) = prober(Pace::InUse);
        let slow = Duration::from_millis(450);
        let (report, ()) = tokio::join!(reports.next(), answer(&mut theirs, slow));
        assert!(is_round_trip_of(report, slow), "{report:?}");
        assert_eq!(reports.next().await, Some(Report::Late));
        let dead = reports.next().await;
        assert!(matches!(dead, Some(Report::Dead(silent)) if silent >= slow * DEAD_ROUND_TRIPS), "{dead:?}");
    }

    #[tokio::test]
    async fn a_late_answer_counts_and_a_wrong_one_ends_the_probing() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut reports, mut theirs, _pace) = prober(Pace::InUse);
        let late = Duration::from_millis(1500);
        let respond = async {
            answer(&mut theirs, late).await;
            let mut bytes = [0; PROBE_BYTES];
            theirs.read_exact(&mut bytes).await.unwrap();
            theirs.write_all(&[0xff; PROBE_BYTES]).await.unwrap();
        };
        let hear = async { [reports.next().await, reports.next().await, reports.next().await] };
        let (heard, ()) = tokio::join!(hear, respond);
        assert_eq!(heard[0], Some(Report::Late));
        assert!(is_round_trip_of(heard[1], late), "{heard:?}");
        assert_eq!(heard[2], None);
    }
}
