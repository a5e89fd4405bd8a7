//! Rounds of dials to the bootstrap list and to peers of the last run.

use super::Actor;
use crate::network::{
    bootstrap::{FIRST_PAUSE, LAST_PAUSE},
    reach::describe,
};
use libp2p::swarm::{
    ConnectionId, DialError,
    dial_opts::{DialOpts, PeerCondition},
};
use std::time::Instant;

/// Peers of the last run that are dialled in one round.
const REMEMBERED: usize = 16;

impl Actor {
    /// Dials the list and peers of the last run, if this node is alone or on an island and the pause is over.
    pub(super) fn seek_peers(&mut self, now: Instant) {
        if !self.bootstrap.is_due(self.peers.len() > 0, now) {
            return;
        }
        self.bootstrap.failures.clear();
        // One dial an address: in a common one, another node that answers at one of them would end them all.
        for (peer, address) in self.bootstrap.peers.clone() {
            let options =
                DialOpts::peer_id(peer).condition(PeerCondition::Disconnected).addresses(vec![address]).build();
            let id = options.connection_id();
            match self.swarm.dial(options) {
                Ok(()) => drop(self.bootstrap.dials.insert(id)),
                Err(error) => self.bootstrap.failures.extend(describe(&error)),
            }
        }
        let remembered = self.table.newest(self.bootstrap.skip, REMEMBERED);
        self.bootstrap.skip += remembered.len();
        if self.bootstrap.skip >= self.table.len() {
            self.bootstrap.skip = 0;
        }
        for (peer, addresses) in &remembered {
            self.dial_ahead(*peer, addresses);
        }
        let alone = self.bootstrap.peers.is_empty() && remembered.is_empty();
        if alone && !self.bootstrap.may_be_alone && [FIRST_PAUSE, LAST_PAUSE].contains(&self.bootstrap.pause) {
            tracing::warn!("no peer is known: name one in the setting `bootstrap`, as /ip4/…/tcp/…/p2p/<PeerId>");
        }
        self.bootstrap.next_round(now);
        self.report_round(now);
    }

    /// A dial ended without connection; says so once the round is over.
    pub(super) fn bootstrap_dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        if self.bootstrap.dials.remove(&id) {
            self.bootstrap.failures.extend(describe(error));
            self.report_round(Instant::now());
        }
    }

    pub(super) fn bootstrap_dial_ended(&mut self, id: ConnectionId) {
        self.bootstrap.dials.remove(&id);
    }

    fn report_round(&mut self, now: Instant) {
        let bootstrap = &mut self.bootstrap;
        if bootstrap.dials.is_empty() && !bootstrap.failures.is_empty() && !bootstrap.met {
            let reasons = std::mem::take(&mut bootstrap.failures).join("; ");
            let again = bootstrap.next.saturating_duration_since(now);
            tracing::warn!(
                "no bootstrap peer could be reached, next try in {again:.1?}: {reasons} (setting `bootstrap`)"
            );
        }
    }
}
