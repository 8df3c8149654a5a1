//! Network architectures as data: the learning program runs the description that the ONNX writer ([`onnx`]) exports, so
//! the two cannot drift apart.
//!
//! Every network is: input uint8 RGB, NHWC → `(x / 255 − mean) / std` → blocks of convolutions, each with folded or
//! live BatchNorm or a bias → global average pooling (the embedding) → dropout → one linear layer named `head`.
//!
//! Weight names: `<conv>.weight` of shape `[out, in / groups, k, k]`; `<conv or pre-activation>.bn.{weight,bias,running_mean,
//! running_var}` or `<conv>.bias` of shape `[out]`; `head.weight` of shape `[classes, features]`, `head.bias` of shape `[classes]`.

mod architectures;
pub mod onnx;

pub use architectures::{GRAY, NAMES, by_name, digits, efficientnet_lite0, small, small_wide, wrn_28_2};

/// What follows a convolution's BatchNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing: the last convolution of an inverted residual is linear (MobileNetV2, arXiv:1801.04381 §3.2).
    Linear,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `max(x, 0.1 x)`: [`LEAK`].
    LeakyRelu,
}

/// Slope of [`Activation::LeakyRelu`] below 0 (FixMatch's WRN-28-2 has 0.1).
pub const LEAK: f64 = 0.1;

/// What a convolution's outputs are shifted by before the activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// BatchNorm.
    Batch,
    /// A learned bias: `<conv>.bias` of shape `[out]`.
    Bias,
    /// Nothing.
    None,
}

/// A convolution, its BatchNorm or bias, and its activation.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Prefix of its weights' names.
    pub name: String,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Kernel side in pixels.
    pub kernel: usize,
    /// Stride in pixels.
    pub stride: usize,
    /// Groups; equal to `inputs` for a depthwise convolution.
    pub groups: usize,
    /// Zero padding: top, left, bottom, right. TensorFlow's "same" pads the far side more at stride 2.
    pub padding: [usize; 4],
    /// BatchNorm or bias.
    pub norm: Norm,
    /// What follows.
    pub activation: Activation,
}

/// BatchNorm and activation of what comes into a block ("pre-activation", He et al. 2016, arXiv:1603.05027).
#[derive(Clone, Debug, PartialEq)]
pub struct PreActivation {
    /// Prefix of its weights' names.
    pub name: String,
    /// Channels.
    pub channels: usize,
    /// What follows BatchNorm.
    pub activation: Activation,
}

/// A run of convolutions, with or without a skip connection around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Applied first; the skip connection goes around it too.
    pub pre_activation: Option<PreActivation>,
    /// Applied in order.
    pub convs: Vec<Conv>,
    /// True when the block's input is added to its output.
    pub skip: bool,
    /// Fits that input to the output where they differ in shape.
    pub shortcut: Option<Conv>,
    /// Dropout of the block's input while training.
    pub dropout: f64,
}

/// A whole network up to its classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Net {
    /// One of [`NAMES`].
    pub name: &'static str,
    /// Side of the square input in pixels.
    pub input: usize,
    /// Mean per channel, of values scaled to 0–1.
    pub mean: [f32; 3],
    /// Standard deviation per channel, of values scaled to 0–1.
    pub std: [f32; 3],
    /// BatchNorm's ε.
    pub bn_eps: f64,
    /// BatchNorm's momentum as PyTorch counts it (share of the new batch).
    pub bn_momentum: f64,
    /// The trunk.
    pub blocks: Vec<Block>,
    /// Width of the embedding.
    pub features: usize,
    /// Dropout before the classifier while training.
    pub dropout: f64,
}

/// Names of the weights of the BatchNorm `name`, with the value that changes nothing.
fn batch_norm(name: &str) -> [(String, f32); 4] {
    [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)]
        .map(|(part, value)| (format!("{name}.bn.{part}"), value))
}

impl Block {
    /// Its convolutions in order, the shortcut's last.
    pub fn all_convs(&self) -> impl Iterator<Item = &Conv> {
        self.convs.iter().chain(&self.shortcut)
    }

    /// Names and widths of the weights that shift and scale channels, with the value that changes nothing.
    pub fn norm_weights(&self) -> impl Iterator<Item = (String, usize, f32)> {
        let of_pre_activation = self
            .pre_activation
            .iter()
            .flat_map(|pre_activation| batch_norm(&pre_activation.name).map(|(n, v)| (n, pre_activation.channels, v)));
        let of_convs = self.all_convs().flat_map(|conv| {
            let names: Vec<_> = match conv.norm {
                Norm::Batch => batch_norm(&conv.name).into(),
                Norm::Bias => vec![(format!("{}.bias", conv.name), 0.0)],
                Norm::None => vec![],
            };
            names.into_iter().map(|(name, value)| (name, conv.outputs, value))
        });
        of_pre_activation.chain(of_convs)
    }

    /// Names of everything in it that has weights.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pre_activation
            .iter()
            .map(|pre_activation| pre_activation.name.as_str())
            .chain(self.all_convs().map(|conv| conv.name.as_str()))
    }
}

impl Net {
    /// All convolutions in order.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.blocks.iter().flat_map(Block::all_convs)
    }
}
