//! Ranges of activations over calibration pictures: lowest and highest value seen.
//!
//! Cutting the range where the squared error is least ("MSE", arXiv:2106.08295 §3.1) was tried. With ImageNet weights on
//! 192 photos of fish it kept 87.5 % of the answers against 86.5 % here, at the same cosine of embeddings (0.992); with
//! random weights 86 % against 93 %. ReLU6 bounds most ranges already, so the plain rule stays.

use super::OnnxError;
use crate::student::engine;

/// The interval that 0–255 will be spread over.
#[derive(Clone, Copy, Debug, Default)]
pub struct ValueRange {
    /// Lowest value seen, at most 0.
    pub low: f32,
    /// Highest value seen, at least 0.
    pub high: f32,
}

/// Runs the float graph over the pictures and returns the range of each of its outputs `names`.
pub fn observe(onnx: &[u8], pictures: &[Vec<u8>], side: usize, names: &[String]) -> Result<Vec<ValueRange>, OnnxError> {
    let mut ranges = vec![ValueRange::default(); names.len()];
    engine::observe(onnx, pictures, side, names, |index, values| {
        let ValueRange { low, high } = &mut ranges[index];
        for v in values {
            (*low, *high) = (low.min(*v), high.max(*v));
        }
    })?;
    Ok(ranges)
}
