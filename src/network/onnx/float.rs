//! The float32 graph.

use super::{
    OnnxError, Weights,
    fold::{batch_norm_factors, checked_tensor, fold, kernel_shape},
    graph::{Dim, Graph, float, int, ints},
};
use crate::network::{Activation, Conv, LEAK, Net, PreActivation, onnx::proto::AttributeProto};

/// Name of the normalised picture.
pub(super) const NORMALISED: &str = "normalised";

/// Writes `net` with `weights` as an ONNX file: BatchNorm folded, normalisation inside the graph.
///
/// # Errors
/// [`OnnxError`], naming the weight that is missing or ill-shaped.
pub fn export(net: &Net, weights: &Weights, classes: usize) -> Result<Vec<u8>, OnnxError> {
    float_graph(net, weights, classes, &[])
}

/// The float graph with the values `observed` as further outputs.
pub(super) fn float_graph(
    net: &Net,
    weights: &Weights,
    classes: usize,
    observed: &[String],
) -> Result<Vec<u8>, OnnxError> {
    let mut graph = Graph::default();
    let value = trunk(&mut graph, net, weights, net.blocks.len())?;
    write_head(&mut graph, net, weights, classes, &value)?;
    for name in observed {
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
    let mut clip = None;
    for (index, block) in net.blocks[..cut].iter().enumerate() {
        let input = value.clone();
        if let Some(pre_activation) = &block.pre_activation {
            let raw = pre_activate(graph, net, pre_activation, weights, &value)?;
            value =
                activate(graph, pre_activation.activation, &format!("{}.out", pre_activation.name), &raw, &mut clip);
        }
        for conv in &block.convs {
            value = convolve(graph, net, conv, weights, &value, &mut clip)?;
        }
        if block.skip {
            let input = match &block.shortcut {
                Some(conv) => convolve(graph, net, conv, weights, &input, &mut clip)?,
                None => input,
            };
            value = graph.node("Add", &sum_of(index), &[&value, &input], vec![]);
        }
    }
    Ok(value)
}

/// BatchNorm that can't be folded, because a skip connection goes around it: one multiply and one add.
pub(super) fn pre_activate(
    graph: &mut Graph,
    net: &Net,
    pre_activation: &PreActivation,
    weights: &Weights,
    value: &str,
) -> Result<String, OnnxError> {
    let (factors, shifts): (Vec<f64>, Vec<f64>) =
        batch_norm_factors(net, &pre_activation.name, pre_activation.channels, weights)?.into_iter().unzip();
    let mut constant = |part: &str, values: Vec<f64>| {
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        graph.floats(&format!("{}.{part}", pre_activation.name), &[1, pre_activation.channels, 1, 1], &values)
    };
    let (factor, shift) = (constant("factor", factors), constant("shift", shifts));
    let scaled = graph.node("Mul", &format!("{}.scaled", pre_activation.name), &[value, &factor], vec![]);
    Ok(graph.node("Add", &format!("{}.raw", pre_activation.name), &[&scaled, &shift], vec![]))
}

/// A convolution, BatchNorm folded in, and its activation.
fn convolve(
    graph: &mut Graph,
    net: &Net,
    conv: &Conv,
    weights: &Weights,
    value: &str,
    clip: &mut Option<[String; 2]>,
) -> Result<String, OnnxError> {
    let folded = fold(net, conv, weights)?;
    let weight = graph.floats(&format!("{}.weight", conv.name), &kernel_shape(conv), &folded.weight);
    let bias = graph.floats(&format!("{}.bias", conv.name), &[conv.outputs], &folded.bias);
    let inputs = [value, &weight, &bias];
    if conv.activation == Activation::Linear {
        return Ok(graph.node("Conv", &output_of(conv), &inputs, attributes(conv)));
    }
    let raw = graph.node("Conv", &format!("{}.raw", conv.name), &inputs, attributes(conv));
    Ok(activate(graph, conv.activation, &output_of(conv), &raw, clip))
}

/// The activation of `raw`, named `name`; `clip` holds ReLU6's bounds once they are written.
fn activate(
    graph: &mut Graph,
    activation: Activation,
    name: &str,
    raw: &str,
    clip: &mut Option<[String; 2]>,
) -> String {
    match activation {
        Activation::Linear => graph.node("Identity", name, &[raw], vec![]),
        Activation::Relu => graph.node("Relu", name, &[raw], vec![]),
        Activation::Relu6 => {
            let [low, high] = clip.get_or_insert_with(|| {
                [graph.floats("relu6.low", &[], &[0.0]), graph.floats("relu6.high", &[], &[6.0])]
            });
            graph.node("Clip", name, &[raw, low, high], vec![])
        }
        Activation::LeakyRelu => leaky_relu(graph, name, raw),
    }
}

/// `max(x, LEAK · x)`.
pub(super) fn leaky_relu(graph: &mut Graph, name: &str, raw: &str) -> String {
    graph.node("LeakyRelu", name, &[raw], vec![float("alpha", LEAK as f32)])
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
pub(super) fn write_head(
    graph: &mut Graph,
    net: &Net,
    weights: &Weights,
    classes: usize,
    trunk: &str,
) -> Result<(), OnnxError> {
    let weight = &checked_tensor(weights, "head.weight", &[classes, net.features])?.data;
    let bias = &checked_tensor(weights, "head.bias", &[classes])?.data;
    let pooled = graph.node("GlobalAveragePool", "pooled", &[trunk], vec![]);
    let embedding = graph.node("Flatten", "embedding", &[&pooled], vec![]);
    let weight = graph.floats("head.weight", &[classes, net.features], weight);
    let bias = graph.floats("head.bias", &[classes], bias);
    graph.node("Gemm", "logits", &[&embedding, &weight, &bias], vec![int("transB", 1)]);
    graph.output("embedding", &[Dim::Batch, Dim::Fixed(net.features)]);
    graph.output("logits", &[Dim::Batch, Dim::Fixed(classes)]);
    Ok(())
}
