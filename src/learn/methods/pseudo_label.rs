//! Pseudo-Label (Lee 2013, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural
//! Networks", ICML workshop): the network's own best guess is the target, made again at every step.
//!
//! `L = mean CE(y_l, f(x_l)) + α(t) · mean CE(argmax f(x_u), f(x_u))` (eq. 15). The ramp α(t) is what keeps early
//! mistakes from confirming themselves. The later habit of a confidence threshold instead has its own name here.

use clap::Args;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Loss, Method, PseudoTargets, StepOutputs, ViewRequest, guess_loss, mean};
use crate::pictures::views::View;

/// Pseudo-Label as in the paper: every guess counts, with weight α(t).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Args)]
pub struct PseudoLabel {
    /// α_f: the full weight of the guesses (Lee 2013).
    #[arg(long, default_value_t = 3.0)]
    pub alpha: f64,
    /// T1 as a share of the run: no weight before (Lee 2013: epoch 100 of about 1,000).
    #[arg(long, default_value_t = 0.1)]
    pub ramp_begins: f64,
    /// T2 as a share of the run: full weight from here on (Lee 2013: epoch 600).
    #[arg(long, default_value_t = 0.6)]
    pub ramp_ends: f64,
    /// Unlabeled pictures per labeled one in a step (Lee 2013: 256 to 32).
    #[arg(long, default_value_t = 8)]
    pub mu: usize,
}

impl PseudoLabel {
    /// α(t) at a share of the run (eq. 16).
    pub fn alpha_at(&self, done: f64) -> f64 {
        if done < self.ramp_begins {
            0.0
        } else if done < self.ramp_ends {
            self.alpha * (done - self.ramp_begins) / (self.ramp_ends - self.ramp_begins)
        } else {
            self.alpha
        }
    }
}

impl Method for PseudoLabel {
    fn view_request(&self) -> ViewRequest {
        ViewRequest { labeled: View::Weak, unlabeled: &[View::Weak], ratio: self.mu, eval_logits: true }
    }

    fn loss(&self, outputs: &StepOutputs) -> Loss {
        let logits = &outputs.unlabeled_logits[0];
        // The prediction, so without dropout. Targets from the dropped-out pass itself gained 3 points of error on MNIST
        // with 100 labels, these 9 (1,000 units, 1,500 steps, rate 0.02, two seeds).
        let guess = outputs.eval_logits.as_ref().unwrap_or(logits).argmax(1, false);
        let all = Tensor::ones_like(&guess).to_kind(tch::Kind::Float);
        let labeled = outputs.labeled_loss();
        let unlabeled = guess_loss(logits, &guess, &all);
        let alpha = self.alpha_at(outputs.step as f64 / outputs.steps as f64);
        Loss {
            total: &labeled + &unlabeled * alpha,
            parts: vec![("labeled", labeled), ("unlabeled", unlabeled), ("alpha", Tensor::from(alpha))],
            pseudo_targets: Some(PseudoTargets { kept: all, classes: guess }),
        }
    }
}

/// The thresholded variant that FixMatch and USB (arXiv:2208.07204) compare with: only guesses of at least `threshold`
/// count, the weight rises linearly to 1 over the first `warm_up` of the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Args)]
pub struct ThresholdedPseudoLabel {
    /// Least probability of a guess that counts.
    #[arg(long, default_value_t = 0.95)]
    pub threshold: f64,
    /// Share of the run over which the weight of the guesses rises to 1.
    #[arg(long, default_value_t = 0.4)]
    pub warm_up: f64,
    /// Unlabeled pictures per labeled one in a step.
    #[arg(long, default_value_t = 7)]
    pub mu: usize,
}

impl Method for ThresholdedPseudoLabel {
    fn view_request(&self) -> ViewRequest {
        ViewRequest { labeled: View::Weak, unlabeled: &[View::Weak], ratio: self.mu, eval_logits: false }
    }

    /// As in FixMatch the mean is over all unlabeled pictures, not over those that count.
    fn loss(&self, outputs: &StepOutputs) -> Loss {
        let logits = &outputs.unlabeled_logits[0];
        let (confidence, guess) = logits.detach().softmax(1, tch::Kind::Float).max_dim(1, false);
        let kept = confidence.ge(self.threshold).to_kind(tch::Kind::Float);
        let labeled = outputs.labeled_loss();
        let unlabeled = guess_loss(logits, &guess, &kept);
        let weight = (outputs.step as f64 / (self.warm_up * outputs.steps as f64)).min(1.0);
        Loss {
            total: &labeled + &unlabeled * weight,
            parts: vec![("labeled", labeled), ("unlabeled", unlabeled), ("kept", mean(&kept))],
            pseudo_targets: Some(PseudoTargets { classes: guess, kept }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::testing::{step_outputs, value};

    fn lee() -> PseudoLabel {
        PseudoLabel { alpha: 3.0, ramp_begins: 0.1, ramp_ends: 0.6, mu: 1 }
    }

    #[test]
    fn alpha_has_its_knees() {
        // 1,000 epochs: T1 = 100, T2 = 600.
        let alpha = |t: f64| lee().alpha_at(t / 1000.0);
        assert_eq!([0.0, 99.0].map(alpha), [0.0; 2]);
        for (t, wanted) in [(100.0, 0.0), (350.0, 1.5), (599.0, 3.0 * 499.0 / 500.0), (600.0, 3.0), (999.0, 3.0)] {
            assert!((alpha(t) - wanted).abs() < 1e-12, "α({t}) = {}", alpha(t));
        }
    }

    #[test]
    fn the_guess_is_the_target_and_alpha_its_weight() {
        let mut step = step_outputs(&[[0.0, 0.0]], &[0], &[&[[0.0, 3f32.ln()]]], &[0, 1]);
        step.eval_logits = Some(Tensor::from_slice(&[1f32, 9.0]).view([1, 2]));
        (step.step, step.steps) = (35, 100); // α = 1.5
        let loss = lee().loss(&step);
        // All guesses of the step are of class 1: balanced, 3 · 0.9 : 1 · 0.1.
        assert!((value(&loss.total) - (2f64.ln() - 1.5 * (27f64 / 28.0).ln())).abs() < 1e-6);
        assert_eq!(loss.pseudo_targets.map(|c| c.classes.int64_value(&[0])), Some(1));
    }

    #[test]
    fn the_threshold_drops_doubt_but_keeps_the_denominator() {
        let method = ThresholdedPseudoLabel { threshold: 0.9, warm_up: 0.5, mu: 2 };
        let mut step = step_outputs(&[[0.0, 0.0]], &[0], &[&[[19f32.ln(), 0.0], [3f32.ln(), 0.0]]], &[0, 1, 2]);
        (step.step, step.steps) = (10, 40); // half of the warm-up
        let loss = method.loss(&step);
        // The guess that counts is of class 0: balanced, 19 · 0.9 : 1 · 0.1.
        assert!((value(&loss.total) - (2f64.ln() - 0.5 * (171f64 / 172.0).ln() / 2.0)).abs() < 1e-6);
    }
}
