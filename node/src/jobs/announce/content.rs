//! What an offer says, gathered from settings, engines and network; or what is missing for one.

use super::super::JobsConfig;
use crate::{
    engine::{EngineState, EngineStatus},
    gpu::power::PowerState,
    trust::Vouched,
};
use aitbc_protocol::{
    Signed, UnixMillis,
    attestation::exchange::{MAX_ATTESTED, MAX_POLICIES},
    bandwidth::Bandwidth,
    coordinates::Coordinate,
    gpu::challenge::exchange::Shown,
    offer::{Device, DeviceKind, MAX_ADDRESSES, MAX_DEVICES, MAX_MODELS, MAX_SHOWN, ModelOffer, Offer},
    text::Line,
};
use libp2p::Multiaddr;

/// The parts of an offer that do not change with every signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    addresses: Vec<Line<256>>,
    devices: Vec<Device>,
    models: Vec<ModelOffer>,
    slots: u32,
    shown: Vec<Signed<Shown>>,
    vouched: Vouched,
    bandwidth: Option<Bandwidth>,
}

/// Why there is nothing to offer; each names what to wait for or to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Obstacle {
    /// No engine is configured.
    #[error("nothing to offer: name a model (--model) or an upstream server")]
    NoEngine,
    /// No engine has a model ready.
    #[error("{0}")]
    NotReady(String),
    /// Nobody could reach this node.
    #[error("no address under which others reach this node yet")]
    NoAddress,
    /// Heat, power, the hours or the owner allow no job.
    #[error("no job is taken now: {0}")]
    Limited(String),
}

/// What can be offered now.
pub(super) fn gather(
    config: &JobsConfig,
    devices: &[Device],
    engines: &[EngineStatus],
    addresses: &[Multiaddr],
    power: &PowerState,
) -> Result<Content, Obstacle> {
    if let Some(reasons) = power.closed() {
        return Err(Obstacle::Limited(reasons));
    }
    let ready = engines.iter().filter(|engine| engine.state == EngineState::Ready);
    let models: Vec<_> = ready
        .flat_map(|engine| &engine.models)
        .take(MAX_MODELS)
        .map(|model| ModelOffer {
            model: model.model.clone(),
            weights: model.weights,
            engine: model.engine.clone(),
            quantisation: model.quantisation.clone(),
            device: with_measured(&model.device, devices),
            context: model.context,
            price: config.price_of(model, power),
            speed: model.speed,
            declared: model.declared,
            private: model.private.clone(),
        })
        .collect();
    if models.is_empty() {
        let waiting: Vec<_> = engines.iter().filter_map(what_keeps).collect();
        return Err(if waiting.is_empty() { Obstacle::NoEngine } else { Obstacle::NotReady(waiting.join("; ")) });
    }
    // An address that does not fit would be of no use cut short.
    let addresses: Vec<_> =
        addresses.iter().filter_map(|address| Line::new(address.to_string()).ok()).take(MAX_ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(Obstacle::NoAddress);
    }
    let devices = devices.iter().take(MAX_DEVICES).cloned().collect();
    let (shown, vouched) = (Vec::new(), Vouched::default());
    let slots = power.decision.offered;
    Ok(Content { addresses, devices, models, slots, shown, vouched, bandwidth: None })
}

/// The device of a model with what was measured on the GPU that it is: the only one there is, or else the only one of its
/// name, for the engine tells no address.
pub(in crate::jobs) fn with_measured(device: &Device, devices: &[Device]) -> Device {
    let mut gpus: Vec<&Device> = devices.iter().filter(|other| other.kind == DeviceKind::Gpu).collect();
    if gpus.len() > 1 {
        let name = device.name.as_str();
        gpus.retain(|other| name.contains(other.name.as_str()) || other.name.as_str().contains(name));
    }
    match gpus[..] {
        [gpu] if device.kind == DeviceKind::Gpu => Device { measured: gpu.measured, ..device.clone() },
        _ => device.clone(),
    }
}

fn what_keeps(engine: &EngineStatus) -> Option<String> {
    let name = &engine.name;
    match &engine.state {
        EngineState::Loading { percent } => Some(format!("{name} is loading ({percent} %)")),
        EngineState::Ready => None,
        EngineState::BackingOff { reason, .. } => Some(format!("{name} will be started again: {reason}")),
        EngineState::Unusable { reason } => Some(format!("{name} cannot run: {reason}")),
    }
}

impl Content {
    /// Whether it leads to the same addresses as `other`.
    pub(super) fn is_where(&self, other: &Self) -> bool {
        self.addresses == other.addresses
    }

    /// With what verifiers have signed about the memory of its GPUs and about its hardware, and what was measured of its line.
    pub(super) fn with_findings(
        self,
        shown: &[Signed<Shown>],
        vouched: &Vouched,
        bandwidth: Option<Bandwidth>,
    ) -> Self {
        let vouched = Vouched {
            attested: vouched.attested.iter().take(MAX_ATTESTED).cloned().collect(),
            policies: vouched.policies.iter().take(MAX_POLICIES).cloned().collect(),
        };
        Self { shown: shown.iter().take(MAX_SHOWN).cloned().collect(), vouched, bandwidth, ..self }
    }

    /// The offer with this content, of a node that is there among round trips.
    pub(super) fn into_offer(
        self,
        config: &JobsConfig,
        sequence: u64,
        issued_ms: UnixMillis,
        lifetime_ms: u64,
        coordinate: Coordinate,
    ) -> Offer {
        Offer {
            sequence,
            issued_ms,
            expires_ms: issued_ms.saturating_add(lifetime_ms),
            cell: config.cell,
            addresses: self.addresses,
            devices: self.devices,
            models: self.models,
            slots: self.slots,
            attested: self.vouched.attested,
            policies: self.vouched.policies,
            shown: self.shown,
            bandwidth: self.bandwidth,
            coordinate: Some(coordinate),
            agent: Line::lossy(concat!("aitbc/", env!("CARGO_PKG_VERSION"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Place, Standing},
        *,
    };
    use crate::jobs::tests::{config, engine_model};
    use aitbc_protocol::{
        MicroCredits,
        gpu::power::{Decision, Limit, Running},
        offer::OFFER_LIFETIME_MS,
        price::TokenPrice,
    };
    use std::sync::Arc;

    fn engine(state: EngineState) -> EngineStatus {
        EngineStatus {
            name: "llama.cpp smollm2:135m".to_owned(),
            state,
            pid: None,
            models: vec![engine_model()],
            warnings: vec![],
        }
    }

    fn free() -> PowerState {
        PowerState::unlimited(config().slots)
    }

    fn address() -> Multiaddr {
        "/ip4/192.0.2.1/udp/4101/quic-v1".parse().unwrap()
    }

    #[test]
    fn nothing_is_offered_before_a_model_is_ready_and_an_address_known() {
        let config = config();
        assert_eq!(gather(&config, &[], &[], &[address()], &free()), Err(Obstacle::NoEngine));
        let loading = [engine(EngineState::Loading { percent: 40 })];
        let obstacle = gather(&config, &[], &loading, &[address()], &free()).unwrap_err();
        assert_eq!(obstacle.to_string(), "llama.cpp smollm2:135m is loading (40 %)");
        let ready = [engine(EngineState::Ready)];
        assert_eq!(gather(&config, &[], &ready, &[], &free()), Err(Obstacle::NoAddress));
        let content = gather(&config, &[], &ready, &[address()], &free()).unwrap();
        assert_eq!(content.slots, config.slots);
    }

    #[test]
    fn limits_are_offered_or_named() {
        let config = config();
        let ready = [engine(EngineState::Ready)];
        let with = |offered, limits: Vec<Limit>| {
            let reasons: Vec<String> = limits.iter().map(ToString::to_string).collect();
            let decision = Decision { slots: 0, offered, running: Running::GoOn, limits };
            gather(
                &config,
                &[],
                &ready,
                &[address()],
                &PowerState { decision, reasons: reasons.join("; "), ..free() },
            )
        };
        let watts = Limit::Watts { drawn: 300, budget: 300 };
        let content = with(2, vec![Limit::Warm, watts.clone()]).unwrap();
        assert_eq!(content.slots, 2, "it is full, and comes back by itself");
        let Err(Obstacle::Limited(why)) = with(0, vec![Limit::Hours, watts]) else { panic!("no job may come") };
        assert!(why.contains("`hours` under [power]") && why.contains("300 W of 300 W"), "{why}");
    }

    #[test]
    fn a_model_is_offered_with_what_was_measured_on_its_gpu() {
        let gpu = |name: &str, bandwidth_mb_s: Option<u32>| Device {
            kind: DeviceKind::Gpu,
            name: Line::lossy(name),
            memory_bytes: 8,
            measured: bandwidth_mb_s.map(crate::gpu::kept::tests::figures),
        };
        let reached = |device: &Device, devices: &[&Device]| {
            let devices: Vec<Device> = devices.iter().copied().cloned().collect();
            with_measured(device, &devices).measured.map(|measured| measured.bandwidth_mb_s)
        };
        let runs_on = |name: &str, devices: &[&Device]| reached(&gpu(name, None), devices);
        let (large, small) = (gpu("GeForce RTX 4090", Some(9)), gpu("GeForce GTX 1650", Some(1)));
        assert_eq!(runs_on("whatever Vulkan calls it", &[&small]), Some(1), "there is one GPU only");
        assert_eq!(runs_on("NVIDIA GeForce RTX 4090", &[&small, &large]), Some(9));
        assert_eq!(runs_on("NVIDIA GeForce RTX 4090 (5 of 31 layers)", &[&small, &large]), Some(9));
        assert_eq!(runs_on("NVIDIA GeForce RTX 4090", &[&large, &large]), None, "it may be either");
        let cpu = Device { kind: DeviceKind::Cpu, ..gpu("a CPU", None) };
        assert_eq!(reached(&cpu, &[&small]), None);
        let mut engine = engine(EngineState::Ready);
        engine.models[0].device = gpu("GTX 1650", None);
        let content = gather(&config(), std::slice::from_ref(&small), &[engine], &[address()], &free()).unwrap();
        let offer = content.into_offer(&config(), 1, 1_000, OFFER_LIFETIME_MS, Coordinate::default());
        assert_eq!((offer.devices[0].measured, offer.models[0].device.measured), (small.measured, small.measured));
    }

    #[test]
    fn an_offer_passes_its_own_check_and_carries_the_owners_prices() {
        let mut config = config();
        let own = TokenPrice { prompt: MicroCredits(1), completion: MicroCredits(2) };
        config.prices.insert(engine_model().model, own);
        let addresses = vec![address(); MAX_ADDRESSES + 3];
        let content = gather(&config, &[], &[engine(EngineState::Ready)], &addresses, &free()).unwrap();
        let line = Bandwidth { up: 1, down: 2, measured_ms: 3 };
        let content = content.with_findings(&[], &Vouched::default(), Some(line));
        let offer = content.into_offer(&config, 1, 1_000, OFFER_LIFETIME_MS, Coordinate::default());
        assert_eq!((offer.check(1_000), offer.bandwidth), (Ok(()), Some(line)));
        assert_eq!(offer.coordinate, Some(Coordinate::default()));
        assert_eq!(offer.models[0].price, own);
        assert_eq!(offer.addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn a_coordinate_that_is_no_news_waits_for_the_next_offer() {
        let content = gather(&config(), &[], &[engine(EngineState::Ready)], &[address()], &free()).unwrap();
        let nowhere = Place::default().tell();
        let told = |east, error| Coordinate::new((east, 0), 1_000, error).expect("within bounds");
        let standing = |coordinate| {
            let offer = content.clone().into_offer(&config(), 1, 1_000, OFFER_LIFETIME_MS, coordinate);
            Standing { content: content.clone(), offer: Arc::new(offer) }
        };
        let (unknown, known) = (standing(nowhere), standing(told(0, 300)));
        assert!(!unknown.differs(&content, &nowhere));
        assert!(unknown.differs(&content, &told(0, 300)), "it begins to be of use");
        assert!(!known.differs(&content, &told(90_000, 100)), "it moved, and becomes surer");
        let line = Some(Bandwidth { up: 1, down: 2, measured_ms: 3 });
        let other = content.clone().with_findings(&[], &Vouched::default(), line);
        assert!(known.differs(&other, &told(0, 300)), "something else changed");
    }

    #[test]
    fn a_farewell_is_valid_for_every_tolerated_clock() {
        let content = gather(&config(), &[], &[engine(EngineState::Ready)], &[address()], &free()).unwrap();
        let now = 1_000_000;
        let offer = content.into_offer(&config(), 1, now, super::super::FAREWELL_MS, Coordinate::default());
        assert_eq!(offer.check(now + aitbc_protocol::CLOCK_TOLERANCE_MS), Ok(()));
        assert_eq!(offer.check(now - aitbc_protocol::CLOCK_TOLERANCE_MS), Ok(()));
    }
}
