//! Measures the line of a node that provides, without being asked: some time after its start, and then once a day.

use super::{MeasureError, Meter};
use rand::seq::SliceRandom as _;
use std::time::Duration;
use tokio::time::sleep;

/// Time after the start: then there is much to load and to say, and whoever waited for the node comes first.
const SETTLE: Duration = Duration::from_secs(60);
/// Time from a measurement to the next.
const AGAIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Time until another attempt where nothing was measured, doubled up to an hour.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// Helpers whose figures are enough, and those asked at most: what the slower one reached says nothing against the line.
const ENOUGH: u32 = 2;
const MOST_ASKED: usize = 4;

/// Goes on for as long as it is polled.
pub(super) async fn run(meter: Meter, provides: bool) {
    if !provides {
        return;
    }
    sleep(SETTLE).await;
    let mut pause = FIRST_PAUSE;
    loop {
        meter.idle().await;
        if round(&meter, false).await {
            pause = FIRST_PAUSE;
            sleep(AGAIN).await;
        } else {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether anything was measured. Within the home, nothing is learned of the line: only tests ask there.
pub(super) async fn round(meter: &Meter, at_home: bool) -> bool {
    let mut helpers = meter.helpers(at_home);
    helpers.shuffle(&mut rand::rng());
    let mut measured = 0;
    for peer in helpers.into_iter().take(MOST_ASKED) {
        match meter.with(peer).await {
            Ok(bandwidth) => {
                meter.keep(bandwidth, peer);
                measured += 1;
            }
            Err(MeasureError::Working) => break,
            Err(error) => tracing::debug!(peer = %peer.short(), %error, "bandwidth not measured"),
        }
        if measured == ENOUGH {
            break;
        }
    }
    // Asked for whatever came: what is old is forgotten.
    let Some(line) = meter.last().filter(|_| measured > 0) else { return false };
    let (up, down, required) = (mib(line.bandwidth.up), mib(line.bandwidth.down), mib(line.required));
    if line.enough {
        tracing::info!(up, down, "MiB/s over the line");
    } else {
        tracing::warn!(
            up,
            down,
            required,
            "fewer MiB/s over the line than are asked of a provider: pause what else uses it, use a cable instead of Wi-Fi, or \
             lower `provide.min_bandwidth_mib`"
        );
    }
    true
}

/// With one decimal.
fn mib(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 20) * 10.0).round() / 10.0
}
