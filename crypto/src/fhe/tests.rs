use super::{
    evaluate::{bootstrap, sum, table},
    interface::Interface,
    keys::{CLIENT_KEY_BYTES, ClientKey, KeyError, ServerKey},
    keyswitch::{TOGETHER, keyswitch},
    network::{Activation, Feature, Function, Inputs, Layer, Mode, Network, Outputs, Row},
    package::{MAX_OUTPUT, Package, PackageError},
    profile::{MODULUS, Profile, unit},
    seeds::Derived,
    values::{InputError, OutputError, pack, to_torus, unpack},
    *,
};
use proptest::prelude::*;
use rayon::prelude::*;
use std::sync::LazyLock;
use tfhe::core_crypto::{
    commons::noise_formulas::secure_noise::{
        minimal_glwe_variance_for_132_bits_security_gaussian, minimal_lwe_variance_for_132_bits_security_gaussian,
    },
    prelude::*,
};

/// A key that is the same in every run, so that noise is.
fn client(profile: Profile, number: u8) -> ClientKey {
    let mut bytes = ClientKey::generate(profile).expect("randomness").to_bytes();
    bytes[2..].fill(number);
    ClientKey::from_bytes(&bytes).expect("a key")
}

static HIGH: LazyLock<(ClientKey, ServerKey)> = LazyLock::new(|| {
    let client = client(Profile::High, 7);
    let server = ServerKey::from_bytes(Profile::High, &client.evaluation_key(), Processor::Cpu).expect("a key");
    (client, server)
});

fn inputs(count: usize, low: f64, high: f64) -> Inputs {
    Inputs { features: vec![Feature { offset: 0.0, gain: 1.0 }; count], low, high }
}

fn row(bias: f64, weights: &[i16]) -> Row {
    let weights = weights.iter().enumerate().filter(|(_, weight)| **weight != 0);
    Row { bias, weights: weights.map(|(place, weight)| (place as u32, *weight)).collect() }
}

/// Two inputs, three neurons, two outputs.
fn small(mode: Mode) -> Package {
    let (high, ranges, function) = match mode {
        Mode::Exact => (2.0, (8.0, 8.0), Function::Relu),
        Mode::Approximate => (1.0, (4.0, 6.0), Function::Tanh),
    };
    let activation = Some(Activation { function, scale: 1.0, step: 1.0 });
    let hidden = vec![row(0.0, &[1, 1]), row(1.0, &[1, -1]), row(-1.0, &[-1, 0])];
    let network = Network {
        mode,
        inputs: inputs(2, -high, high),
        layers: vec![
            Layer { rows: hidden, range: ranges.0, activation },
            Layer { rows: vec![row(0.0, &[1, -1, 0]), row(1.0, &[0, 1, 1])], range: ranges.1, activation: None },
        ],
        outputs: Outputs { scale: 0.5, labels: vec!["no".into(), "yes".into()] },
    };
    Package { name: "small".into(), profile: Profile::High, network }
}

fn compute(package: &Package, client: &ClientKey, server: Option<&ServerKey>, values: &[f64]) -> Answer {
    let interface = package.interface();
    let input = client.encrypt(&interface, values).expect("encrypted");
    let output = evaluate(package, server, &input, &mut |left| left).expect("computed");
    client.decrypt(&interface, &output).expect("an answer")
}

/// What is in a ciphertext, as a part of the torus from -1/2 to 1/2.
fn read(client: &ClientKey, numbers: &[u64]) -> f64 {
    let key = client.lwe();
    let ciphertext = LweCiphertext::from_container(numbers, CiphertextModulus::new_native());
    decrypt_lwe_ciphertext(&key, &ciphertext).0.cast_signed() as f64 / MODULUS
}

fn deviation(errors: &[f64]) -> f64 {
    (errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64).sqrt()
}

#[test]
fn every_set_has_128_bits_and_fails_less_than_once_in_2_to_the_128() {
    for profile in Profile::ALL {
        let of = profile.parameters();
        assert!(of.log2_p_fail <= -128.0, "{profile}");
        let least = minimal_lwe_variance_for_132_bits_security_gaussian(of.lwe_dimension, MODULUS);
        let standard = |distribution: DynamicDistribution<u64>| match distribution {
            DynamicDistribution::Gaussian(gaussian) => gaussian.std,
            other @ DynamicDistribution::TUniform(_) => {
                panic!("{profile}: the formulas are for gaussians, not for {other:?}")
            }
        };
        // The formulas are fits, and the library's sets lie on them.
        assert!(standard(of.lwe_noise_distribution).powi(2) >= 0.999 * least.0, "{profile}");
        let least =
            minimal_glwe_variance_for_132_bits_security_gaussian(of.glwe_dimension, of.polynomial_size, MODULUS);
        assert!(standard(of.glwe_noise_distribution).powi(2) >= 0.999 * least.0, "{profile}");
    }
}

#[test]
fn what_travels_is_as_small_as_it_should_be() {
    assert!(Profile::High.evaluation_key_bytes() <= 31_000_000, "{}", Profile::High.evaluation_key_bytes());
    assert!(Profile::Fast.evaluation_key_bytes() <= 18_500_000, "{}", Profile::Fast.evaluation_key_bytes());
    assert!(Profile::High.input_bytes(64) <= 1024);
    assert!(Profile::High.output_bytes(10) <= 40_000, "{}", Profile::High.output_bytes(10));
}

#[test]
fn noise_of_a_bootstrap_is_what_is_predicted() {
    const COUNT: usize = 800;
    let (client, server) = &*HIGH;
    // An identity on sums from -1 to 1: what comes out tells at which position of the table it was, and so what noise
    // was on the way in; half of a step's width is noise of its own, even over the positions.
    let activation = Activation { function: Function::Clip { low: -2.0, high: 2.0 }, scale: 1.0, step: 1.0 };
    let unit = unit(1.0, false, Mode::Approximate, Profile::High);
    let layer = Layer { rows: vec![row(0.0, &[1]); COUNT], range: 1.0, activation: Some(activation) };
    let key = client.lwe();
    let size = key.lwe_dimension().to_lwe_size();
    let mut fresh = LweCiphertextList::new(0, size, LweCiphertextCount(1), CiphertextModulus::new_native());
    let mut seeder = Derived::new(&[1; 32], b"test");
    let mut generator = EncryptionRandomGenerator::<DefaultRandomGenerator>::new(seeder.next(), &mut seeder);
    let noise = Profile::High.parameters().glwe_noise_distribution;
    let sums: Vec<Vec<u64>> = (0..COUNT)
        .map(|place| {
            let value = place as f64 / COUNT as f64 - 0.5;
            let plaintext = PlaintextList::from_container(vec![to_torus(value * unit)]);
            encrypt_lwe_ciphertext_list(&key, &mut fresh, &plaintext, noise, &mut generator);
            sum(&Layer { rows: layer.rows[..1].to_vec(), ..layer.clone() }, &fresh, unit, 0.25).into_container()
        })
        .collect();
    let errors: Vec<f64> = sums
        .iter()
        .enumerate()
        .map(|(place, sum)| {
            read(client, sum) - 0.25 - to_f64(to_torus((place as f64 / COUNT as f64 - 0.5) * unit))
        })
        .collect();
    let predicted = Profile::High.noise();
    let ratio = deviation(&errors) / predicted.fresh.sqrt();
    assert!((0.9..1.1).contains(&ratio), "encryption: {ratio} of what is predicted");

    let sums = LweCiphertextList::from_container(sums.concat(), size, CiphertextModulus::new_native());
    // A table that is the same everywhere leaves the noise of the bootstrap itself.
    let constant = Activation { function: Function::Clip { low: 0.25, high: 0.25 }, ..activation };
    let flat = table(Profile::High, Mode::Approximate, &constant, unit, unit);
    let out = bootstrap(server, &sums, &flat, &mut |left| left).expect("bootstrapped");
    let errors: Vec<f64> = out
        .as_ref()
        .chunks_exact(size.0)
        .map(|numbers| read(client, numbers) - to_f64(to_torus(0.25 * unit)))
        .collect();
    let ratio = deviation(&errors) / predicted.bootstrapped.sqrt();
    assert!((0.9..1.1).contains(&ratio), "bootstrap: {ratio} of what is predicted");

    let slope = table(Profile::High, Mode::Approximate, &activation, unit, unit);
    let out = bootstrap(server, &sums, &slope, &mut |left| left).expect("bootstrapped");
    let errors: Vec<f64> = out
        .as_ref()
        .chunks_exact(size.0)
        .enumerate()
        .map(|(place, numbers)| read(client, numbers) - (place as f64 / COUNT as f64 - 0.5) * unit)
        .collect();
    let step = 1.0 / Profile::High.positions() as f64;
    let expected = predicted.entering + predicted.fresh + predicted.bootstrapped + step * step / 12.0;
    let ratio = deviation(&errors) / expected.sqrt();
    assert!((0.9..1.1).contains(&ratio), "on the way in: {ratio} of what is predicted");
}

#[test]
fn keys_are_switched_as_the_library_does_it_one_by_one() {
    let (client, server) = &*HIGH;
    let size = client.lwe().lwe_dimension().to_lwe_size();
    let numbers: Vec<u64> =
        (0..TOGETHER as u64 * size.0 as u64).map(|place| place.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    // Few ciphertexts go to the library itself.
    let few = keyswitch(&server.keyswitch, &numbers[..2 * size.0]);
    let switched = keyswitch(&server.keyswitch, &numbers);
    assert!(switched.starts_with(&few));
    let small = server.keyswitch.output_lwe_size();
    let mut expected = LweCiphertext::new(0, small, CiphertextModulus::new_native());
    for (numbers, switched) in numbers.chunks_exact(size.0).zip(switched.chunks_exact(small.0)) {
        let ciphertext = LweCiphertext::from_container(numbers, CiphertextModulus::new_native());
        keyswitch_lwe_ciphertext(&server.keyswitch, &ciphertext, &mut expected);
        assert!(switched == expected.as_ref());
    }
}

fn to_f64(number: u64) -> f64 {
    number.cast_signed() as f64 / MODULUS
}

#[test]
fn an_approximate_network_gives_what_it_gives_in_the_clear() {
    let (client, server) = &*HIGH;
    let package = small(Mode::Approximate);
    package.check().expect("a network");
    for values in [[0.0, 0.0], [1.0, -1.0], [0.25, 0.75], [-0.9, 0.1]] {
        let (clear, _) = package.network.compute(&package.network.prepare(&values));
        let answer = compute(&package, client, Some(server), &values);
        for (value, clear) in answer.values.iter().zip(&clear) {
            // Two functions, each within 6 deviations of 5 positions in 4096, over a range of 8, and what the cut leaves.
            assert!((value - clear).abs() < 0.09, "{values:?}: {:?} and {clear:?}", answer.values);
        }
    }
}

#[test]
fn an_exact_network_gives_exactly_what_it_gives_in_the_clear() {
    let (client, server) = &*HIGH;
    let package = small(Mode::Exact);
    package.check().expect("a network");
    for first in -2..=2_i8 {
        for second in -2..=2_i8 {
            let values = [f64::from(first), f64::from(second)];
            let (clear, _) = package.network.compute(&package.network.prepare(&values));
            let answer = compute(&package, client, Some(server), &values);
            assert_eq!(answer.values, clear, "{values:?}");
        }
    }
}

#[test]
fn a_thousand_random_inputs_are_exact() {
    let (client, server) = &*HIGH;
    let activation = Some(Activation { function: Function::Relu, scale: 1.0, step: 1.0 });
    let network = Network {
        mode: Mode::Exact,
        inputs: inputs(6, -1.0, 1.0),
        layers: vec![
            Layer {
                rows: vec![row(1.0, &[1, -1, 1, 1, -1, 1]), row(0.0, &[2, 0, -2, 1, 0, 1])],
                range: 8.0,
                activation,
            },
            Layer { rows: vec![row(-1.0, &[1, 0]), row(0.0, &[1, -1])], range: 8.0, activation: None },
        ],
        outputs: Outputs { scale: 1.0, labels: Vec::new() },
    };
    let package = Package { name: "random".into(), profile: Profile::High, network };
    package.check().expect("a network");
    (0..1000_u64).into_par_iter().for_each(|number| {
        let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let values: Vec<f64> = (0..6).map(|place| ((mixed >> (8 * place)) % 3) as f64 - 1.0).collect();
        let (clear, _) = package.network.compute(&package.network.prepare(&values));
        assert_eq!(compute(&package, client, Some(server), &values).values, clear, "{values:?}");
    });
}

#[test]
fn the_lowest_sum_of_an_exact_network_does_not_wrap() {
    let (client, server) = &*HIGH;
    let activation = Some(Activation { function: Function::Clip { low: -8.0, high: 7.0 }, scale: 1.0, step: 1.0 });
    let network = Network {
        mode: Mode::Exact,
        inputs: inputs(1, -8.0, 7.0),
        layers: vec![
            Layer { rows: vec![row(0.0, &[1])], range: 8.0, activation },
            Layer { rows: vec![row(0.0, &[1])], range: 8.0, activation: None },
        ],
        outputs: Outputs { scale: 1.0, labels: Vec::new() },
    };
    let package = Package { name: "identity".into(), profile: Profile::High, network };
    for value in -8..=7_i8 {
        for _ in 0..4 {
            assert_eq!(compute(&package, client, Some(server), &[f64::from(value)]).values, [f64::from(value)]);
        }
    }
}

#[test]
fn a_linear_model_needs_no_evaluation_key() {
    let (client, _) = &*HIGH;
    let network = Network {
        mode: Mode::Approximate,
        inputs: inputs(3, -1.0, 1.0),
        layers: vec![Layer { rows: vec![row(0.5, &[100, -50, 3])], range: 200.0, activation: None }],
        outputs: Outputs { scale: 0.01, labels: Vec::new() },
    };
    let package = Package { name: "linear".into(), profile: Profile::High, network };
    let answer = compute(&package, client, None, &[0.5, 0.25, -1.0]);
    let (clear, _) = package.network.compute(&[0.5, 0.25, -1.0]);
    // Six deviations of what the cut to 14 bits leaves.
    let sigma = Profile::High.noise().leaving.sqrt() / unit(200.0, true, Mode::Approximate, Profile::High) * 0.01;
    assert!((answer.values[0] - clear[0]).abs() < 6.5 * sigma, "{answer:?} and {clear:?}");
    assert_eq!(answer.class, None);
}

#[test]
fn only_its_own_key_reads_an_answer() {
    let (owner, server) = &*HIGH;
    let package = small(Mode::Exact);
    let interface = package.interface();
    let input = owner.encrypt(&interface, &[1.0, 1.0]).expect("encrypted");
    let output = evaluate(&package, Some(server), &input, &mut |left| left).expect("computed");
    let read = owner.decrypt(&interface, &output).expect("an answer").values;
    let stranger = client(Profile::High, 8);
    // Eight answers by a stranger's key would all be right by chance once in 2^64.
    let guesses = (0..8).filter(|_| {
        let output = evaluate(&package, Some(server), &input, &mut |left| left).expect("computed");
        stranger.decrypt(&interface, &output).expect("numbers").values == read
    });
    assert!(guesses.count() < 8);
    let wrong = client(Profile::Fast, 7);
    assert!(matches!(wrong.decrypt(&interface, &output), Err(OutputError::Profile { .. })));
    assert!(matches!(wrong.encrypt(&interface, &[1.0, 1.0]), Err(InputError::Profile { .. })));
}

#[test]
fn a_key_is_the_same_from_its_bytes_and_no_other_is() {
    let one = client(Profile::Fast, 1);
    let sent = one.evaluation_key();
    assert_eq!(sent.len(), Profile::Fast.evaluation_key_bytes());
    let again = ClientKey::from_bytes(&one.to_bytes()).expect("a key");
    assert!(again.evaluation_key() == sent, "an upload goes on with the same bytes");
    assert!(client(Profile::Fast, 2).evaluation_key() != sent);
    assert_eq!(format!("{one:?}"), "ClientKey(fast)");
    let other = ClientKey::generate(Profile::Fast).expect("randomness");
    assert_ne!(*other.to_bytes(), *ClientKey::generate(Profile::Fast).expect("randomness").to_bytes());
    for length in 0..CLIENT_KEY_BYTES {
        let error = ClientKey::from_bytes(&one.to_bytes()[..length]).map(|_| ()).unwrap_err();
        assert_eq!(error, KeyError::Length { expected: CLIENT_KEY_BYTES, got: length });
    }
    for place in [0, 1] {
        let mut bytes = one.to_bytes();
        bytes[place] = 99;
        assert_eq!(ClientKey::from_bytes(&bytes).map(|_| ()).unwrap_err(), KeyError::Unknown);
    }
}

/// For machines that have a GPU; without one, or without the feature, there is nothing to compare.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_answers_what_the_processor_answers() {
    if !Processor::Cuda.is_there() {
        eprintln!("skipped: CUDA shows no GPU");
        return;
    }
    let (owner, on_cpu) = &*HIGH;
    let on_gpu = ServerKey::from_bytes(Profile::High, &owner.evaluation_key(), Processor::Cuda).expect("room");
    for mode in [Mode::Approximate, Mode::Exact] {
        let package = small(mode);
        let interface = package.interface();
        let input = owner.encrypt(&interface, &[0.5, 0.5]).expect("encrypted");
        let answer = |key| {
            let sealed = evaluate(&package, Some(key), &input, &mut |left| left.min(3)).expect("numbers");
            owner.decrypt(&interface, &sealed).expect("an answer")
        };
        assert!(answer(on_cpu).agrees(&answer(&on_gpu), interface.noise()), "{mode:?}");
    }
}

#[test]
fn hostile_bytes_are_errors_or_wrong_answers() {
    let (owner, _) = &*HIGH;
    let package = small(Mode::Approximate);
    let interface = package.interface();
    let length = Profile::High.evaluation_key_bytes();
    for wrong in [0, 31, length - 1, length + 1] {
        let error = ServerKey::from_bytes(Profile::High, &vec![0; wrong], Processor::Cpu).map(|_| ()).unwrap_err();
        assert_eq!(error, KeyError::Length { expected: length, got: wrong });
    }
    if !Processor::Cuda.is_there() {
        let error =
            ServerKey::from_bytes(Profile::High, &vec![0; length], Processor::Cuda).map(|_| ()).unwrap_err();
        assert_eq!(error, KeyError::Processor);
    }
    let input = owner.encrypt(&interface, &[0.5, 0.5]).expect("encrypted");
    for fill in [0x00, 0xff, 0xa5] {
        let hostile = ServerKey::from_bytes(Profile::High, &vec![fill; length], Processor::Cpu)
            .expect("any bytes are a key");
        let output = evaluate(&package, Some(&hostile), &input, &mut |left| left).expect("numbers");
        assert_eq!(output.len(), interface.output_bytes());
        let output = evaluate(&package, Some(&hostile), &vec![fill; input.len()], &mut |left| left);
        owner.decrypt(&interface, &output.expect("numbers")).expect("some answer");
    }
    let expected = input.len();
    for got in [0, 15, expected - 1, expected + 8] {
        let refused = evaluate(&package, None, &vec![1; got], &mut |left| left);
        assert_eq!(refused, Err(EvaluateError::Input { expected, got }));
        let sealed = interface.output_bytes();
        let refused = owner.decrypt(&interface, &vec![1; got]);
        assert_eq!(refused, Err(OutputError::Length { expected: sealed, got }));
    }
    assert_eq!(evaluate(&package, None, &input, &mut |left| left), Err(EvaluateError::Key(Profile::High)));
    assert!(matches!(owner.encrypt(&interface, &[1.0]), Err(InputError::Count { expected: 2, got: 1 })));
    assert!(matches!(owner.encrypt(&interface, &[1.0, f64::NAN]), Err(InputError::NotFinite { place: 1 })));
}

#[test]
fn bootstraps_run_as_they_are_allowed_and_stop_between_two() {
    let (owner, server) = &*HIGH;
    let package = small(Mode::Approximate);
    let input = owner.encrypt(&package.interface(), &[0.5, 0.5]).expect("encrypted");
    let mut asked = Vec::new();
    let mut one = |left| {
        asked.push(left);
        1
    };
    assert!(evaluate(&package, Some(server), &input, &mut one).is_ok());
    assert_eq!(asked, [3, 2, 1]);
    let mut calls = 0;
    let mut second = |_| {
        calls += 1;
        2 - calls
    };
    assert_eq!(evaluate(&package, Some(server), &input, &mut second), Err(EvaluateError::Cancelled));
    assert_eq!(calls, 2);
}

#[test]
fn files_come_back_and_others_are_told_apart() {
    let package = small(Mode::Approximate);
    let bytes = package.to_bytes().expect("a file");
    assert_eq!(Package::read(&bytes), Ok(package.clone()));
    assert_eq!(Package::read(b"GGUF"), Err(PackageError::Kind));
    assert!(matches!(Package::read(&bytes[..bytes.len() - 1]), Err(PackageError::Damaged(_))));
    let mut broken = package.clone();
    broken.network.layers[0].rows[1].weights[1].0 = 2;
    let error = broken.to_bytes().unwrap_err();
    assert!(error.to_string().contains("layers[0].weights"), "{error}");
    let mut wide = package;
    wide.network.outputs.labels.clear();
    let last = wide.network.layers.last_mut().expect("two layers");
    last.rows = vec![row(0.0, &[1]); MAX_OUTPUT / Profile::High.output_bytes(1) + 1];
    let error = wide.to_bytes().unwrap_err();
    assert!(error.to_string().contains("fit an answer of this profile"), "{error}");
}

#[test]
fn an_interface_that_would_wrap_is_refused() {
    let good = small(Mode::Approximate).interface();
    assert_eq!(good.check(), Ok(()));
    let refused = |change: fn(&mut Interface)| {
        let mut interface = good.clone();
        change(&mut interface);
        assert!(interface.check().is_err(), "{interface:?}");
    };
    refused(|interface| interface.unit = 0.5);
    refused(|interface| interface.unit = f64::NAN);
    refused(|interface| interface.output_unit = 0.0);
    refused(|interface| interface.inputs.high = f64::INFINITY);
    refused(|interface| interface.inputs.features.clear());
    refused(|interface| interface.outputs.scale = -1.0);
    refused(|interface| interface.outputs.labels.push("third".into()));
    refused(|interface| interface.noise = f64::NAN);
    refused(|interface| interface.noise = -1e-9);
    refused(|interface| interface.noise = interface.outputs.scale / interface.output_unit);
}

#[test]
fn clients_are_told_how_noisy_answers_are() {
    let package = small(Mode::Approximate);
    let sigmas = simulate::predicted_sigmas(&package.network, package.profile);
    let last = sigmas.last().expect("a layer").total.iter().copied().fold(0.0, f64::max);
    assert!(last > 0.0);
    assert!((package.interface().noise() - last * package.network.outputs.scale).abs() < 1e-12);
    // What is read of an exact model is rounded.
    assert!(small(Mode::Exact).interface().noise().abs() < f64::EPSILON);
}

proptest! {
    #[test]
    fn numbers_are_packed_without_gaps(numbers in prop::collection::vec(any::<u64>(), 2049 * 2)) {
        let list = LweCiphertextList::from_container(
            numbers.clone(),
            LweDimension(2048).to_lwe_size(),
            CiphertextModulus::new_native(),
        );
        let packed = pack(Profile::High, &list);
        prop_assert_eq!(packed.len(), Profile::High.output_bytes(2));
        let shift = 64 - Profile::High.output_bits();
        for (place, (got, number)) in unpack(&packed, Profile::High.output_bits()).iter().zip(&numbers).enumerate() {
            let expected = number.wrapping_add(1 << (shift - 1)) >> shift;
            prop_assert!(place % 2049 == 2048 || *got == expected);
        }
    }

    #[test]
    fn damaged_files_are_errors(place in 0_usize..2000, flip in 1_u8..) {
        let mut bytes = small(Mode::Approximate).to_bytes().expect("a file");
        let place = place % bytes.len();
        bytes[place] ^= flip;
        // Some flips change a number to another one: what is read can be computed all the same.
        if let Ok(package) = Package::read(&bytes) {
            prop_assert_eq!(package.check(), Ok(()));
        }
    }
}
