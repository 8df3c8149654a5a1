//! Supervised learning: cross-entropy with label smoothing (Szegedy et al. 2016, arXiv:1512.00567 §7), balanced by
//! class.

use tch::{Kind, Tensor};

/// The supervised loss.
#[derive(Debug)]
pub struct Supervised {
    /// ε: this share of every target is spread evenly over the classes.
    pub smoothing: f64,
    /// w: weight per class, `[classes]`.
    pub class_weights: Tensor,
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
        Self { smoothing, class_weights: Tensor::from_slice(&weights) }
    }

    /// `−Σᵢ w(yᵢ) Σ_c q_c log p_c / Σᵢ w(yᵢ)` with `q = (1 − ε) · onehot(y) + ε / classes`.
    ///
    /// Shapes: logits `[n, classes]`, targets int64 `[n]`; a scalar comes back.
    pub fn loss(&self, logits: &Tensor, targets: &Tensor) -> Tensor {
        let log_p = logits.log_softmax(1, Kind::Float);
        let right = log_p.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
        let spread = log_p.mean_dim(1, false, Kind::Float);
        let weight = self.class_weights.index_select(0, targets);
        -(&weight * (right * (1.0 - self.smoothing) + spread * self.smoothing)).sum(Kind::Float)
            / weight.sum(Kind::Float)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_smoothing_has_the_value_of_the_formula() {
        // softmax(ln 6, ln 3, ln 1) = 0.6, 0.3, 0.1
        let logits = Tensor::from_slice(&[6f32.ln(), 3f32.ln(), 0.0]).view([1, 3]);
        let loss = Supervised { smoothing: 0.1, class_weights: Tensor::from_slice(&[1f32; 3]) };
        let third = 0.1 / 3.0;
        let wanted = -((0.9 + third) * 0.6f64.ln() + third * 0.3f64.ln() + third * 0.1f64.ln());
        let found = loss.loss(&logits, &Tensor::from_slice(&[0i64])).double_value(&[]);
        assert!((found - wanted).abs() < 1e-6, "{found} instead of {wanted}");
    }

    #[test]
    fn a_rare_class_weighs_as_much_as_a_common_one() {
        let loss = Supervised::balanced(0.0, &[0, 0, 0, 1], 2);
        let logits = Tensor::from_slice(&[2f32, 0.0].repeat(4)).view([4, 2]);
        let found = loss.loss(&logits, &Tensor::from_slice(&[0i64, 0, 0, 1])).double_value(&[]);
        let (right, wrong) = ((1.0 + (-2f64).exp()).ln(), (1.0 + 2f64.exp()).ln());
        assert!((found - (right + wrong) / 2.0).abs() < 1e-6);
    }
}
