//! Whether a graphics processor can be used, and if not, what its owner has to change.

/// GPU libraries that this build has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Built {
    pub(super) cuda: bool,
    pub(super) vulkan: bool,
}

impl Built {
    /// This very build.
    pub(super) const THIS: Self = Self { cuda: cfg!(feature = "cuda"), vulkan: cfg!(feature = "vulkan") };
}

/// Who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vendor {
    Nvidia,
    Amd,
    Intel,
}

/// A file under `/dev` through which a driver is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// It can be opened for reading and writing, as far as its permissions tell.
    Usable,
    /// There is none of that path (or, where the path is empty, none at all).
    Missing(String),
    /// This user may not open it.
    Denied(String),
}

/// What the operating system tells of one device.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) vendor: Vendor,
    /// The kernel driver bound to it.
    pub(super) driver: Option<String>,
    /// The nodes that CUDA opens.
    pub(super) cuda_nodes: Vec<Node>,
    /// The node that Vulkan opens.
    pub(super) render_node: Node,
}

/// Why the device cannot run models, with the remedy; `None` where it can.
pub(super) fn unusable(facts: &Facts, built: Built) -> Option<String> {
    let drivers: &[&str] = match facts.vendor {
        Vendor::Nvidia => &["nvidia", "nouveau"],
        Vendor::Amd => &["amdgpu"],
        Vendor::Intel => &["i915", "xe"],
    };
    if let Some(reason) = not_built(facts.vendor, built) {
        return Some(reason);
    }
    let Some(driver) = facts.driver.as_deref() else {
        return Some(format!("no driver is bound to it: install and load {}", drivers.join(" or ")));
    };
    if driver == "vfio-pci" {
        return Some("it is kept for a virtual machine (driver vfio-pci): bind it to its own driver".to_owned());
    }
    if !drivers.contains(&driver) {
        return Some(format!(
            "its driver {driver} has no Vulkan: load {} in its place (blacklist {driver})",
            drivers.join(" or ")
        ));
    }
    let nodes = match (driver, built) {
        ("nvidia", _) => facts.cuda_nodes.as_slice(),
        ("nouveau", Built { vulkan: false, .. }) => {
            return Some(
                "its driver nouveau has no CUDA: install NVIDIA's driver, or build with --features vulkan"
                    .to_owned(),
            );
        }
        _ => std::slice::from_ref(&facts.render_node),
    };
    nodes.iter().find_map(|node| match node {
        Node::Usable => None,
        Node::Missing(path) if path.is_empty() => {
            Some("its driver made no render node under /dev/dri: see the kernel's log (dmesg)".to_owned())
        }
        Node::Missing(path) if driver == "nvidia" => {
            Some(format!("{path} is missing: run nvidia-smi once as root, or pass the device into the container"))
        }
        Node::Missing(path) => Some(format!("{path} is missing: pass the device into the container")),
        Node::Denied(path) => {
            let group = if driver == "nvidia" { "video" } else { "render" };
            Some(format!(
                "this user may not open {path}: add yourself to its group, such as `sudo usermod -aG {group} $USER`, \
                 and log in again"
            ))
        }
    })
}

fn not_built(vendor: Vendor, built: Built) -> Option<String> {
    match (vendor, built) {
        (Vendor::Nvidia, Built { cuda: false, vulkan: false }) => {
            Some("this aitbc was built without CUDA: build with --features cuda, or vulkan".to_owned())
        }
        (Vendor::Amd | Vendor::Intel, Built { vulkan: false, .. }) => {
            Some("this aitbc was built without Vulkan: build with --features vulkan".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Built = Built { cuda: false, vulkan: false };
    const CUDA: Built = Built { cuda: true, vulkan: false };
    const VULKAN: Built = Built { cuda: false, vulkan: true };

    fn facts(vendor: Vendor, driver: Option<&str>) -> Facts {
        Facts {
            vendor,
            driver: driver.map(str::to_owned),
            cuda_nodes: vec![Node::Usable],
            render_node: Node::Usable,
        }
    }

    #[test]
    fn every_verdict_names_the_remedy() {
        use Vendor::{Amd, Intel, Nvidia};
        let table = [
            (Nvidia, Some("nvidia"), CUDA, None),
            (Nvidia, Some("nvidia"), VULKAN, None),
            (Nvidia, Some("nvidia"), NONE, Some("--features cuda")),
            (Nvidia, None, CUDA, Some("load nvidia")),
            (Nvidia, Some("nouveau"), CUDA, Some("install NVIDIA's driver")),
            (Nvidia, Some("nouveau"), VULKAN, None),
            (Nvidia, Some("vfio-pci"), CUDA, Some("virtual machine")),
            (Amd, Some("amdgpu"), VULKAN, None),
            (Amd, Some("amdgpu"), CUDA, Some("--features vulkan")),
            (Amd, Some("radeon"), VULKAN, Some("amdgpu")),
            (Amd, None, VULKAN, Some("load amdgpu")),
            (Intel, Some("xe"), VULKAN, None),
            (Intel, Some("i915"), NONE, Some("--features vulkan")),
        ];
        for (vendor, driver, built, expected) in table {
            let verdict = unusable(&facts(vendor, driver), built);
            match expected {
                None => assert_eq!(verdict, None, "{vendor:?} {driver:?} {built:?}"),
                Some(text) => {
                    let verdict = verdict.expect("unusable");
                    assert!(verdict.contains(text), "{vendor:?} {driver:?} {built:?}: {verdict}");
                }
            }
        }
    }

    #[test]
    fn nodes_that_cannot_be_opened_are_named() {
        let mut amd = facts(Vendor::Amd, Some("amdgpu"));
        amd.render_node = Node::Denied("/dev/dri/renderD128".to_owned());
        let verdict = unusable(&amd, VULKAN).expect("denied");
        assert!(verdict.contains("/dev/dri/renderD128") && verdict.contains("-aG render"), "{verdict}");
        amd.render_node = Node::Missing(String::new());
        assert!(unusable(&amd, VULKAN).expect("missing").contains("dmesg"));

        let mut nvidia = facts(Vendor::Nvidia, Some("nvidia"));
        nvidia.cuda_nodes.push(Node::Missing("/dev/nvidia-uvm".to_owned()));
        assert!(unusable(&nvidia, CUDA).expect("missing").contains("/dev/nvidia-uvm is missing"));
    }
}
