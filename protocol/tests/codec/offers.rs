//! Offers with all that they may hold, and those of older nodes.

use super::*;
use aitbc_protocol::{
    envelope::Statement as _, gpu::challenge::exchange::Shown, offer::MAX_SHOWN, private::PrivateOffer,
};

#[test]
fn a_device_is_read_whether_it_was_measured_or_not() {
    // As nodes wrote and read it before anything was measured.
    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Older {
        kind: DeviceKind,
        name: Line<96>,
        memory_bytes: u64,
    }
    let (kind, name, memory_bytes) = (DeviceKind::Gpu, Line::lossy("a card"), 8 << 30);
    let older = Older { kind, name: name.clone(), memory_bytes };
    let plain = Device { kind, name, memory_bytes, measured: None };
    let bytes = wire::encode(&older, 1024).expect("encodes");
    assert_eq!(wire::decode::<Device>(&bytes, 1024).as_ref(), Ok(&plain));
    assert_eq!(wire::encode(&plain, 1024).expect("encodes"), bytes, "signatures over old devices hold");
    let figures = Measured {
        bandwidth_mb_s: 1,
        random_mb_s: 2,
        fp32_gflops: 3,
        fp16_gflops: None,
        int8_gops: 5,
        measured_ms: 6,
    };
    let bytes = wire::encode(&Device { measured: Some(figures), ..plain }, 1024).expect("encodes");
    assert_eq!(wire::decode::<Older>(&bytes, 1024), Ok(older));
}

#[test]
fn an_offer_of_many_measured_devices_fits() {
    let figures = Measured {
        bandwidth_mb_s: u32::MAX,
        random_mb_s: u32::MAX,
        fp32_gflops: u32::MAX,
        fp16_gflops: Some(u32::MAX),
        int8_gops: u32::MAX,
        measured_ms: u64::MAX,
    };
    let device = Device {
        kind: DeviceKind::Gpu,
        name: Line::lossy("NVIDIA GeForce RTX 3060 Laptop GPU"),
        memory_bytes: u64::MAX,
        measured: Some(figures),
    };
    let model = ModelOffer {
        model: Line::lossy("mistral-small-instruct:24b-2501-q4_k_m"),
        weights: Digest([7; 32]),
        engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("llama-cpp-sys-2 0.1.161") },
        quantisation: Line::lossy("Q4_K_M"),
        device: device.clone(),
        context: u32::MAX,
        price: TokenPrice { prompt: MicroCredits(u64::MAX), completion: MicroCredits(u64::MAX) },
        speed: u32::MAX,
        declared: false,
        private: Some(PrivateOffer {
            profile: Line::lossy("a long profile's"),
            bootstraps: u32::MAX,
            key_bytes: u64::MAX,
        }),
    };
    let shown = Shown {
        prover: NodeId([255; 32]),
        device: Line::lossy(&"b".repeat(96)),
        bytes: u64::MAX,
        rate: u64::MAX,
        simulated: true,
        issued_ms: u64::MAX,
        expires_ms: u64::MAX,
    };
    let shown = wire::encode_payload(&shown, Shown::MAX_BYTES).expect("fits");
    let shown = Signed::from_parts(NodeId([255; 32]), [255; 64], shown);
    let offer = Offer {
        sequence: u64::MAX,
        issued_ms: u64::MAX,
        expires_ms: u64::MAX,
        cell: Cell::at(&Location::new(48.85, 2.35).expect("in range"), 7),
        addresses: vec![Line::lossy(&"a".repeat(180)); MAX_ADDRESSES],
        devices: vec![device; MAX_DEVICES],
        models: vec![model; MAX_MODELS],
        slots: 64,
        attested: Vec::new(),
        policies: Vec::new(),
        shown: vec![shown; MAX_SHOWN],
        bandwidth: Some(Bandwidth { up: u64::MAX, down: u64::MAX, measured_ms: u64::MAX }),
        coordinate: Coordinate::new((-1_000_000, -1_000_000), 1_000_000, 1_000).ok(),
        agent: Line::lossy("aitbc/0.1.0"),
    };
    let payload = wire::encode_payload(&offer, Offer::MAX_BYTES).expect("fits");
    assert!(payload.len() < Offer::MAX_BYTES, "{} bytes", payload.len());
}

#[test]
fn the_largest_observation_fits() {
    let served = Served {
        client: NodeId([255; 32]),
        receipt: Digest([255; 32]),
        total: MicroCredits(u64::MAX),
        ended_ms: u64::MAX,
    };
    let served = wire::encode_payload(&served, Served::MAX_BYTES).expect("fits");
    let observation = Observation {
        served: Signed::from_parts(NodeId([255; 32]), [255; 64], served),
        first_token_ms: Some(u32::MAX),
        speed: Some(u32::MAX),
        total_ms: u32::MAX,
        finish: Finish::Cancelled,
        verified: Some(false),
        uptime: Some(Uptime { heard: u16::MAX, of: u16::MAX }),
        issued_ms: u64::MAX,
    };
    wire::encode_payload(&observation, Observation::MAX_BYTES).expect("fits");
}
