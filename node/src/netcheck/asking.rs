//! Asks peers to have this node dialled: at the start, when it is seen under another address, and every 15 minutes.

use crate::network::{NetworkError, NetworkHandle, PeerInfo, Protocol, StreamError};
use aitbc_protocol::{
    NodeId,
    reach::{DIAL_MS, MAX_CHECKED, ReachReply, ReachRequest, Refusal},
    text::Line,
    wire::MAX_REACH_FRAME,
};
use libp2p::Multiaddr;
use rand::seq::SliceRandom;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Time between two checks once there is a verdict.
const CHECK: Duration = Duration::from_secs(15 * 60);
/// Time until the next check where nobody could tell, doubled up to [`CHECK`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Waited after a change for what else changes: peers see a new address one after the other.
const SETTLE: Duration = Duration::from_secs(1);
/// Time between two checks, whatever changes.
const REST: Duration = Duration::from_secs(5);
/// Peers asked in one round, and answers of nodes that dialled that are enough: two that fail make a verdict.
const MAX_ASKED: usize = 6;
const ENOUGH: usize = 2;
/// How long an answer may take: the dials are made at the same time, by the third that is asked at worst.
const PATIENCE: Duration = Duration::from_millis(3 * DIAL_MS + 4_000);

/// Why a peer gave no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("{0}")]
    Refused(Refusal),
    #[error("no answer within {PATIENCE:?}")]
    Timeout,
    #[error("it answered something else")]
    OutOfTurn,
}

/// Asks for as long as the network lives.
pub(super) async fn run(network: NetworkHandle) {
    let mut candidates = network.candidates();
    let mut pause = FIRST_PAUSE;
    loop {
        if candidates.wait_for(|candidates| !candidates.is_empty()).await.is_err() {
            return;
        }
        candidates.mark_unchanged();
        sleep(SETTLE).await;
        let now = candidates.borrow_and_update().clone();
        let found = round(&network, &now).await;
        let verdict = network.reachability().borrow().verdict.clone();
        pause = match (found, verdict.as_str()) {
            (Found::Closed, "private") | (Found::Open, "public") => CHECK,
            // One failure is no verdict: the next one follows at once.
            (Found::Closed, _) => FIRST_PAUSE,
            _ => (pause * 2).min(CHECK),
        };
        let next = Instant::now() + pause;
        sleep(REST).await;
        tokio::select! {
            changed = candidates.changed() => {
                if changed.is_err() {
                    return;
                }
                pause = FIRST_PAUSE;
            }
            () = sleep_until(next) => {}
        }
    }
}

/// What a round of questions brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Nobody dialled.
    Nothing,
    /// Somebody dialled, and got through nowhere.
    Closed,
    /// Somebody got through.
    Open,
}

/// Asks peers until enough nodes have dialled.
async fn round(network: &NetworkHandle, candidates: &[Multiaddr]) -> Found {
    let mut helpers: Vec<PeerInfo> =
        network.peers().borrow().iter().filter(|peer| !peer.agent.is_empty()).cloned().collect();
    helpers.shuffle(&mut rand::rng());
    let (mut asked, mut answers, mut found) = (0, 0, Found::Nothing);
    for helper in helpers {
        let Some(ip) = helper.ip() else { continue };
        if asked >= MAX_ASKED || answers >= ENOUGH {
            break;
        }
        // A helper has only those addresses dialled that it sees this node under: of the same kind at least.
        let same = candidates.iter().filter(|address| {
            super::first_ip(address).is_some_and(|candidate| candidate.is_ipv4() == ip.is_ipv4())
        });
        let addresses: Vec<Multiaddr> = same.take(MAX_CHECKED).cloned().collect();
        if addresses.is_empty() {
            continue;
        }
        asked += 1;
        match ask(network, helper.peer, &addresses).await {
            Ok((by, results)) => {
                answers += 1;
                let open = results.iter().any(|(_, error)| error.is_none());
                if open || found == Found::Nothing {
                    found = if open { Found::Open } else { Found::Closed };
                }
                tracing::debug!(helper = %helper.peer.short(), by = %by.short(), ?results, "dialled");
                if network.checked(helper.peer, by, results).await.is_err() {
                    return found;
                }
            }
            Err(error) => tracing::debug!(helper = %helper.peer.short(), %error, "not checked"),
        }
    }
    found
}

type Results = Vec<(Multiaddr, Option<String>)>;

async fn ask(
    network: &NetworkHandle,
    helper: NodeId,
    addresses: &[Multiaddr],
) -> Result<(NodeId, Results), AskError> {
    let exchange = async {
        let mut stream = network.open(helper, Vec::new(), Protocol::Reach).await?;
        let lines = addresses.iter().filter_map(|address| Line::new(address.to_string()).ok()).collect();
        stream.send(&ReachRequest::Check { addresses: lines }, MAX_REACH_FRAME).await?;
        match stream.receive::<ReachReply>(MAX_REACH_FRAME).await? {
            Some(ReachReply::Dialled { by, results }) => {
                let mut known = Results::new();
                for result in results {
                    let Ok(address) = result.address.as_str().parse::<Multiaddr>() else { continue };
                    // What was not asked for says nothing, nor does saying it twice.
                    if addresses.contains(&address) && known.iter().all(|(other, _)| *other != address) {
                        known.push((address, result.error.map(|error| error.to_string())));
                    }
                }
                Ok((by, known))
            }
            Some(ReachReply::Refused(refusal)) => Err(AskError::Refused(refusal)),
            _ => Err(AskError::OutOfTurn),
        }
    };
    timeout(PATIENCE, exchange).await.unwrap_or(Err(AskError::Timeout))
}
