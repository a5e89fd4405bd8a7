//! What prices follow from: how busy this node and its cell are, how far the client is, which GPU answers, and the hour.

use super::{announce::content::with_measured, desk::Desk};
use crate::{engine::EngineModel, network::PeerInfo};
use aitbc_protocol::{
    NodeId, UnixMillis,
    gpu::measured::score_at_rest,
    offer::{Device, DeviceKind},
    price::{Inputs, LatencyClass, hour_of_day},
};
use std::{fmt, net::IpAddr, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

/// How long a price waits for the first round trip to its client, which takes two after the connection.
const FIRST_ROUND_TRIP: Duration = Duration::from_secs(1);

/// Tells the median of what other providers of this node's cell use of themselves, in millionths; `None` where too few are
/// heard.
#[derive(Clone)]
pub struct CellLoad(Arc<dyn Fn() -> Option<u32> + Send + Sync>);

impl CellLoad {
    /// What `read` tells whenever a price is made.
    pub fn new(read: impl Fn() -> Option<u32> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }
}

impl fmt::Debug for CellLoad {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CellLoad")
    }
}

/// What of the place and the time sets prices.
#[derive(Debug)]
pub(super) struct Place {
    /// The processors, with what was measured on them.
    pub(super) devices: Vec<Device>,
    /// Connected peers with the means of their latest round trips.
    pub(super) peers: watch::Receiver<Arc<Vec<PeerInfo>>>,
    /// The cell.
    pub(super) cell: CellLoad,
    /// Whether hours go by this machine's own clock.
    pub(super) local_hours: bool,
}

/// What a price is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// By whom.
    pub(super) client: NodeId,
    /// How soon the answer is wished.
    pub(super) latency: LatencyClass,
    /// Tokens of context that it needs.
    pub(super) context_used: u32,
}

impl Place {
    /// Everything that the price of `wanted` from `model` follows from at `now_ms`.
    pub(super) fn inputs(&self, desk: &Desk, model: &EngineModel, wanted: &Wanted, now_ms: UnixMillis) -> Inputs {
        let (queue, utilisation) = desk.demand();
        let utc_offset_minutes = if self.local_hours { local_offset_minutes() } else { 0 };
        Inputs {
            latency: wanted.latency,
            capability: self.capability(model),
            round_trip_ms: self.round_trip_ms(&wanted.client),
            queue,
            utilisation,
            cell_utilisation: (self.cell.0)(),
            hour: hour_of_day(now_ms, utc_offset_minutes),
            utc_offset_minutes,
            context_used: wanted.context_used,
            context: model.context,
        }
    }

    /// What a server elsewhere runs on is not known.
    fn capability(&self, model: &EngineModel) -> Option<u32> {
        if model.declared || model.device.kind != DeviceKind::Gpu {
            return None;
        }
        let Device { name, memory_bytes, measured, .. } = with_measured(&model.device, &self.devices);
        score_at_rest(name.as_str(), memory_bytes, measured.as_ref())
    }

    /// Where a client's direct connection comes from.
    pub(super) fn ip(&self, client: &NodeId) -> Option<IpAddr> {
        self.peers.borrow().iter().find(|peer| peer.peer == *client)?.ip()
    }

    fn round_trip_ms(&self, client: &NodeId) -> Option<u32> {
        round_trip_ms(&self.peers.borrow(), client)
    }

    /// Waits a little until the round trip to a client that has just come is measured, where the price counts it: whoever prices
    /// none gives half of it back.
    pub(super) async fn measure(&self, client: &NodeId, latency: LatencyClass) {
        if latency == LatencyClass::Realtime {
            let mut peers = self.peers.clone();
            let known = peers.wait_for(|peers| round_trip_ms(peers, client).is_some());
            // Without one the price says so.
            let _ = timeout(FIRST_ROUND_TRIP, known).await;
        }
    }
}

fn round_trip_ms(peers: &[PeerInfo], client: &NodeId) -> Option<u32> {
    let peer = peers.iter().find(|peer| peer.peer == *client)?;
    // Rounded down; what is beyond all bounds stays so.
    peer.mean_round_trip_ms.filter(|time| time.is_finite()).map(|time| time as u32)
}

/// How far this machine's clock is ahead of UTC.
fn local_offset_minutes() -> i16 {
    i16::try_from(jiff::Zoned::now().offset().seconds() / 60).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        jobs::tests::{client_key, engine_model, quote},
        network::PathKind,
    };

    const WANTED: LatencyClass = LatencyClass::Realtime;

    fn place(peers: Vec<PeerInfo>, cell: Option<u32>) -> Place {
        let peers = watch::channel(Arc::new(peers)).1;
        Place { devices: vec![], peers, cell: CellLoad::new(move || cell), local_hours: false }
    }

    fn inputs(place: &Place, desk: &Desk, model: &EngineModel) -> Inputs {
        let wanted = Wanted { client: client_key().node_id(), latency: WANTED, context_used: 210 };
        place.inputs(desk, model, &wanted, 19 * 3_600_000)
    }

    fn peer(peer: NodeId, round_trip_ms: Option<f64>) -> PeerInfo {
        PeerInfo {
            peer,
            address: String::new(),
            path: PathKind::Direct,
            transport: String::new(),
            round_trip_ms: Some(1.0),
            mean_round_trip_ms: round_trip_ms,
            longest_round_trip_ms: round_trip_ms,
            agent: String::new(),
            score: 0.0,
            paths: vec![],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_realtime_price_waits_for_the_first_round_trip_and_for_no_more() {
        let client = client_key().node_id();
        let (told, peers) = watch::channel(Arc::new(vec![peer(client, None)]));
        let place = Place { peers, ..place(vec![], None) };
        let before = tokio::time::Instant::now();
        place.measure(&client, LatencyClass::Standard).await;
        assert_eq!(before.elapsed(), Duration::ZERO, "no other price counts it");
        let tell = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            told.send_replace(Arc::new(vec![peer(client, Some(20.0))]));
        };
        tokio::join!(place.measure(&client, LatencyClass::Realtime), tell);
        assert_eq!(before.elapsed(), Duration::from_millis(60));
        assert_eq!(inputs(&place, &Desk::new(4), &engine_model()).round_trip_ms, Some(20));
        place.measure(&NodeId([9; 32]), LatencyClass::Realtime).await;
        assert_eq!(before.elapsed(), Duration::from_millis(60) + FIRST_ROUND_TRIP);
    }

    #[test]
    fn inputs_are_what_is_measured_and_nothing_where_it_is_not() {
        let desk = Desk::new(4);
        let alone = inputs(&place(vec![], None), &desk, &engine_model());
        assert_eq!((alone.round_trip_ms, alone.cell_utilisation, alone.capability), (None, None, None));
        assert_eq!((alone.queue, alone.utilisation, alone.hour), (0, 0, 19));
        assert_eq!((alone.latency, alone.context_used, alone.context), (WANTED, 210, engine_model().context));

        let client = client_key().node_id();
        let others = vec![peer(NodeId([9; 32]), Some(1.0)), peer(client, Some(99.9))];
        let mut gpu = engine_model();
        gpu.device.kind = DeviceKind::Gpu;
        gpu.device.name = "NVIDIA GeForce RTX 4090".parse().unwrap();
        let ticket = desk.admit(&quote(), &engine_model(), 0).unwrap();
        let busy = inputs(&place(others, Some(600_000)), &desk, &gpu);
        assert_eq!((busy.round_trip_ms, busy.cell_utilisation), (Some(99), Some(600_000)));
        assert_eq!((busy.queue, busy.utilisation), (1, 250_000), "it waits and has a slot");
        assert!(busy.capability.is_some_and(|score| score > 800_000), "{busy:?}");
        ticket.started();
        assert_eq!(inputs(&place(vec![], None), &desk, &gpu).queue, 0);
        let elsewhere = EngineModel { declared: true, ..gpu };
        assert_eq!(inputs(&place(vec![], None), &desk, &elsewhere).capability, None);
    }

    #[test]
    fn quotes_that_nobody_took_make_no_price_dearer() {
        let desk = Desk::new(2);
        desk.promise(quote().nonce, client_key().node_id(), &engine_model(), 1, 0).unwrap();
        assert_eq!(desk.demand(), (0, 0));
        desk.limit(0);
        assert_eq!(desk.demand(), (0, aitbc_protocol::price::ONE), "where no job may run, none has room");
    }
}
