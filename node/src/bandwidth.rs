//! How much goes over this node's line, measured with another node, and the same service for others.
//!
//! ```text
//! rounds:  now and then, where this node provides --> Meter
//! asking:  CLI -> API -> Meter: blocks there and back -> the last figures -> offer, status
//! serving: stream -> one at a time, rarely, never over a relay and never beside a job
//! ```
//!
//! What is said is in [`aitbc_protocol::bandwidth`].

mod asking;
mod rounds;
mod serving;
#[cfg(test)]
mod tests;

pub use asking::{MeasureError, Measurement, Meter};

use crate::network::{IncomingStream, NetworkHandle, intake};
use aitbc_protocol::{bandwidth::Bandwidth, offer::Load};
use futures::FutureExt as _;
use std::time::Duration;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// How long measuring may take, each of both sides.
const PATIENCE: Duration = Duration::from_secs(30);

/// How bandwidth is measured.
#[derive(Clone, Copy, Debug)]
pub struct BandwidthConfig {
    /// Whether this node offers anything: then its line is measured without being asked.
    pub provides: bool,
    /// Bytes a second each way below which the owner is warned.
    pub required: u64,
    /// True on a network of demos and tests, where everybody is in one home.
    pub local: bool,
}

/// What it is measured with.
#[derive(Debug)]
pub struct BandwidthParts {
    /// The network.
    pub network: NetworkHandle,
    /// Jobs come first.
    pub load: watch::Receiver<Load>,
    /// `/aitbc/bandwidth/1`.
    pub streams: mpsc::Receiver<IncomingStream>,
    /// Where the newest figures go, for whoever shows them.
    pub line: watch::Sender<Option<Bandwidth>>,
}

/// Starts helping others, and measuring where this node provides, until `stop`.
pub fn start(config: BandwidthConfig, parts: BandwidthParts, stop: CancellationToken) -> (Meter, JoinHandle<()>) {
    let BandwidthParts { network, load, streams, line } = parts;
    let meter = Meter::new(network, load.clone(), config, line);
    let server = serving::Server::new(load);
    let measuring = stop.clone().run_until_cancelled_owned(rounds::run(meter.clone(), config.provides));
    let serving = intake::serve(streams, serving::LIMITS, stop.clone(), move |incoming, turn| {
        let served = stop.clone().run_until_cancelled_owned(server.clone().serve(incoming, turn));
        served.map(|_| ())
    });
    let both = async {
        tokio::join!(measuring, serving);
    };
    (meter, tokio::spawn(both.instrument(tracing::info_span!("bandwidth"))))
}
