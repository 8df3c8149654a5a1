//! SGD with Nesterov momentum, the learning-rate schedule and the moving average of weights.
//!
//! Invariant: every state is named tensors, so that a checkpoint holds all of it (libtorch's own optimizers can't be
//! saved from here).

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use tch::no_grad;

use crate::nets::Params;

const MOMENTUM: f64 = 0.9;

/// SGD with Nesterov momentum 0.9 (Sutskever et al. 2013, §3, in PyTorch's form).
#[derive(Debug)]
pub struct Sgd {
    /// λ: applied to kernels only, never to BatchNorm or biases.
    pub weight_decay: f64,
    /// v, one per trained parameter.
    pub momentum: Params,
}

impl Sgd {
    /// Momentum at zero for every name in `trained`.
    pub fn new(params: &Params, trained: &[String], weight_decay: f64) -> Self {
        let momentum = trained.iter().map(|name| (name.clone(), params[name].zeros_like())).collect();
        Self { weight_decay, momentum }
    }

    /// `g ← ∇ + λw; v ← 0.9 v + g; w ← w − lr (g + 0.9 v)`, then gradients are cleared.
    pub fn step(&mut self, params: &mut Params, lr: f64) {
        no_grad(|| {
            for (name, v) in &mut self.momentum {
                let Some(w) = params.get_mut(name) else { continue };
                let mut g = w.grad();
                if !g.defined() {
                    continue;
                }
                if self.weight_decay > 0.0 && is_kernel(name) {
                    g = &g + &*w * self.weight_decay;
                }
                // In place: a wide layer's update is bound by memory.
                let _ = v.g_mul_scalar_(MOMENTUM).g_add_(&g);
                let mut update = &*v * MOMENTUM;
                let _ = update.g_add_(&g).g_mul_scalar_(lr);
                let _ = w.g_sub_(&update);
                w.zero_grad();
            }
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
    /// The averaged values of everything that moves.
    pub average: Params,
}

impl Ema {
    /// Starts at `params`; `moving` names trained weights and live BatchNorm buffers.
    pub fn new(params: &Params, moving: &[String], decay: f64) -> Self {
        let average = moving.iter().map(|name| (name.clone(), params[name].detach().copy())).collect();
        Self { decay, average }
    }

    /// `min(d, (1 + t) / (10 + t))` at step t, so that a short run is not held back by its start.
    pub fn decay_at(&self, step: usize) -> f64 {
        self.decay.min((1.0 + step as f64) / (10.0 + step as f64))
    }

    /// `a ← d a + (1 − d) w`.
    pub fn update(&mut self, params: &Params, step: usize) {
        let keep = self.decay_at(step);
        no_grad(|| {
            for (name, a) in &mut self.average {
                if name.contains(".bn.running_") {
                    a.copy_(&params[name]);
                } else {
                    let _ = a.lerp_(&params[name], 1.0 - keep);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    fn one(name: &str, value: f64) -> Params {
        [(name.to_string(), Tensor::from_slice(&[value as f32]))].into()
    }

    #[test]
    fn the_average_has_its_closed_form_and_buffers_are_copied() {
        let mut params = one("a.weight", 0.0);
        params.extend(one("a.bn.running_mean", 0.0));
        let names: Vec<String> = params.keys().cloned().collect();
        let mut ema = Ema::new(&params, &names, 0.5);
        for step in 100..110 {
            params = one("a.weight", 1.0);
            params.extend(one("a.bn.running_mean", step as f64));
            ema.update(&params, step);
        }
        // From 0 towards 1 with d = 0.5, ten times: 1 − 0.5¹⁰.
        assert!((ema.average["a.weight"].double_value(&[0]) - (1.0 - 0.5f64.powi(10))).abs() < 1e-6);
        assert_eq!(ema.average["a.bn.running_mean"].double_value(&[0]), 109.0);
        assert_eq!((ema.decay_at(0), ema.decay_at(1000)), (0.1, 0.5));
    }

    #[test]
    fn nesterov_steps_match_the_hand_computation() {
        let mut params = one("a.weight", 1.0);
        let leaf = params["a.weight"].set_requires_grad(true);
        params.insert("a.weight".into(), leaf);
        let mut sgd = Sgd::new(&params, &["a.weight".into()], 0.1);
        for _ in 0..2 {
            (&params["a.weight"] * 3.0).sum(Kind::Float).backward();
            sgd.step(&mut params, 0.1);
        }
        // g = 3 + 0.1·1 = 3.1, v = 3.1, w = 1 − 0.1·(3.1 + 2.79) = 0.411
        // g = 3 + 0.0411 = 3.0411, v = 2.79 + 3.0411 = 5.8311, w = 0.411 − 0.1·(3.0411 + 5.24799) = −0.417909
        assert!((params["a.weight"].double_value(&[0]) + 0.417909).abs() < 1e-6);
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
