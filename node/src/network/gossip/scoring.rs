//! What peers gain and lose by what they forward (gossipsub v1.1, section "Peer scoring").
//!
//! The scale: a peer earns at most [`TOPIC_CAP`] by good work, so that good work in one neighbourhood never pays for
//! bad work in another. Five invalid messages on a topic cost 100, and leave even the best peer below the graylist
//! threshold of -80, where its messages are not read any more.

use super::MAX_TOPICS;
use aitbc_protocol::geo::FINEST_TOPIC;
use libp2p::gossipsub::{PeerScoreParams, PeerScoreThresholds, TopicScoreParams, score_parameter_decay_with_base};
use std::time::Duration;

/// What all topics together may earn a peer.
const TOPIC_CAP: f64 = 8.0;
/// What one topic may earn a peer: the cap is for the sum, so without this the earnings of 32 topics would outweigh
/// the fine in one.
const TOPIC_EARNINGS: f64 = TOPIC_CAP / MAX_TOPICS as f64;
/// What the square of the number of invalid messages on a topic is multiplied by.
const INVALID_WEIGHT: f64 = -4.0;
/// How often counters decay, and the value that counts as zero.
const DECAY_INTERVAL: Duration = Duration::from_secs(1);
const DECAY_TO_ZERO: f64 = 0.01;

fn decay(over: Duration) -> f64 {
    score_parameter_decay_with_base(over, DECAY_INTERVAL, DECAY_TO_ZERO)
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// The parameters that concern a peer and not a topic.
pub fn peer_score_params() -> PeerScoreParams {
    PeerScoreParams {
        topic_score_cap: TOPIC_CAP,
        app_specific_weight: 1.0,
        // Off: all clients of one relay share its address, as do all nodes behind one carrier's NAT.
        ip_colocation_factor_weight: 0.0,
        // The square of broken promises and hasty grafts, forgotten in ten minutes. A node that is back within the ten seconds
        // for which it was pruned when it left grafts all its topics hastily, and each counts twice: that is no misdeed.
        behaviour_penalty_weight: -5.0,
        behaviour_penalty_threshold: 2.0 * MAX_TOPICS as f64,
        behaviour_penalty_decay: decay(minutes(10)),
        // A slow line at home is no misdeed until it is hopeless.
        slow_peer_weight: -0.2,
        slow_peer_threshold: 20.0,
        slow_peer_decay: 0.2,
        decay_interval: DECAY_INTERVAL,
        decay_to_zero: DECAY_TO_ZERO,
        // Reconnecting does not wash a score clean; longer would let throw-away identities fill memory.
        retain_score: minutes(10),
        ..PeerScoreParams::default()
    }
}

/// The scores below which a peer is not gossiped to, not published to, not read.
pub fn peer_score_thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -10.0,
        publish_threshold: -40.0,
        graylist_threshold: -80.0,
        // Beyond what a peer can earn: peers are found through the DHT, not through strangers' hints.
        accept_px_threshold: 100.0,
        opportunistic_graft_threshold: TOPIC_EARNINGS / 2.0,
    }
}

/// The parameters of the topic of a cell of `precision`: to be set before subscribing.
///
/// Finest topics carry a heartbeat every 30 s of every provider, coarser ones a full offer every 10 minutes, so being
/// first with a message is worth more there and is remembered longer.
pub fn topic_score_params(precision: u8) -> TopicScoreParams {
    let (first_cap, first_memory) =
        if precision >= FINEST_TOPIC { (40.0, minutes(10)) } else { (4.0, minutes(60)) };
    TopicScoreParams {
        topic_weight: 1.0,
        // Half the earnings for an hour in the mesh, half for being first.
        time_in_mesh_weight: TOPIC_EARNINGS / 2.0 / 60.0,
        time_in_mesh_quantum: minutes(1),
        time_in_mesh_cap: 60.0,
        first_message_deliveries_weight: TOPIC_EARNINGS / 2.0 / first_cap,
        first_message_deliveries_decay: decay(first_memory),
        first_message_deliveries_cap: first_cap,
        // Off: a quiet neighbourhood is no sign of a peer that withholds messages.
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: INVALID_WEIGHT,
        invalid_message_deliveries_decay: decay(minutes(60)),
        ..TopicScoreParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_protocol::geo::COARSEST;

    #[test]
    fn parameters_are_valid() {
        peer_score_params().validate().expect("valid");
        peer_score_thresholds().validate().expect("valid");
        for precision in COARSEST..=FINEST_TOPIC {
            topic_score_params(precision).validate().expect("valid");
        }
    }

    #[test]
    fn a_restart_costs_nothing_and_hasty_grafts_without_end_do() {
        let params = peer_score_params();
        let score = |grafts: f64| {
            let excess = (grafts - params.behaviour_penalty_threshold).max(0.0);
            params.behaviour_penalty_weight * excess * excess
        };
        let restart = 2.0 * MAX_TOPICS as f64;
        assert!(score(restart).abs() < 1e-9, "{}", score(restart));
        assert!(score(1.1 * restart) < peer_score_thresholds().graylist_threshold);
    }

    #[test]
    fn a_handful_of_invalid_messages_outweighs_all_that_a_peer_can_earn() {
        for precision in COARSEST..=FINEST_TOPIC {
            let topic = topic_score_params(precision);
            let earnings = topic.time_in_mesh_cap * topic.time_in_mesh_weight
                + topic.first_message_deliveries_cap * topic.first_message_deliveries_weight;
            let best = earnings * MAX_TOPICS as f64;
            let fine = 25.0 * topic.invalid_message_deliveries_weight;
            assert!(best <= TOPIC_CAP + 1e-9, "{best}");
            assert!(best + fine < peer_score_thresholds().graylist_threshold, "{best} {fine}");
            // The first is a warning: bugs and clocks happen.
            assert!(topic.invalid_message_deliveries_weight > peer_score_thresholds().gossip_threshold);
        }
    }
}
