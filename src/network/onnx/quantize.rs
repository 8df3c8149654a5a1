//! The int8 graph: static post-training quantisation (Jacob et al. 2018, arXiv:1712.05877; Nagel et al. 2021,
//! arXiv:2106.08295 §3), written as QuantizeLinear/DequantizeLinear pairs that ONNX Runtime fuses into QLinearConv and
//! QLinearAdd.
//!
//! Weights are int8, symmetric, one scale per output channel; activations uint8 with one scale and zero point per
//! tensor; biases int32 at the product of both scales. Pooling, embedding and classifier stay in float.
//!
//! Invariant: no Clip is written; after ReLU and ReLU6 the zero point is 0, and after ReLU6 the range ends at 6 or below,
//! so that the saturation of uint8 is the clipping.
//!
//! uint8 × int8 is what VNNI instructions multiply exactly. Older x86 CPUs (AVX2, AVX-512 without VNNI) add pairs of
//! products in 16 bits, which saturates; `engine` sets `session.x64quantprecision` there, instead of weights of 7 bits
//! that would cost accuracy everywhere.

use super::{
    OnnxError, Weights,
    float::{
        NORMALISED, attributes, float_graph, leaky_relu, normalise, output_of, planes, pre_activate, sum_of, write_head,
    },
    fold::{FoldedConv, fold, kernel_shape},
    graph::{Graph, int},
    ranges::{ValueRange, observe},
};
use crate::network::{Activation, Conv, LEAK, Net};

/// Writes `net` with `weights` as an int8 ONNX file; `calibration` holds pictures of `side * side * 3` bytes like those
/// that will be seen. A hundred are enough: only ranges are taken from them.
///
/// # Errors
/// [`OnnxError`], naming the weight that is missing or ill-shaped, or what ONNX Runtime said to the calibration run.
pub fn quantize(net: &Net, weights: &Weights, classes: usize, calibration: &[Vec<u8>]) -> Result<Vec<u8>, OnnxError> {
    let observed = observed_values(net);
    let float = float_graph(net, weights, classes, &observed)?;
    if calibration.is_empty() {
        return Err(OnnxError::NoPictures);
    }
    let ranges = observe(&float, calibration, net.input, &observed)?;
    let mut ranges = ranges.into_iter();
    let mut next_range = || ranges.next().unwrap_or_default();

    let mut graph = Graph::default();
    let image = graph.image(net.input);
    let mut value = input(&mut graph, net, &image, next_range());
    for (index, block) in net.blocks.iter().enumerate() {
        let input = value.clone();
        if let Some(pre_activation) = &block.pre_activation {
            let float = value.dequantize(&mut graph, &pre_activation.name);
            let raw = pre_activate(&mut graph, net, pre_activation, weights, &float)?;
            value = activated(
                &mut graph,
                pre_activation.activation,
                &format!("{}.out", pre_activation.name),
                &raw,
                next_range(),
            );
        }
        for conv in &block.convs {
            value = convolve(&mut graph, conv, &fold(net, conv, weights)?, &value, next_range());
        }
        if block.skip {
            let input = match &block.shortcut {
                Some(conv) => convolve(&mut graph, conv, &fold(net, conv, weights)?, &input, next_range()),
                None => input,
            };
            let name = sum_of(index);
            let (a, b) = (
                value.dequantize(&mut graph, &format!("{name}.a")),
                input.dequantize(&mut graph, &format!("{name}.b")),
            );
            let sum = graph.node("Add", &name, &[&a, &b], vec![]);
            value = QuantizedValue::new(&mut graph, &sum, Quantization::of(next_range(), Activation::Linear));
        }
    }
    let trunk = value.dequantize(&mut graph, "trunk");
    write_head(&mut graph, net, weights, classes, &trunk)?;
    Ok(graph.encode(net.name))
}

/// The values whose ranges are needed, in the order in which [`quantize`] meets them.
fn observed_values(net: &Net) -> Vec<String> {
    let mut names = vec![NORMALISED.to_owned()];
    for (index, block) in net.blocks.iter().enumerate() {
        names.extend(block.pre_activation.iter().map(|pre_activation| format!("{}.out", pre_activation.name)));
        names.extend(block.all_convs().map(output_of));
        names.extend(block.skip.then(|| sum_of(index)));
    }
    names
}

/// `real = scale · (stored − zero)`.
#[derive(Clone, Copy)]
struct Quantization {
    scale: f32,
    zero: u8,
}

impl Quantization {
    /// Spreads 0–255 over `range`, which is widened to hold 0 exactly: padding is 0.
    fn of(range: ValueRange, activation: Activation) -> Self {
        let (low, high) = match activation {
            Activation::Linear | Activation::LeakyRelu => (range.low.min(0.0), range.high.max(0.0)),
            Activation::Relu => (0.0, range.high),
            Activation::Relu6 => (0.0, range.high.min(6.0)),
        };
        let scale = ((high - low) / 255.0).max(1e-6);
        Self { scale, zero: (-low / scale).round().clamp(0.0, 255.0) as u8 }
    }
}

/// A uint8 value and the constants to read it with.
#[derive(Clone)]
struct QuantizedValue {
    name: String,
    scale: f32,
    constants: [String; 2],
}

impl QuantizedValue {
    fn constants(graph: &mut Graph, name: &str, Quantization { scale, zero }: Quantization) -> [String; 2] {
        [graph.floats(&format!("{name}.scale"), &[], &[scale]), graph.u8(&format!("{name}.zero"), zero)]
    }

    /// Quantises the float value `name`.
    fn new(graph: &mut Graph, name: &str, quantization: Quantization) -> Self {
        let constants = Self::constants(graph, name, quantization);
        let inputs = [name, &constants[0], &constants[1]];
        let name = graph.node("QuantizeLinear", &format!("{name}.u8"), &inputs, vec![]);
        Self { name, scale: quantization.scale, constants }
    }

    /// A float reading of it for one consumer; ONNX Runtime fuses a pair only if nobody else reads it.
    fn dequantize(&self, graph: &mut Graph, reader: &str) -> String {
        let inputs = [self.name.as_str(), &self.constants[0], &self.constants[1]];
        graph.node("DequantizeLinear", &format!("{reader}.in"), &inputs, vec![])
    }
}

/// The picture itself is already uint8. When one normalisation serves all channels and the mean is a whole gray level,
/// `(x / 255 − mean) / std` IS a scale and a zero point, and nothing is computed at all; otherwise the normalised
/// picture is quantised like any activation.
fn input(graph: &mut Graph, net: &Net, image: &str, range: ValueRange) -> QuantizedValue {
    let planes = planes(graph, image);
    let level = net.mean[0] * 255.0;
    let uniform = net.mean.iter().all(|m| *m == net.mean[0]) && net.std.iter().all(|s| *s == net.std[0]);
    if uniform && (level - level.round()).abs() < 1e-3 {
        let quantization =
            Quantization { scale: 1.0 / (255.0 * net.std[0]), zero: level.round().clamp(0.0, 255.0) as u8 };
        let constants = QuantizedValue::constants(graph, &planes, quantization);
        return QuantizedValue { name: planes, scale: quantization.scale, constants };
    }
    let normalised = normalise(graph, net, &planes);
    QuantizedValue::new(graph, &normalised, Quantization::of(range, Activation::Linear))
}

fn convolve(
    graph: &mut Graph,
    conv: &Conv,
    folded: &FoldedConv,
    input: &QuantizedValue,
    range: ValueRange,
) -> QuantizedValue {
    let name = &conv.name;
    let per_channel = folded.weight.len() / conv.outputs;
    let (mut scales, mut weight, mut bias) = (vec![], Vec::with_capacity(folded.weight.len()), vec![]);
    for (kernel, b) in folded.weight.chunks(per_channel).zip(&folded.bias) {
        let top = kernel.iter().fold(0.0_f32, |top, w| top.max(w.abs()));
        // A channel that BatchNorm all but switched off has tiny weights and a bias that int32 must still hold.
        let scale = (top / 127.0).max(b.abs() / input.scale / (1 << 30) as f32).max(1e-12);
        weight.extend(kernel.iter().map(|w| (w / scale).round().clamp(-127.0, 127.0) as i8));
        bias.push((f64::from(*b) / (f64::from(input.scale) * f64::from(scale))).round() as i32);
        scales.push(scale);
    }
    let axis = || vec![int("axis", 0)];
    let bias_scales: Vec<f32> = scales.iter().map(|s| s * input.scale).collect();
    let stored = graph.i8s(&format!("{name}.weight"), &kernel_shape(conv), &weight);
    let scale = graph.floats(&format!("{name}.weight.scale"), &[conv.outputs], &scales);
    let zero = graph.i8s(&format!("{name}.weight.zero"), &[conv.outputs], &vec![0; conv.outputs]);
    let weight = graph.node("DequantizeLinear", &format!("{name}.weight.in"), &[&stored, &scale, &zero], axis());
    let stored = graph.i32s(&format!("{name}.bias"), &[conv.outputs], &bias);
    let scale = graph.floats(&format!("{name}.bias.scale"), &[conv.outputs], &bias_scales);
    let bias = graph.node("DequantizeLinear", &format!("{name}.bias.in"), &[&stored, &scale], axis());
    let input = input.dequantize(graph, name);
    if conv.activation == Activation::LeakyRelu {
        // In uint8 between the two, or ONNX Runtime computes the convolution in float.
        let raw = graph.node("Conv", &format!("{name}.raw"), &[&input, &weight, &bias], attributes(conv));
        let before = ValueRange { low: range.low / LEAK as f32, high: range.high };
        let raw = QuantizedValue::new(graph, &raw, Quantization::of(before, Activation::Linear));
        let raw = raw.dequantize(graph, &format!("{name}.activation"));
        return activated(graph, conv.activation, &output_of(conv), &raw, range);
    }
    let out = graph.node("Conv", &output_of(conv), &[&input, &weight, &bias], attributes(conv));
    QuantizedValue::new(graph, &out, Quantization::of(range, conv.activation))
}

/// The float value `raw` through its activation, as uint8; see the invariant for why ReLU needs no node.
fn activated(graph: &mut Graph, activation: Activation, name: &str, raw: &str, range: ValueRange) -> QuantizedValue {
    let out = match activation {
        Activation::LeakyRelu => leaky_relu(graph, name, raw),
        _ => raw.to_owned(),
    };
    QuantizedValue::new(graph, &out, Quantization::of(range, activation))
}
