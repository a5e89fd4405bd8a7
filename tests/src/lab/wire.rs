//! A link in userspace: two TUN interfaces and a thread that carries packets between them, late, or not at all.

use super::{
    lane::{Conditions, Lane},
    space::{Space, Unavailable},
};
use rustix::fd::OwnedFd;
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};
use tokio::{io::unix::AsyncFd, sync::oneshot};

/// Largest packet: the MTU of a TUN interface.
const MTU: usize = 1500;
/// Packets under way in one direction; what exceeds them is lost.
const MAX_UNDER_WAY: usize = 4096;

/// What became of the packets of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Arrived.
    pub arrived: u64,
    /// Lost.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Shared {
    conditions: Mutex<Conditions>,
    arrived: AtomicU64,
    lost: AtomicU64,
}

/// Owns a link; it ends with this value.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// A link between new interfaces `name` of `near` and of `far`.
    pub(super) fn lay(
        near: (&Space, &str),
        far: (&Space, &str),
        conditions: Conditions,
        seed: u64,
    ) -> Result<Self, Unavailable> {
        let ends = (near.0.tun(near.1)?, far.0.tun(far.1)?);
        let shared = Arc::new(Shared { conditions: Mutex::new(conditions), ..Shared::default() });
        let (stop, stopped) = oneshot::channel();
        let carried = Arc::clone(&shared);
        // A thread of its own, so that a test that blocks its runtime does not add to the delay.
        let thread = std::thread::Builder::new().name("wire".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                #[expect(
                    deprecated,
                    reason = "its successor is unsafe, and a file's descriptor lives as long as the file"
                )]
                let (near, far) =
                    (AsyncFd::new(ends.0).expect("a device"), AsyncFd::new(ends.1).expect("a device"));
                tokio::select! {
                    _ = stopped => {}
                    () = carry(&near, &far, Lane::new(seed), &carried) => {}
                    () = carry(&far, &near, Lane::new(!seed), &carried) => {}
                }
            });
        });
        Ok(Self { shared, stop: Some(stop), thread: Some(thread.expect("a thread starts")) })
    }

    /// From now on the link does this to packets.
    pub fn set(&self, conditions: Conditions) {
        *self.shared.conditions.lock().unwrap_or_else(PoisonError::into_inner) = conditions;
    }

    /// What became of the packets so far.
    pub fn carried(&self) -> Carried {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Carried { arrived: read(&self.shared.arrived), lost: read(&self.shared.lost) }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Carries packets one way until the interface that they come from is gone.
async fn carry(from: &AsyncFd<OwnedFd>, to: &AsyncFd<OwnedFd>, mut lane: Lane, shared: &Shared) {
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = [0; MTU];
    loop {
        let next = under_way.front().map(|(arrival, _)| *arrival);
        let due = async {
            match next {
                Some(arrival) => tokio::time::sleep_until(arrival.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {
                let Some((_, packet)) = under_way.pop_front() else { continue };
                // An interface that is down takes nothing, as a cable that was pulled.
                let arrived = rustix::io::write(to.get_ref(), &packet).is_ok();
                let counter = if arrived { &shared.arrived } else { &shared.lost };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            read = read(from, &mut buffer) => {
                let Ok(length) = read else { return };
                let conditions = *shared.conditions.lock().unwrap_or_else(PoisonError::into_inner);
                match lane.arrival(&conditions, Instant::now(), length) {
                    Some(arrival) if under_way.len() < MAX_UNDER_WAY => {
                        under_way.push_back((arrival, buffer[..length].to_vec()));
                    }
                    _ => {
                        shared.lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

async fn read(from: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = from.readable().await?;
        if let Ok(read) = ready.try_io(|device| Ok(rustix::io::read(device.get_ref(), &mut *buffer)?)) {
            return read;
        }
    }
}
