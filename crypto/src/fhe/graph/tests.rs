use super::*;
use crate::fhe::onnx::sample::{Given, Sample, fixture};
use proptest::prelude::*;
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    Graph::read(bytes).expect_err("no graph").to_string()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().map_or_else(
        || vec![value.as_f64().expect("a number")],
        |values| values.iter().map(|value| value.as_f64().expect("a number")).collect(),
    )
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let all: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    all.iter().map(|of| of / all.iter().sum::<f64>()).collect()
}

/// What onnxruntime says of a fixture, against what comes out here after the step that is left to the client.
fn compare(name: &str, output: &str, classes: Option<&str>, client: impl Fn(&[f64]) -> Vec<f64>) -> Graph {
    let graph = Graph::read(&fixture(&format!("{name}.onnx"))).unwrap();
    let said: Value = serde_json::from_slice(&fixture(&format!("{name}.json"))).unwrap();
    let rows = said["rows"].as_array().unwrap();
    for (index, row) in rows.iter().enumerate() {
        let found = graph.evaluate(&numbers(row));
        let wanted = numbers(&said[output][index]);
        let given = client(&found);
        assert_eq!(given.len(), wanted.len());
        for (given, wanted) in given.iter().zip(&wanted) {
            let bound = 2e-4 * wanted.abs().max(1.0);
            assert!((given - wanted).abs() < bound, "{name}, row {index}: {given}, not {wanted}");
        }
        if let Some(classes) = classes {
            let largest = (0..found.len()).max_by(|one, other| found[*one].total_cmp(&found[*other])).unwrap();
            let label = &said[classes][index];
            let label = label.as_str().map_or_else(|| label.to_string(), str::to_owned);
            assert_eq!(graph.labels[largest], label, "{name}, row {index}");
        }
    }
    graph
}

#[test]
fn models_of_scikit_learn_answer_as_onnxruntime_does() {
    compare("digits-linear", "output_probability", Some("output_label"), softmax);
    compare("digits-mlp", "output_probability", Some("output_label"), softmax);
    compare("iris-mlp", "output_probability", Some("output_label"), softmax);
    let graph = compare("iris-linear", "output_probability", Some("output_label"), softmax);
    assert_eq!(graph.labels, ["setosa", "versicolor", "virginica"]);
    assert_eq!(graph.layers.len(), 1);
    assert_eq!(graph.notes, ["SOFTMAX after LinearClassifier \"LinearClassifier\" is left to the client"]);
    compare("cancer-logistic", "output_probability", Some("output_label"), |of| {
        vec![sigmoid(of[0]), sigmoid(of[1])]
    });
    compare("cancer-svc", "probabilities", Some("label"), |of| vec![of[1]]);
    let graph = compare("cancer-tanh", "output_probability", Some("output_label"), |of| {
        vec![sigmoid(of[0]), sigmoid(of[1])]
    });
    assert_eq!(graph.layers.len(), 2);
    compare("diabetes-linear", "variable", None, <[f64]>::to_vec);
    let graph = compare("diabetes-mlp", "variable", None, <[f64]>::to_vec);
    assert_eq!(graph.layers[0].function, Some(Function::Sigmoid));
    assert!(graph.labels.is_empty());
}

#[test]
fn images_and_the_other_operators_answer_as_onnxruntime_does() {
    let graph = compare("digits-conv", "scores", None, <[f64]>::to_vec);
    // The division by 16 and the reshape are merged into the convolution: nine taps at most.
    assert_eq!(graph.layers.len(), 2);
    assert!(graph.layers[0].affine.rows.iter().all(|row| row.weights.len() <= 9));
    let graph = compare("operators", "y", None, <[f64]>::to_vec);
    let functions: Vec<_> = graph.layers.iter().map(|layer| layer.function).collect();
    let clip = |low, high| Some(Function::Clip { low, high });
    assert_eq!(functions, [Some(Function::Relu), clip(-0.5, 1.5), clip(0.0, 1.0), Some(Function::Tanh), None]);
}

#[test]
fn models_of_pytorch_answer_as_pytorch_does() {
    let graph = compare("torch-mlp", "scores", None, <[f64]>::to_vec);
    let functions: Vec<_> = graph.layers.iter().map(|layer| layer.function).collect();
    assert_eq!(functions, [Some(Function::Relu), Some(Function::Tanh), None]);
    let graph = compare("torch-conv", "scores", None, <[f64]>::to_vec);
    // The pooling is merged into the last layer.
    assert_eq!(graph.layers.len(), 2);
}

fn scores(rows: i64) -> Sample {
    let weights: Vec<f64> = (0..2 * rows).map(|of| of as f64 - 1.5).collect();
    Sample::new(&[0, 2]).constant("w", &[2, rows], &weights).node("MatMul", &["x", "w"], "s", &[])
}

#[test]
fn one_score_of_two_classes_becomes_two() {
    let given = [
        ("coefficients", Given::Floats(&[1.0, -2.0])),
        ("intercepts", Given::Floats(&[0.5])),
        ("classlabels_ints", Given::Ints(&[3, 7])),
        ("post_transform", Given::Text("LOGISTIC")),
    ];
    let bytes = Sample::new(&[0, 2]).node("ml.LinearClassifier", &["x"], "y", &given).bytes("y");
    let graph = Graph::read(&bytes).unwrap();
    assert_eq!(graph.labels, ["3", "7"]);
    assert_eq!(graph.evaluate(&[1.0, 0.0]), [-1.5, 1.5]);
    // As PyTorch writes it: a sigmoid at the end.
    let graph = Graph::read(&scores(1).node("Sigmoid", &["s"], "y", &[]).bytes("y")).unwrap();
    assert_eq!(graph.labels, ["0", "1"]);
    assert_eq!(graph.evaluate(&[1.0, 0.0]), [1.5, -1.5]);
    assert_eq!(graph.notes, ["Sigmoid \"n1\" at the end is left to the client"]);
}

#[test]
fn what_follows_the_scores_is_left_to_the_client() {
    let bare = Graph::read(&scores(3).bytes("s")).unwrap();
    assert!(bare.labels.is_empty() && bare.notes.is_empty());
    for (operator, given) in
        [("Softmax", vec![]), ("LogSoftmax", vec![]), ("ArgMax", vec![("axis", Given::Int(1))])]
    {
        let graph = Graph::read(&scores(3).node(operator, &["s"], "y", &given).bytes("y")).unwrap();
        assert_eq!(graph.layers[0].affine, bare.layers[0].affine);
        assert_eq!(graph.labels, ["0", "1", "2"]);
        assert_eq!(graph.notes.len(), 1);
    }
    let graph = Graph::read(&scores(3).node("Relu", &["s"], "y", &[]).bytes("y")).unwrap();
    assert_eq!(graph.layers.len(), 1);
    assert_eq!(graph.notes, ["Relu \"n1\" at the end is left to the client"]);
}

#[test]
fn clips_have_bounds_in_either_form() {
    let function = |sample: Sample| {
        let bytes = sample.constant("v", &[3, 1], &[1.0; 3]).node("MatMul", &["c", "v"], "y", &[]).bytes("y");
        Graph::read(&bytes).unwrap().layers[0].function
    };
    let clip = |low, high| Some(Function::Clip { low, high });
    let given = [("min", Given::Float(-1.0)), ("max", Given::Float(6.0))];
    assert_eq!(function(scores(3).node("Clip", &["s"], "c", &given)), clip(-1.0, 6.0));
    let bounded = scores(3).constant("low", &[], &[0.0]).constant("high", &[1], &[6.0]);
    assert_eq!(function(bounded.clone().node("Clip", &["s", "low", "high"], "c", &[])), clip(0.0, 6.0));
    assert_eq!(function(bounded.clone().node("Clip", &["s", "", "high"], "c", &[])), clip(-1e9, 6.0));
    assert_eq!(function(bounded.node("Clip", &["s", "low"], "c", &[])), Some(Function::Relu));
}

#[test]
fn what_is_not_computed_is_refused_with_what_to_do() {
    let one = |operator: &str| Sample::new(&[0, 4]).node(operator, &["x"], "y", &[]).bytes("y");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            one("ml.TreeEnsembleClassifier"),
            "TreeEnsembleClassifier \"n0\" is not computed under encryption: a tree decides at every branch, and each \
             decision is a bootstrap and a product of two secrets: train a LogisticRegression or a small MLPClassifier \
             on the same data",
        ),
        (
            one("MaxPool"),
            "MaxPool \"n0\" is not computed under encryption: use AveragePool, which costs no bootstrap",
        ),
        (
            one("Gelu"),
            "Gelu \"n0\" is not computed under encryption: its functions are Relu, Sigmoid, Tanh, HardSigmoid and \
             Clip: train the model with one of them",
        ),
        (
            one("ml.Normalizer"),
            "Normalizer \"n0\" is not computed under encryption: it divides each row by the row's own length: scale \
             the values before they are encrypted, or use StandardScaler",
        ),
        (
            scores(2).node("Mul", &["s", "x"], "y", &[]).bytes("y"),
            "Mul \"n1\" is not computed under encryption: it multiplies values of the model with each other",
        ),
        (
            scores(2).node("Relu", &["s"], "r", &[]).node("Add", &["r", "x"], "y", &[]).bytes("y"),
            "Add \"n2\": joins values of different layers or shapes: only sums of one layer are joined",
        ),
        (
            scores(2)
                .node("Relu", &["s"], "r", &[])
                .node("Tanh", &["s"], "t", &[])
                .node("Add", &["r", "t"], "y", &[])
                .bytes("y"),
            "Tanh \"n2\": branches off: every function has to take what the one before it gave",
        ),
        (
            scores(2).node("Softmax", &["s"], "p", &[]).node("MatMul", &["p", "w"], "y", &[]).bytes("y"),
            "MatMul \"n2\": goes on after the model's answer (Softmax, ArgMax or a classifier): cut the model there",
        ),
        (
            Sample::new(&[0, 3])
                .constant("w", &[2, 2], &[1.0; 4])
                .node("MatMul", &["x", "w"], "y", &[])
                .bytes("y"),
            "MatMul \"n0\": takes 2 values and gets 3",
        ),
        (
            Sample::new(&[0, 2, 3])
                .constant("w", &[3, 2], &[1.0; 6])
                .node("MatMul", &["x", "w"], "y", &[])
                .bytes("y"),
            "MatMul \"n0\": it takes an image or table of [2, 3]: put a Flatten before it",
        ),
        (
            Sample::new(&[0, 1, 4, 4])
                .constant("w", &[1, 1, 2, 2], &[1.0; 4])
                .node("Conv", &["x", "w"], "y", &[("dilations", Given::Ints(&[2, 2]))])
                .bytes("y"),
            "Conv \"n0\": dilations other than 1 are not computed: use a larger kernel",
        ),
        (
            Sample::new(&[0, 1, 4, 4])
                .constant("w", &[1, 1, 2, 2], &[1.0; 4])
                .node("Conv", &["x", "w"], "y", &[("auto_pad", Given::Text("SAME_UPPER"))])
                .bytes("y"),
            "Conv \"n0\": auto_pad is SAME_UPPER: export the model with explicit pads",
        ),
        (
            Sample::new(&[0, 4]).constant("w", &[3], &[1.0; 3]).node("Add", &["x", "w"], "y", &[]).bytes("y"),
            "Add \"n0\": a constant of shape [3] does not fit values of [4]",
        ),
        (
            Sample::new(&[0, 4]).node("Relu", &["z"], "y", &[]).bytes("y"),
            "Relu \"n0\": takes \"z\", which nothing before it gives",
        ),
        (
            Sample::new(&[0, 4]).node("Cast", &["x"], "y", &[("to", Given::Int(7))]).bytes("y"),
            "Cast \"n0\": casts values of the model to type 7, which would cut them",
        ),
        (
            Sample::new(&[0, 0]).node("Relu", &["x"], "y", &[]).bytes("y"),
            "the model's input: its shape is not one of rows and a fixed number of values: export with a fixed shape",
        ),
        (
            Sample::new(&[0, 2]).input("z", &[0, 2]).node("Relu", &["x"], "y", &[]).bytes("y"),
            "the model's input: there are 2 (x, z): join them in one table",
        ),
        (
            Sample::new(&[0, 5000]).node("Relu", &["x"], "y", &[]).bytes("y"),
            "the model's input: a row of [5000] is more than the 4096 values that are taken",
        ),
        (scores(2).bytes("q"), "the model's output: nothing gives \"q\""),
        (
            scores(2).node("ArgMax", &["s"], "y", &[("axis", Given::Int(0))]).bytes("y"),
            "ArgMax \"n1\": axis is 0 of values of [2]: it has to run over the classes",
        ),
        (
            scores(2).node("Softmax", &["s"], "p", &[]).node("Neg", &["s"], "y", &[]).bytes("y"),
            "output \"y\": gives a second answer: keep one output, of scores or of classes",
        ),
        (
            scores(2).node("Relu", &["s"], "r", &[]).node("Tanh", &["r"], "t", &[]).bytes("s"),
            "the model's output: functions come after it, which nothing uses: remove them",
        ),
        (
            scores(2)
                .node("Softmax", &["s"], "p", &[])
                .node("ml.ZipMap", &["p"], "y", &[("classlabels_int64s", Given::Ints(&[1, 2, 3]))])
                .bytes("y"),
            "the model's output: there are 3 labels for 2 values",
        ),
        (
            scores(2)
                .constant("v", &[2, 2], &[1.0; 4])
                .node("Gemm", &["s", "v"], "y", &[("transA", Given::Int(1))])
                .bytes("y"),
            "Gemm \"n1\": transA is 1: values cannot be mixed across rows",
        ),
        (
            scores(2).node("Flatten", &["s"], "y", &[("axis", Given::Int(0))]).bytes("y"),
            "Flatten \"n1\": axis is 0: flatten from the first dimension, torch.flatten(x, 1)",
        ),
        (
            scores(2).constant("to", &[1], &[-1.0]).node("Reshape", &["s", "to"], "y", &[]).bytes("y"),
            "Reshape \"n1\": to [-1] is not a shape for each row of 2 values: keep the first dimension",
        ),
        (
            scores(2)
                .constant("m", &[2], &[1.0; 2])
                .constant("v", &[2], &[-1.0; 2])
                .node("BatchNormalization", &["s", "m", "m", "m", "v"], "y", &[])
                .bytes("y"),
            "BatchNormalization \"n1\": has a variance that is not positive",
        ),
        (
            Sample::new(&[0, 2])
                .node("ml.Scaler", &["x"], "y", &[("offset", Given::Floats(&[1.0, 2.0, 3.0]))])
                .bytes("y"),
            "Scaler \"n0\": attribute \"offset\" has 3 numbers for 2 values",
        ),
        (
            Sample::new(&[0, 2])
                .node("ml.LinearRegressor", &["x"], "y", &[("coefficients", Given::Floats(&[1.0; 3]))])
                .bytes("y"),
            "LinearRegressor \"n0\": has 3 coefficients for 2 values and 1 outputs",
        ),
        (
            scores(2).constant("a", &[], &[1.0]).node("Exp", &["a"], "b", &[]).bytes("s"),
            "Exp \"n1\": computes with constants alone: export with do_constant_folding=True",
        ),
        (
            scores(2).constant("z", &[], &[0.0]).node("Div", &["s", "z"], "y", &[]).bytes("y"),
            "Div \"n1\": divides by zero",
        ),
        (
            scores(2).constant("a", &[], &[1.0]).node("Div", &["a", "s"], "y", &[]).bytes("y"),
            "Div \"n1\" is not computed under encryption: it divides by a value of the model; divide by a constant",
        ),
        (
            Sample::new(&[0, 2]).constant("w", &[1, 2], &[0.0; 2]).node("Mul", &["x", "w"], "y", &[]).bytes("y"),
            "the model's output: none depends on what goes in",
        ),
        (
            Sample::new(&[0, 2]).constant("w", &[1, 2], &[1e13; 2]).node("Mul", &["x", "w"], "y", &[]).bytes("y"),
            "Mul \"n0\": has a weight or offset of 10^12 or more: rescale the model",
        ),
        (
            Sample::new(&[0, 1, 60, 60])
                .constant("w", &[4, 1, 1, 1], &[1.0; 4])
                .node("Conv", &["x", "w"], "y", &[])
                .bytes("y"),
            "Conv \"n0\": 14400 sums in one layer, where at most 8192 are computed: make the model smaller",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(text(&bytes), expected);
    }
    // A value that is copied over and over.
    let wide = Sample::new(&[0, 2000]).constant("w", &[2000, 2000], &vec![1.0; 4_000_000]);
    let wide = wide.node("MatMul", &["x", "w"], "s", &[]);
    let wide = (0..200).fold(wide, |wide, index| wide.node("Identity", &["s"], &format!("c{index}"), &[]));
    let error = text(&wide.bytes("c199"));
    assert!(error.ends_with("the model takes too long to read: make it smaller"), "{error}");
    assert!(text(&one("Einsum")).contains("models are chains of Gemm, MatMul, Conv"), "{}", text(&one("Einsum")));
}

/// A step of a chain, and what it does to a row.
#[derive(Clone, Debug)]
enum Step {
    Dense(Vec<f64>),
    Gemm(Vec<f64>, Vec<f64>),
    Arithmetic(&'static str, Vec<f64>),
    Relu,
    Tanh,
}

const WIDTH: usize = 3;

impl Step {
    fn append(&self, sample: Sample, index: usize) -> Sample {
        let (from, to) = (format!("v{index}"), format!("v{}", index + 1));
        let (one, other) = (format!("a{index}"), format!("b{index}"));
        let wide = WIDTH as i64;
        match self {
            Self::Dense(weights) => {
                sample.constant(&one, &[wide, wide], weights).node("MatMul", &[&from, &one], &to, &[])
            }
            Self::Gemm(weights, bias) => {
                sample.constant(&one, &[wide, wide], weights).constant(&other, &[wide], bias).node(
                    "Gemm",
                    &[&from, &one, &other],
                    &to,
                    &[("alpha", Given::Float(0.5)), ("transB", Given::Int(1))],
                )
            }
            Self::Arithmetic(operator, constants) => {
                sample.constant(&one, &[1, wide], constants).node(operator, &[&from, &one], &to, &[])
            }
            Self::Relu => sample.node("Relu", &[&from], &to, &[]),
            Self::Tanh => sample.node("Tanh", &[&from], &to, &[]),
        }
    }

    fn apply(&self, values: &[f64]) -> Vec<f64> {
        let each = |of: &dyn Fn(usize) -> f64| (0..WIDTH).map(of).collect();
        match self {
            Self::Dense(weights) => {
                each(&|row| (0..WIDTH).map(|column| weights[column * WIDTH + row] * values[column]).sum())
            }
            Self::Gemm(weights, bias) => each(&|row| {
                let sum: f64 = (0..WIDTH).map(|column| weights[row * WIDTH + column] * values[column]).sum();
                0.5 * sum + bias[row]
            }),
            Self::Arithmetic("Add", of) => each(&|row| values[row] + of[row]),
            Self::Arithmetic("Sub", of) => each(&|row| values[row] - of[row]),
            Self::Arithmetic("Mul", of) => each(&|row| values[row] * of[row]),
            Self::Arithmetic(_, of) => each(&|row| values[row] / of[row]),
            Self::Relu => each(&|row| values[row].max(0.0)),
            Self::Tanh => each(&|row| values[row].tanh()),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = |count: usize| proptest::collection::vec(0.1..2.0_f64, count);
    let signed = |count: usize| proptest::collection::vec(-2.0..2.0_f64, count);
    prop_oneof![
        signed(WIDTH * WIDTH).prop_map(Step::Dense),
        (signed(WIDTH * WIDTH), signed(WIDTH)).prop_map(|(weights, bias)| Step::Gemm(weights, bias)),
        (prop_oneof![Just("Add"), Just("Sub"), Just("Mul"), Just("Div")], numbers(WIDTH))
            .prop_map(|(operator, of)| Step::Arithmetic(operator, of)),
        Just(Step::Relu),
        Just(Step::Tanh),
    ]
}

proptest! {
    #[test]
    fn merged_maps_give_what_their_steps_give(
        steps in proptest::collection::vec(step(), 1..8),
        row in proptest::collection::vec(-3.0..3.0_f64, WIDTH),
    ) {
        // A sum at the end, so that no function is left to the client.
        let steps: Vec<Step> = steps.into_iter().chain([Step::Arithmetic("Add", vec![1.0; WIDTH])]).collect();
        let start = Sample::new(&[0, WIDTH as i64]).node("Identity", &["x"], "v0", &[]);
        let model = steps.iter().enumerate().fold(start, |sample, (index, step)| step.append(sample, index));
        let graph = Graph::read(&model.bytes(&format!("v{}", steps.len()))).unwrap();
        let functions = steps.iter().filter(|step| matches!(step, Step::Relu | Step::Tanh)).count();
        prop_assert_eq!(graph.layers.len(), functions + 1);
        let wanted = steps.iter().fold(row.clone(), |values, step| step.apply(&values));
        for (found, wanted) in graph.evaluate(&row).iter().zip(&wanted) {
            prop_assert!((found - wanted).abs() <= 1e-9 * wanted.abs().max(1.0), "{} {}", found, wanted);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_models_are_read_or_refused(
        name in prop_oneof![Just("iris-mlp"), Just("operators"), Just("cancer-tanh"), Just("digits-conv"), Just("torch-conv")],
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut bytes = fixture(&format!("{name}.onnx"));
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(graph) = Graph::read(&bytes) {
            prop_assert_eq!(graph.evaluate(&vec![0.5; graph.columns()]).len(), graph.outputs());
        }
    }
}
