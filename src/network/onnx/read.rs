//! A float32 graph of ours → the weights that it was written from, BatchNorm still folded.

use std::collections::BTreeMap;

use prost::Message;

use super::{
    OnnxError, Tensor, Weights,
    fold::{checked_tensor, kernel_shape},
    proto::{FLOAT, ModelProto, TensorProto},
};
use crate::network::{Net, Norm};

/// The weights of `net` that compute what the float32 graph `onnx` computes, and its number of classes.
///
/// A folded BatchNorm can't be taken apart again: the kernel keeps its factor, and the BatchNorm that is put in its place
/// adds the bias alone (γ = 1, β = bias, μ = 0, σ² = 1 − ε). In evaluation mode that is the same function; its running
/// statistics say nothing of the pictures.
///
/// # Errors
/// [`OnnxError::File`] when the bytes are no such graph; else [`OnnxError`] with the weight that is missing or has another
/// shape: the graph is of another network.
pub fn read(net: &Net, onnx: &[u8]) -> Result<(Weights, usize), OnnxError> {
    let model = ModelProto::decode(onnx).map_err(|e| OnnxError::File(e.to_string()))?;
    let graph = model.graph.ok_or_else(|| OnnxError::File("it holds no graph".into()))?;
    let found: Weights = graph.initializer.into_iter().filter(|c| c.data_type == FLOAT).map(constant).collect();
    let classes = match found.get("head.bias").map(|bias| bias.shape.as_slice()) {
        Some(&[classes]) => classes,
        _ => return Err(OnnxError::Missing("head.bias".into())),
    };
    let of_net = |name: &str, shape: &[usize]| checked_tensor(&found, name, shape).cloned();
    let mut weights = Weights::new();
    for conv in net.convs() {
        let name = &conv.name;
        weights.insert(format!("{name}.weight"), of_net(&format!("{name}.weight"), &kernel_shape(conv))?);
        let bias = of_net(&format!("{name}.bias"), &[conv.outputs])?;
        match conv.norm {
            Norm::Batch => insert_norm(&mut weights, net, name, vec![1.0; conv.outputs], bias.data),
            Norm::Bias => drop(weights.insert(format!("{name}.bias"), bias)),
            Norm::None => {}
        }
    }
    for pre_activation in net.blocks.iter().filter_map(|block| block.pre_activation.as_ref()) {
        let (name, channels) = (&pre_activation.name, pre_activation.channels);
        let [factor, shift] = ["factor", "shift"].map(|part| of_net(&format!("{name}.{part}"), &[1, channels, 1, 1]));
        insert_norm(&mut weights, net, name, factor?.data, shift?.data);
    }
    weights.insert("head.weight".into(), of_net("head.weight", &[classes, net.features])?);
    weights.insert("head.bias".into(), of_net("head.bias", &[classes])?);
    Ok((weights, classes))
}

/// The BatchNorm that multiplies by `factor` and adds `shift`.
fn insert_norm(weights: &mut Weights, net: &Net, name: &str, factor: Vec<f32>, shift: Vec<f32>) {
    let channels = factor.len();
    let unit = (1.0 - net.bn_eps) as f32;
    let parts = BTreeMap::from([
        ("weight", factor),
        ("bias", shift),
        ("running_mean", vec![0.0; channels]),
        ("running_var", vec![unit; channels]),
    ]);
    for (part, data) in parts {
        weights.insert(format!("{name}.bn.{part}"), Tensor { shape: vec![channels], data });
    }
}

fn constant(tensor: TensorProto) -> (String, Tensor) {
    let data = tensor.raw_data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (tensor.name, Tensor { shape: tensor.dims.iter().map(|d| *d as usize).collect(), data })
}
