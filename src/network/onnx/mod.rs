//! Named weights → ONNX bytes, float32 and int8; and a float32 graph of ours → named weights.
//!
//! Invariant: this module knows no training framework and opens no file. What it writes takes `image` (uint8,
//! `[batch, side, side, 3]`, any batch) and gives `embedding` (`[batch, features]`) and `logits` (`[batch, classes]`).

mod float;
mod fold;
mod graph;
mod proto;
mod quantize;
mod ranges;
mod read;

use std::collections::BTreeMap;

pub use float::{export, export_trunk};
pub use quantize::quantize;
pub use read::read;

/// A float tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// As many values as the shape's product.
    pub data: Vec<f32>,
}

/// Tensors by the names that [`crate::network`] lists.
pub type Weights = BTreeMap<String, Tensor>;

/// Why weights did not become a graph.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// A weight is not there.
    #[error("the weight `{0}` is missing")]
    Missing(String),
    /// A weight has another shape than the network wants.
    #[error("the weight `{name}` has shape {found:?} and {values} values, the network wants {wanted:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// Its number of values.
        values: usize,
        /// What the network wants.
        wanted: Vec<usize>,
    },
    /// A weight is infinite or not a number, or a running variance is negative.
    #[error("the weight `{0}` holds a value that is not a finite number (or a negative variance)")]
    NotFinite(String),
    /// A file is no graph that was written here.
    #[error("this is no ONNX file of ours: {0}")]
    File(String),
    /// Ranges can't be measured without pictures.
    #[error("int8 needs calibration pictures to measure the ranges of activations; none were given")]
    NoPictures,
    /// Running the float graph over the calibration pictures failed.
    #[error("calibration: {0}")]
    Calibration(#[from] crate::student::engine::EngineError),
}

/// Weights of the right names and shapes that compute nothing: convolutions and head 0, BatchNorm the identity. For
/// trying a provider out without a trained student.
pub fn blank_weights(net: &crate::network::Net, classes: usize) -> Weights {
    let tensor =
        |shape: &[usize], value: f32| Tensor { shape: shape.to_vec(), data: vec![value; shape.iter().product()] };
    let mut weights = Weights::new();
    for conv in net.convs() {
        let kernel = [conv.outputs, conv.inputs / conv.groups, conv.kernel, conv.kernel];
        weights.insert(format!("{}.weight", conv.name), tensor(&kernel, 0.0));
    }
    for (name, width, value) in net.blocks.iter().flat_map(crate::network::Block::norm_weights) {
        weights.insert(name, tensor(&[width], value));
    }
    weights.insert("head.weight".into(), tensor(&[classes, net.features], 0.0));
    weights.insert("head.bias".into(), tensor(&[classes], 0.0));
    weights
}
