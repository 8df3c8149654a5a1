//! The float32 graph.

use super::{
    OnnxError, Weights,
    fold::{fold, get, shape},
    graph::{Dim, Graph, int, ints},
};
use crate::{
    nets::{Activation, Conv, Net},
    onnx::proto::AttributeProto,
};

/// Name of the normalised picture.
pub(super) const NORMALISED: &str = "normalised";

/// Writes `net` with `weights` as an ONNX file: BatchNorm folded, normalisation inside the graph.
///
/// # Errors
/// [`OnnxError`], naming the weight that is missing or ill-shaped.
pub fn export(net: &Net, weights: &Weights, classes: usize) -> Result<Vec<u8>, OnnxError> {
    build(net, weights, classes, &[])
}

/// The float graph with the values `watched` as further outputs.
pub(super) fn build(net: &Net, weights: &Weights, classes: usize, watched: &[String]) -> Result<Vec<u8>, OnnxError> {
    let mut graph = Graph::default();
    let value = trunk(&mut graph, net, weights, net.blocks.len())?;
    finish(&mut graph, net, weights, classes, &value)?;
    for name in watched {
        graph.output(name, &[Dim::Batch, Dim::Any, Dim::Any, Dim::Any]);
    }
    Ok(graph.encode(net.name))
}

/// Writes the blocks before `cut` alone: its one output, `activations` (`[batch, channels, height, width]`), is what
/// block `cut` takes; after the last block it is pooled to the embedding `[batch, features, 1, 1]`.
///
/// # Errors
/// As for [`export`].
pub fn export_trunk(net: &Net, weights: &Weights, cut: usize) -> Result<Vec<u8>, OnnxError> {
    let mut graph = Graph::default();
    let value = trunk(&mut graph, net, weights, cut)?;
    let last = if cut == net.blocks.len() { "GlobalAveragePool" } else { "Identity" };
    graph.node(last, "activations", &[&value], vec![]);
    graph.output("activations", &[Dim::Batch, Dim::Any, Dim::Any, Dim::Any]);
    Ok(graph.encode(net.name))
}

/// Picture → what the block `cut` takes; returns its name.
fn trunk(graph: &mut Graph, net: &Net, weights: &Weights, cut: usize) -> Result<String, OnnxError> {
    let image = graph.image(net.input);
    let planes = planes(graph, &image);
    let mut value = normalise(graph, net, &planes);
    let (low, high) = (graph.floats("relu6.low", &[], &[0.0]), graph.floats("relu6.high", &[], &[6.0]));
    for (index, block) in net.blocks[..cut].iter().enumerate() {
        let entry = value.clone();
        for conv in &block.convs {
            let folded = fold(net, conv, weights)?;
            let weight = graph.floats(&format!("{}.weight", conv.name), &shape(conv), &folded.weight);
            let bias = graph.floats(&format!("{}.bias", conv.name), &[conv.outputs], &folded.bias);
            let inputs = [value.as_str(), &weight, &bias];
            value = match conv.activation {
                Activation::Linear => graph.node("Conv", &output_of(conv), &inputs, attributes(conv)),
                Activation::Relu => {
                    let raw = graph.node("Conv", &format!("{}.raw", conv.name), &inputs, attributes(conv));
                    graph.node("Relu", &output_of(conv), &[&raw], vec![])
                }
                Activation::Relu6 => {
                    let raw = graph.node("Conv", &format!("{}.raw", conv.name), &inputs, attributes(conv));
                    graph.node("Clip", &output_of(conv), &[&raw, &low, &high], vec![])
                }
            };
        }
        if block.skip {
            value = graph.node("Add", &sum_of(index), &[&value, &entry], vec![]);
        }
    }
    Ok(value)
}

/// NHWC → NCHW, still bytes: a quarter of the traffic of transposing floats.
pub(super) fn planes(graph: &mut Graph, image: &str) -> String {
    graph.node("Transpose", "planes", &[image], vec![ints("perm", [0, 3, 1, 2])])
}

/// `(x / 255 − mean) / std` as one multiply and one add. It is not folded into the first convolution, whose zero padding
/// stands for the mean colour after normalisation, not for black before it.
pub(super) fn normalise(graph: &mut Graph, net: &Net, planes: &str) -> String {
    let floats = graph.node("Cast", "floats", &[planes], vec![int("to", super::proto::FLOAT.into())]);
    let factor: Vec<f32> = net.std.iter().map(|s| (1.0 / (255.0 * f64::from(*s))) as f32).collect();
    let shift: Vec<f32> = net.mean.iter().zip(net.std).map(|(m, s)| (-f64::from(*m) / f64::from(s)) as f32).collect();
    let factor = graph.floats("normalise.factor", &[1, 3, 1, 1], &factor);
    let shift = graph.floats("normalise.shift", &[1, 3, 1, 1], &shift);
    let scaled = graph.node("Mul", "normalise.scaled", &[&floats, &factor], vec![]);
    graph.node("Add", NORMALISED, &[&scaled, &shift], vec![])
}

/// Name of a convolution's output after its activation.
pub(super) fn output_of(conv: &Conv) -> String {
    format!("{}.out", conv.name)
}

/// Name of the sum that a skip connection makes at the end of block `index`.
pub(super) fn sum_of(index: usize) -> String {
    format!("sum{index}")
}

/// A convolution's attributes.
pub(super) fn attributes(conv: &Conv) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", [conv.kernel; 2]),
        ints("strides", [conv.stride; 2]),
        ints("pads", conv.padding),
        int("group", conv.groups as i64),
    ]
}

/// Pooling, embedding and classifier, in float in both files: they are 0.3 % of the multiplications, and the embedding
/// keeps its precision.
pub(super) fn finish(
    graph: &mut Graph,
    net: &Net,
    weights: &Weights,
    classes: usize,
    trunk: &str,
) -> Result<(), OnnxError> {
    let weight = &get(weights, "head.weight", &[classes, net.features])?.data;
    let bias = &get(weights, "head.bias", &[classes])?.data;
    let pooled = graph.node("GlobalAveragePool", "pooled", &[trunk], vec![]);
    let embedding = graph.node("Flatten", "embedding", &[&pooled], vec![]);
    let weight = graph.floats("head.weight", &[classes, net.features], weight);
    let bias = graph.floats("head.bias", &[classes], bias);
    graph.node("Gemm", "logits", &[&embedding, &weight, &bias], vec![int("transB", 1)]);
    graph.output("embedding", &[Dim::Batch, Dim::Fixed(net.features)]);
    graph.output("logits", &[Dim::Batch, Dim::Fixed(classes)]);
    Ok(())
}
