use super::*;

fn best(name: &str, pci: Option<(u16, u16)>, gib: Option<u64>) -> Match {
    match classify(&Reported { name, pci, memory_bytes: gib.map(|gib| gib << 30) }) {
        Classified::Gpu { best, .. } => best,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn memory_tells_variants_apart() {
    assert_eq!(best("NVIDIA GeForce RTX 4060 Ti", None, Some(8)).profile.name, "GeForce RTX 4060 Ti 8 GB");
    assert_eq!(best("NVIDIA GeForce RTX 4060 Ti", None, Some(16)).profile.name, "GeForce RTX 4060 Ti 16 GB");
    let told = best("NVIDIA GeForce RTX 4060 Ti", None, Some(16)).confidence;
    let open = best("NVIDIA GeForce RTX 4060 Ti", None, None).confidence;
    assert!(told > open && open <= 0.6, "{told}, {open}");
}

#[test]
fn pci_ids_tell_what_names_do_not() {
    assert_eq!(
        best("NVIDIA GeForce GTX 1650", Some((0x10de, 0x1f99)), None).profile.name,
        "GeForce GTX 1650 Mobile"
    );
    assert_eq!(best("", Some((0x10de, 0x2684)), None).profile.name, "GeForce RTX 4090");
    assert_eq!(best("AMD GPU", Some((0x1002, 0x744c)), Some(24)).profile.name, "Radeon RX 7900 XTX");
}

#[test]
fn a_sure_match_has_no_rival() {
    let sure = best("AMD Radeon RX 6650 XT (RADV NAVI23)", None, None);
    assert_eq!(sure.profile.name, "Radeon RX 6650 XT");
    assert!(sure.confidence > 0.9, "{sure:?}");
    let Classified::Gpu { runner_up, .. } =
        classify(&Reported { name: "NVIDIA GeForce RTX 3060", ..Reported::default() })
    else {
        panic!("a card")
    };
    assert!(runner_up.is_some_and(|next| next.profile.name.starts_with("GeForce RTX 3060")), "{runner_up:?}");
}

#[test]
fn what_is_no_model_is_none() {
    let of = |name| classify(&Reported { name, ..Reported::default() });
    assert_eq!(of("llvmpipe (LLVM 15.0.6, 256 bits)"), Classified::Software);
    assert_eq!(of(""), Classified::Unknown(None));
    assert_eq!(of("AMD Radeon Graphics"), Classified::Unknown(Some(Vendor::Amd)));
    assert_eq!(of("NVIDIA GeForce RTX 9990"), Classified::Unknown(Some(Vendor::Nvidia)));
    let virtual_card =
        Reported { name: "Red Hat, Inc. Virtio 1.0 GPU", pci: Some((0x1af4, 0x1050)), memory_bytes: None };
    assert_eq!(classify(&virtual_card), Classified::Unknown(None));
}

#[test]
fn every_profile_is_found_by_its_own_name() {
    for profile in catalogue().profiles() {
        let name = format!("{} {}", profile.vendor, profile.name);
        let Classified::Gpu { best, .. } =
            classify(&Reported { name: &name, pci: None, memory_bytes: profile.memory_bytes })
        else {
            panic!("{name}")
        };
        let same = words::Words::of_profile(best.profile.name) == words::Words::of_profile(profile.name);
        assert!(same || best.confidence <= 0.6, "{name}: {best:?}");
    }
}
