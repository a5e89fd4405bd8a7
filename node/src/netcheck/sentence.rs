//! The verdict in one sentence, with what to change.

use crate::network::NetworkReport;
use aitbc_protocol::nat::Mapping;

/// What the report means for whoever runs the node.
pub fn sentence(report: &NetworkReport) -> String {
    if report.peers == 0 {
        return "not connected to anybody: check the network of this machine and the setting `bootstrap`"
            .to_owned();
    }
    let relayed = report.relays.iter().filter(|relay| relay.reserved).count();
    let blocked = report.udp == Some(false);
    match report.reachability.verdict.as_str() {
        "public" => format!("others reach this node directly: {}", report.reachability.reason),
        "private" => {
            let reached = match (relayed, blocked, report.mapping) {
                (0, ..) => {
                    "others cannot reach this node: it is behind a NAT or a firewall and no relay has taken it \
                            yet"
                    .to_owned()
                }
                (_, true, _) => format!(
                    "others reach this node through {relayed} relay(s) over TCP: UDP is blocked here, and without it \
                     holes are rarely punched"
                ),
                (_, false, Some(Mapping::EndpointDependent)) => format!(
                    "others reach this node through {relayed} relay(s): its NAT gives each peer another port \
                     (symmetric), so that only peers without a NAT connect directly"
                ),
                (_, false, _) => format!(
                    "others reach this node through {relayed} relay(s) first and then mostly directly, by hole punching"
                ),
            };
            format!(
                "{reached}; to be reached directly, forward the node's port at the router or turn UPnP on there ({})",
                report.reachability.reason
            )
        }
        _ if relayed > 0 => format!(
            "others reach this node through {relayed} relay(s); whether they reach it directly too is not known yet: {}",
            report.reachability.reason
        ),
        _ => format!("not known yet: {}", report.reachability.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{HolePunches, Reachability, RelayInfo};
    use aitbc_protocol::NodeId;

    fn report(verdict: &str, relays: usize) -> NetworkReport {
        let relay = RelayInfo { peer: NodeId([1; 32]), round_trip_ms: None, reserved: true };
        NetworkReport {
            reachability: Reachability { verdict: verdict.to_owned(), reason: "because".to_owned() },
            listening: Vec::new(),
            announced: Vec::new(),
            peers: 1,
            udp: Some(true),
            observed: Vec::new(),
            mapping: None,
            filtering: None,
            router: None,
            relays: vec![relay; relays],
            hole_punches: HolePunches::default(),
        }
    }

    #[test]
    fn every_case_says_what_it_means_and_what_to_change() {
        for (report, parts) in [
            (NetworkReport { peers: 0, ..report("unknown", 0) }, ["not connected", "`bootstrap`"]),
            (report("public", 0), ["directly", "because"]),
            (report("private", 0), ["no relay", "forward the node's port"]),
            (report("private", 2), ["2 relay(s)", "hole punching"]),
            (NetworkReport { udp: Some(false), ..report("private", 1) }, ["UDP is blocked", "UPnP"]),
            (
                NetworkReport { mapping: Some(Mapping::EndpointDependent), ..report("private", 1) },
                ["symmetric", "forward the node's port"],
            ),
            (report("unknown", 1), ["1 relay(s)", "not known yet"]),
            (report("unknown", 0), ["not known yet", "because"]),
        ] {
            let text = sentence(&report);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
