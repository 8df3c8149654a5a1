//! The architectures themselves, each a function of its input side.
//!
//! Adding one takes a function that returns its [`Net`] and a row of [`ARCHITECTURES`].

use super::{Activation, Block, Conv, Net, Norm, PreActivation};

/// A network that can be asked for by name.
struct Architecture {
    name: &'static str,
    /// Side of its square input in pixels where nobody asks for another.
    side: usize,
    /// Input side in pixels → the network.
    build: fn(usize) -> Net,
}

const ARCHITECTURES: [Architecture; 4] = [
    Architecture { name: "efficientnet_lite0", side: 224, build: efficientnet_lite0 },
    Architecture { name: "small", side: 64, build: small },
    Architecture { name: "small_wide", side: 64, build: small_wide },
    Architecture { name: "wrn_28_2", side: 32, build: wrn_28_2 },
];

/// The names that [`by_name`] knows.
pub const NAMES: [&str; ARCHITECTURES.len()] = {
    let mut names = [""; ARCHITECTURES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = ARCHITECTURES[i].name;
        i += 1;
    }
    names
};

/// The network called `name`; `input` overrides its natural input side.
pub fn by_name(name: &str, input: Option<usize>) -> Option<Net> {
    let architecture = ARCHITECTURES.iter().find(|architecture| architecture.name == name)?;
    Some((architecture.build)(input.unwrap_or(architecture.side)))
}

/// EfficientNet-Lite0 (Tan & Le, arXiv:1905.11946, table 1; the Lite variant drops squeeze-and-excitation, uses ReLU6
/// and fixes stem and head). 3.4 M weights without the classifier; embedding 1,280 wide.
pub fn efficientnet_lite0(input: usize) -> Net {
    // (expansion, channels, repeats, stride, kernel)
    const STAGES: [(usize, usize, usize, usize, usize); 7] = [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ];
    let mut side = input;
    let mut blocks = vec![single(conv("stem", 3, 32, 3, 2, 1, &mut side, Activation::Relu6))];
    let mut channels = 32;
    for (expansion, width, repeats, stride, kernel) in STAGES {
        for repeat in 0..repeats {
            let stride = if repeat == 0 { stride } else { 1 };
            blocks.push(inverted_residual(blocks.len() - 1, channels, width, expansion, stride, kernel, &mut side));
            channels = width;
        }
    }
    blocks.push(single(conv("top", channels, 1280, 1, 1, 1, &mut side, Activation::Relu6)));
    Net {
        name: "efficientnet_lite0",
        input,
        mean: [127.0 / 255.0; 3],
        std: [128.0 / 255.0; 3],
        bn_eps: 1e-3,
        bn_momentum: 0.1, // published: 0.01, which leaves ImageNet's statistics in place for hundreds of steps
        blocks,
        features: 1280,
        dropout: 0.2,
    }
}

/// A small inverted-residual network for small crops (64² by default): about 90,000 weights, embedding 128 wide.
pub fn small(input: usize) -> Net {
    small_of_width("small", input, 1)
}

/// [`small`] with twice the channels: the larger student of a later round, embedding 256 wide.
pub fn small_wide(input: usize) -> Net {
    small_of_width("small_wide", input, 2)
}

fn small_of_width(name: &'static str, input: usize, width: usize) -> Net {
    const STAGES: [(usize, usize, usize, usize, usize); 5] =
        [(2, 16, 1, 1, 3), (4, 24, 2, 2, 3), (4, 40, 2, 2, 3), (4, 56, 1, 1, 3), (4, 64, 1, 2, 3)];
    let mut side = input;
    let mut blocks = vec![single(conv("stem", 3, 16 * width, 3, 2, 1, &mut side, Activation::Relu6))];
    let mut channels = 16 * width;
    for (expansion, outputs, repeats, stride, kernel) in STAGES {
        let outputs = outputs * width;
        for repeat in 0..repeats {
            let stride = if repeat == 0 { stride } else { 1 };
            blocks.push(inverted_residual(blocks.len() - 1, channels, outputs, expansion, stride, kernel, &mut side));
            channels = outputs;
        }
    }
    blocks.push(single(conv("top", channels, 128 * width, 1, 1, 1, &mut side, Activation::Relu6)));
    Net {
        name,
        input,
        mean: [0.5; 3],
        std: [0.25; 3],
        bn_eps: 1e-3,
        bn_momentum: 0.1,
        blocks,
        features: 128 * width,
        dropout: 0.1,
    }
}

/// WRN-28-2 (Zagoruyko & Komodakis 2016, arXiv:1605.07146, table 1) as FixMatch has it: pre-activation, leaky ReLU of
/// slope [`super::LEAK`], BatchNorm moved by a thousandth per step. 1.5 M weights; embedding 128 wide.
pub fn wrn_28_2(input: usize) -> Net {
    let mut side = input;
    let mut bare = |name: &str, inputs, outputs, kernel, stride, norm, activation| Conv {
        norm,
        ..conv(name, inputs, outputs, kernel, stride, 1, &mut side, activation)
    };
    let pre_activation =
        |name: &str, channels| Some(PreActivation { name: name.into(), channels, activation: Activation::LeakyRelu });
    let mut blocks = vec![single(bare("stem", 3, 16, 3, 1, Norm::None, Activation::Linear))];
    // The first residual's shortcut too takes what is activated already.
    blocks.push(Block {
        pre_activation: pre_activation("first", 16),
        convs: vec![],
        skip: false,
        shortcut: None,
        dropout: 0.0,
    });
    let mut channels = 16;
    for (scale, width) in [32, 64, 128].into_iter().enumerate() {
        for repeat in 0..4 {
            let name = format!("group{scale}.{repeat}");
            let stride = if scale > 0 && repeat == 0 { 2 } else { 1 };
            let one = bare(&format!("{name}.one"), channels, width, 3, stride, Norm::Batch, Activation::LeakyRelu);
            let two = bare(&format!("{name}.two"), width, width, 3, 1, Norm::None, Activation::Linear);
            let shortcut = Conv {
                kernel: 1,
                stride,
                padding: [0; 4],
                inputs: channels,
                name: format!("{name}.shortcut"),
                ..two.clone()
            };
            blocks.push(Block {
                pre_activation: if blocks.len() == 2 { None } else { pre_activation(&name, channels) },
                convs: vec![one, two],
                skip: true,
                shortcut: (channels != width).then_some(shortcut),
                dropout: 0.0,
            });
            channels = width;
        }
    }
    blocks.push(Block {
        pre_activation: pre_activation("last", channels),
        convs: vec![],
        skip: false,
        shortcut: None,
        dropout: 0.0,
    });
    Net {
        name: "wrn_28_2",
        input,
        mean: [0.5; 3],
        std: [0.5; 3],
        bn_eps: 1e-3,
        bn_momentum: 0.001,
        blocks,
        features: channels,
        dropout: 0.0,
    }
}

/// A perceptron over gray digits of 28² pixels: the mean of the three colours, then fully connected layers of `hidden`
/// units with ReLU, as in Lee 2013 (§4.1: one layer of 5,000) and Hinton et al. 2015 (§3). A layer is a convolution as
/// large as its input. Values are scaled to 0–1. `dropout` is that of the hidden units; of pixels two fifths as many are
/// dropped, 0.2 to 0.5 (Srivastava et al. 2014, appendix A.4).
///
/// Block 0, the mean, has nothing to learn: [`GRAY`] holds its weights.
pub fn digits(hidden: &[usize], dropout: f64) -> Net {
    let layer = |name: &str, inputs, outputs, kernel, activation| Conv {
        name: name.into(),
        inputs,
        outputs,
        kernel,
        stride: 1,
        groups: 1,
        padding: [0; 4],
        norm: Norm::Bias,
        activation,
    };
    let mut blocks = vec![single(layer("gray", 3, 1, 1, Activation::Linear))];
    let (mut inputs, mut kernel) = (1, 28);
    for (i, &outputs) in hidden.iter().enumerate() {
        let conv = layer(&format!("hidden{i}"), inputs, outputs, kernel, Activation::Relu);
        let dropout = if i == 0 { 0.4 * dropout } else { dropout };
        blocks.push(Block { dropout, ..single(conv) });
        (inputs, kernel) = (outputs, 1);
    }
    Net {
        name: "digits",
        input: 28,
        mean: [0.0; 3],
        std: [1.0; 3],
        bn_eps: 1e-3,
        bn_momentum: 0.1,
        blocks,
        features: inputs,
        dropout,
    }
}

/// Weight of each colour in the gray of [`digits`].
pub const GRAY: f32 = 1.0 / 3.0;

fn single(conv: Conv) -> Block {
    Block { pre_activation: None, convs: vec![conv], skip: false, shortcut: None, dropout: 0.0 }
}

/// Expand 1×1 → depthwise k×k → project 1×1 (linear), with a skip when shape allows.
fn inverted_residual(
    index: usize,
    inputs: usize,
    outputs: usize,
    expansion: usize,
    stride: usize,
    kernel: usize,
    side: &mut usize,
) -> Block {
    let wide = inputs * expansion;
    let mut convs = Vec::new();
    if expansion != 1 {
        convs.push(conv(&format!("block{index}.expand"), inputs, wide, 1, 1, 1, side, Activation::Relu6));
    }
    convs.push(conv(&format!("block{index}.depthwise"), wide, wide, kernel, stride, wide, side, Activation::Relu6));
    convs.push(conv(&format!("block{index}.project"), wide, outputs, 1, 1, 1, side, Activation::Linear));
    Block { pre_activation: None, convs, skip: stride == 1 && inputs == outputs, shortcut: None, dropout: 0.0 }
}

#[allow(clippy::too_many_arguments)] // the eight numbers that make a convolution
fn conv(
    name: &str,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
    side: &mut usize,
    activation: Activation,
) -> Conv {
    // TensorFlow "same": output = ceil(side / stride), the odd pixel of padding goes to the bottom and right.
    let output = side.div_ceil(stride);
    let total = ((output - 1) * stride + kernel).saturating_sub(*side);
    let (near, far) = (total / 2, total - total / 2);
    *side = output;
    let padding = [near, near, far, far];
    Conv { name: name.into(), inputs, outputs, kernel, stride, groups, padding, norm: Norm::Batch, activation }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lite0_has_the_published_size() {
        let net = efficientnet_lite0(224);
        let weights: usize =
            net.convs().map(|c| c.outputs * c.inputs / c.groups * c.kernel * c.kernel + 2 * c.outputs).sum();
        // 4,652,008 trainable values with the 1,000-class head of 1,281,000, as the released checkpoint has.
        assert_eq!(weights + 1281 * 1000, 4_652_008);
        assert_eq!(net.convs().count(), 1 + 2 + 15 * 3 + 1);
        assert_eq!(net.blocks.iter().filter(|b| b.skip).count(), 9);
    }

    #[test]
    fn wrn_28_2_has_the_published_size() {
        // 1,467,610 with the 10-class head: what FixMatch's code prints for WRN-28-2.
        let net = wrn_28_2(32);
        let kernels: usize = net.convs().map(|c| c.outputs * c.inputs * c.kernel * c.kernel).sum();
        let norms: usize =
            net.blocks.iter().flat_map(Block::norm_weights).filter(|w| !w.0.contains("running")).map(|w| w.1).sum();
        assert_eq!(kernels + norms + 128 * 10 + 10, 1_467_610);
        assert_eq!(net.convs().filter(|c| c.kernel == 3).count(), 25);
        assert_eq!(net.blocks.iter().filter(|b| b.shortcut.is_some()).count(), 3);
    }

    #[test]
    fn same_padding_is_asymmetric_at_stride_two() {
        let net = efficientnet_lite0(224);
        assert_eq!(net.blocks[0].convs[0].padding, [0, 0, 1, 1]);
        assert_eq!(net.blocks[1].convs[0].padding, [1, 1, 1, 1]);
    }
}
