//! One list of GPUs out of what the bus and the graphics drivers tell: each physical one once, with every interface that
//! reaches it; and the processors that are offered.

use super::{FoundGpu, adapters::Adapter, kept::Kept, worker};
use aitbc_protocol::{
    gpu::Api,
    offer::{Device, DeviceKind},
    text::Line,
};
use serde::Serialize;
use std::path::Path;

/// An interface that reaches a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// The interface.
    pub api: Api,
    /// Its driver.
    pub driver: String,
}

/// A physical GPU with all that reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedGpu {
    /// The GPU.
    #[serde(flatten)]
    pub gpu: FoundGpu,
    /// By which interfaces.
    pub apis: Vec<Reach>,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Physical GPUs.
    pub gpus: Vec<ListedGpu>,
    /// Programs that pretend to be GPUs: they run on the CPU and are never offered.
    pub software: Vec<String>,
}

/// Puts together what the bus and the interfaces tell. Adapters that are on no bus that could be read (other systems than
/// Linux) are GPUs of their own. What was measured by the first interface of a GPU that was measured, is told with it.
pub fn merge(found: Vec<FoundGpu>, adapters: Vec<Adapter>, kept: &Kept) -> Inventory {
    let gpus = found.into_iter().map(|gpu| ListedGpu { gpu, apis: Vec::new() });
    let mut inventory = Inventory { gpus: gpus.collect(), software: Vec::new() };
    for adapter in adapters {
        if adapter.software {
            if !inventory.software.contains(&adapter.name) {
                inventory.software.push(adapter.name);
            }
            continue;
        }
        let reach = Reach { api: adapter.api, driver: adapter.driver.clone() };
        let index = place(&inventory.gpus, &adapter).unwrap_or_else(|| {
            inventory.gpus.push(ListedGpu { gpu: unlisted(&adapter), apis: Vec::new() });
            inventory.gpus.len() - 1
        });
        let listed = &mut inventory.gpus[index];
        let device = &mut listed.gpu.device;
        device.measured = device.measured.or_else(|| kept.of(&adapter));
        if !listed.apis.iter().any(|known| known.api == reach.api) {
            listed.apis.push(reach);
        }
    }
    inventory
}

/// Which of `gpus` an adapter is: the one at its address, then the first of its ids that the same interface has not found
/// yet, then one of its name, then the only one of its vendor.
fn place(gpus: &[ListedGpu], adapter: &Adapter) -> Option<usize> {
    if !adapter.address.is_empty()
        && let Some(index) =
            gpus.iter().position(|listed| listed.gpu.address.eq_ignore_ascii_case(&adapter.address))
    {
        return Some(index);
    }
    let open = |listed: &ListedGpu| listed.apis.iter().all(|known| known.api != adapter.api);
    let ids = u16::try_from(adapter.vendor).ok().zip(u16::try_from(adapter.device).ok());
    let ids = ids.filter(|(vendor, device)| *vendor != 0 && *device != 0);
    if let Some(ids) = ids
        && let Some(index) = gpus.iter().position(|listed| listed.gpu.pci == Some(ids) && open(listed))
    {
        return Some(index);
    }
    let named = |listed: &ListedGpu| {
        let (a, b) = (listed.gpu.device.name.as_str().to_lowercase(), adapter.name.to_lowercase());
        !a.is_empty() && (a.contains(&b) || b.contains(&a))
    };
    if let Some(index) = gpus.iter().position(|listed| named(listed) && open(listed)) {
        return Some(index);
    }
    // OpenGL tells a vendor and a name of its own making, and no ids: one of its vendor's cards it must be.
    let vendor = u16::try_from(adapter.vendor).ok().filter(|_| adapter.device == 0)?;
    let of_vendor = |listed: &&ListedGpu| listed.gpu.pci.is_some_and(|(known, _)| known == vendor);
    gpus.iter()
        .position(|listed| of_vendor(&listed) && open(listed))
        .or_else(|| gpus.iter().position(|it| of_vendor(&it)))
}

fn unlisted(adapter: &Adapter) -> FoundGpu {
    let pci = u16::try_from(adapter.vendor).ok().zip(u16::try_from(adapter.device).ok());
    let built = match adapter.api {
        Api::Vulkan if cfg!(feature = "vulkan") => None,
        Api::Metal if cfg!(feature = "metal") => None,
        Api::Metal => Some("this aitbc was built without Metal: build with --features metal".to_owned()),
        Api::Vulkan | Api::Dx12 | Api::Gl | Api::WebGpu | Api::Cuda if !cfg!(feature = "vulkan") => {
            Some("this aitbc was built without Vulkan: build with --features vulkan".to_owned())
        }
        api => Some(format!("only {} reaches it: install its Vulkan driver", api.word())),
    };
    FoundGpu {
        device: Device {
            kind: DeviceKind::Gpu,
            name: Line::lossy(&adapter.name),
            memory_bytes: 0,
            measured: None,
        },
        pci: pci.filter(|(vendor, device)| *vendor != 0 && *device != 0),
        address: if adapter.address.is_empty() { adapter.name.clone() } else { adapter.address.clone() },
        unusable: built,
    }
}

/// The processors that are offered: GPUs with what was measured on them, and the CPU. Takes as long as the drivers do,
/// which are asked only where something was kept that may be of them.
pub(crate) async fn devices(path: &Path) -> Vec<Device> {
    let found = tokio::task::spawn_blocking(|| (super::gpus(), super::cpu())).await;
    let Ok((gpus, cpu)) = found else { return Vec::new() };
    let kept = Kept::load(path).unwrap_or_else(|error| {
        tracing::warn!("{error}");
        Kept::default()
    });
    let mut adapters = Vec::new();
    if !(gpus.is_empty() || kept.is_empty()) {
        let asked = match std::env::current_exe() {
            Ok(binary) => worker::adapters(&binary).await,
            Err(error) => Err(error.into()),
        };
        match asked {
            Ok(told) => adapters = told,
            Err(error) => tracing::warn!("what was measured on the GPUs is not offered: {error}"),
        }
    }
    let count = gpus.len();
    let listed = merge(gpus, adapters, &kept).gpus.into_iter().take(count);
    listed.map(|listed| listed.gpu.device).chain([cpu]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(address: &str, pci: (u16, u16), name: &str) -> FoundGpu {
        FoundGpu {
            device: Device {
                kind: DeviceKind::Gpu,
                name: Line::lossy(name),
                memory_bytes: 8 << 30,
                measured: None,
            },
            pci: Some(pci),
            address: address.to_owned(),
            unusable: None,
        }
    }

    fn adapter(api: Api, name: &str, (vendor, device): (u32, u32), address: &str) -> Adapter {
        let (name, address, driver) = (name.to_owned(), address.to_owned(), "driver 1".to_owned());
        Adapter { api, name, vendor, device, address, driver, software: false }
    }

    fn apis(inventory: &Inventory) -> Vec<Vec<Api>> {
        inventory.gpus.iter().map(|listed| listed.apis.iter().map(|reach| reach.api).collect()).collect()
    }

    #[test]
    fn one_card_by_two_interfaces_appears_once() {
        let card = found("0000:01:00.0", (0x10de, 0x2684), "NVIDIA GeForce RTX 4090");
        let inventory = merge(
            vec![card],
            vec![
                adapter(Api::Vulkan, "NVIDIA GeForce RTX 4090", (0x10de, 0x2684), "0000:01:00.0"),
                adapter(Api::Gl, "NVIDIA GeForce RTX 4090/PCIe/SSE2", (0x10de, 0), ""),
            ],
            &Kept::default(),
        );
        assert_eq!(apis(&inventory), [vec![Api::Vulkan, Api::Gl]]);
    }

    #[test]
    fn two_equal_cards_are_told_apart_by_address_and_else_by_turn() {
        let cards = ["0000:01:00.0", "0000:02:00.0"].map(|at| found(at, (0x1002, 0x744c), "Radeon RX 7900 XTX"));
        let name = "AMD Radeon RX 7900 XTX (RADV NAVI31)";
        let with = |addresses: [&str; 2]| {
            let adapters = addresses.map(|at| adapter(Api::Vulkan, name, (0x1002, 0x744c), at));
            apis(&merge(cards.to_vec(), adapters.to_vec(), &Kept::default()))
        };
        assert_eq!(with(["0000:02:00.0", "0000:01:00.0"]), [vec![Api::Vulkan], vec![Api::Vulkan]]);
        assert_eq!(with(["", ""]), [vec![Api::Vulkan], vec![Api::Vulkan]]);
        assert_eq!(with(["0000:02:00.0", "0000:02:00.0"]), [vec![], vec![Api::Vulkan]], "twice the same");
    }

    #[test]
    fn software_is_no_gpu_and_what_is_on_no_bus_is_one() {
        let mut lavapipe = adapter(Api::Vulkan, "llvmpipe (LLVM 15.0.6, 256 bits)", (0x10005, 0), "");
        lavapipe.software = true;
        let gl = Adapter { api: Api::Gl, ..lavapipe.clone() };
        let adreno = adapter(Api::Vulkan, "Adreno (TM) 740", (0x5143, 0x4305_0a01), "");
        let inventory = merge(Vec::new(), vec![lavapipe, gl, adreno], &Kept::default());
        assert_eq!(inventory.software, ["llvmpipe (LLVM 15.0.6, 256 bits)"]);
        assert_eq!(inventory.gpus.len(), 1);
        assert_eq!((inventory.gpus[0].gpu.address.as_str(), inventory.gpus[0].gpu.pci), ("Adreno (TM) 740", None));
    }

    #[test]
    fn an_interface_that_tells_no_ids_goes_to_the_only_card_of_its_vendor() {
        let cards = vec![
            found("0000:00:02.0", (0x8086, 0x5917), "UHD Graphics 620"),
            found("0000:01:00.0", (0x10de, 0x1d10), "NVIDIA GeForce MX150"),
        ];
        let gl = adapter(Api::Gl, "Mesa Intel(R) UHD Graphics 620 (KBL GT2)", (0x8086, 0), "");
        assert_eq!(apis(&merge(cards, vec![gl], &Kept::default())), [vec![Api::Gl], vec![]]);
    }

    #[test]
    fn what_was_measured_stands_with_its_own_card_alone() {
        let cards =
            ["0000:01:00.0", "0000:02:00.0"].map(|at| found(at, (0x10de, 0x2684), "NVIDIA GeForce RTX 4090"));
        let reached = cards
            .each_ref()
            .map(|card| adapter(Api::Vulkan, "NVIDIA GeForce RTX 4090", (0x10de, 0x2684), card.address.as_str()));
        let figures = crate::gpu::kept::tests::figures(900_000);
        let mut kept = Kept::default();
        kept.put(&reached[1], figures);
        let measured = |reached: &[Adapter]| -> Vec<_> {
            let listed = merge(cards.to_vec(), reached.to_vec(), &kept).gpus;
            listed.into_iter().map(|listed| listed.gpu.device.measured).collect()
        };
        assert_eq!(measured(&reached), [None, Some(figures)]);
        let updated = reached.clone().map(|it| Adapter { driver: "driver 2".to_owned(), ..it });
        assert_eq!(measured(&updated), [None, None], "the driver is another");
    }
}
