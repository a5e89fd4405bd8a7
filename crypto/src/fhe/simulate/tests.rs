use super::*;
use crate::fhe::{
    network::{Feature, Function, Inputs, Outputs, Row},
    profile::Profile,
    quantise::{
        self,
        tests::{random_graph, random_rows},
    },
};

fn spread(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let square = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (mean, square.sqrt())
}

/// Two inputs, one sum of both before a function, and that again as the output.
fn network(activation: Option<Activation>, range: f64, mode: Mode) -> Network {
    let row = |weights: &[(u32, i16)]| Row { bias: 0.0, weights: weights.to_vec() };
    let mut layers = vec![Layer { rows: vec![row(&[(0, 3), (1, -2)])], range, activation }];
    if activation.is_some() {
        layers.push(Layer { rows: vec![row(&[(0, 4)])], range: 4.0 * range, activation: None });
    }
    let features = vec![Feature { offset: 0.0, gain: 1.0 }; 2];
    let inputs = Inputs { features, low: -8.0, high: 8.0 };
    Network { mode, inputs, layers, outputs: Outputs { scale: 0.5, labels: Vec::new() } }
}

fn many(network: &Network, profile: Profile, prepared: &[f64]) -> Vec<f64> {
    let mut simulator = Simulator::new(1);
    (0..40_000).map(|_| simulator.compute(network, profile, prepared)[0]).collect()
}

#[test]
fn the_noise_of_outputs_is_what_is_predicted() {
    for profile in Profile::ALL {
        let network = network(None, 10.0, Mode::Approximate);
        let sigma = predicted_sigmas(&network, profile)[0].own[0] * network.outputs.scale;
        let (mean, found) = spread(&many(&network, profile, &[1.0, 0.5]));
        assert!((mean - 1.0).abs() < 0.03 * sigma, "{profile}: {mean}");
        assert!((found / sigma - 1.0).abs() < 0.02, "{profile}: {found}, not {sigma}");
    }
}

#[test]
fn noise_passes_a_function_as_is_predicted() {
    let steep = Activation { function: Function::Relu, scale: 1.0, step: 1.0 };
    for profile in Profile::ALL {
        let network = network(Some(steep), 10.0, Mode::Approximate);
        let sigmas = predicted_sigmas(&network, profile);
        let sigma = sigmas[1].total[0] * network.outputs.scale;
        assert!(sigmas[1].own[0] < sigmas[1].total[0] && sigmas[0].own == sigmas[0].total);
        let (mean, found) = spread(&many(&network, profile, &[2.0, 0.5]));
        assert!((mean - 10.0).abs() < 0.05 * sigma, "{profile}: {mean}");
        // A bootstrap rounds to a position, which the prediction has in its noise as well.
        assert!((found / sigma - 1.0).abs() < 0.03, "{profile}: {found}, not {sigma}");
    }
}

#[test]
fn sums_over_the_range_come_out_negative() {
    let step = Activation { function: Function::Clip { low: 1.0, high: 2.0 }, scale: 1.0, step: 1.0 };
    let over = network(Some(step), 8.0, Mode::Approximate);
    // 3 * 4 - 2 * -1 = 14 lies at 14 - 16 = -2 in the other half.
    let (mean, _) = spread(&many(&over, Profile::High, &[4.0, -1.0]));
    assert!((mean + 2.0).abs() < 0.05, "{mean}");
    // An output wraps to the other end: 14 of ±8 is read as -2.
    let (mean, _) = spread(&many(&network(None, 8.0, Mode::Approximate), Profile::High, &[4.0, -1.0]));
    assert!((mean + 1.0).abs() < 0.05, "{mean}");
}

#[test]
fn the_exact_mode_loses_nothing() {
    let activation = Activation { function: Function::Relu, scale: 1.0, step: 1.0 };
    let mut of = network(Some(activation), 31.0, Mode::Exact);
    of.layers[1].range = 31.0;
    assert!(predicted_sigmas(&of, Profile::Widest).iter().all(|sigmas| sigmas.own == sigmas.total));
    let mut simulator = Simulator::new(2);
    for first in -4..=4 {
        for second in -4..=4 {
            let prepared = [f64::from(first), f64::from(second)];
            let (clear, sums) = of.compute(&prepared);
            if sums.iter().flatten().all(|sum| (-32.0..32.0).contains(sum)) {
                assert_eq!(simulator.compute(&of, Profile::Widest, &prepared), clear, "{prepared:?}");
            }
        }
    }
}

#[test]
fn a_seed_gives_the_same_noise_again() {
    let graph = random_graph(&[8, 12, 4], 1.0, true, 2);
    let rows = random_rows(30, 8, 2);
    let slices: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
    let network = quantise::approximate(&graph, &slices, Profile::Fast, None, 0.25).unwrap();
    let run = |seed| {
        let mut simulator = Simulator::new(seed);
        rows.iter()
            .map(|row| simulator.compute(&network, Profile::Fast, &network.prepare(row)))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn predictions_hold_for_networks_of_many_layers() {
    let graph = random_graph(&[8, 16, 16, 4], 1.0, false, 0);
    let rows = random_rows(200, 8, 4);
    let slices: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
    let network = quantise::approximate(&graph, &slices, Profile::High, None, 0.25).unwrap();
    let bounds = &predicted_sigmas(&network, Profile::High)[2];
    let mut simulator = Simulator::new(3);
    for output in 0..4 {
        let mut differences = Vec::new();
        for row in &rows {
            let prepared = network.prepare(row);
            let clear = network.compute(&prepared).0[output];
            differences
                .extend((0..20).map(|_| simulator.compute(&network, Profile::High, &prepared)[output] - clear));
        }
        let (_, found) = spread(&differences);
        let own = bounds.own[output] * network.outputs.scale;
        let total = bounds.total[output] * network.outputs.scale;
        assert!(own < found && found < 1.2 * total, "{own} {found} {total}");
    }
}
