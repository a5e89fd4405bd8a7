//! Compiled models of handwritten digits, computed under encryption: the same classes as in the clear, and values within
//! the noise that was predicted.

use aitbc_crypto::fhe::{
    Calibration, ClientKey, Package, Processor, Profile, ServerKey, compile,
    compile::{Compiled, Options},
    evaluate,
    simulate::predicted_sigmas,
    values::largest,
};

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/fixtures/private/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

struct Seen {
    rows: usize,
    /// Rows whose class is the label, under encryption and in the clear.
    right: usize,
    clear_right: usize,
    /// Rows of the same class under encryption and in the clear.
    same: usize,
    /// Rows whose class in the clear is further from the next than the noise can reach.
    clear_cut: usize,
    /// Deviation of the values from those in the clear, as a part of what is predicted.
    noise: f64,
    bootstraps: u32,
}

/// Computes the first test rows of a model under encryption. No value may be further than six predicted deviations from
/// the one in the clear, and no class another one where the noise does not reach so far.
fn see(model: &str, profile: Profile, rows: usize) -> Seen {
    let calibration = Calibration::from_csv(&fixture("digits-calibration.csv"), None).expect("rows");
    let options = Options { profile: Some(profile), ..Options::default() };
    let Compiled { network, profile, .. } = compile(&fixture(model), &calibration, &options).expect("a model");
    let package = Package { name: "digits".to_owned(), profile, network };
    let interface = package.interface();
    let key = ClientKey::generate(profile).expect("randomness");
    let server = (interface.bootstraps() > 0)
        .then(|| ServerKey::from_bytes(profile, &key.evaluation_key(), Processor::Cpu).expect("a key"));
    let test = Calibration::from_csv(&fixture("digits-test.csv"), None).expect("rows");
    let sigmas = predicted_sigmas(&package.network, profile);
    let sigmas = &sigmas.last().expect("a layer").total;
    let mut seen = Seen {
        rows,
        right: 0,
        clear_right: 0,
        same: 0,
        clear_cut: 0,
        noise: 0.0,
        bootstraps: interface.bootstraps(),
    };
    for (row, label) in test.rows().iter().zip(test.labels().expect("labels")).take(rows) {
        let input = key.encrypt(&interface, row).expect("an input");
        let output = evaluate(&package, server.as_ref(), &input, &mut |left| left).expect("an answer");
        let answer = key.decrypt(&interface, &output).expect("an answer");
        let (clear, _) = package.network.compute(&package.network.prepare(row));
        let class = answer.class.expect("a class");
        seen.right += usize::from(interface.labels()[class] == *label);
        seen.clear_right += usize::from(interface.labels()[largest(&clear)] == *label);
        seen.same += usize::from(class == largest(&clear));
        let mut sorted = clear.clone();
        sorted.sort_by(f64::total_cmp);
        let lead = sorted[sorted.len() - 1] - sorted[sorted.len() - 2];
        let reach = sigmas.iter().copied().fold(0.0, f64::max) * package.network.outputs.scale;
        if lead > 6.0 * std::f64::consts::SQRT_2 * reach {
            seen.clear_cut += 1;
            assert_eq!(class, largest(&clear), "{model}: a lead of {lead}");
        }
        for ((found, clear), sigma) in answer.values.iter().zip(&clear).zip(sigmas) {
            let sigmas = (found - clear) / (sigma * package.network.outputs.scale);
            assert!(sigmas.abs() < 6.0, "{model}: {found} is {sigmas:.1} sigma from {clear}");
            seen.noise += sigmas.powi(2);
        }
    }
    seen.noise = (seen.noise / (rows * interface.outputs()) as f64).sqrt();
    seen
}

#[test]
fn a_linear_model_reads_all_digits_under_encryption() {
    let seen = see("digits-linear.onnx", Profile::High, 360);
    assert_eq!(seen.bootstraps, 0);
    assert!(seen.right * 100 >= seen.rows * 96, "{} of {} right", seen.right, seen.rows);
    assert!(seen.same * 100 >= seen.rows * 99, "{} of {} as in the clear", seen.same, seen.rows);
    assert!((0.9..1.1).contains(&seen.noise), "{}", seen.noise);
}

#[test]
fn a_network_reads_digits_under_encryption() {
    let seen = see("digits-mlp.onnx", Profile::High, 40);
    assert_eq!(seen.bootstraps, 32);
    // The others may fall either way; the benchmark computes all 360.
    assert!(seen.clear_cut * 100 >= seen.rows * 95, "{} of {} clear-cut", seen.clear_cut, seen.rows);
    assert!(seen.right + 2 >= seen.clear_right, "{} and {} right", seen.right, seen.clear_right);
    // Functions are not at their steepest everywhere, and the outputs of a row share their noise.
    assert!((0.4..1.1).contains(&seen.noise), "{}", seen.noise);
}
