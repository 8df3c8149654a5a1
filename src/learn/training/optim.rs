//! SGD with Nesterov momentum, the learning-rate schedule and the moving average of weights.
//!
//! Invariant: every state has the names of the network's weights, so that a checkpoint holds all of it (libtorch's own
//! optimizers can't be saved from here).

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use crate::network::model::Params;

const MOMENTUM: f64 = 0.9;

/// Tensors of many shapes side by side in one: what is done to all of them is then one operation instead of a hundred,
/// which is what a small network's step on a GPU would otherwise wait for.
#[derive(Debug)]
pub struct FlatParams {
    /// All values, `[n]`.
    pub values: Tensor,
    /// The same memory by name and in shape.
    pub parts: Params,
}

impl FlatParams {
    /// Copies of the `names` of `params`.
    pub fn copy(params: &Params, names: &[String]) -> Self {
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort(); // as `parts` will be
        let copies: Vec<Tensor> = sorted.iter().map(|name| params[*name].detach().flatten(0, -1)).collect();
        let values = if copies.is_empty() { Tensor::from_slice::<f32>(&[]) } else { Tensor::cat(&copies, 0) };
        let mut place = 0;
        let parts = sorted.into_iter().zip(&copies).map(|(name, copy)| {
            let part = values.narrow(0, place, copy.numel() as i64).view_as(&params[name]);
            place += copy.numel() as i64;
            (name.clone(), part)
        });
        Self { parts: parts.collect(), values }
    }

    /// The same shapes, each filled with what `of` says for its name.
    fn filled(&self, of: impl Fn(&str) -> f64) -> Self {
        let names: Vec<String> = self.parts.keys().cloned().collect();
        Self::copy(&self.parts.iter().map(|(name, part)| (name.clone(), part.full_like(of(name)))).collect(), &names)
    }

    /// ∇ of the scalar `loss` with respect to every value, `[n]`; 0 where it does not depend on one.
    pub fn gradient(&self, loss: &Tensor) -> Tensor {
        let parts: Vec<&Tensor> = self.parts.values().collect();
        let gradients = Tensor::run_backward(&[loss], &parts, false, false);
        let whole = |(g, part): (Tensor, &Tensor)| if g.defined() { g } else { part.zeros_like() }.flatten(0, -1);
        Tensor::cat(&gradients.into_iter().zip(parts).map(whole).collect::<Vec<_>>(), 0)
    }
}

/// SGD with Nesterov momentum 0.9 (Sutskever et al. 2013, §3, in PyTorch's form).
#[derive(Debug)]
pub struct Sgd {
    /// λ per value: applied to kernels only, never to BatchNorm or biases.
    decay: Tensor,
    /// v.
    pub momentum: FlatParams,
}

impl Sgd {
    /// Momentum at zero for every one of `weights`.
    pub fn new(weights: &FlatParams, weight_decay: f64) -> Self {
        let decay = weights.filled(|name| if is_kernel(name) { weight_decay } else { 0.0 }).values;
        Self { decay, momentum: weights.filled(|_| 0.0) }
    }

    /// `g ← ∇ + λw; v ← 0.9 v + g; w ← w − lr (g + 0.9 v)`.
    pub fn step(&mut self, weights: &mut FlatParams, gradient: &Tensor, lr: f64) {
        no_grad(|| {
            let g = gradient + &weights.values * &self.decay;
            let v = &mut self.momentum.values;
            // In place: a wide layer's update is bound by memory.
            let _ = v.g_mul_scalar_(MOMENTUM).g_add_(&g);
            let mut update = &*v * MOMENTUM;
            let _ = update.g_add_(&g).g_mul_scalar_(lr);
            let _ = weights.values.g_sub_(&update);
        });
    }
}

fn is_kernel(name: &str) -> bool {
    name.ends_with(".weight") && !name.ends_with(".bn.weight")
}

/// How the learning rate falls, after a linear warm-up over `warmup` steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine down to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, one cycle).
    HalfCosine,
    /// `cos(7πk / 16K)`, which ends at a fifth (FixMatch, arXiv:2001.07685 §2.3).
    SevenSixteenths,
}

impl Schedule {
    /// The learning rate at `step` of `total`.
    pub fn at(self, step: usize, total: usize, warmup: usize, peak: f64) -> f64 {
        if step < warmup {
            return peak * (step + 1) as f64 / warmup as f64;
        }
        let done = ((step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64).min(1.0);
        match self {
            Schedule::HalfCosine => peak * 0.5 * (1.0 + (PI * done).cos()),
            Schedule::SevenSixteenths => peak * (7.0 * PI * done / 16.0).cos(),
        }
    }
}

/// Exponential moving average of the trained weights. BatchNorm's running statistics are averages already: they are
/// copied as they are.
#[derive(Debug)]
pub struct Ema {
    /// d, the share of the old average that stays; smaller in the first steps, see [`Ema::decay_at`].
    pub decay: f64,
    /// The averaged weights.
    pub average: FlatParams,
    /// The running statistics that belong to them.
    pub buffers: FlatParams,
}

impl Ema {
    /// Starts at `weights` and `buffers`.
    pub fn new(weights: &FlatParams, buffers: &FlatParams, decay: f64) -> Self {
        let copy = |flat: &FlatParams| FlatParams::copy(&flat.parts, &flat.parts.keys().cloned().collect::<Vec<_>>());
        Self { decay, average: copy(weights), buffers: copy(buffers) }
    }

    /// `min(d, (1 + t) / (10 + t))` at step t, so that a short run is not held back by its start.
    pub fn decay_at(&self, step: usize) -> f64 {
        self.decay.min((1.0 + step as f64) / (10.0 + step as f64))
    }

    /// Averaged weights and their statistics by name.
    pub fn moving(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.average.parts.iter().chain(&self.buffers.parts)
    }

    /// `a ← d a + (1 − d) w`.
    pub fn update(&mut self, weights: &FlatParams, buffers: &FlatParams, step: usize) {
        let keep = self.decay_at(step);
        no_grad(|| {
            let _ = self.average.values.lerp_(&weights.values, 1.0 - keep);
            self.buffers.values.copy_(&buffers.values);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::Kind;

    use super::*;

    fn one(name: &str, value: f64) -> FlatParams {
        FlatParams::copy(&[(name.to_string(), Tensor::from_slice(&[value as f32]))].into(), &[name.to_string()])
    }

    #[test]
    fn the_average_has_its_closed_form_and_buffers_are_copied() {
        let mut ema = Ema::new(&one("a.weight", 0.0), &one("a.bn.running_mean", 0.0), 0.5);
        for step in 100..110 {
            ema.update(&one("a.weight", 1.0), &one("a.bn.running_mean", step as f64), step);
        }
        // From 0 towards 1 with d = 0.5, ten times: 1 − 0.5¹⁰.
        assert!((ema.average.parts["a.weight"].double_value(&[0]) - (1.0 - 0.5f64.powi(10))).abs() < 1e-6);
        assert_eq!(ema.buffers.parts["a.bn.running_mean"].double_value(&[0]), 109.0);
        assert_eq!((ema.decay_at(0), ema.decay_at(1000)), (0.1, 0.5));
    }

    #[test]
    fn nesterov_steps_match_the_hand_computation() {
        let mut weights = one("a.weight", 1.0);
        let mut sgd = Sgd::new(&weights, 0.1);
        for _ in 0..2 {
            let leaf = weights.parts["a.weight"].set_requires_grad(true);
            weights.parts.insert("a.weight".into(), leaf);
            let gradient = weights.gradient(&(&weights.parts["a.weight"] * 3.0).sum(Kind::Float));
            sgd.step(&mut weights, &gradient, 0.1);
        }
        // g = 3 + 0.1·1 = 3.1, v = 3.1, w = 1 − 0.1·(3.1 + 2.79) = 0.411
        // g = 3 + 0.0411 = 3.0411, v = 2.79 + 3.0411 = 5.8311, w = 0.411 − 0.1·(3.0411 + 5.24799) = −0.417909
        assert!((weights.parts["a.weight"].double_value(&[0]) + 0.417909).abs() < 1e-6);
    }

    #[test]
    fn parts_share_the_memory_of_the_whole_and_what_the_loss_leaves_out_has_no_gradient() {
        let table: Params = [
            ("b".to_string(), Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2])),
            ("a".to_string(), Tensor::from_slice(&[5f32])),
        ]
        .into();
        let mut flat = FlatParams::copy(&table, &["b".to_string(), "a".to_string()]);
        assert_eq!(Vec::<f32>::try_from(&flat.values).unwrap(), [5.0, 1.0, 2.0, 3.0, 4.0]);
        let _ = flat.values.g_mul_scalar_(2.0);
        assert_eq!(flat.parts["b"].double_value(&[1, 0]), 6.0);
        assert_eq!(table["a"].double_value(&[0]), 5.0);
        flat.parts = flat.parts.into_iter().map(|(name, part)| (name, part.set_requires_grad(true))).collect();
        let gradient = flat.gradient(&(&flat.parts["b"] * 3.0).sum(Kind::Float));
        assert_eq!(Vec::<f32>::try_from(&gradient).unwrap(), [0.0, 3.0, 3.0, 3.0, 3.0]);
    }

    #[test]
    fn norms_and_biases_do_not_decay() {
        assert!(is_kernel("head.weight") && is_kernel("block1.expand.weight"));
        assert!(!is_kernel("block1.expand.bn.weight") && !is_kernel("head.bias"));
    }

    #[test]
    fn the_schedule_has_its_knees() {
        let lr = |step| Schedule::HalfCosine.at(step, 110, 10, 0.4);
        assert!((lr(0) - 0.04).abs() < 1e-12); // first step of the ramp
        assert!((lr(9) - 0.4).abs() < 1e-12); // its top
        assert!((lr(10) - 0.4).abs() < 1e-12);
        assert!((lr(60) - 0.2).abs() < 1e-12); // half of the cosine
        assert!(lr(109) > 0.0 && lr(109) < 2e-4);
        assert_eq!(lr(110), 0.0);
        // cos(7π/32) at half time, cos(7π/16) at the end.
        let fixmatch = |step| Schedule::SevenSixteenths.at(step, 100, 0, 1.0);
        assert!((fixmatch(50) - 0.773_010_453).abs() < 1e-9 && (fixmatch(100) - 0.195_090_322).abs() < 1e-9);
    }
}
