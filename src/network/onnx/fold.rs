//! Folds BatchNorm into the convolution before it: `w' = w·γ/√(σ²+ε)`, `b' = β − μ·γ/√(σ²+ε)`.
//!
//! Invariant: every weight is checked (there, shape, finite) before a graph holds any of it.

use super::{OnnxError, Tensor, Weights};
use crate::network::{Conv, Net, Norm};

/// A convolution with its BatchNorm folded in.
pub struct FoldedConv {
    /// `[out, in / groups, k, k]`.
    pub weight: Vec<f32>,
    /// `[out]`.
    pub bias: Vec<f32>,
}

/// Shape of a convolution's weight.
pub fn kernel_shape(conv: &Conv) -> [usize; 4] {
    [conv.outputs, conv.inputs / conv.groups, conv.kernel, conv.kernel]
}

/// The tensor `name`, checked against `wanted`.
pub fn checked_tensor<'a>(weights: &'a Weights, name: &str, wanted: &[usize]) -> Result<&'a Tensor, OnnxError> {
    let tensor = weights.get(name).ok_or_else(|| OnnxError::Missing(name.into()))?;
    if tensor.shape != wanted || tensor.data.len() != wanted.iter().product::<usize>() {
        return Err(OnnxError::Shape {
            name: name.into(),
            found: tensor.shape.clone(),
            values: tensor.data.len(),
            wanted: wanted.to_vec(),
        });
    }
    if tensor.data.iter().all(|v| v.is_finite()) { Ok(tensor) } else { Err(OnnxError::NotFinite(name.into())) }
}

/// BatchNorm `name` as a factor and a shift per channel, computed in f64: `γ/√(σ²+ε)`, `β − μ·γ/√(σ²+ε)`.
pub fn batch_norm_factors(
    net: &Net,
    name: &str,
    channels: usize,
    weights: &Weights,
) -> Result<Vec<(f64, f64)>, OnnxError> {
    let norm = |part: &str| checked_tensor(weights, &format!("{name}.bn.{part}"), &[channels]).map(|t| &t.data);
    let (gamma, beta, mean, variance) = (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
    if variance.iter().any(|v| *v < 0.0) {
        return Err(OnnxError::NotFinite(format!("{name}.bn.running_var")));
    }
    let of = |channel: usize| {
        let factor = f64::from(gamma[channel]) / (f64::from(variance[channel]) + net.bn_eps).sqrt();
        (factor, f64::from(beta[channel]) - f64::from(mean[channel]) * factor)
    };
    Ok((0..channels).map(of).collect())
}

/// Folds one convolution, computing in f64; one with a bias or nothing instead of BatchNorm is as it is.
pub fn fold(net: &Net, conv: &Conv, weights: &Weights) -> Result<FoldedConv, OnnxError> {
    let Tensor { data: weight, .. } = checked_tensor(weights, &format!("{}.weight", conv.name), &kernel_shape(conv))?;
    let factors = match conv.norm {
        Norm::Bias => {
            let bias = checked_tensor(weights, &format!("{}.bias", conv.name), &[conv.outputs])?;
            return Ok(FoldedConv { weight: weight.clone(), bias: bias.data.clone() });
        }
        Norm::None => return Ok(FoldedConv { weight: weight.clone(), bias: vec![0.0; conv.outputs] }),
        Norm::Batch => batch_norm_factors(net, &conv.name, conv.outputs, weights)?,
    };
    let mut folded = FoldedConv { weight: Vec::with_capacity(weight.len()), bias: Vec::with_capacity(conv.outputs) };
    for (kernel, (factor, shift)) in weight.chunks(weight.len() / conv.outputs).zip(factors) {
        folded.weight.extend(kernel.iter().map(|w| (f64::from(*w) * factor) as f32));
        folded.bias.push(shift as f32);
    }
    Ok(folded)
}
