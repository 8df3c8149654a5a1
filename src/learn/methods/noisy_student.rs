//! Noisy Student (Xie et al. 2020, arXiv:1911.04252): a teacher without noise labels the pool; a student as large or
//! larger learns from labels and pseudo-labels with noise (strong views, dropout, stochastic depth). The generations are in
//! [`crate::training::generations`].

use std::time::Duration;

use tch::Tensor;

use super::{Loss, Method, PseudoTargets, StepOutputs, ViewRequest, mean, rows_of, soft_cross_entropy};
use crate::pictures::views::View;

/// The student's loss.
#[derive(Debug)]
pub struct NoisyStudent {
    /// The teacher's answers `[pictures, classes]`: probabilities when soft, one-hot when hard.
    pub teacher: Tensor,
    /// Unlabeled pictures per labeled one.
    pub ratio: usize,
    /// Share of the pool that the filter kept, for the log.
    pub kept: f64,
    /// How long the teacher took, for the log.
    pub labeling: Duration,
}

impl Method for NoisyStudent {
    fn view_request(&self) -> ViewRequest {
        ViewRequest { labeled: View::Noisy, unlabeled: &[View::Noisy], ratio: self.ratio, eval_logits: false }
    }

    /// `mean CE(y_l, student(noisy x_l)) + mean CE(teacher(x_u), student(noisy x_u))` (algorithm 1, step 3).
    fn loss(&self, outputs: &StepOutputs) -> Loss {
        let targets = rows_of(&self.teacher, outputs.unlabeled, &outputs.labeled_logits);
        let labeled = outputs.labeled_loss();
        let unlabeled = mean(&soft_cross_entropy(&outputs.unlabeled_logits[0], &targets));
        let classes = targets.argmax(1, false);
        Loss {
            total: &labeled + &unlabeled,
            parts: vec![("labeled", labeled), ("unlabeled", unlabeled)],
            pseudo_targets: Some(PseudoTargets {
                kept: Tensor::ones_like(&classes).to_kind(tch::Kind::Float) * self.kept,
                classes,
            }),
        }
    }

    fn labeling(&self) -> Duration {
        self.labeling
    }
}

/// Drops pictures that the teacher is unsure of, then makes the classes equally frequent (§3.1, "data filtering and
/// balancing"): the scarce are repeated, of the plenty the most confident stay.
///
/// `teacher` has a row of probabilities per picture of `pool`; pictures come back in order of class and confidence,
/// repeated where the class is scarce. A class that the teacher never names stays absent.
pub fn filter_and_balance(pool: &[usize], teacher: &[Vec<f32>], threshold: f32) -> Vec<usize> {
    let classes = teacher.first().map_or(0, Vec::len);
    let mut named: Vec<Vec<(f32, usize)>> = vec![Vec::new(); classes];
    for (&picture, row) in pool.iter().zip(teacher) {
        let class = beltsight::student::scorecard::argmax(row);
        if row[class] >= threshold {
            named[class].push((row[class], picture));
        }
    }
    let kept: usize = named.iter().map(Vec::len).sum();
    let each = kept / named.iter().filter(|of_class| !of_class.is_empty()).count().max(1);
    let mut balanced = Vec::new();
    for mut of_class in named {
        of_class.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        balanced.extend(of_class.iter().cycle().take(if of_class.is_empty() { 0 } else { each }).map(|(_, p)| *p));
    }
    balanced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::testing::{step_outputs, value};

    #[test]
    fn the_pool_is_filtered_and_balanced() {
        let pool = [10, 11, 12, 13, 14, 15];
        let teacher = [[0.9f32, 0.1], [0.6, 0.4], [0.95, 0.05], [0.8, 0.2], [0.2, 0.8], [0.5, 0.5]].map(|r| r.to_vec());
        // Picture 15 is unsure; class 0 has 12, 10, 13, 11 (by confidence), class 1 has 14 alone: 5 / 2 = 2 each.
        assert_eq!(filter_and_balance(&pool, &teacher, 0.55), [12, 10, 14, 14]);
        assert_eq!(filter_and_balance(&pool, &teacher, 0.99), [0usize; 0]);
        // A class that is never named takes no share.
        assert_eq!(filter_and_balance(&pool[..2], &teacher[..2], 0.55), [10, 11]);
    }

    #[test]
    fn the_loss_is_the_sum_of_two_means() {
        let teacher = Tensor::from_slice(&[0f32, 0.0, 0.75, 0.25]).view([2, 2]);
        let method = NoisyStudent { teacher, ratio: 1, kept: 0.5, labeling: Duration::ZERO };
        let loss = method.loss(&step_outputs(&[[0.0, 0.0]], &[0], &[&[[3f32.ln(), 0.0]]], &[0, 1]));
        let entropy = -(0.75 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
        assert!((value(&loss.total) - (2f64.ln() + entropy)).abs() < 1e-6);
    }
}
