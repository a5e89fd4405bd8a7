//! Who is where, connected to whom, hears what; and what becomes of all that is on its way.

use super::{
    pipe::{Note, pipe},
    post::Post,
    residents::{Resident, round_trip},
};
use crate::{
    clock::now_ms,
    network::{
        FoundProvider, FramedStream, GossipMessage, IncomingStream, NetworkError, Protocol, Verdict, handle::Want,
    },
};
use aitbc_protocol::{NodeId, UnixMillis, geo::Cell};
use libp2p::gossipsub::MessageId;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Peers that a node finds when it comes.
const FIRST_PEERS: usize = 6;
/// How long a dial takes that nobody answers.
const DIALLED_IN_VAIN: Duration = Duration::from_secs(10);
/// How long after a node has gone its peers miss it, in milliseconds: probes answer no more.
const MISSED_MS: std::ops::Range<u64> = 3_000..4_000;
/// How much later it counts as offline.
const OFFLINE_AFTER: Duration = Duration::from_secs(10);
/// What the hops of a gossip message add to the way, in milliseconds.
const HOPS_MS: std::ops::Range<u64> = 10..80;
/// How long a lookup in the DHT takes, in milliseconds.
const LOOKUP_MS: std::ops::Range<u64> = 80..400;
/// How long records outlive their node, in milliseconds: they are published every 10 minutes for 30.
const RECORD_MS: std::ops::Range<u64> = 1_200_000..1_800_000;

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Streams that were opened to ask for a quote, and those of them towards a node that had left.
    pub(crate) asked: u64,
    pub(crate) asked_in_vain: u64,
    /// Nodes that were to be connected to, and those of them that had left.
    pub(crate) dialled: u64,
    pub(crate) dialled_in_vain: u64,
    /// Gossip messages that arrived.
    pub(crate) heard: u64,
    /// Whose messages were rejected, and how often; ids of those who are no nodes are all zeros.
    pub(crate) rejected: BTreeMap<NodeId, u64>,
}

/// One number for a run: FNV-1a over times, ends and lengths of all that goes over the network, and the last bytes of each.
#[derive(Clone)]
pub(super) struct Trace(Arc<Mutex<u64>>);

impl Trace {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(0xcbf2_9ce4_8422_2325)))
    }

    fn note(&self, from: usize, to: usize, bytes: &[u8]) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = bytes.iter().rev().take(8).fold(0, |last, byte| last << 8 | u64::from(*byte));
        for number in [now_ms(), from as u64, to as u64, bytes.len() as u64, last] {
            *sum = (*sum ^ number).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn sum(&self) -> u64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happens some time later.
pub(super) enum Event {
    Gossip {
        to: usize,
        message: GossipMessage,
    },
    Stream {
        to: usize,
        protocol: Protocol,
        stream: IncomingStream,
    },
    Connected {
        one: usize,
        other: usize,
    },
    Unanswered {
        one: usize,
        other: usize,
    },
    Measured {
        reply: oneshot::Sender<Result<Duration, NetworkError>>,
        round_trip: Duration,
    },
    Missed {
        by: usize,
        gone: usize,
    },
    Offline {
        by: usize,
        gone: usize,
        since_ms: UnixMillis,
    },
    Found {
        name: mpsc::Sender<FoundProvider>,
        provider: FoundProvider,
    },
    /// The end of a lookup.
    Searched {
        _name: mpsc::Sender<FoundProvider>,
    },
}

/// The network as it is now.
pub(super) struct State {
    seed: u64,
    random: StdRng,
    pub(super) post: Post<Event>,
    pub(super) residents: Vec<Resident>,
    numbers: BTreeMap<NodeId, usize>,
    /// Who waits for a connection that is being made.
    reaching: BTreeMap<(usize, usize), Vec<Want>>,
    messages: u64,
    pub(super) counts: Counts,
    pub(super) trace: Trace,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            post: Post::default(),
            residents: Vec::new(),
            numbers: BTreeMap::new(),
            reaching: BTreeMap::new(),
            messages: 0,
            counts: Counts::default(),
            trace: Trace::new(),
        }
    }

    fn after(&mut self, pause: Duration, event: Event) {
        self.post.post(Instant::now() + pause, event);
    }

    fn pause(&mut self, ms: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(ms))
    }

    fn round_trip(&self, one: usize, other: usize) -> Duration {
        let at = |number: usize| (number, &self.residents[number].home);
        round_trip(self.seed, at(one), at(other))
    }

    pub(super) fn between(&self, one: &NodeId, other: &NodeId) -> Option<Duration> {
        Some(self.round_trip(*self.numbers.get(one)?, *self.numbers.get(other)?))
    }

    pub(super) fn join(&mut self, resident: Resident) -> usize {
        let number = self.residents.len();
        self.numbers.insert(resident.id, number);
        let mut here: Vec<usize> = (0..number).filter(|other| self.residents[*other].here).collect();
        self.residents.push(resident);
        for _ in 0..FIRST_PEERS.min(here.len()) {
            let other = here.swap_remove(self.random.random_range(0..here.len()));
            let pause = 2 * self.round_trip(number, other);
            self.after(pause, Event::Connected { one: number, other });
        }
        number
    }

    pub(super) fn leave(&mut self, id: &NodeId) {
        let Some(number) = self.numbers.get(id).copied() else { return };
        let missed = self.pause(MISSED_MS);
        let forgotten_ms = now_ms() + self.random.random_range(RECORD_MS);
        let gone = &mut self.residents[number];
        gone.here = false;
        gone.forgotten_ms = Some(forgotten_ms);
        for stream in gone.take_streams() {
            stream.cut(Instant::now() + missed);
        }
        for by in gone.connected.clone() {
            self.after(missed, Event::Missed { by, gone: number });
        }
    }

    /// Sends a message to everybody who hears the topic; true where anybody does. `from` nobody: somebody who is no node.
    pub(super) fn publish(&mut self, from: Option<usize>, cell: Cell, bytes: &[u8]) -> bool {
        if from.is_some_and(|from| !self.residents[from].here) {
            return false;
        }
        let tongue = from.and_then(|from| self.residents[from].home.tongue.clone());
        let bytes = tongue.and_then(|tongue| (tongue.gossip)(bytes)).unwrap_or_else(|| bytes.to_vec());
        self.messages += 1;
        let id = MessageId::new(&self.messages.to_be_bytes());
        let forwarder = from.map_or(NodeId([0; 32]), |from| self.residents[from].id);
        let hearers: Vec<usize> = (0..self.residents.len())
            .filter(|to| {
                Some(*to) != from && self.residents[*to].here && self.residents[*to].hears.contains(&cell)
            })
            .collect();
        self.trace.note(from.unwrap_or(usize::MAX), hearers.len(), &bytes);
        for to in &hearers {
            let way = from.map_or(Duration::ZERO, |from| self.round_trip(from, *to) / 2);
            let pause = way + self.pause(HOPS_MS);
            let message = GossipMessage { id: id.clone(), forwarder, cell, bytes: bytes.clone() };
            self.after(pause, Event::Gossip { to: *to, message });
        }
        !hearers.is_empty()
    }

    pub(super) fn judged(&mut self, forwarder: NodeId, verdict: Verdict) {
        if verdict == Verdict::Reject {
            *self.counts.rejected.entry(forwarder).or_default() += 1;
        }
    }

    /// Who announces itself under a cell, told while the lookup lasts.
    pub(super) fn look_up(&mut self, by: usize, cell: Cell) -> mpsc::Receiver<FoundProvider> {
        let now_ms = now_ms();
        let stands = |resident: &Resident| resident.forgotten_ms.is_none_or(|until_ms| until_ms > now_ms);
        let of_cell =
            self.residents.iter().enumerate().filter(|(number, resident)| {
                *number != by && stands(resident) && resident.announced.contains(&cell)
            });
        let found: Vec<FoundProvider> = of_cell
            .map(|(_, resident)| FoundProvider { node: resident.id, addresses: vec![resident.home.address()] })
            .collect();
        let (name, names) = mpsc::channel(found.len().max(1));
        for provider in found {
            let pause = self.pause(LOOKUP_MS);
            self.after(pause, Event::Found { name: name.clone(), provider });
        }
        self.after(Duration::from_millis(LOOKUP_MS.end), Event::Searched { _name: name });
        names
    }

    /// Opens a stream or measures a round trip, over a connection that there is or that is made for it.
    pub(super) fn reach(&mut self, from: usize, peer: &NodeId, want: Want) {
        let Some(to) = self.numbers.get(peer).copied().filter(|to| *to != from) else {
            return want.fail(NetworkError::Unreachable { peer: *peer, reason: "nobody knows it".to_owned() });
        };
        let gone = u64::from(!self.residents[to].here);
        match &want {
            Want::Stream { protocol: Protocol::Quote, .. } => {
                self.counts.asked += 1;
                self.counts.asked_in_vain += gone;
            }
            Want::Stream { .. } => {}
            Want::RoundTrip { .. } => {
                self.counts.dialled += 1;
                self.counts.dialled_in_vain += gone;
            }
        }
        if self.residents[from].connected.contains(&to) {
            return self.serve(from, to, want);
        }
        let waiting = self.reaching.entry((from, to)).or_default();
        waiting.push(want);
        if waiting.len() == 1 {
            let (pause, event) = if gone > 0 || !self.residents[from].here {
                (DIALLED_IN_VAIN, Event::Unanswered { one: from, other: to })
            } else {
                (2 * self.round_trip(from, to), Event::Connected { one: from, other: to })
            };
            self.after(pause, event);
        }
    }

    /// Does what was wanted over a connection; whether the other end still lives, nobody knows here.
    fn serve(&mut self, from: usize, to: usize, want: Want) {
        let round_trip = self.round_trip(from, to);
        match want {
            Want::RoundTrip { reply } => {
                let _ = reply.send(Ok(round_trip));
            }
            Want::Stream { protocol, reply } => {
                let trace = self.trace.clone();
                let note: Note = Arc::new(move |bytes: &[u8]| trace.note(from, to, bytes));
                let forge = self.residents[to].forge(protocol);
                let (near, far, cutter) = pipe(round_trip / 2, forge, &note);
                let (here, there) = (self.residents[from].id, self.residents[to].id);
                if self.residents[from].here && self.residents[to].here {
                    let stream = IncomingStream { peer: here, stream: FramedStream::from_io(here, far) };
                    self.after(round_trip / 2, Event::Stream { to, protocol, stream });
                } else {
                    cutter.cut(Instant::now() + Duration::from_millis(MISSED_MS.start));
                    drop(far);
                }
                self.residents[from].keep(cutter.clone());
                self.residents[to].keep(cutter);
                let (opened, pending) = oneshot::channel();
                let _ = opened.send(Ok(FramedStream::from_io(there, near)));
                let _ = reply.send(Ok(pending));
            }
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Gossip { to, message } => {
                self.counts.heard += 1;
                if self.residents[to].here {
                    // A node that is behind loses what it has no room for, here as on a swarm.
                    let _ = self.residents[to].gossip.try_send(message);
                }
            }
            Event::Stream { to, protocol, stream } => {
                if self.residents[to].here {
                    let _ = self.residents[to].queues.of(protocol).try_send(stream);
                }
            }
            Event::Connected { one, other } => self.connected(one, other),
            Event::Unanswered { one, other } => {
                let peer = self.residents[other].id;
                for want in self.reaching.remove(&(one, other)).unwrap_or_default() {
                    let reason = "nobody answered within 10 s".to_owned();
                    want.fail(NetworkError::Unreachable { peer, reason });
                }
            }
            Event::Measured { reply, round_trip } => {
                let _ = reply.send(Ok(round_trip));
            }
            Event::Missed { by, gone } => {
                let (id, since_ms) = (self.residents[gone].id, now_ms());
                self.residents[by].missed(gone, id);
                self.after(OFFLINE_AFTER, Event::Offline { by, gone, since_ms });
            }
            Event::Offline { by, gone, since_ms } => {
                let id = self.residents[gone].id;
                self.residents[by].offline(id, since_ms);
            }
            Event::Found { name, provider } => {
                let _ = name.try_send(provider);
            }
            Event::Searched { .. } => {}
        }
    }

    fn connected(&mut self, one: usize, other: usize) {
        if !self.residents[one].here || !self.residents[other].here {
            let rest = DIALLED_IN_VAIN;
            return self.after(rest, Event::Unanswered { one, other });
        }
        let round_trip = self.round_trip(one, other);
        for (at, to) in [(one, other), (other, one)] {
            let (id, home) = (self.residents[to].id, self.residents[to].home.clone());
            self.residents[at].met(to, id, &home, round_trip);
        }
        for want in self.reaching.remove(&(one, other)).unwrap_or_default() {
            match want {
                // It is measured before it is told.
                Want::RoundTrip { reply } => self.after(round_trip, Event::Measured { reply, round_trip }),
                want @ Want::Stream { .. } => self.serve(one, other, want),
            }
        }
    }
}
