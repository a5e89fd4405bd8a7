//! Models for tests.

use super::wire::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, ShapeProto, TensorProto, TensorTypeProto,
    TypeProto, ValueInfoProto,
};
use prost::Message as _;

/// An attribute's value.
pub(crate) enum Given<'a> {
    Float(f32),
    Int(i64),
    Text(&'a str),
    Floats(&'a [f32]),
    Ints(&'a [i64]),
}

/// A model that grows node by node; its input is `x`.
#[derive(Clone)]
pub(crate) struct Sample(GraphProto);

fn value(name: &str, dims: Option<&[i64]>) -> ValueInfoProto {
    let dim = |value: &i64| DimensionProto { value: (*value != 0).then_some(*value) };
    let shape = dims.map(|dims| ShapeProto { dim: dims.iter().map(dim).collect() });
    let kind = Some(TypeProto { tensor_type: Some(TensorTypeProto { shape }) });
    ValueInfoProto { name: Some(name.to_owned()), kind }
}

impl Sample {
    /// With an input of these dimensions, 0 for one that is open.
    pub(crate) fn new(dims: &[i64]) -> Self {
        Self(GraphProto { input: vec![value("x", Some(dims))], ..GraphProto::default() })
    }

    pub(crate) fn input(mut self, name: &str, dims: &[i64]) -> Self {
        self.0.input.push(value(name, Some(dims)));
        self
    }

    pub(crate) fn constant(mut self, name: &str, dims: &[i64], values: &[f64]) -> Self {
        self.0.initializer.push(TensorProto {
            dims: dims.to_vec(),
            data_type: Some(11),
            name: Some(name.to_owned()),
            double_data: values.to_vec(),
            ..TensorProto::default()
        });
        self
    }

    pub(crate) fn tensor(mut self, tensor: TensorProto) -> Self {
        self.0.initializer.push(tensor);
        self
    }

    /// Appends a node; operators of `ai.onnx.ml` begin with `ml.`.
    pub(crate) fn node(mut self, operator: &str, inputs: &[&str], output: &str, given: &[(&str, Given)]) -> Self {
        let attribute = |(name, given): &(&str, Given)| {
            let mut attribute = AttributeProto { name: Some((*name).to_owned()), ..AttributeProto::default() };
            match given {
                Given::Float(value) => attribute.f = Some(*value),
                Given::Int(value) => attribute.i = Some(*value),
                Given::Text(text) => attribute.s = Some(text.as_bytes().to_vec()),
                Given::Floats(values) => attribute.floats = values.to_vec(),
                Given::Ints(values) => attribute.ints = values.to_vec(),
            }
            attribute
        };
        let ml = operator.strip_prefix("ml.");
        self.0.node.push(NodeProto {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            name: Some(format!("n{}", self.0.node.len())),
            op_type: Some(ml.unwrap_or(operator).to_owned()),
            attribute: given.iter().map(attribute).collect(),
            domain: ml.map(|_| "ai.onnx.ml".to_owned()),
        });
        self
    }

    /// The file, with one output.
    pub(crate) fn bytes(mut self, output: &str) -> Vec<u8> {
        self.0.output.push(value(output, None));
        ModelProto { graph: Some(self.0) }.encode_to_vec()
    }
}

/// A file of `tests/fixtures/private`.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/fixtures/private/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
