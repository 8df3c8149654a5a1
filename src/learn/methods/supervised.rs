//! Supervised learning: cross-entropy with label smoothing (Szegedy et al. 2016, arXiv:1512.00567 §7), balanced.

use tch::Kind;

use super::{Loss, Method, StepOutputs, ViewRequest, mean};
use crate::pictures::views::View;

/// The supervised loss.
#[derive(Debug)]
pub struct Supervised {
    /// ε: this share of every target is spread evenly over the classes.
    pub smoothing: f64,
    /// How pictures are shown.
    pub view: View,
}

impl Method for Supervised {
    fn view_request(&self) -> ViewRequest {
        ViewRequest { labeled: self.view, unlabeled: &[], ratio: 0, eval_logits: false }
    }

    /// `−mean Σ_c q_c log p_c` with `q = (1 − ε) · onehot(y) + ε / classes` and balanced p.
    fn loss(&self, outputs: &StepOutputs) -> Loss {
        let log_p = outputs.balance.log_softmax(&outputs.labeled_logits);
        let right = log_p.gather(1, &outputs.targets.unsqueeze(1), false).squeeze_dim(1);
        let spread = log_p.mean_dim(1, false, Kind::Float);
        let total = -mean(&(right * (1.0 - self.smoothing) + spread * self.smoothing));
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
        let method = Supervised { smoothing: 0.1, view: View::Weak };
        let found = value(&method.loss(&step_outputs(&[[3f32.ln(), 0.0]], &[0], &[], &[0])).total);
        let wanted = -(0.95 * 0.75f64.ln() + 0.05 * 0.25f64.ln());
        assert!((found - wanted).abs() < 1e-6, "{found} instead of {wanted}");
    }
}
