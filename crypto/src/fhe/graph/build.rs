//! From the nodes of a model to layers: each value is an affine map of what the last function gave.

use super::{
    Graph, GraphError, GraphLayer,
    advice::advice,
    affine::{Affine, MAX_WORK, Sum},
    images, linear,
    live::{Live, Value, fault},
    shapes,
};
use crate::fhe::{
    network::{Function, MAX_INPUTS, MAX_ROWS, MAX_WEIGHTS},
    onnx::{Model, Node, Tensor},
};
use std::{collections::HashMap, rc::Rc};

pub(super) struct Builder {
    pub(super) layers: Vec<GraphLayer>,
    pub(super) values: HashMap<String, Value>,
    /// How often each value is still taken.
    pub(super) uses: HashMap<String, usize>,
    /// What the client gets.
    pub(super) answer: Option<Live>,
    pub(super) classes: bool,
    pub(super) labels: Vec<String>,
    pub(super) notes: Vec<String>,
    /// The node that made the last sums, for messages.
    pub(super) last: String,
    /// Products that may still be computed.
    pub(super) work: usize,
}

pub(super) fn build(model: Model) -> Result<Graph, GraphError> {
    let [input] = &model.inputs[..] else {
        let names: Vec<_> = model.inputs.iter().take(8).map(|input| input.name.as_str()).collect();
        let problem = format!("there are {} ({}): join them in one table", model.inputs.len(), names.join(", "));
        return Err(GraphError::Input(problem));
    };
    let shape: Option<Vec<usize>> =
        input.dims.iter().skip(1).map(|dim| dim.and_then(|dim| usize::try_from(dim).ok())).collect();
    let shape = shape.filter(|shape| !shape.is_empty() && shape.len() < 8).ok_or_else(|| {
        let problem = "its shape is not one of rows and a fixed number of values: export with a fixed shape";
        GraphError::Input(problem.to_owned())
    })?;
    let size = shape.iter().try_fold(1_usize, |size, dim| size.checked_mul(*dim));
    let size = size.filter(|size| *size <= MAX_INPUTS).ok_or_else(|| {
        GraphError::Input(format!("a row of {shape:?} is more than the {MAX_INPUTS} values that are taken"))
    })?;
    let mut uses: HashMap<String, usize> = HashMap::new();
    for name in model.nodes.iter().flat_map(|node| &node.inputs).chain(&model.outputs) {
        *uses.entry(name.clone()).or_default() += 1;
    }
    let mut builder = Builder {
        layers: Vec::new(),
        values: model.constants.into_iter().map(|(name, of)| (name, Value::Constant(Rc::new(of)))).collect(),
        uses,
        answer: None,
        classes: false,
        labels: Vec::new(),
        notes: Vec::new(),
        last: "the model".to_owned(),
        work: MAX_WORK,
    };
    let live = Live { base: 0, affine: Affine::identity(size), shape };
    builder.values.insert(input.name.clone(), Value::Live(live));
    for node in &model.nodes {
        builder.node(node)?;
    }
    builder.finish(&model.outputs)
}

impl Builder {
    /// A value by name; gone once it was taken as often as the model does.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let left = self.uses.get_mut(name)?;
        *left = left.saturating_sub(1);
        if *left == 0 {
            return self.values.remove(name);
        }
        let value = self.values.get(name).cloned();
        if let Some(Value::Live(live)) = &value {
            // Copies take time as products do.
            self.work = self.work.saturating_sub(live.affine.weights());
        }
        value
    }

    fn give(&mut self, node: &Node, value: Value) {
        if let Some(name) = node.outputs.first().filter(|name| self.uses.contains_key(*name)) {
            self.values.insert(name.clone(), value);
        }
    }

    fn node(&mut self, node: &Node) -> Result<(), GraphError> {
        let mut lives = Vec::new();
        let mut constants = Vec::with_capacity(node.inputs.len());
        let mut answers = false;
        if self.work == 0 {
            return Err(fault(node, "the model takes too long to read: make it smaller"));
        }
        for (place, name) in node.inputs.iter().enumerate() {
            constants.push(None);
            if name.is_empty() {
                continue;
            }
            match self.take(name) {
                Some(Value::Constant(tensor)) => constants[place] = Some(tensor),
                Some(Value::Live(live)) => lives.push((place, live)),
                Some(Value::Answer) => answers = true,
                None => return Err(fault(node, format!("takes \"{name}\", which nothing before it gives"))),
            }
        }
        if answers {
            return self.after_answer(node, &constants);
        }
        if node.operator == "Concat" && !lives.is_empty() {
            let joined = self.concatenate(node, lives, &constants)?;
            self.give(node, Value::Live(joined));
            return Ok(());
        }
        let mut lives = lives.into_iter();
        match (lives.next(), lives.next(), lives.next()) {
            (None, ..) => {
                let value = constant(node, constants)?;
                self.give(node, Value::Constant(value));
                Ok(())
            }
            (Some((place, live)), None, None) => self.operator(node, place, live, &constants),
            (Some((_, one)), Some((_, other)), None) => {
                let sum = self.combine(node, one, other)?;
                self.give(node, Value::Live(sum));
                Ok(())
            }
            _ => Err(GraphError::Operator { node: node.title(), advice: advice(&node.operator).to_owned() }),
        }
    }

    /// An operator on one value.
    fn operator(
        &mut self,
        node: &Node,
        place: usize,
        live: Live,
        constants: &[Option<Rc<Tensor>>],
    ) -> Result<(), GraphError> {
        let constant = |place: usize| constants.get(place).and_then(Option::as_deref);
        let needed = |place: usize| constant(place).ok_or_else(|| fault(node, "its weights are not constant"));
        let unknown = || GraphError::Operator { node: node.title(), advice: advice(&node.operator).to_owned() };
        if node.ml {
            return match node.operator.as_str() {
                "Scaler" => {
                    let pairs = linear::scaler(node, &live)?;
                    self.scale(node, live, &pairs)
                }
                "LinearRegressor" => {
                    self.no_transform(node)?;
                    let targets = usize::try_from(node.int("targets", 1)?).ok();
                    let rows = linear::linear_model(node, &live, targets)?;
                    let shape = vec![rows.len()];
                    self.map(node, &live, rows, shape)
                }
                "LinearClassifier" => self.classifier(node, &live),
                "ZipMap" => {
                    self.answer(&node.title(), live)?;
                    self.after_answer(node, constants)
                }
                _ => Err(unknown()),
            };
        }
        match node.operator.as_str() {
            "MatMul" if place == 0 => {
                let rows = linear::matmul(node, &live, needed(1)?)?;
                let shape = vec![rows.len()];
                self.map(node, &live, rows, shape)
            }
            "Gemm" if place == 0 => {
                let rows = linear::gemm(node, &live, needed(1)?, constant(2))?;
                let shape = vec![rows.len()];
                self.map(node, &live, rows, shape)
            }
            "Conv" if place == 0 => {
                let (rows, shape) = images::conv(node, &live, needed(1)?, constant(2))?;
                self.map(node, &live, rows, shape)
            }
            "AveragePool" => {
                let (rows, shape) = images::average_pool(node, &live)?;
                self.map(node, &live, rows, shape)
            }
            "GlobalAveragePool" => {
                let (rows, shape) = images::global_average_pool(node, &live)?;
                self.map(node, &live, rows, shape)
            }
            "BatchNormalization" if place == 0 => {
                let constants = [needed(1)?, needed(2)?, needed(3)?, needed(4)?];
                let pairs = linear::batch_normalization(node, &live, constants)?;
                self.scale(node, live, &pairs)
            }
            "Add" | "Sub" | "Mul" | "Div" if place < 2 => {
                let pairs = linear::arithmetic(node, &live, needed(1 - place)?, place == 0)?;
                self.scale(node, live, &pairs)
            }
            "Neg" => {
                let pairs = vec![(-1.0, 0.0); live.affine.rows.len()];
                self.scale(node, live, &pairs)
            }
            "Identity" => {
                self.give(node, Value::Live(live));
                Ok(())
            }
            "Dropout" => {
                if constant(2).is_some_and(|training| training.values.iter().any(|of| *of != 0.0)) {
                    let problem = "it is in training mode: export the model for inference, after model.eval()";
                    return Err(fault(node, problem));
                }
                self.give(node, Value::Live(live));
                Ok(())
            }
            "Cast" => match node.int("to", 1)? {
                1 | 10 | 11 | 16 => {
                    self.give(node, Value::Live(live));
                    Ok(())
                }
                to => Err(fault(node, format!("casts values of the model to type {to}, which would cut them"))),
            },
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" if place == 0 => {
                let shape = shapes::reshape(node, &live, constant(1))?;
                self.give(node, Value::Live(Live { shape, ..live }));
                Ok(())
            }
            "Relu" => self.function(node, live, Function::Relu),
            "Sigmoid" => self.function(node, live, Function::Sigmoid),
            "Tanh" => self.function(node, live, Function::Tanh),
            "HardSigmoid" => {
                let (alpha, beta) = (node.float("alpha", 0.2)?, node.float("beta", 0.5)?);
                let affine = scaled(live.affine, &[(alpha, beta)]);
                self.function(node, Live { affine, ..live }, Function::Clip { low: 0.0, high: 1.0 })
            }
            "Clip" if place == 0 => {
                let of = clip(node, constant(1), constant(2))?;
                self.function(node, live, of)
            }
            "Softmax" | "LogSoftmax" => {
                last_axis(node, &live, -1)?;
                self.classes = true;
                self.answer(&node.title(), live)?;
                self.note(format!("{} is left to the client: it changes no order", node.title()));
                self.give(node, Value::Answer);
                Ok(())
            }
            "ArgMax" => {
                last_axis(node, &live, 0)?;
                self.classes = true;
                self.answer(&node.title(), live)?;
                self.note(format!("{} is left to the client", node.title()));
                self.give(node, Value::Answer);
                Ok(())
            }
            _ => Err(unknown()),
        }
    }

    pub(super) fn note(&mut self, note: String) {
        if self.notes.len() < 16 {
            self.notes.push(note);
        }
    }

    /// Gives an affine map of a value.
    fn map(&mut self, node: &Node, live: &Live, rows: Vec<Sum>, shape: Vec<usize>) -> Result<(), GraphError> {
        let too_large = |count, of, most| GraphError::TooLarge { node: node.title(), count, of, most };
        if rows.len() > MAX_ROWS {
            return Err(too_large(rows.len(), "sums in one layer", MAX_ROWS));
        }
        if rows.is_empty() {
            return Err(fault(node, "gives no values"));
        }
        let outer = Affine { columns: live.affine.rows.len(), rows };
        let weights = outer.weights();
        if weights > MAX_WEIGHTS {
            return Err(too_large(weights, "weights", MAX_WEIGHTS));
        }
        let (affine, products) = outer.after(&live.affine, self.work).ok_or_else(|| {
            let problem = "is too large to be merged with the sums before it: put a function between them";
            fault(node, problem)
        })?;
        self.work = self.work.saturating_sub(products + affine.weights());
        self.last = node.title();
        self.give(node, Value::Live(Live { base: live.base, affine, shape }));
        Ok(())
    }

    /// Gives a value times a factor and with an offset, each its own.
    fn scale(&mut self, node: &Node, live: Live, pairs: &[(f64, f64)]) -> Result<(), GraphError> {
        self.spend(node, &live)?;
        let affine = scaled(live.affine, pairs);
        self.last = node.title();
        self.give(node, Value::Live(Live { affine, ..live }));
        Ok(())
    }

    pub(super) fn spend(&mut self, node: &Node, live: &Live) -> Result<(), GraphError> {
        let left = self.work.checked_sub(live.affine.weights() + live.affine.rows.len());
        self.work = left.ok_or_else(|| fault(node, "the model takes too long to read: make it smaller"))?;
        Ok(())
    }

    /// Applies a function to a value, which ends a layer.
    fn function(&mut self, node: &Node, live: Live, function: Function) -> Result<(), GraphError> {
        if live.base != self.layers.len() {
            let problem = "branches off: every function has to take what the one before it gave".to_owned();
            return Err(fault(node, problem));
        }
        let affine = Affine::identity(live.affine.rows.len());
        self.layers.push(GraphLayer { name: node.title(), affine: live.affine, function: Some(function) });
        self.give(node, Value::Live(Live { base: self.layers.len(), affine, shape: live.shape }));
        Ok(())
    }
}

/// A map times a factor and with an offset for each row, or one for all.
fn scaled(mut affine: Affine, pairs: &[(f64, f64)]) -> Affine {
    for (row, (factor, offset)) in affine.rows.iter_mut().zip(pairs.iter().cycle()) {
        row.bias = row.bias * factor + offset;
        row.weights.iter_mut().for_each(|(_, weight)| *weight *= factor);
        row.weights.retain(|(_, weight)| *weight != 0.0);
    }
    affine
}

/// What a node gives that takes constants alone.
fn constant(node: &Node, constants: Vec<Option<Rc<Tensor>>>) -> Result<Rc<Tensor>, GraphError> {
    match node.operator.as_str() {
        "Constant" => Ok(Rc::new(node.constant()?)),
        "Identity" | "Cast" => constants.into_iter().flatten().next().ok_or_else(|| fault(node, "takes nothing")),
        _ => Err(fault(node, "computes with constants alone: export with do_constant_folding=True")),
    }
}

fn last_axis(node: &Node, live: &Live, default: i64) -> Result<(), GraphError> {
    let axis = node.int("axis", default)?;
    if live.shape.len() == 1 && matches!(axis, 1 | -1) {
        return Ok(());
    }
    Err(fault(node, format!("axis is {axis} of values of {:?}: it has to run over the classes", live.shape)))
}

fn clip(node: &Node, low: Option<&Tensor>, high: Option<&Tensor>) -> Result<Function, GraphError> {
    let bound = |tensor: Option<&Tensor>, attribute: &str, open: f64| match tensor {
        Some(tensor) => match tensor.values[..] {
            [bound] => Ok(bound.clamp(-1e9, 1e9)),
            _ => Err(fault(node, format!("its {attribute} is not one number"))),
        },
        None => Ok(node.float(attribute, open)?.clamp(-1e9, 1e9)),
    };
    let (low, high) = (bound(low, "min", -1e9)?, bound(high, "max", 1e9)?);
    if low > high {
        return Err(fault(node, format!("its min {low} is over its max {high}")));
    }
    Ok(if low == 0.0 && high >= 1e9 { Function::Relu } else { Function::Clip { low, high } })
}
