//! A network without a swarm: it answers the commands of many nodes' handles from one table of who is where, in virtual
//! time and by a seed. libp2p's own timers cannot be repeated; what stands on the handle can.
//!
//! ```text
//!   node's code -- NetworkHandle --Command--> one task a node --> State: who is where, connected to whom, hears what
//!        ^                                                          |
//!        +---- streams, gossip, snapshots ---- Post: what arrives when
//! ```
//!
//! What it is like: a connection takes two round trips and stays; a stream takes none; gossip reaches everybody who hears
//! its topic, once, and is judged there; records stand in the DHT for up to half an hour after their node has gone; who
//! leaves does so without a word, is missed after three to four seconds, and counts as offline after ten more. There is
//! no NAT, no relay, no loss of packets, and no bound on what a line carries.

mod pipe;
mod post;
mod residents;
mod state;

pub(crate) use residents::{Home, Tongue};
pub(crate) use state::Counts;

use super::{Incoming, NetworkHandle, NotDialled, handle, handle::Command};
use aitbc_protocol::{NodeId, geo::Cell};
use residents::Resident;
use state::State;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};

/// The whole network. Cheap to clone; it goes on as long as its runtime.
#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Something happens sooner than was waited for.
    bell: Notify,
}

impl World {
    /// An empty network; a runtime's task carries what is on its way.
    pub(crate) fn new(seed: u64) -> Self {
        let world = Self(Arc::new(Inner { state: Mutex::new(State::new(seed)), bell: Notify::new() }));
        tokio::spawn(carry(world.clone()));
        world
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the state; whoever carries looks again where something is to happen sooner now.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let before = state.post.next();
        let done = work(&mut state);
        if state.post.next() != before {
            self.0.bell.notify_one();
        }
        done
    }

    /// A node comes and finds its first peers.
    pub(crate) fn join(&self, id: NodeId, home: Home) -> (NetworkHandle, Incoming) {
        let (commands, inbox) = mpsc::channel(handle::COMMANDS);
        let (publisher, snapshots) = super::snapshots();
        let (gossip_queue, gossip) = mpsc::channel(super::GOSSIP_QUEUE);
        let (queues, incoming) = super::queues(gossip);
        publisher.addresses.send_replace(Arc::new(vec![home.address()]));
        let number = self.with(|state| state.join(Resident::new(id, home, publisher, queues, gossip_queue)));
        tokio::spawn(listen(self.clone(), number, inbox));
        (NetworkHandle { local: id, commands, snapshots }, incoming)
    }

    /// A node's line goes dead, without a word to anybody.
    pub(crate) fn leave(&self, id: &NodeId) {
        self.with(|state| state.leave(id));
    }

    /// What somebody says who is no node of this network's code.
    pub(crate) fn say(&self, cell: Cell, bytes: &[u8]) {
        self.with(|state| state.publish(None, cell, bytes));
    }

    /// The round trip between two nodes, of which either may have left.
    pub(crate) fn round_trip(&self, one: &NodeId, other: &NodeId) -> Option<Duration> {
        self.state().between(one, other)
    }

    /// What was counted so far.
    pub(crate) fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// One number for everything that has gone over the network, and when.
    pub(crate) fn trace(&self) -> u64 {
        self.state().trace.sum()
    }
}

/// Has happen what is on its way.
async fn carry(world: World) {
    loop {
        let next = {
            let mut state = world.state();
            let now = Instant::now();
            while let Some(event) = state.post.due(now) {
                state.happen(event);
            }
            state.post.next()
        };
        let bell = world.0.bell.notified();
        match next {
            Some(next) => {
                tokio::select! {
                    biased;
                    () = bell => {}
                    () = sleep_until(next) => {}
                }
            }
            None => bell.await,
        }
    }
}

/// Answers the commands of one node until it has gone.
async fn listen(world: World, number: usize, mut inbox: mpsc::Receiver<Command>) {
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Announce { cells, reply } => {
                world.with(|state| state.residents[number].announced = cells);
                let _ = reply.send(());
            }
            Command::Providers { cell, reply } => {
                let _ = reply.send(Ok(world.with(|state| state.look_up(number, cell))));
            }
            Command::Subscribe { cells, reply } => {
                world.with(|state| state.residents[number].hears = cells.iter().copied().collect());
                let _ = reply.send(cells);
            }
            Command::Publish { cell, bytes, reply } => {
                let _ = reply.send(Ok(world.with(|state| state.publish(Some(number), cell, &bytes))));
            }
            Command::Judge { forwarder, verdict, .. } => world.with(|state| state.judged(forwarder, verdict)),
            Command::Reach { peer, want, .. } => world.with(|state| state.reach(number, &peer, want)),
            Command::DialBack { reply, .. } => {
                let _ = reply.send(Err(NotDialled::Untried("this network has no addresses".to_owned())));
            }
            // Who asks learns that there is no such network.
            Command::Report { .. } | Command::Checked { .. } => {}
            Command::Shutdown { reply } => {
                let _ = reply.send(());
                return;
            }
        }
    }
}
