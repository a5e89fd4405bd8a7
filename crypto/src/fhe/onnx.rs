//! Models in ONNX, as far as they are read: nodes, their attributes, and constant tensors.
//!
//! Field numbers are those of the official `onnx.proto` (ONNX 1.20, IR version 13); what is not used is skipped.

mod tensor;
mod wire;

pub use tensor::{MAX_ELEMENTS, Tensor};

use prost::Message;
use std::collections::HashMap;
use wire::{AttributeProto, ModelProto, NodeProto, ValueInfoProto};

/// Largest file that is read.
pub const MAX_MODEL_BYTES: usize = 64 << 20;
/// Most parts of a file: nodes, attributes, names, tensors together.
pub const MAX_PARTS: usize = 1 << 16;

/// Why a file is no model that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// Larger than is read.
    #[error("the model has {bytes} bytes, where at most {MAX_MODEL_BYTES} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// More parts than are read.
    #[error("the model has more than {MAX_PARTS} nodes, attributes and tensors")]
    TooMany,
    /// No ONNX.
    #[error("this is not an ONNX model: {0}")]
    Encoding(String),
    /// ONNX without a network.
    #[error("the ONNX model has no graph")]
    NoGraph,
    /// A tensor that cannot be used.
    #[error("tensor \"{name}\": {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// An attribute that is missing or not what its operator takes.
    #[error("{node}: attribute \"{attribute}\" {problem}")]
    Attribute {
        /// The operator and the name of its node.
        node: String,
        /// The attribute.
        attribute: String,
        /// What is wrong.
        problem: String,
    },
}

/// A graph.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Its operators, in the order in which they are computed.
    pub nodes: Vec<Node>,
    /// Constants by name.
    pub constants: HashMap<String, Tensor>,
    /// What goes in, without the constants.
    pub inputs: Vec<Input>,
    /// Names of what comes out.
    pub outputs: Vec<String>,
}

/// A value that goes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its dimensions, none where the model leaves one open; empty also where it says nothing.
    pub dims: Vec<Option<u64>>,
}

/// An operator at its place.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The operator.
    pub operator: String,
    /// True for an operator of `ai.onnx.ml`.
    pub ml: bool,
    /// Its name, or what it puts out where it has none.
    pub name: String,
    /// Names of what it takes; an empty one is left out.
    pub inputs: Vec<String>,
    /// Names of what it gives.
    pub outputs: Vec<String>,
    attributes: HashMap<String, Attribute>,
}

/// What an attribute holds.
#[derive(Clone, Debug)]
enum Attribute {
    Float(f32),
    Int(i64),
    Text(Vec<u8>),
    Tensor(Tensor),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Texts(Vec<Vec<u8>>),
    Other,
}

impl Model {
    /// Reads a file.
    pub fn read(bytes: &[u8]) -> Result<Self, OnnxError> {
        if bytes.len() > MAX_MODEL_BYTES {
            return Err(OnnxError::TooLarge { bytes: bytes.len() });
        }
        // Before anything is built: an empty part takes two bytes in the file and hundreds in memory.
        if wire::parts(bytes).map_err(|problem| OnnxError::Encoding(problem.to_owned()))? > MAX_PARTS {
            return Err(OnnxError::TooMany);
        }
        let model = ModelProto::decode(bytes).map_err(|error| OnnxError::Encoding(error.to_string()))?;
        let graph = model.graph.ok_or(OnnxError::NoGraph)?;
        if graph.node.is_empty() {
            return Err(OnnxError::NoGraph);
        }
        let mut constants = HashMap::new();
        for tensor in graph.initializer {
            let name = tensor.name.clone().unwrap_or_default();
            constants.insert(name, Tensor::read(&tensor)?);
        }
        let inputs = graph.input.into_iter().map(Input::read).filter(|input| !constants.contains_key(&input.name));
        let inputs = inputs.collect();
        let nodes = graph.node.into_iter().map(Node::read).collect::<Result<_, _>>()?;
        let outputs = graph.output.into_iter().filter_map(|output| output.name).collect();
        Ok(Self { nodes, constants, inputs, outputs })
    }
}

impl Input {
    fn read(proto: ValueInfoProto) -> Self {
        let shape = proto.kind.and_then(|kind| kind.tensor_type).and_then(|tensor| tensor.shape);
        let dims = shape.map(|shape| shape.dim).unwrap_or_default();
        let dims = dims.into_iter().map(|dim| dim.value.and_then(|value| u64::try_from(value).ok()));
        Self { name: proto.name.unwrap_or_default(), dims: dims.map(|dim| dim.filter(|dim| *dim > 0)).collect() }
    }
}

impl Node {
    fn read(proto: NodeProto) -> Result<Self, OnnxError> {
        let name = proto.name.filter(|name| !name.is_empty());
        let mut node = Self {
            operator: proto.op_type.unwrap_or_default(),
            ml: proto.domain.as_deref() == Some("ai.onnx.ml"),
            name: name.or_else(|| proto.output.first().cloned()).unwrap_or_default(),
            inputs: proto.input,
            outputs: proto.output,
            attributes: HashMap::new(),
        };
        if let Some(domain) =
            proto.domain.filter(|domain| !matches!(domain.as_str(), "" | "ai.onnx" | "ai.onnx.ml"))
        {
            node.operator = format!("{domain}.{}", node.operator);
        }
        for attribute in proto.attribute {
            let name = attribute.name.clone().unwrap_or_default();
            node.attributes.insert(name, Attribute::read(attribute)?);
        }
        Ok(node)
    }

    /// How messages call it.
    pub fn title(&self) -> String {
        format!("{} \"{}\"", self.operator, self.name)
    }

    /// True if it has an attribute of this name.
    pub fn has(&self, name: &str) -> bool {
        self.attributes.contains_key(name)
    }

    fn fault(&self, attribute: &str, problem: impl Into<String>) -> OnnxError {
        OnnxError::Attribute { node: self.title(), attribute: attribute.to_owned(), problem: problem.into() }
    }

    /// A number.
    pub fn float(&self, name: &str, default: f64) -> Result<f64, OnnxError> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) if value.is_finite() => Ok(f64::from(*value)),
            Some(_) => Err(self.fault(name, "is not a finite number")),
        }
    }

    /// A whole number.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, OnnxError> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(self.fault(name, "is not a whole number")),
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<Option<String>, OnnxError> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Text(bytes)) => Ok(Some(String::from_utf8_lossy(bytes).into_owned())),
            Some(_) => Err(self.fault(name, "is not a text")),
        }
    }

    /// Numbers.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f64>>, OnnxError> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) if values.iter().all(|value| value.is_finite()) => {
                Ok(Some(values.iter().copied().map(f64::from).collect()))
            }
            Some(_) => Err(self.fault(name, "is not a list of finite numbers")),
        }
    }

    /// Whole numbers.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, OnnxError> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(_) => Err(self.fault(name, "is not a list of whole numbers")),
        }
    }

    /// Texts.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>, OnnxError> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Texts(values)) => {
                Ok(Some(values.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()))
            }
            Some(_) => Err(self.fault(name, "is not a list of texts")),
        }
    }

    /// What a `Constant` holds.
    pub fn constant(&self) -> Result<Tensor, OnnxError> {
        match (self.attributes.get("value"), self.attributes.get("value_float"), self.attributes.get("value_int"))
        {
            (Some(Attribute::Tensor(tensor)), _, _) => return Ok(tensor.clone()),
            (_, Some(Attribute::Float(value)), _) => return Ok(Tensor::of(Vec::new(), vec![f64::from(*value)])),
            (_, _, Some(Attribute::Int(value))) => return Ok(Tensor::of(Vec::new(), vec![*value as f64])),
            _ => {}
        }
        let ints = self.ints("value_ints")?.map(|values| values.into_iter().map(|value| value as f64).collect());
        let values: Option<Vec<f64>> = ints.or(self.floats("value_floats")?);
        let values = values.ok_or_else(|| self.fault("value", "is missing or not of numbers"))?;
        Ok(Tensor::of(vec![values.len()], values))
    }
}

impl Attribute {
    fn read(proto: AttributeProto) -> Result<Self, OnnxError> {
        // Old exporters leave the type out.
        let kind = proto.kind.unwrap_or(match &proto {
            of if of.f.is_some() => 1,
            of if of.i.is_some() => 2,
            of if of.s.is_some() => 3,
            of if of.t.is_some() => 4,
            of if !of.floats.is_empty() => 6,
            of if !of.ints.is_empty() => 7,
            of if !of.strings.is_empty() => 8,
            _ => 0,
        });
        Ok(match kind {
            1 => Self::Float(proto.f.unwrap_or_default()),
            2 => Self::Int(proto.i.unwrap_or_default()),
            3 => Self::Text(proto.s.unwrap_or_default()),
            4 => match proto.t {
                Some(tensor) => Self::Tensor(Tensor::read(&tensor)?),
                None => Self::Other,
            },
            6 => Self::Floats(proto.floats),
            7 => Self::Ints(proto.ints),
            8 => Self::Texts(proto.strings),
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
