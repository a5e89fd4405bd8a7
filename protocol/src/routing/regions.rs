//! What is on offer, cell by cell: pure.

use crate::{
    geo::Cell,
    job::ModelName,
    money::MicroCredits,
    offer::{DeviceKind, KnownOffer},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// What is on offer in one cell, by the providers' own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// The cell.
    pub cell: Cell,
    /// Providers that say they are there.
    pub providers: u32,
    /// Those of them that offer a GPU.
    pub gpus: u32,
    /// Jobs that they run at a time.
    pub slots: u64,
    /// As many more they would take now.
    pub free: u64,
    /// Models, by name.
    pub models: Vec<RegionModel>,
}

/// A model in one cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionModel {
    /// The model.
    pub model: ModelName,
    /// Providers that offer it.
    pub providers: u32,
    /// The least that one of them asks for a thousand tokens of the answer, or bootstraps.
    pub cheapest: MicroCredits,
}

#[derive(Default)]
struct Sum {
    providers: u32,
    gpus: u32,
    slots: u64,
    free: u64,
    models: BTreeMap<ModelName, (u32, MicroCredits)>,
}

/// Sums offers up by cells of `precision`; a provider whose own cell is coarser counts in that one. Those with the most free
/// slots come first.
pub fn regions<'a>(known: impl IntoIterator<Item = &'a KnownOffer>, precision: u8) -> Vec<Region> {
    let mut sums: BTreeMap<Cell, Sum> = BTreeMap::new();
    for KnownOffer { offer, load, .. } in known {
        let cell = offer.cell.coarsened(precision);
        let sum = sums.entry(cell).or_default();
        let busy = load.running.saturating_add(load.queued);
        sum.providers += 1;
        sum.gpus += u32::from(offer.devices.iter().any(|device| device.kind == DeviceKind::Gpu));
        sum.slots += u64::from(offer.slots);
        sum.free += u64::from(offer.slots.saturating_sub(busy));
        let mut named = HashSet::new();
        for model in &offer.models {
            let price = model.price.completion;
            let (providers, cheapest) = sum.models.entry(model.model.clone()).or_insert((0, price));
            *providers += u32::from(named.insert(&model.model));
            *cheapest = (*cheapest).min(price);
        }
    }
    let region = |(cell, sum): (Cell, Sum)| {
        let Sum { providers, gpus, slots, free, models } = sum;
        let model = |(model, (providers, cheapest))| RegionModel { model, providers, cheapest };
        Region { cell, providers, gpus, slots, free, models: models.into_iter().map(model).collect() }
    };
    let mut regions: Vec<Region> = sums.into_iter().map(region).collect();
    // Stable, so that cells with as many stay in their order.
    regions.sort_by_key(|region| std::cmp::Reverse(region.free));
    regions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        NodeId,
        geo::Location,
        offer::{Device, Load, Offer},
        routing::tests::offer,
        text::Line,
    };
    use std::sync::Arc;

    fn known(id: u8, at: &str, slots: u32, running: u32, kind: DeviceKind, price: u64) -> KnownOffer {
        let mut model = offer();
        model.price.completion = MicroCredits(price);
        let place: Location = at.parse().expect("a place");
        let device = Device { kind, name: Line::lossy("a device"), memory_bytes: 0, measured: None };
        let offer = Offer {
            sequence: 1,
            issued_ms: 0,
            expires_ms: 1,
            cell: Cell::at(&place, 4),
            addresses: Vec::new(),
            devices: vec![device],
            // Two of one name, such as two sizes of its weights, are one model.
            models: vec![model.clone(), model],
            slots,
            attested: Vec::new(),
            policies: Vec::new(),
            shown: Vec::new(),
            bandwidth: None,
            coordinate: None,
            agent: Line::lossy("test"),
        };
        let load = Load { running, queued: 0 };
        KnownOffer { provider: NodeId([id; 32]), offer: Arc::new(offer), load, heard_ms: 0 }
    }

    #[test]
    fn cells_sum_up_and_the_freest_come_first() {
        let all = [
            known(1, "48.85,2.35", 4, 3, DeviceKind::Gpu, 400),
            known(2, "48.86,2.34", 2, 5, DeviceKind::Cpu, 300),
            known(3, "52.5,13.4", 8, 0, DeviceKind::Gpu, 900),
        ];
        let fine = regions(&all, 7);
        assert_eq!(fine.len(), 2);
        assert_eq!((fine[0].free, fine[0].cell), (8, all[2].offer.cell));
        let paris = &fine[1];
        assert_eq!((paris.providers, paris.gpus, paris.slots, paris.free), (2, 1, 6, 1));
        assert_eq!(paris.models.len(), 1);
        assert_eq!((paris.models[0].providers, paris.models[0].cheapest), (2, MicroCredits(300)));
        let coarse = regions(&all, 1);
        assert!(coarse.iter().all(|region| region.cell.precision() == 2), "as coarse as cells are");
        assert_eq!(coarse.iter().map(|region| region.slots).sum::<u64>(), 14);
        assert!(regions([], 4).is_empty());
    }
}
