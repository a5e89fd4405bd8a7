//! The thread that owns the ledger's book: takes what waits, writes it at once, answers.

use super::{LedgerError, book::Book, meters::Meters};
use crate::{clock, storage::StorageError};
use std::{thread, time::Instant};
use tokio::sync::mpsc;

/// Requests that may wait for the thread.
pub(super) const QUEUE: usize = 1024;
/// Requests answered by one write.
const BATCH: usize = 256;

/// Sends the answer of a request once its batch is written.
pub(super) type Answer = Box<dyn FnOnce(&Result<bool, StorageError>) + Send>;
/// A request: works on the book, or learns why it cannot.
pub(super) type Request = Box<dyn FnOnce(Result<&mut Book, StorageError>) -> Answer + Send>;

/// The thread, for as long as anybody can call it.
#[derive(Debug)]
pub(super) struct Worker {
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<thread::JoinHandle<()>>,
    /// In a simulated city there is no thread, for its time goes on while somebody waits for one: each caller does its
    /// own work.
    #[cfg(test)]
    desk: Option<std::sync::Mutex<(Book, Meters)>>,
}

impl Worker {
    /// Starts it on a book.
    pub(super) fn start(book: Book, meters: Meters) -> Result<Self, StorageError> {
        #[cfg(test)]
        if crate::city::laboratory::is_open() {
            let desk = Some(std::sync::Mutex::new((book, meters)));
            return Ok(Self { requests: None, thread: None, desk });
        }
        let (requests, waiting) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || run(book, waiting, &meters))
            .map_err(|error| StorageError::Database(format!("no thread for the ledger: {error}")))?;
        Ok(Self {
            requests: Some(requests),
            thread: Some(thread),
            #[cfg(test)]
            desk: None,
        })
    }

    pub(super) fn take(&self, request: Request) -> Result<(), LedgerError> {
        #[cfg(test)]
        if let Some(desk) = &self.desk {
            let (book, meters) = &mut *desk.lock().map_err(|_| LedgerError::Stopped)?;
            serve(book, request, || None, meters);
            return Ok(());
        }
        let requests = self.requests.as_ref().ok_or(LedgerError::Stopped)?;
        requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LedgerError::Busy,
            mpsc::error::TrySendError::Closed(_) => LedgerError::Stopped,
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the ledger thread panicked");
        }
    }
}

/// The thread: takes what waits, answers it all after one write.
fn run(mut book: Book, mut requests: mpsc::Receiver<Request>, meters: &Meters) {
    while let Some(first) = requests.blocking_recv() {
        serve(&mut book, first, || requests.try_recv().ok(), meters);
    }
}

/// Answers `first` and what else waits after one write.
fn serve(book: &mut Book, first: Request, mut waiting: impl FnMut() -> Option<Request>, meters: &Meters) {
    let ready = book.begin(clock::now_ms());
    let mut answers = Vec::new();
    let mut next = Some(first);
    while let Some(request) = next {
        answers.push(request(ready.as_ref().map(|()| &mut *book).map_err(StorageError::clone)));
        next = if answers.len() < BATCH { waiting() } else { None };
    }
    let started = Instant::now();
    let written = book.commit();
    match &written {
        Ok(synced) => meters.committed(book, *synced, started.elapsed(), answers.len()),
        Err(error) => tracing::error!(%error, requests = answers.len(), "the ledger cannot write"),
    }
    for answer in answers {
        answer(&written);
    }
}
