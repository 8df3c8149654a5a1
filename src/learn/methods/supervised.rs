//! Supervised learning: cross-entropy with label smoothing (Szegedy et al. 2016, arXiv:1512.00567 §7), balanced by
//! class.

use tch::{Kind, Tensor};

use super::{Loss, Method, StepOutputs, ViewRequest};
use crate::pictures::views::View;

/// The supervised loss.
#[derive(Debug)]
pub struct Supervised {
    /// ε: this share of every target is spread evenly over the classes.
    pub smoothing: f64,
    /// w: weight per class, `[classes]`.
    pub class_weights: Tensor,
    /// How pictures are shown.
    pub view: View,
}

impl Supervised {
    /// Class weights `n / (classes · n_c)`, so that every class weighs the same in all; a class without pictures gets 0.
    pub fn balanced(smoothing: f64, labels: &[usize], classes: usize) -> Self {
        let weights: Vec<f32> = (0..classes)
            .map(|class| match labels.iter().filter(|&&label| label == class).count() {
                0 => 0.0,
                n => labels.len() as f32 / (classes * n) as f32,
            })
            .collect();
        Self { smoothing, class_weights: Tensor::from_slice(&weights), view: View::Weak }
    }
}

impl Method for Supervised {
    fn view_request(&self) -> ViewRequest {
        ViewRequest { labeled: self.view, unlabeled: &[], ratio: 0, eval_logits: false }
    }

    /// `−Σᵢ w(yᵢ) Σ_c q_c log p_c / Σᵢ w(yᵢ)` with `q = (1 − ε) · onehot(y) + ε / classes`.
    fn loss(&self, outputs: &StepOutputs) -> Loss {
        let log_p = outputs.labeled_logits.log_softmax(1, Kind::Float);
        let right = log_p.gather(1, &outputs.targets.unsqueeze(1), false).squeeze_dim(1);
        let spread = log_p.mean_dim(1, false, Kind::Float);
        let weight = self.class_weights.to_device(outputs.labeled_logits.device()).index_select(0, &outputs.targets);
        let total = -(&weight * (right * (1.0 - self.smoothing) + spread * self.smoothing)).sum(Kind::Float)
            / weight.sum(Kind::Float);
        Loss { total, parts: vec![], pseudo_targets: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::testing::{step_outputs, value};

    #[test]
    fn label_smoothing_has_the_value_of_the_formula() {
        // softmax(ln 3, ln 1) = 0.75, 0.25
        let method = Supervised { smoothing: 0.1, ..Supervised::balanced(0.0, &[0, 1], 2) };
        let found = value(&method.loss(&step_outputs(&[[3f32.ln(), 0.0]], &[0], &[], &[0])).total);
        let wanted = -(0.95 * 0.75f64.ln() + 0.05 * 0.25f64.ln());
        assert!((found - wanted).abs() < 1e-6, "{found} instead of {wanted}");
    }

    #[test]
    fn a_rare_class_weighs_as_much_as_a_common_one() {
        let method = Supervised::balanced(0.0, &[0, 0, 0, 1], 2);
        let found = value(&method.loss(&step_outputs(&[[2.0, 0.0]; 4], &[0, 0, 0, 1], &[], &[0, 1, 2, 3])).total);
        let (right, wrong) = ((1.0 + (-2f64).exp()).ln(), (1.0 + 2f64.exp()).ln());
        assert!((found - (right + wrong) / 2.0).abs() < 1e-6);
    }
}
