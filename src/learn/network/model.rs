//! Runs a [`beltsight::network::Net`] in libtorch.
//!
//! Invariant: the architecture is never named here; every size, stride and padding comes from the description that the
//! ONNX exporter reads too.

use std::{collections::BTreeMap, ops::Range};

use beltsight::network::{Activation, Block, Conv, GRAY, LEAK, Net, Norm};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor, no_grad};

use crate::{network::weights::Weights, random::generator};

/// What is drawn at random inside the network while it trains.
#[derive(Debug)]
pub struct Noise {
    /// The source. Not libtorch's own: its generator is shared by the whole process.
    pub rng: ChaCha8Rng,
    /// Dropout before the classifier.
    pub dropout: f64,
    /// Chance that the last residual block takes part for a picture, falling linearly to it from 1 at the input
    /// (stochastic depth, Huang et al. 2016, arXiv:1603.09382, eq. 4); 1 for all.
    pub survival: f64,
}

impl Noise {
    /// Zeroes a share of `values` and scales the rest so that the mean stays.
    fn drop(&mut self, values: &Tensor, share: f64) -> Tensor {
        self.keep(values, values.numel(), 1.0 - share).view_as(values) * values
    }

    /// Lets a residual branch `[n, c, h, w]` through for some of the pictures, scaled so that the mean stays.
    fn skip(&mut self, branch: &Tensor, survival: f64) -> Tensor {
        let pictures = branch.size()[0];
        self.keep(branch, pictures as usize, survival).view([pictures, 1, 1, 1]) * branch
    }

    fn keep(&mut self, like: &Tensor, count: usize, keep: f64) -> Tensor {
        // In bulk, and compared in libtorch: a wide layer needs more than a million draws per step.
        let mut draws = vec![0; 8 * count];
        self.rng.fill_bytes(&mut draws);
        let below = (keep * 2f64.powi(64)) as u64;
        // libtorch has signed numbers only: with its highest bit turned, an unsigned one keeps its place in the order.
        let signed = |unsigned: u64| (unsigned ^ 1 << 63) as i64;
        let draws = Tensor::from_data_size(&draws, &[count as i64], Kind::Int64).bitwise_xor(signed(0));
        (draws.lt(signed(below)).to_kind(Kind::Float) / keep).to_device(like.device())
    }
}

/// Pictures per batch of [`Model::adapt`].
const ADAPT_BATCH: usize = 64;

/// Values by name.
pub type Params = BTreeMap<String, Tensor>;

/// A network and its weights.
#[derive(Debug)]
pub struct Model {
    /// The description.
    pub net: Net,
    /// Weights and BatchNorm buffers, named as in `beltsight::network`.
    pub params: Params,
}

impl Model {
    /// Random kernels (He et al. 2015, arXiv:1502.01852: N(0, √(2 / fan out)), eq. 14; of layers without BatchNorm
    /// N(0, √(2 / fan in)), eq. 10), BatchNorm at identity, biases and head at zero.
    pub fn random(net: &Net, classes: usize, seed: u64) -> Self {
        let float = (Kind::Float, Device::Cpu);
        let mut rng = generator(seed, 0, 0);
        let mut params = Params::new();
        for conv in net.convs() {
            let shape = kernel_shape(conv).map(|n| n as i64);
            let area = conv.kernel * conv.kernel;
            let fan = match conv.norm {
                Norm::Batch | Norm::None => area * conv.outputs / conv.groups,
                Norm::Bias => area * conv.inputs / conv.groups,
            } as f64;
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal(&mut rng)).collect();
            let kernel = Tensor::from_slice(&values).view(shape) * (2.0 / fan).sqrt();
            params.insert(format!("{}.weight", conv.name), kernel);
            if conv.name == "gray" {
                params.insert("gray.weight".into(), Tensor::full(shape, f64::from(GRAY), float));
            }
        }
        for (name, width, value) in net.blocks.iter().flat_map(Block::norm_weights) {
            params.insert(name, Tensor::full([width as i64], f64::from(value), float));
        }
        params.insert("head.weight".into(), Tensor::zeros([classes as i64, net.features as i64], float));
        params.insert("head.bias".into(), Tensor::zeros([classes as i64], float));
        Self { net: net.clone(), params }
    }

    /// The trunk of `weights` under a head of zeros.
    ///
    /// # Errors
    /// When a weight of the trunk is missing or has another shape.
    pub fn pretrained(net: &Net, classes: usize, weights: &Weights) -> Result<Self, String> {
        let mut model = Self::random(net, classes, 0);
        for (name, value) in model.params.iter_mut().filter(|(name, _)| !name.starts_with("head.")) {
            let (shape, values) = weights.get(name).ok_or_else(|| format!("`{name}` is missing"))?;
            let shape: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
            if shape != value.size() {
                return Err(format!("`{name}` has shape {shape:?}, {} needs {:?}", net.name, value.size()));
            }
            *value = Tensor::from_slice(values).view(shape.as_slice());
        }
        Ok(model)
    }

    /// The device that its weights are on, and that it computes on.
    pub fn device(&self) -> Device {
        self.params["head.weight"].device()
    }

    /// The same network on `device`.
    pub fn on(&self, device: Device) -> Self {
        let params = self.params.iter().map(|(name, value)| (name.clone(), value.to_device(device))).collect();
        Self { net: self.net.clone(), params }
    }

    /// The same network in double precision, on the CPU: what float32 computes only up to its rounding.
    pub fn double(&self) -> Self {
        let double = |value: &Tensor| value.to_device(Device::Cpu).to_kind(Kind::Double);
        let params = self.params.iter().map(|(name, value)| (name.clone(), double(value))).collect();
        Self { net: self.net.clone(), params }
    }

    /// The number format of its weights, in which it computes.
    fn kind(&self) -> Kind {
        self.params["head.weight"].kind()
    }

    /// The same weights under another handle.
    pub fn shallow_clone(&self) -> Self {
        let params = self.params.iter().map(|(name, value)| (name.clone(), value.shallow_clone())).collect();
        Self { net: self.net.clone(), params }
    }

    /// All values, ready for disk or for the exporter.
    pub fn weights(&self) -> Weights {
        self.params.iter().map(|(name, value)| (name.clone(), to_host(value))).collect()
    }

    /// Activations `[n, c, h, w]` after `blocks`; `x` is what the block before gave, or uint8 `[n, h, w, 3]` for block 0.
    /// After the last block they are pooled: the embedding `[n, features]`.
    ///
    /// With noise it is in training: BatchNorm uses the batch's statistics and moves the running ones; on a GPU,
    /// convolutions are computed in bfloat16 (mixed precision, Micikevicius et al. 2018, arXiv:1710.03740; its exponent is
    /// float32's, so the loss needs no scaling).
    pub fn blocks(&self, x: &Tensor, blocks: Range<usize>, mut noise: Option<&mut Noise>) -> Tensor {
        let x = x.to_device(self.device());
        let mut x = if blocks.start == 0 { self.normalise(&x) } else { x };
        let residual = |upto: usize| self.net.blocks[..upto].iter().filter(|block| block.skip).count() as f64;
        let depth = residual(self.net.blocks.len());
        for index in blocks.clone() {
            let block = &self.net.blocks[index];
            if let Some(noise) = noise.as_deref_mut().filter(|_| block.dropout > 0.0) {
                x = noise.drop(&x, block.dropout);
            }
            let input = x.shallow_clone();
            if let Some(pre_activation) = &block.pre_activation {
                x = activate(&self.batch_norm(&x, &pre_activation.name, noise.is_some()), pre_activation.activation);
            }
            for conv in &block.convs {
                x = self.conv(&x, conv, noise.is_some());
            }
            if let Some(noise) = noise.as_deref_mut().filter(|noise| block.skip && noise.survival < 1.0) {
                // Huang et al. 2016, eq. 4: linear over the residual blocks.
                x = noise.skip(&x, 1.0 - residual(index + 1) / depth * (1.0 - noise.survival));
            }
            if block.skip {
                x += match &block.shortcut {
                    Some(conv) => self.conv(&input, conv, noise.is_some()),
                    None => input,
                };
            }
        }
        let last = blocks.end == self.net.blocks.len() && !blocks.is_empty();
        if last { x.mean_dim([2i64, 3].as_slice(), false, self.kind()) } else { x }
    }

    /// Embedding `[n, features]` → logits `[n, classes]`.
    pub fn head(&self, embedding: &Tensor, noise: Option<&mut Noise>) -> Tensor {
        let embedding = embedding.to_device(self.device());
        let kept = match noise {
            Some(noise) if noise.dropout > 0.0 => noise.drop(&embedding, noise.dropout),
            _ => embedding,
        };
        kept.linear(&self.params["head.weight"], Some(&self.params["head.bias"]))
    }

    /// Embedding and logits from the activations before block `from` (see [`Model::blocks`]); with noise as in training.
    pub fn forward(&self, x: &Tensor, from: usize, mut noise: Option<&mut Noise>) -> (Tensor, Tensor) {
        let embedding = self.blocks(x, from..self.net.blocks.len(), noise.as_deref_mut());
        let logits = self.head(&embedding, noise);
        (embedding, logits)
    }

    /// Measures BatchNorm's means and variances again on `pictures`, which need no labels: a trunk from ImageNet then sees
    /// this camera's pictures as it saw its own (AdaBN, Li et al. 2016, arXiv:1603.04779). The average is over batches of
    /// [`ADAPT_BATCH`]. `go_on` is asked before each of them; false leaves the model half adapted.
    pub fn adapt(&mut self, pictures: &[&[u8]], mut go_on: impl FnMut() -> bool) {
        for (_, value) in self.params.iter_mut().filter(|(name, _)| name.contains(".bn.running_")) {
            *value = value.copy(); // it may be shared
        }
        let (momentum, blocks) = (self.net.bn_momentum, self.net.blocks.len());
        for (batch, before) in pictures.chunks(ADAPT_BATCH).zip(0..) {
            if !go_on() {
                break;
            }
            self.net.bn_momentum = 1.0 / f64::from(before + 1);
            let mut noise = Noise { rng: generator(0, 0, 0), dropout: 0.0, survival: 1.0 };
            let _ = no_grad(|| self.blocks(&to_batch(batch, self.net.input), 0..blocks, Some(&mut noise)));
        }
        self.net.bn_momentum = momentum;
    }

    /// Takes every BatchNorm's mean and variance from `pictures`, and changes its factor and shift so that the network
    /// computes in evaluation mode what it did. One that was read back with its BatchNorm folded can be trained as a whole
    /// only after that: a batch's own statistics would otherwise meet factors made for none.
    pub fn unfold_norms(&mut self, pictures: &[&[u8]]) {
        no_grad(|| {
            let mut x = self.normalise(&to_batch(pictures, self.net.input));
            for block in self.net.blocks.clone() {
                let input = x.shallow_clone();
                if let Some(pre_activation) = &block.pre_activation {
                    self.take_statistics(&pre_activation.name, &x);
                    x = activate(&self.batch_norm(&x, &pre_activation.name, false), pre_activation.activation);
                }
                for conv in &block.convs {
                    x = self.unfold_conv(&x, conv);
                }
                if block.skip {
                    x += match &block.shortcut {
                        Some(conv) => self.unfold_conv(&input, conv),
                        None => input,
                    };
                }
            }
        });
    }

    /// What `conv` gives, with statistics from it.
    fn unfold_conv(&mut self, x: &Tensor, conv: &Conv) -> Tensor {
        if conv.norm == Norm::Batch {
            let raw = self.convolve(x, conv, false);
            self.take_statistics(&conv.name, &raw);
        }
        self.conv(x, conv, false)
    }

    /// Makes μ and σ² of the BatchNorm `name` those of `x` `[n, c, h, w]`, with γ and β that keep γ/√(σ²+ε) and the shift.
    fn take_statistics(&mut self, name: &str, x: &Tensor) {
        let places = [0i64, 2, 3];
        let (mean, variance) = (x.mean_dim(places.as_slice(), false, None), x.var_dim(places.as_slice(), false, false));
        let part = |what: &str| &self.params[&format!("{name}.bn.{what}")];
        let factor = part("weight") / (part("running_var") + self.net.bn_eps).sqrt();
        let shift = part("bias") - part("running_mean") * &factor;
        let weight = &factor * (&variance + self.net.bn_eps).sqrt();
        let bias = shift + &mean * factor;
        let parts = [("weight", weight), ("bias", bias), ("running_mean", mean), ("running_var", variance)];
        self.params.extend(parts.map(|(what, value)| (format!("{name}.bn.{what}"), value)));
    }

    /// Class probabilities at `temperature` of pictures of `input * input * 3` bytes, as the trained network sees them.
    pub fn probabilities(&self, pictures: &[&[u8]], temperature: f64) -> Vec<Vec<f32>> {
        pictures
            .chunks(32)
            .flat_map(|chunk| {
                let logits = no_grad(|| self.forward(&to_batch(chunk, self.net.input), 0, None).1);
                rows(&(logits / temperature).softmax(1, Kind::Float))
            })
            .collect()
    }

    /// Logits of pictures of `input * input * 3` bytes, before any temperature.
    pub fn logits(&self, pictures: &[&[u8]]) -> Vec<Vec<f64>> {
        let of_chunk = |chunk: &[&[u8]]| {
            let logits = no_grad(|| self.forward(&to_batch(chunk, self.net.input), 0, None).1);
            let (rows, classes) = (logits.size()[0], logits.size()[1]);
            let row = |at: i64| (0..classes).map(|class| logits.double_value(&[at, class])).collect();
            (0..rows).map(row).collect::<Vec<_>>()
        };
        pictures.chunks(32).flat_map(of_chunk).collect()
    }

    /// uint8 `[n, h, w, 3]` → float `[n, 3, h, w]`; stays in channels-last memory, which libtorch's convolutions keep.
    fn normalise(&self, x: &Tensor) -> Tensor {
        let three = |values: &[f32]| Tensor::from_slice(values).to_device(x.device()).to_kind(self.kind());
        let (mean, std) = (three(&self.net.mean), three(&self.net.std));
        ((x.to_kind(self.kind()) / 255.0 - mean) / std).permute([0, 3, 1, 2])
    }

    /// A convolution with its bias, BatchNorm and activation.
    fn conv(&self, x: &Tensor, conv: &Conv, training: bool) -> Tensor {
        let x = self.convolve(x, conv, training);
        let x = match conv.norm {
            Norm::Bias | Norm::None => x,
            Norm::Batch => self.batch_norm(&x, &conv.name, training),
        };
        activate(&x, conv.activation)
    }

    /// A convolution with its bias alone.
    fn convolve(&self, x: &Tensor, conv: &Conv, training: bool) -> Tensor {
        let kind = if training && x.device().is_cuda() { Kind::BFloat16 } else { self.kind() };
        let x = x.to_kind(kind);
        let kernel = &self.params[&format!("{}.weight", conv.name)].to_kind(kind);
        let bias = (conv.norm == Norm::Bias).then(|| self.params[&format!("{}.bias", conv.name)].to_kind(kind));
        let covers = conv.groups == 1 && x.size()[2..] == [conv.kernel as i64; 2] && conv.padding == [0; 4];
        if covers {
            // A fully connected layer: a matrix product is several times faster than a convolution over one place.
            x.flatten(1, 3).linear(&kernel.flatten(1, 3), bias.as_ref()).unsqueeze(2).unsqueeze(3)
        } else {
            let [top, left, bottom, right] = conv.padding.map(|p| p as i64);
            let (x, padding) = if (top, left) == (bottom, right) {
                (x.shallow_clone(), [top, left])
            } else {
                (x.constant_pad_nd([left, right, top, bottom]), [0, 0])
            };
            let stride = conv.stride as i64;
            x.conv2d(kernel, bias.as_ref(), [stride, stride], padding, [1, 1], conv.groups as i64)
        }
    }

    fn batch_norm(&self, x: &Tensor, name: &str, training: bool) -> Tensor {
        let bn = |what: &str| Some(&self.params[&format!("{name}.bn.{what}")]);
        let (mean, variance) = (bn("running_mean"), bn("running_var"));
        let (momentum, eps) = (self.net.bn_momentum, self.net.bn_eps);
        x.batch_norm(bn("weight"), bn("bias"), mean, variance, training, momentum, eps, x.device().is_cuda())
    }
}

fn activate(x: &Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::Linear => x.shallow_clone(),
        Activation::Relu => x.relu(),
        Activation::Relu6 => x.relu6(),
        // libtorch's binding has no other slope than 0.01 for its leaky ReLU.
        Activation::LeakyRelu => x.prelu(&Tensor::full([1], LEAK, (x.kind(), x.device()))),
    }
}

fn kernel_shape(conv: &Conv) -> [usize; 4] {
    [conv.outputs, conv.inputs / conv.groups, conv.kernel, conv.kernel]
}

/// A draw from N(0, 1) (Box & Muller 1958).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v) = (1.0 - rng.random::<f64>(), rng.random::<f64>()); // u is never 0
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// Pictures of `side * side * 3` bytes → uint8 `[n, side, side, 3]`.
pub fn to_batch(pictures: &[&[u8]], side: usize) -> Tensor {
    let side = side as i64;
    Tensor::from_slice(&pictures.concat()).view([pictures.len() as i64, side, side, 3])
}

/// A float matrix as rows.
pub fn rows(matrix: &Tensor) -> Vec<Vec<f32>> {
    let (shape, values) = to_host(matrix);
    values.chunks(shape.last().copied().unwrap_or(1).max(1)).map(<[f32]>::to_vec).collect()
}

/// Shape and row-major values.
pub fn to_host(tensor: &Tensor) -> (Vec<usize>, Vec<f32>) {
    let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut values = vec![0f32; tensor.numel()];
    tensor.copy_data(&mut values, tensor.numel());
    (tensor.size().iter().map(|n| *n as usize).collect(), values)
}

/// The reverse of [`to_host`].
pub fn from_host((shape, values): &(Vec<usize>, Vec<f32>)) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
    Tensor::from_slice(values).view(shape.as_slice())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use beltsight::network;

    use super::*;

    #[test]
    fn cutting_the_network_in_two_changes_nothing() {
        let model = Model::random(&network::by_name("small", None).unwrap(), 3, 5);
        let picture: Vec<u8> = (0..64 * 64 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let x = to_batch(&[&picture, &picture], 64);
        let end = model.net.blocks.len();
        let whole = model.blocks(&x, 0..end, None);
        let halves = model.blocks(&model.blocks(&x, 0..3, None), 3..end, None);
        assert_eq!(whole.size(), [2, 128]);
        assert_eq!(rows(&whole), rows(&halves));
    }

    #[test]
    fn noise_keeps_its_share_and_the_mean() {
        let mut noise = Noise { rng: generator(1, 2, 3), dropout: 0.0, survival: 1.0 };
        let ones = Tensor::ones([100_000], (Kind::Float, Device::Cpu));
        for keep in [0.2, 0.5, 0.8, 1.0] {
            let kept = noise.drop(&ones, 1.0 - keep);
            let share = kept.gt(0.0).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
            assert!((share - keep).abs() < 0.007, "{keep}: {share}"); // over four standard errors
            assert!((kept.max().double_value(&[]) - 1.0 / keep).abs() < 1e-5);
        }
        // The draws of the generator, read as unsigned numbers.
        let (mut rng, mut bytes) = (generator(1, 2, 3), [0; 64]);
        rng.fill_bytes(&mut bytes);
        let wanted: Vec<bool> =
            bytes.as_chunks::<8>().0.iter().map(|draw| u64::from_le_bytes(*draw) < 1 << 63).collect();
        let mut noise = Noise { rng: generator(1, 2, 3), dropout: 0.0, survival: 1.0 };
        let found = Vec::<f32>::try_from(noise.drop(&ones.narrow(0, 0, 8), 0.5)).unwrap();
        assert_eq!(found, wanted.iter().map(|&kept| if kept { 2.0 } else { 0.0 }).collect::<Vec<_>>());
    }

    #[test]
    fn adapting_sets_the_statistics_of_the_first_layer_to_those_of_the_pictures() {
        let mut model = Model::random(&network::by_name("small", Some(32)).unwrap(), 2, 5);
        let before = model.shallow_clone();
        let pictures: Vec<Vec<u8>> =
            (0..128).map(|p| (0..32 * 32 * 3).map(|i| ((i * (p + 3)) % 200) as u8).collect()).collect();
        let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        model.adapt(&pictures, || true);
        let x = model.normalise(&to_batch(&pictures, 32)).constant_pad_nd([0, 1, 0, 1]);
        let raw = x.conv2d(&model.params["stem.weight"], None::<&Tensor>, [2, 2], [0, 0], [1, 1], 1);
        let mean = raw.mean_dim([0i64, 2, 3].as_slice(), false, Kind::Float);
        let apart = |other: &Model| (&other.params["stem.bn.running_mean"] - &mean).abs().max().double_value(&[]);
        assert!(apart(&model) < 1e-4 && apart(&before) > 0.01, "{} {}", apart(&model), apart(&before));
        assert_eq!(model.net.bn_momentum, before.net.bn_momentum);
    }

    #[test]
    fn a_trunk_of_another_shape_is_refused_by_name() {
        let net = network::by_name("small", None).unwrap();
        let mut weights = Model::random(&net, 3, 5).weights();
        weights.insert("top.weight".into(), (vec![1], vec![0.0]));
        assert!(Model::pretrained(&net, 3, &weights).unwrap_err().contains("`top.weight` has shape [1]"));
    }

    #[test]
    fn normalising_gives_what_the_description_says() {
        let model = Model::random(&network::efficientnet_lite0(32), 2, 1);
        let x = model.normalise(&to_batch(&[&[255u8; 32 * 32 * 3]], 32));
        assert_eq!(x.size(), [1, 3, 32, 32]);
        assert!((x.double_value(&[0, 2, 31, 31]) - 1.0).abs() < 1e-6); // (255 − 127) / 128
    }
}
