//! Progress that never goes back, and blocking work that tells how far it is.

use super::Progress;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How often blocking work is asked how far it is.
const TICK: Duration = Duration::from_millis(100);
/// Reports on the way to the end, at most, within one stage.
const STEPS: u64 = 1000;

/// Reports the high-water mark of a fetch.
pub(super) struct Meter<'a> {
    report: &'a mut (dyn FnMut(Progress) + Send),
    progress: Progress,
    shown: u64,
}

impl<'a> Meter<'a> {
    /// A meter that has reached nothing of `total` bytes.
    pub(super) fn new(total: u64, report: &'a mut (dyn FnMut(Progress) + Send)) -> Self {
        Self { report, progress: Progress { stage: String::new(), done: 0, total }, shown: 0 }
    }

    /// Names what is being done from now on.
    pub(super) fn stage(&mut self, stage: impl Into<String>) {
        let stage = stage.into();
        if stage != self.progress.stage {
            self.progress.stage = stage;
            self.show();
        }
    }

    /// Tells that `done` bytes are there. What was reached before, by another source too, stays reached.
    pub(super) fn reach(&mut self, done: u64) {
        let done = done.min(self.progress.total);
        if done > self.progress.done {
            self.progress.done = done;
            if done == self.progress.total || done - self.shown >= self.progress.total / STEPS {
                self.show();
            }
        }
    }

    fn show(&mut self) {
        self.shown = self.progress.done;
        (self.report)(self.progress.clone());
    }
}

/// How far blocking work is, and whether anybody still wants its result.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    done: AtomicU64,
    unwanted: AtomicBool,
}

impl Gauge {
    /// Counts `bytes` more; fails once nobody waits for the result, so that the work ends.
    pub(super) fn advance(&self, bytes: usize) -> io::Result<()> {
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.unwanted.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
        Ok(())
    }
}

/// Marks the work as unwanted when the future that waits for it is dropped.
struct Wanted(Arc<Gauge>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.unwanted.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` where blocking is allowed, and passes on how far it is. Dropping the future ends the work at its next
/// [`Gauge::advance`].
pub(super) async fn blocking<T: Send + 'static>(
    meter: &mut Meter<'_>,
    work: impl FnOnce(&Gauge) -> T + Send + 'static,
) -> Result<T, io::Error> {
    let wanted = Wanted(Arc::default());
    let gauge = Arc::clone(&wanted.0);
    let mut task = tokio::task::spawn_blocking(move || work(&gauge));
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            biased;
            result = &mut task => {
                meter.reach(wanted.0.done.load(Ordering::Relaxed));
                return match result {
                    Ok(value) => Ok(value),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => Err(io::Error::other("the runtime is shutting down")),
                };
            }
            _ = tick.tick() => meter.reach(wanted.0.done.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn progress_never_goes_back_and_ends_at_the_total(
            reached in proptest::collection::vec((any::<bool>(), 0_u64..2000), 0..50),
        ) {
            let mut seen = Vec::new();
            let mut report = |progress: Progress| seen.push(progress);
            let mut meter = Meter::new(1000, &mut report);
            for (index, (stage, done)) in reached.into_iter().enumerate() {
                if stage {
                    meter.stage(format!("stage {index}"));
                }
                meter.reach(done);
            }
            meter.reach(1000);
            prop_assert!(seen.windows(2).all(|pair| pair[0].done <= pair[1].done));
            prop_assert!(seen.iter().all(|progress| progress.done <= progress.total));
            prop_assert_eq!(seen.last().map(|progress| progress.done), Some(1000));
        }
    }

    #[tokio::test]
    async fn dropping_the_future_ends_the_work() {
        let (ended, wait) = std::sync::mpsc::channel();
        let (began, begun) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut report = |_| {};
            let mut meter = Meter::new(1, &mut report);
            blocking(&mut meter, move |gauge| {
                let _ = began.send(());
                while gauge.advance(0).is_ok() {
                    std::thread::yield_now();
                }
                let _ = ended.send(());
            })
            .await
        });
        begun.await.expect("the work begins");
        task.abort();
        tokio::task::spawn_blocking(move || wait.recv_timeout(Duration::from_secs(20)))
            .await
            .expect("no panic")
            .expect("the work ends");
    }
}
