//! Between the limits of heat, power and time and what they limit.

use super::desk::Desk;
use crate::{
    engine::{EngineHandle, EngineModel, EngineStatus},
    gpu::power::{PowerState, Uses},
};
use aitbc_protocol::{
    gpu::power::{Decision, Running},
    offer::DeviceKind,
};
use std::sync::Arc;
use tokio::sync::watch;

/// What the engines use of the GPUs. A server elsewhere on the machine is the owner's program, as a game is.
pub(super) fn uses(engines: &[EngineStatus], proving: Option<u32>) -> Uses {
    let on_gpu = |model: &EngineModel| !model.declared && model.device.kind == DeviceKind::Gpu;
    Uses {
        processes: engines.iter().filter_map(|engine| engine.pid).chain(proving).collect(),
        on_gpu: engines.iter().any(|engine| engine.models.iter().any(on_gpu)),
        proving: proving.is_some(),
    }
}

/// Has desk and engines do what the limits say, until the watch ends.
pub(super) async fn obey(mut power: watch::Receiver<Arc<PowerState>>, desk: Desk, engine: EngineHandle) {
    loop {
        let Decision { slots, running, .. } = power.borrow_and_update().decision;
        desk.limit(slots);
        match running {
            Running::GoOn => engine.set_pace(100),
            Running::Slow(percent) => engine.set_pace(percent),
            Running::Stop => desk.halt(),
        }
        if power.changed().await.is_err() {
            return;
        }
    }
}
