//! Where a model ends: scores are its answer, and what is made of them is left to the client.

use super::{
    Graph, GraphError, GraphLayer,
    affine::{Affine, Sum},
    build::Builder,
    linear,
    live::{Live, Value, fault},
};
use crate::fhe::{
    network::Function,
    onnx::{Node, Tensor},
};
use std::rc::Rc;

impl Builder {
    pub(super) fn no_transform(&mut self, node: &Node) -> Result<(), GraphError> {
        if let Some(transform) = node.text("post_transform")?.filter(|of| of != "NONE") {
            self.note(format!("{transform} after {} is left to the client", node.title()));
        }
        Ok(())
    }

    /// `LinearClassifier`: its scores are the answer.
    pub(super) fn classifier(&mut self, node: &Node, live: &Live) -> Result<(), GraphError> {
        self.no_transform(node)?;
        let labels = class_labels(node, "classlabels_ints")?;
        let mut rows = linear::linear_model(node, live, None)?;
        if rows.len() == 1 && labels.len() == 2 {
            rows = both_signs(rows.swap_remove(0));
        }
        if labels.len() != rows.len() {
            return Err(fault(node, format!("has {} labels for {} scores", labels.len(), rows.len())));
        }
        self.labels = labels;
        self.classes = true;
        let outer = Affine { columns: live.affine.rows.len(), rows };
        let (affine, _) = outer.after(&live.affine, self.work).ok_or_else(|| fault(node, "is too large"))?;
        let shape = vec![affine.rows.len()];
        self.last = node.title();
        self.answer(&node.title(), Live { base: live.base, affine, shape })?;
        for name in node.outputs.iter().filter(|name| self.uses.contains_key(*name)) {
            self.values.insert(name.clone(), Value::Answer);
        }
        Ok(())
    }

    /// Keeps a value as what the client gets.
    pub(super) fn answer(&mut self, title: &str, live: Live) -> Result<(), GraphError> {
        match &self.answer {
            Some(answer) if *answer != live => {
                let problem = "gives a second answer: keep one output, of scores or of classes".to_owned();
                Err(GraphError::Node { node: title.to_owned(), problem })
            }
            _ => {
                self.answer = Some(live);
                Ok(())
            }
        }
    }

    /// What is made of the answer is the client's; only labels are taken from it.
    pub(super) fn after_answer(
        &mut self,
        node: &Node,
        constants: &[Option<Rc<Tensor>>],
    ) -> Result<(), GraphError> {
        match node.operator.as_str() {
            "ZipMap" => {
                let labels = class_labels(node, "classlabels_int64s")?;
                if self.labels.is_empty() {
                    self.labels = labels;
                }
            }
            "ArrayFeatureExtractor" => {
                if let Some(Some(classes)) = constants.first() {
                    self.labels = tensor_labels(classes);
                    self.classes = true;
                }
            }
            "ArgMax" => self.classes = true,
            "Cast" | "Reshape" | "Identity" | "Squeeze" | "Unsqueeze" | "Flatten" | "Normalizer" | "Log"
            | "Softmax" | "LogSoftmax" => {}
            _ => {
                let problem =
                    "goes on after the model's answer (Softmax, ArgMax or a classifier): cut the model there";
                return Err(fault(node, problem));
            }
        }
        for name in node.outputs.iter().filter(|name| self.uses.contains_key(*name)) {
            self.values.insert(name.clone(), Value::Answer);
        }
        Ok(())
    }

    pub(super) fn finish(mut self, outputs: &[String]) -> Result<Graph, GraphError> {
        for name in outputs {
            match self.take(name) {
                Some(Value::Live(live)) => self.answer(&format!("output \"{name}\""), live)?,
                Some(_) => {}
                None => return Err(GraphError::Output(format!("nothing gives \"{name}\""))),
            }
        }
        let none = || GraphError::Output("none depends on what goes in".to_owned());
        let answer = self.answer.take().ok_or_else(none)?;
        if answer.base != self.layers.len() {
            return Err(GraphError::Output("functions come after it, which nothing uses: remove them".to_owned()));
        }
        let mut affine = answer.affine;
        // A function on the very answer is the client's: it needs no bootstrap there.
        if affine.is_identity()
            && let Some(of) = self.layers.pop()
        {
            self.note(format!("{} at the end is left to the client", of.name));
            affine = of.affine;
            self.last.clone_from(&of.name);
            if of.function == Some(Function::Sigmoid) && affine.rows.len() == 1 && self.labels.len() != 1 {
                affine.rows = both_signs(affine.rows.swap_remove(0));
                self.classes = true;
            }
        } else if is_sigmoid_pair(&affine)
            && self.layers.last().is_some_and(|layer| layer.function == Some(Function::Sigmoid))
            && let Some(mut of) = self.layers.pop()
        {
            self.note(format!("{} at the end is left to the client: it changes no order", of.name));
            of.affine.rows = both_signs(of.affine.rows.swap_remove(0));
            affine = of.affine;
            self.classes = true;
        }
        if affine.weights() == 0 {
            return Err(none());
        }
        let rows = affine.rows.len();
        if self.classes && self.labels.is_empty() {
            self.labels = (0..rows).map(|class| class.to_string()).collect();
        }
        if !self.labels.is_empty() && self.labels.len() != rows {
            return Err(GraphError::Output(format!("there are {} labels for {rows} values", self.labels.len())));
        }
        self.layers.push(GraphLayer { name: self.last, affine, function: None });
        Ok(Graph { layers: self.layers, labels: self.labels, notes: self.notes })
    }
}

/// Two scores of one: the second is the larger where it is positive.
fn both_signs(row: Sum) -> Vec<Sum> {
    let negated = row.weights.iter().map(|(place, weight)| (*place, -weight)).collect();
    vec![Sum { bias: -row.bias, weights: negated }, row]
}

/// True for `[1 - s, s]`, the probabilities of two classes.
fn is_sigmoid_pair(affine: &Affine) -> bool {
    affine.columns == 1 && affine.rows[..] == [Sum::scaled(0, -1.0, 1.0), Sum::scaled(0, 1.0, 0.0)]
}

fn class_labels(node: &Node, ints: &str) -> Result<Vec<String>, GraphError> {
    if let Some(labels) = node.ints(ints)?.filter(|labels| !labels.is_empty()) {
        return Ok(labels.iter().map(ToString::to_string).collect());
    }
    Ok(node.texts("classlabels_strings")?.unwrap_or_default())
}

fn tensor_labels(tensor: &Tensor) -> Vec<String> {
    if tensor.texts.is_empty() {
        tensor.values.iter().map(ToString::to_string).collect()
    } else {
        tensor.texts.clone()
    }
}
