//! What makes the code of a node repeatable on the thread of a test: time that begins at a date of the test's and goes
//! by tokio's paused clock, and numbers of a seed where the node draws some. Closed on every other thread, and there
//! nothing is different.

use aitbc_protocol::UnixMillis;
use rand::{
    RngExt as _, SeedableRng as _,
    distr::{Distribution, StandardUniform},
    rngs::StdRng,
};
use std::cell::RefCell;
use tokio::time::Instant;

thread_local! {
    static OPEN: RefCell<Option<Laboratory>> = const { RefCell::new(None) };
}

struct Laboratory {
    began: Instant,
    began_ms: UnixMillis,
    numbers: StdRng,
}

/// Keeps the laboratory of this thread open; dropping it closes it.
#[derive(Debug)]
pub(crate) struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        OPEN.set(None);
    }
}

/// Opens the laboratory of this thread: it is `began_ms` now. Within a tokio runtime of one thread whose clock is paused.
pub(crate) fn open(seed: u64, began_ms: UnixMillis) -> Guard {
    let numbers = StdRng::seed_from_u64(seed);
    OPEN.set(Some(Laboratory { began: Instant::now(), began_ms, numbers }));
    Guard(())
}

/// Whether the laboratory of this thread is open.
pub(crate) fn is_open() -> bool {
    OPEN.with_borrow(Option::is_some)
}

/// What time it is, where the laboratory is open.
pub(crate) fn now_ms() -> Option<UnixMillis> {
    OPEN.with_borrow(|open| {
        let Laboratory { began, began_ms, .. } = open.as_ref()?;
        Some(began_ms + began.elapsed().as_millis() as u64)
    })
}

/// The next number of the seed, where the laboratory is open.
pub(crate) fn draw<T>() -> Option<T>
where
    StandardUniform: Distribution<T>,
{
    OPEN.with_borrow_mut(|open| Some(open.as_mut()?.numbers.random()))
}
