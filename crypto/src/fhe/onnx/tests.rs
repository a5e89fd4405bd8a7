use super::{
    sample::{Given, Sample, fixture},
    wire::TensorProto,
    *,
};
use proptest::prelude::*;

fn text(bytes: &[u8]) -> String {
    Model::read(bytes).expect_err("no model").to_string()
}

fn tensor(kind: i32, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: Some("w".to_owned()),
        data_type: Some(kind),
        dims: dims.to_vec(),
        ..TensorProto::default()
    }
}

fn with(tensor: TensorProto) -> Vec<u8> {
    Sample::new(&[0, 2]).tensor(tensor).node("Identity", &["x"], "y", &[]).bytes("y")
}

fn values(tensor: TensorProto) -> Vec<f64> {
    Model::read(&with(tensor)).unwrap().constants["w"].values.clone()
}

#[test]
fn a_model_of_scikit_learn_is_read() {
    let model = Model::read(&fixture("digits-mlp.onnx")).unwrap();
    assert_eq!(model.inputs, [Input { name: "values".to_owned(), dims: vec![None, Some(64)] }]);
    assert_eq!(model.constants["coefficient"].dims, [64, 32]);
    assert!(model.nodes.iter().any(|node| node.operator == "ZipMap" && node.ml));
}

#[test]
fn tensors_are_read_from_each_field() {
    let raw = |kind, bytes: &[u8]| TensorProto { raw_data: Some(bytes.to_vec()), ..tensor(kind, &[2]) };
    assert_eq!(values(raw(1, &[0, 0, 128, 63, 0, 0, 0, 192])), [1.0, -2.0]);
    assert_eq!(values(raw(2, &[3, 255])), [3.0, 255.0]);
    assert_eq!(values(raw(3, &[3, 255])), [3.0, -1.0]);
    assert_eq!(values(raw(6, &[1, 0, 0, 0, 255, 255, 255, 255])), [1.0, -1.0]);
    let of = [7_i64.to_le_bytes(), (-9_i64).to_le_bytes()].concat();
    assert_eq!(values(raw(7, &of)), [7.0, -9.0]);
    let of = [0.5_f64.to_le_bytes(), 1e-3_f64.to_le_bytes()].concat();
    assert_eq!(values(raw(11, &of)), [0.5, 1e-3]);
    assert_eq!(values(TensorProto { float_data: vec![1.5, 2.5], ..tensor(1, &[2]) }), [1.5, 2.5]);
    assert_eq!(values(TensorProto { double_data: vec![1.5, 2.5], ..tensor(11, &[1, 2]) }), [1.5, 2.5]);
    assert_eq!(values(TensorProto { int64_data: vec![-1, 64], ..tensor(7, &[2]) }), [-1.0, 64.0]);
    assert_eq!(values(TensorProto { int32_data: vec![-1, 64], ..tensor(6, &[2]) }), [-1.0, 64.0]);
}

#[test]
fn tensors_that_cannot_be_used_are_refused_by_name() {
    let cases = [
        (tensor(1, &[3]), "tensor \"w\": has 0 values where its shape takes 3"),
        (tensor(1, &[-1]), "tensor \"w\": has a negative dimension"),
        (tensor(1, &[1 << 40, 1 << 40]), "tensor \"w\": has more than 4194304 elements"),
        (tensor(1, &[1; 9]), "tensor \"w\": has more than 8 dimensions"),
        (tensor(10, &[1]), "tensor \"w\": has elements of type 10: export the model with 32-bit or 64-bit floats"),
        (
            TensorProto { raw_data: Some(vec![0; 5]), ..tensor(1, &[1]) },
            "tensor \"w\": has 5 bytes, which is not a multiple of 4",
        ),
        (
            TensorProto { float_data: vec![f32::NAN], ..tensor(1, &[1]) },
            "tensor \"w\": has a value that is not a finite number",
        ),
        (
            TensorProto { data_location: Some(1), ..tensor(1, &[1]) },
            "tensor \"w\": lies in another file: save the model as one (external_data=False in torch.onnx.export)",
        ),
        (tensor(8, &[1]), "tensor \"w\": has 0 texts where its shape takes 1"),
    ];
    for (tensor, expected) in cases {
        assert_eq!(text(&with(tensor)), expected);
    }
}

#[test]
fn files_that_are_no_models_are_refused() {
    assert_eq!(text(b""), "the ONNX model has no graph");
    assert_eq!(text(&Sample::new(&[0, 2]).bytes("x")), "the ONNX model has no graph");
    assert!(text(b"a,b,c\n1,2,3\n").starts_with("this is not an ONNX model: "), "{}", text(b"a,b,c\n1,2,3\n"));
    let bytes = MAX_MODEL_BYTES + 1;
    assert_eq!(text(&vec![0; bytes]), format!("the model has {bytes} bytes, where at most 67108864 are read"));
    // A graph of empty nodes: two bytes each in the file.
    let nodes = [0x0a, 0].repeat(MAX_PARTS + 1);
    let mut file = vec![0x3a];
    prost::encoding::encode_varint(nodes.len() as u64, &mut file);
    file.extend(nodes);
    assert_eq!(text(&file), "the model has more than 65536 nodes, attributes and tensors");
}

#[test]
fn attributes_are_what_their_operator_takes() {
    let given = [
        ("f", Given::Float(f32::INFINITY)),
        ("i", Given::Int(3)),
        ("s", Given::Text("NONE")),
        ("l", Given::Floats(&[1.0, 2.0])),
        ("k", Given::Ints(&[1, 2])),
    ];
    let model = Model::read(&Sample::new(&[0, 2]).node("Gemm", &["x"], "y", &given).bytes("y")).unwrap();
    let node = &model.nodes[0];
    assert_eq!(node.int("i", 0), Ok(3));
    assert_eq!(node.int("j", 5), Ok(5));
    assert_eq!(node.text("s"), Ok(Some("NONE".to_owned())));
    assert_eq!(node.floats("l"), Ok(Some(vec![1.0, 2.0])));
    assert_eq!(node.ints("k"), Ok(Some(vec![1, 2])));
    let wrong = node.float("f", 1.0).unwrap_err().to_string();
    assert_eq!(wrong, "Gemm \"n0\": attribute \"f\" is not a finite number");
    assert_eq!(node.int("f", 1).unwrap_err().to_string(), "Gemm \"n0\": attribute \"f\" is not a whole number");
    assert_eq!(node.text("f").unwrap_err().to_string(), "Gemm \"n0\": attribute \"f\" is not a text");
    let wrong = node.floats("i").unwrap_err().to_string();
    assert_eq!(wrong, "Gemm \"n0\": attribute \"i\" is not a list of finite numbers");
    let wrong = node.constant().unwrap_err().to_string();
    assert_eq!(wrong, "Gemm \"n0\": attribute \"value\" is missing or not of numbers");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Model::read(&bytes);
    }
}
