//! FixMatch (Sohn et al. 2020, arXiv:2001.07685): the class that a weak view makes the network sure of is the target
//! for a strong view of the same picture.

use clap::Args;
use serde::{Deserialize, Serialize};
use tch::Kind;

use super::{Loss, Method, PseudoTargets, StepOutputs, ViewRequest, guess_loss, mean};
use crate::pictures::views::View;

/// FixMatch's loss, eq. 3 and 4.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Args)]
pub struct FixMatch {
    /// τ: least probability of a target.
    #[arg(long, default_value_t = 0.95)]
    pub threshold: f64,
    /// λ_u: weight of the unlabeled part.
    #[arg(long, default_value_t = 1.0)]
    pub lambda: f64,
    /// μ: unlabeled pictures per labeled one in a step.
    #[arg(long, default_value_t = 7)]
    pub mu: usize,
    /// Make every class about as frequent among the targets (distribution alignment): for pictures whose classes are.
    #[arg(long)]
    #[serde(default)]
    pub align: bool,
}

impl Method for FixMatch {
    fn view_request(&self) -> ViewRequest {
        ViewRequest { labeled: View::Weak, unlabeled: &[View::Weak, View::Strong], ratio: self.mu, eval_logits: false }
    }

    /// `mean CE(y_l, f(x_l)) + λ_u · mean over ALL unlabeled of 1[max q ≥ τ] · CE(argmax q, f(strong))`,
    /// `q = softmax f(weak)` without gradient. Aligned, q is divided by its mean over the step's pictures and scaled to sum
    /// 1 again (§2.5; Berthelot et al. 2020, arXiv:1911.09785 §3.1, whose mean is over 128 steps and who aim at the labels'
    /// frequencies, where this aims at equal ones).
    fn loss(&self, outputs: &StepOutputs) -> Loss {
        let (weak, strong) = (outputs.unlabeled_logits[0].detach(), &outputs.unlabeled_logits[1]);
        let mut q = weak.softmax(1, Kind::Float);
        if self.align {
            // A class that float32 rounds to 0 everywhere stays at 0 instead of making every target a NaN, which is dropped.
            q = &q / q.mean_dim(0i64, true, Kind::Float).clamp_min(f64::from(f32::MIN_POSITIVE));
            q = &q / q.sum_dim_intlist(1i64, true, Kind::Float);
        }
        let (confidence, guess) = q.max_dim(1, false);
        let kept = confidence.ge(self.threshold).to_kind(Kind::Float);
        let labeled = outputs.labeled_loss();
        let unlabeled = guess_loss(strong, &guess, &kept);
        Loss {
            total: &labeled + &unlabeled * self.lambda,
            parts: vec![("labeled", labeled), ("unlabeled", unlabeled), ("kept", mean(&kept))],
            pseudo_targets: Some(PseudoTargets { classes: guess, kept }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::methods::testing::{step_outputs, value};

    const PAPER: FixMatch = FixMatch { threshold: 0.95, lambda: 1.0, mu: 7, align: false };

    #[test]
    fn masked_pictures_stay_in_the_denominator_and_targets_come_from_the_weak_view() {
        // Weak views: 0.96 for class 0, 0.9 for class 0 (too unsure), 0.97 for class 1.
        let odds = |p: f32| (p / (1.0 - p)).ln();
        let weak = [[odds(0.96), 0.0], [odds(0.9), 0.0], [0.0, odds(0.97)]];
        let strong = [[0.0, 0.0], [0.0, 5.0], [3f32.ln(), 0.0]];
        let loss = PAPER.loss(&step_outputs(&[[0.0, 0.0]], &[1], &[&weak, &strong], &[0, 1, 2, 3]));
        let wanted = 2f64.ln() + (2f64.ln() - 0.25f64.ln()) / 3.0;
        assert!((value(&loss.total) - wanted).abs() < 1e-5, "{} instead of {wanted}", value(&loss.total));
        let pseudo_targets = loss.pseudo_targets.unwrap();
        assert_eq!(Vec::<i64>::try_from(&pseudo_targets.classes).unwrap(), [0, 0, 1]);
        assert_eq!(Vec::<f32>::try_from(&pseudo_targets.kept).unwrap(), [1.0, 0.0, 1.0]);
    }

    #[test]
    fn aligned_targets_leave_the_class_that_swallows_the_others() {
        // q = (0.9, 0.1) and (0.7, 0.3), of mean (0.8, 0.2): 0.9 / 0.8 : 0.1 / 0.2 and 0.7 / 0.8 : 0.3 / 0.2.
        let weak = [[9f32.ln(), 0.0], [(7f32 / 3.0).ln(), 0.0]];
        let method = FixMatch { threshold: 0.6, align: true, ..PAPER };
        let pseudo_targets =
            method.loss(&step_outputs(&[[0.0, 0.0]], &[1], &[&weak, &weak], &[0, 1, 2])).pseudo_targets.unwrap();
        assert_eq!(Vec::<i64>::try_from(&pseudo_targets.classes).unwrap(), [0, 1]);
        let sure = |threshold| {
            FixMatch { threshold, ..method }.loss(&step_outputs(&[[0.0, 0.0]], &[1], &[&weak, &weak], &[0, 1, 2]))
        };
        // Sure to 9 / 13 = 0.692 and 12 / 19 = 0.632.
        for (threshold, kept) in [(0.63, [1.0, 1.0]), (0.64, [1.0, 0.0]), (0.7, [0.0, 0.0])] {
            assert_eq!(Vec::<f32>::try_from(&sure(threshold).pseudo_targets.unwrap().kept).unwrap(), kept);
        }
    }

    #[test]
    fn a_class_that_no_picture_could_be_does_not_spoil_the_alignment() {
        let views = [[0.0, 200.0], [0.0, 200.0]];
        let method = FixMatch { align: true, ..PAPER };
        let pseudo_targets =
            method.loss(&step_outputs(&[[0.0, 0.0]], &[1], &[&views, &views], &[0, 1, 2])).pseudo_targets.unwrap();
        assert_eq!(Vec::<i64>::try_from(&pseudo_targets.classes).unwrap(), [1, 1]);
        assert_eq!(Vec::<f32>::try_from(&pseudo_targets.kept).unwrap(), [1.0, 1.0]);
    }

    #[test]
    fn no_gradient_flows_through_the_targets() {
        let step = step_outputs(&[[0.0, 0.0]], &[1], &[&[[4.0, 0.0]], &[[0.0, 0.0]]], &[0, 1]);
        let views: Vec<_> = step.unlabeled_logits.iter().map(|v| v.set_requires_grad(true)).collect();
        let loss =
            PAPER.loss(&StepOutputs { unlabeled_logits: views.iter().map(|v| v.shallow_clone()).collect(), ..step });
        loss.total.backward();
        assert!(!views[0].grad().defined());
        // The only guess is of class 0: balanced, p = 0.9, 0.1.
        let gradient = Vec::<f32>::try_from(views[1].grad().view(-1)).unwrap();
        assert!((gradient[0] + 0.1).abs() < 1e-6 && (gradient[1] - 0.1).abs() < 1e-6, "{gradient:?}");
    }
}
