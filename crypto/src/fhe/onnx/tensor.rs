//! Constant tensors.

use super::{OnnxError, wire::TensorProto};
use crate::fhe::network::MAX_WEIGHTS;

/// Most elements of a tensor.
pub const MAX_ELEMENTS: usize = MAX_WEIGHTS;

const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT8: i32 = 3;
const INT32: i32 = 6;
const INT64: i32 = 7;
const STRING: i32 = 8;
const BOOL: i32 = 9;
const DOUBLE: i32 = 11;

/// A constant: as many values as its dimensions say, finite numbers or texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its dimensions; none for a single value.
    pub dims: Vec<usize>,
    /// Its numbers, the last dimension running fastest; whole numbers too, exact up to 2^53.
    pub values: Vec<f64>,
    /// Its texts, where it has those instead.
    pub texts: Vec<String>,
}

impl Tensor {
    /// A tensor of numbers.
    pub(crate) fn of(dims: Vec<usize>, values: Vec<f64>) -> Self {
        Self { dims, values, texts: Vec::new() }
    }

    pub(super) fn read(proto: &TensorProto) -> Result<Self, OnnxError> {
        let name = proto.name.clone().unwrap_or_default();
        let fault = |problem: String| OnnxError::Tensor { name: name.clone(), problem };
        if proto.data_location.unwrap_or_default() != 0 {
            return Err(fault(
                "lies in another file: save the model as one (external_data=False in torch.onnx.export)"
                    .to_owned(),
            ));
        }
        let mut elements = 1_usize;
        let mut dims = Vec::with_capacity(proto.dims.len().min(8));
        for dim in &proto.dims {
            let dim = usize::try_from(*dim).map_err(|_| fault("has a negative dimension".to_owned()))?;
            let most = || fault(format!("has more than {MAX_ELEMENTS} elements"));
            elements = elements.checked_mul(dim).filter(|of| *of <= MAX_ELEMENTS).ok_or_else(most)?;
            dims.push(dim);
        }
        if dims.len() > 8 {
            return Err(fault("has more than 8 dimensions".to_owned()));
        }
        let kind = proto.data_type.unwrap_or_default();
        if kind == STRING {
            let texts: Vec<_> =
                proto.string_data.iter().map(|of| String::from_utf8_lossy(of).into_owned()).collect();
            if texts.len() != elements {
                return Err(fault(format!("has {} texts where its shape takes {elements}", texts.len())));
            }
            return Ok(Self { dims, values: Vec::new(), texts });
        }
        let values = numbers(proto, kind).map_err(fault)?;
        if values.len() != elements {
            return Err(fault(format!("has {} values where its shape takes {elements}", values.len())));
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(fault("has a value that is not a finite number".to_owned()));
        }
        Ok(Self { dims, values, texts: Vec::new() })
    }

    /// Its numbers as whole ones, where they are.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let whole = |value: &f64| (value.fract() == 0.0 && value.abs() < 9e15).then_some(*value as i64);
        self.values.iter().map(whole).collect()
    }
}

/// The numbers of a tensor, from whichever field holds them.
fn numbers(proto: &TensorProto, kind: i32) -> Result<Vec<f64>, String> {
    let Some(raw) = proto.raw_data.as_deref().filter(|raw| !raw.is_empty()) else {
        return match kind {
            FLOAT => Ok(proto.float_data.iter().copied().map(f64::from).collect()),
            DOUBLE => Ok(proto.double_data.clone()),
            INT64 => Ok(proto.int64_data.iter().map(|value| *value as f64).collect()),
            INT32 | INT8 | UINT8 | BOOL => Ok(proto.int32_data.iter().copied().map(f64::from).collect()),
            _ => Err(unread(kind)),
        };
    };
    match kind {
        FLOAT => chunks(raw, |bytes| f64::from(f32::from_le_bytes(bytes))),
        DOUBLE => chunks(raw, f64::from_le_bytes),
        INT64 => chunks(raw, |bytes| i64::from_le_bytes(bytes) as f64),
        INT32 => chunks(raw, |bytes| f64::from(i32::from_le_bytes(bytes))),
        INT8 => chunks(raw, |bytes| f64::from(i8::from_le_bytes(bytes))),
        UINT8 | BOOL => chunks(raw, |bytes| f64::from(u8::from_le_bytes(bytes))),
        _ => Err(unread(kind)),
    }
}

fn unread(kind: i32) -> String {
    format!("has elements of type {kind}: export the model with 32-bit or 64-bit floats")
}

fn chunks<const N: usize>(raw: &[u8], value: impl Fn([u8; N]) -> f64) -> Result<Vec<f64>, String> {
    let (whole, rest) = raw.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(format!("has {} bytes, which is not a multiple of {N}", raw.len()));
    }
    if whole.len() > MAX_ELEMENTS {
        return Err(format!("has more than {MAX_ELEMENTS} elements"));
    }
    Ok(whole.iter().map(|bytes| value(*bytes)).collect())
}
