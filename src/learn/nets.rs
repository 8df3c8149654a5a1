//! Runs a [`beltsight::nets::Net`] in libtorch.
//!
//! Invariant: the architecture is never named here; every size, stride and padding comes from the description that the
//! ONNX exporter reads too.

use std::collections::BTreeMap;

use beltsight::nets::{Activation, Conv, Net};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor, no_grad};

use crate::{augment::generator, weights::Weights};

/// Values by name.
pub type Params = BTreeMap<String, Tensor>;

/// A network and its weights.
#[derive(Debug)]
pub struct Model {
    /// The description.
    pub net: Net,
    /// Weights and BatchNorm buffers, named as in `beltsight::nets`.
    pub params: Params,
}

impl Model {
    /// Random kernels (He et al. 2015, arXiv:1502.01852, eq. 14: N(0, √(2 / fan out))), BatchNorm at identity, head at
    /// zero.
    pub fn random(net: &Net, classes: usize, seed: u64) -> Self {
        let float = (Kind::Float, Device::Cpu);
        let mut rng = generator(seed, 0, 0);
        let mut params = Params::new();
        for conv in net.convs() {
            let shape = kernel_shape(conv).map(|n| n as i64);
            let fan_out = (conv.kernel * conv.kernel * conv.outputs / conv.groups) as f64;
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal(&mut rng)).collect();
            let kernel = Tensor::from_slice(&values).view(shape) * (2.0 / fan_out).sqrt();
            params.insert(format!("{}.weight", conv.name), kernel);
            let width = [conv.outputs as i64];
            for (buffer, one) in [("weight", true), ("bias", false), ("running_mean", false), ("running_var", true)] {
                let value = if one { Tensor::ones(width, float) } else { Tensor::zeros(width, float) };
                params.insert(format!("{}.bn.{buffer}", conv.name), value);
            }
        }
        params.insert("head.weight".into(), Tensor::zeros([classes as i64, net.features as i64], float));
        params.insert("head.bias".into(), Tensor::zeros([classes as i64], float));
        Self { net: net.clone(), params }
    }

    /// The trunk of `weights` under a head of zeros.
    ///
    /// # Errors
    /// In words, when a weight of the trunk is missing or has another shape.
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

    /// All values, ready for disk or for the exporter.
    pub fn weights(&self) -> Weights {
        self.params.iter().map(|(name, value)| (name.clone(), to_host(value))).collect()
    }

    /// Activations `[n, c, h, w]` after `blocks`; `x` is what the block before gave, or uint8 `[n, h, w, 3]` for block 0.
    /// After the last block they are pooled: the embedding `[n, features]`.
    ///
    /// In training BatchNorm uses the batch's statistics and moves the running ones.
    pub fn blocks(&self, x: &Tensor, blocks: std::ops::Range<usize>, training: bool) -> Tensor {
        let mut x = if blocks.start == 0 { self.normalise(x) } else { x.shallow_clone() };
        for block in &self.net.blocks[blocks.clone()] {
            let input = x.shallow_clone();
            for conv in &block.convs {
                x = self.conv(&x, conv, training);
            }
            if block.skip {
                x += input;
            }
        }
        let last = blocks.end == self.net.blocks.len() && !blocks.is_empty();
        if last { x.mean_dim([2i64, 3].as_slice(), false, Kind::Float) } else { x }
    }

    /// Embedding `[n, features]` → logits `[n, classes]`; in training `dropout` draws what is left out.
    pub fn head(&self, embedding: &Tensor, dropout: Option<&mut ChaCha8Rng>) -> Tensor {
        let kept = match dropout {
            // Not libtorch's own: its generator is shared by the whole process.
            Some(rng) => {
                let keep = 1.0 - self.net.dropout;
                let mask: Vec<f32> = (0..embedding.numel())
                    .map(|_| if rng.random_bool(keep) { (1.0 / keep) as f32 } else { 0.0 })
                    .collect();
                embedding * Tensor::from_slice(&mask).view_as(embedding)
            }
            None => embedding.shallow_clone(),
        };
        kept.linear(&self.params["head.weight"], Some(&self.params["head.bias"]))
    }

    /// Embedding and logits from the activations before block `from` (see [`Model::blocks`]); with `dropout` as in
    /// training.
    pub fn forward(&self, x: &Tensor, from: usize, dropout: Option<&mut ChaCha8Rng>) -> (Tensor, Tensor) {
        let embedding = self.blocks(x, from..self.net.blocks.len(), dropout.is_some());
        let logits = self.head(&embedding, dropout);
        (embedding, logits)
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

    /// uint8 `[n, h, w, 3]` → float `[n, 3, h, w]`; stays in channels-last memory, which libtorch's convolutions keep.
    fn normalise(&self, x: &Tensor) -> Tensor {
        let mean = Tensor::from_slice(&self.net.mean);
        let std = Tensor::from_slice(&self.net.std);
        ((x.to_kind(Kind::Float) / 255.0 - mean) / std).permute([0, 3, 1, 2])
    }

    fn conv(&self, x: &Tensor, conv: &Conv, training: bool) -> Tensor {
        let [top, left, bottom, right] = conv.padding.map(|p| p as i64);
        let (x, padding) = if (top, left) == (bottom, right) {
            (x.shallow_clone(), [top, left])
        } else {
            (x.constant_pad_nd([left, right, top, bottom]), [0, 0])
        };
        let stride = conv.stride as i64;
        let kernel = &self.params[&format!("{}.weight", conv.name)];
        let x = x.conv2d(kernel, None::<&Tensor>, [stride, stride], padding, [1, 1], conv.groups as i64);
        let bn = |what: &str| Some(&self.params[&format!("{}.bn.{what}", conv.name)]);
        let x = x.batch_norm(
            bn("weight"),
            bn("bias"),
            bn("running_mean"),
            bn("running_var"),
            training,
            self.net.bn_momentum,
            self.net.bn_eps,
            false,
        );
        match conv.activation {
            Activation::Linear => x,
            Activation::Relu6 => x.relu6(),
        }
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
    use beltsight::nets;

    use super::*;

    #[test]
    fn cutting_the_network_in_two_changes_nothing() {
        let model = Model::random(&nets::by_name("small", None).unwrap(), 3, 5);
        let picture: Vec<u8> = (0..64 * 64 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let x = to_batch(&[&picture, &picture], 64);
        let end = model.net.blocks.len();
        let whole = model.blocks(&x, 0..end, false);
        let halves = model.blocks(&model.blocks(&x, 0..3, false), 3..end, false);
        assert_eq!(whole.size(), [2, 128]);
        assert_eq!(rows(&whole), rows(&halves));
    }

    #[test]
    fn a_trunk_of_another_shape_is_refused_by_name() {
        let net = nets::by_name("small", None).unwrap();
        let mut weights = Model::random(&net, 3, 5).weights();
        weights.insert("top.weight".into(), (vec![1], vec![0.0]));
        assert!(Model::pretrained(&net, 3, &weights).unwrap_err().contains("`top.weight` has shape [1]"));
    }

    #[test]
    fn normalising_gives_what_the_description_says() {
        let model = Model::random(&nets::efficientnet_lite0(32), 2, 1);
        let x = model.normalise(&to_batch(&[&[255u8; 32 * 32 * 3]], 32));
        assert_eq!(x.size(), [1, 3, 32, 32]);
        assert!((x.double_value(&[0, 2, 31, 31]) - 1.0).abs() < 1e-6); // (255 − 127) / 128
    }
}
