use super::*;
use crate::gpu::Api;

#[test]
fn every_row_is_read_and_there_are_enough() {
    assert_eq!(TABLE.lines().next().map(|header| header.split(',').count()), Some(COLUMNS));
    for row in TABLE.lines().skip(1) {
        assert_eq!(row.split(',').count(), COLUMNS, "{row}");
        assert!(profile(row).is_some(), "{row}");
    }
    let profiles = catalogue().profiles();
    assert!(profiles.len() >= 1200, "{}", profiles.len());
    let names: std::collections::HashSet<_> = profiles.iter().map(|profile| profile.name).collect();
    assert_eq!(names.len(), profiles.len(), "each name once");
    for vendor in Vendor::ALL {
        assert!(profiles.iter().any(|profile| profile.vendor == vendor), "{vendor}");
    }
}

#[test]
fn figures_are_plausible() {
    for profile in catalogue().profiles() {
        let GpuProfile { name, fp32_gflops, fp16_gflops, int8_gops, bandwidth, tdp_watts, .. } = *profile;
        assert!(fp32_gflops.is_none_or(|rate| (1.0..1e6).contains(&rate)), "{name}: {fp32_gflops:?}");
        assert_eq!(fp32_gflops.is_some(), int8_gops.is_some(), "{name}");
        assert!(fp16_gflops.is_none_or(|rate| (1.0..5e6).contains(&rate)), "{name}: {fp16_gflops:?}");
        assert!(bandwidth.is_none_or(|rate| (1_000_000_000..10_000_000_000_000).contains(&rate)), "{name}");
        assert!(tdp_watts.is_none_or(|watts| (1..=1500).contains(&watts)), "{name}: {tdp_watts:?}");
        assert!(profile.memory_bytes.is_none_or(|bytes| bytes >= 1 << 28), "{name}");
        assert!(!profile.source.is_empty(), "{name}");
    }
}

#[test]
fn well_known_models_are_what_everybody_knows() {
    let named = |name| catalogue().named(name).expect(name);
    let card = named("GeForce RTX 4090");
    assert_eq!((card.vendor, card.grade, card.form), (Vendor::Nvidia, Grade::Consumer, Form::Card));
    assert_eq!(card.memory_bytes, Some(24 << 30));
    assert_eq!(card.cuda, Some((8, 9)));
    assert_eq!(card.apis(), [Api::Cuda, Api::Vulkan, Api::Dx12, Api::Gl, Api::WebGpu]);
    // 660.6 TOPS dense, NVIDIA's Ada whitepaper.
    assert!(card.int8_gops.is_some_and(|rate| (rate / 660_600.0 - 1.0).abs() < 0.01), "{card:?}");
    assert!(!card.is_mobile() && !card.is_edge_optimised() && card.supports_quantised_models());

    let laptop = named("GeForce RTX 3060 Mobile");
    assert!(laptop.form == Form::Laptop && laptop.is_mobile() && laptop.supports_mobile_deployment());
    assert_eq!(named("Radeon RX 6600M").form, Form::Laptop);
    assert_eq!(named("UHD Graphics 620 Mobile").form, Form::Integrated);
    assert_eq!(named("Tesla T4").grade, Grade::Server);
    assert_eq!(named("RTX A6000").grade, Grade::Workstation);
    assert_eq!(named("CMP 40HX").grade, Grade::Mining);
    let phone = named("Adreno 740");
    assert!(phone.form == Form::System && phone.is_edge_optimised() && phone.memory_bytes.is_none());
    assert_eq!(named("M2 Pro (19-core GPU)").apis(), [Api::Metal, Api::Gl, Api::WebGpu]);
    assert!(!named("GeForce GTX 1060 6 GB").is_edge_optimised() && named("GeForce GTX 1650").is_edge_optimised());
}

#[test]
fn every_architecture_is_one_that_is_known_and_used() {
    for known in architecture::ARCHITECTURES {
        let used = catalogue().profiles().iter().any(|profile| profile.architecture == known.name);
        assert!(used, "{}", known.name);
        assert!(known.int8 >= 1.0 && known.fp16 >= 1.0 && !known.source.is_empty(), "{}", known.name);
    }
    let factor = |architecture: &str, chip, matrix_units| {
        architecture::find(architecture).expect(architecture).int8_of(chip, matrix_units)
    };
    assert!((factor("Turing", "TU116", false) - 4.0).abs() < f32::EPSILON, "no matrix units");
    assert!((factor("Turing", "TU102", true) - 16.0).abs() < f32::EPSILON);
    assert!((factor("Pascal", "GP100", false) - 1.0).abs() < f32::EPSILON, "unlike its siblings");
}
