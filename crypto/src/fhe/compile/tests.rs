use super::*;
use crate::fhe::{
    onnx::sample::{Given, Sample, fixture},
    quantise::tests::{random_graph, random_rows},
};
use proptest::prelude::*;

fn rows(name: &str) -> Calibration {
    Calibration::from_csv(&fixture(name), None).unwrap()
}

fn digits(name: &str, profile: Option<Profile>) -> (Graph, Compiled) {
    let graph = Graph::read(&fixture(&format!("digits-{name}.onnx"))).unwrap();
    let options = Options { profile, bootstraps_per_second: Some(100.0), ..Options::default() };
    let compiled = compile(&fixture(&format!("digits-{name}.onnx")), &rows("digits-calibration.csv"), &options);
    (graph, compiled.unwrap())
}

fn percent(share: Option<f64>) -> f64 {
    100.0 * share.expect("labels")
}

#[test]
fn digits_are_read_under_noise_as_in_the_clear() {
    for (name, least) in [("mlp", 96.0), ("linear", 96.0), ("conv", 96.0)] {
        let (graph, compiled) = digits(name, Some(Profile::High));
        let report =
            measure(&graph, &compiled.network, Profile::High, &rows("digits-test.csv"), &Options::default());
        let report = report.unwrap();
        let simulated = percent(report.accuracy_simulated.map(|of| of.share));
        assert!(simulated >= least, "{name}: {simulated} %");
        let quantised = percent(report.accuracy_quantised);
        assert!((simulated - quantised).abs() <= 0.5, "{name}: {simulated} % and {quantised} %");
        assert!((quantised - percent(report.accuracy_float)).abs() <= 1.0, "{name}: {quantised} %");
        assert!(report.overflow < 1e-6 && report.deviation < 0.1, "{report:?}");
    }
}

#[test]
fn the_report_tells_what_a_network_costs() {
    let (_, compiled) = digits("mlp", None);
    let report = compiled.report;
    // The cheapest that keeps the accuracy.
    assert_eq!((compiled.profile, report.profile), (Profile::Fast, Profile::Fast));
    assert_eq!((report.rows, report.bootstraps, report.seconds), (360, 32, Some(0.32)));
    assert_eq!(report.layers.iter().map(|layer| layer.rows).collect::<Vec<_>>(), [32, 10]);
    assert_eq!(report.multiplications, report.layers.iter().map(|layer| layer.weights as u64).sum::<u64>());
    assert!(report.layers.iter().all(|layer| (3..=11).contains(&layer.weight_bits) && layer.levels > 16.0));
    let share = report.accuracy_simulated.unwrap();
    assert!(share.low < share.share && share.share < share.high && share.high - share.low < 0.06, "{share:?}");
    assert!(report.agreement_simulated.unwrap().share > 0.99);
    assert_eq!(report.notes.len(), 1);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["mode"], &json["profile"]), (&"approximate".into(), &"fast".into()));
}

#[test]
fn compiling_twice_gives_the_same() {
    assert_eq!(digits("conv", None).1, digits("conv", None).1);
}

#[test]
fn small_models_are_computed_exactly() {
    let options = Options { mode: Mode::Exact, tolerance: 0.05, ..Options::default() };
    let compiled = compile(&fixture("iris-linear.onnx"), &rows("iris.csv"), &options).unwrap();
    let report = &compiled.report;
    assert!(percent(report.accuracy_quantised) > 90.0, "{report:?}");
    assert_eq!(report.accuracy_quantised, report.accuracy_simulated.map(|of| of.share));
    assert_eq!(compiled.network.outputs.labels, ["setosa", "versicolor", "virginica"]);
    let error =
        compile(&fixture("digits-mlp.onnx"), &rows("digits-calibration.csv"), &options).unwrap_err().to_string();
    assert!(error.contains("in the exact mode") && error.contains("use the approximate mode"), "{error}");
}

#[test]
fn rows_without_labels_are_judged_by_the_model() {
    let graph = random_graph(&[6, 12, 3], 1.0, true, 4);
    let calibration = Calibration::new(random_rows(300, 6, 4), None).unwrap();
    let report = compile_graph(graph, &calibration, &Options::default()).unwrap().report;
    assert_eq!(report.accuracy_float, None);
    assert!(report.agreement_simulated.unwrap().share > 0.97, "{report:?}");
    // A regression has no classes.
    let graph = random_graph(&[6, 12, 1], 1.0, false, 4);
    let report = compile_graph(graph, &calibration, &Options::default()).unwrap().report;
    assert_eq!((report.agreement_quantised, report.accuracy_simulated), (None, None));
    assert!(report.deviation < 0.1, "{report:?}");
}

#[test]
fn notes_tell_of_few_rows_and_of_labels_without_a_use() {
    let rows = random_rows(20, 6, 4);
    let labels = (0..20).map(|row| format!("{row}.5")).collect();
    let calibration = Calibration::new(rows, Some(labels)).unwrap();
    let options = Options { tolerance: 0.05, ..Options::default() };
    let report = compile_graph(random_graph(&[6, 5, 1], 1.0, false, 4), &calibration, &options).unwrap().report;
    assert_eq!(
        report.notes,
        [
            "calibrated with 20 rows only: sums of other rows may leave the range, give some hundreds",
            "the labels are not used, since the model is not one of classes",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn mutated_models_are_compiled_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        exact in any::<bool>(),
    ) {
        let mut bytes = fixture("iris-mlp.onnx");
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let mut rows = rows("iris.csv");
        rows.rows.truncate(60);
        rows.labels = None;
        let mode = if exact { Mode::Exact } else { Mode::Approximate };
        let options = Options { mode, profile: Some(Profile::High), tolerance: 1.0, ..Options::default() };
        if let Ok(compiled) = compile(&bytes, &rows, &options) {
            prop_assert_eq!(compiled.network.check(), Ok(()));
        }
    }
}

#[test]
fn a_loss_in_the_approximate_mode_is_told() {
    let graph = random_graph(&[6, 12, 12, 12, 5], 1.0, true, 6);
    let calibration = Calibration::new(random_rows(300, 6, 6), None).unwrap();
    let options = Options { profile: Some(Profile::Fast), weight_bits: Some(2), ..Options::default() };
    let report = compile_graph(graph, &calibration, &options).unwrap().report;
    let note = report.notes.last().unwrap();
    assert!(note.starts_with("under noise it keeps ") && note.contains("99.50 % were asked"), "{note}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let mlp = fixture("digits-mlp.onnx");
    let text = |calibration: &Calibration, options: &Options| {
        compile(&mlp, calibration, options).unwrap_err().to_string()
    };
    let plain = Options::default();
    let wide = Calibration::new(vec![vec![0.0; 65]], None).unwrap();
    assert_eq!(
        text(&wide, &plain),
        "the calibration has 65 values a row, where the model takes 64: name the column of labels"
    );
    let narrow = Calibration::new(vec![vec![0.0; 3]], None).unwrap();
    assert_eq!(text(&narrow, &plain), "the calibration has 3 values a row, where the model takes 64");
    let odd = Calibration::new(vec![vec![0.0; 64]], Some(vec!["ten".to_owned()])).unwrap();
    assert_eq!(
        text(&odd, &plain),
        "the calibration's label \"ten\" is none of the model's: 0, 1, 2, 3, 4, 5, 6, 7"
    );
    let digits = rows("digits-calibration.csv");
    let options = Options { weight_bits: Some(12), ..Options::default() };
    assert_eq!(text(&digits, &options), "weights of 12 bits: choose 2 to 11");
    let options = Options { margin: -1.0, ..Options::default() };
    assert_eq!(text(&digits, &options), "margin is -1: choose 0 to 10");
    let options = Options { tolerance: f64::NAN, ..Options::default() };
    assert_eq!(text(&digits, &options), "tolerance is NaN: choose 0 to 1");
    let options = Options { bootstraps_per_second: Some(0.0), ..Options::default() };
    assert_eq!(text(&digits, &options), "bootstraps_per_second is 0: choose a positive number");
    // Weights that vanish beside what the torus can tell.
    let tiny = Sample::new(&[0, 1]).constant("w", &[1], &[1e-30]).node("Mul", &["x", "w"], "y", &[]).bytes("y");
    let one = Calibration::new(vec![vec![0.0], vec![1.0]], None).unwrap();
    let error = compile(&tiny, &one, &plain).unwrap_err().to_string();
    assert_eq!(error, "the quantised model: outputs.scale: is not a positive number");
    let error = compile(b"no model", &one, &plain).unwrap_err().to_string();
    assert!(error.starts_with("this is not an ONNX model: "), "{error}");
    let given = [("classlabels_ints", Given::Ints(&[0, 1, 2])), ("coefficients", Given::Floats(&[1.0, 2.0]))];
    let model = Sample::new(&[0, 1]).node("ml.LinearClassifier", &["x"], "y", &given).bytes("y");
    let error = compile(&model, &one, &plain).unwrap_err().to_string();
    assert_eq!(error, "LinearClassifier \"n0\": has 3 labels for 2 scores");
}

#[test]
fn tables_are_read_with_and_without_names() {
    let read = |text: &str, label: Option<&str>| Calibration::from_csv(text.as_bytes(), label).unwrap();
    let labels = |of: &[&str]| Some(of.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>());
    let bare = read("1,2\n3, 4\n", None);
    assert_eq!((bare.rows, bare.labels), (vec![vec![1.0, 2.0], vec![3.0, 4.0]], None));
    let named = read("\u{feff}a,b,Target\r\n1,2,3.0\r\n", None);
    assert_eq!((named.rows, named.labels), (vec![vec![1.0, 2.0]], labels(&["3"])));
    let named = read("kind,a\ncat,1\n\"a, b\",2\n", Some("kind"));
    assert_eq!((named.rows, named.labels), (vec![vec![1.0], vec![2.0]], labels(&["cat", "a, b"])));
    let last = read("1,2,setosa\n3,4,virginica\n", None);
    assert_eq!((last.columns(), last.labels), (2, labels(&["setosa", "virginica"])));
    let numbers = read("0,1,label\n5,6,7\n", None);
    assert_eq!((numbers.rows, numbers.labels), (vec![vec![5.0, 6.0]], labels(&["7"])));
}

#[test]
fn tables_that_cannot_be_used_are_refused_with_the_line() {
    let text = |bytes: &[u8], label: Option<&str>| Calibration::from_csv(bytes, label).unwrap_err().to_string();
    assert_eq!(text(b"", None), "the calibration has no rows");
    assert_eq!(text(b"a,b\n", None), "the calibration has no rows");
    assert_eq!(text(b"a,b\n1,2\n3,x\n", None), "line 3, column 2 (b): \"x\" is not a finite number");
    assert_eq!(text(b"1,2\nnan,2\n", None), "line 2, column 1: \"nan\" is not a finite number");
    assert_eq!(text(b"1,2\n1,2,3\n", None), "line 2: it has 3 fields, where the first line has 2");
    assert_eq!(text(b"1,2\n\xff,2\n", None), "line 2: it is not text in UTF-8");
    let missing = "there is no column \"kind\": the file has to begin with a line of names";
    assert_eq!(text(b"a,b\n1,2\n", Some("kind")), missing);
    let wide = "1,".repeat(4200);
    assert_eq!(text(wide.as_bytes(), None), "the calibration has more than 4096 columns");
    let long = "1\n".repeat(MAX_CALIBRATION_ROWS + 1);
    assert_eq!(text(long.as_bytes(), None), "the calibration has more than 100000 rows");
    let large = vec![b'1'; MAX_CALIBRATION_BYTES + 1];
    assert_eq!(text(&large, None), "the calibration has more than 67108864 bytes");
    let new = |rows: &[&[f64]], labels: Option<usize>| {
        let rows = rows.iter().map(|row| row.to_vec()).collect();
        Calibration::new(rows, labels.map(|count| vec![String::new(); count])).unwrap_err().to_string()
    };
    assert_eq!(new(&[&[1.0, 2.0], &[1.0]], None), "row 2 has 1 values, where the first has 2");
    assert_eq!(new(&[&[1.0]], Some(2)), "there are 2 labels for 1 rows");
    assert_eq!(new(&[&[1.0], &[f64::INFINITY]], None), "line 2, column 1: \"inf\" is not a finite number");
}

#[test]
fn intervals_are_wilsons() {
    // 0.9 of 100, by hand.
    let share = Share::of(0.9, 100);
    assert!((share.low - 0.79625).abs() < 2e-5 && (share.high - 0.95397).abs() < 2e-5, "{share:?}");
    let all = Share::of(1.0, 360);
    assert!(all.low > 0.98 && all.low < 0.982 && all.high >= 1.0 - 1e-12, "{all:?}");
}
