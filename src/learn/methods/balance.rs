//! Balance, the one mechanism of every method against skewed belts: where 99 of 100 items are salmon, a network that calls
//! everything salmon has almost no loss.
//!
//! Logit adjustment (Menon et al. 2021, arXiv:2007.07314, eq. 10, τ = 1): `ln π` is added to the logits inside the loss,
//! π being how frequent the classes are among the targets. What is left in the logits themselves, and serves, is what the
//! network would say if every class came equally often. Where they do, nothing changes.

use tch::{Kind, Tensor};

/// Share of the frequencies of guesses that is spread evenly: a guess of a rare class is often wrong, and must not weigh
/// more than a few others.
const EVEN: f64 = 0.2;

/// How frequent the classes are among some targets.
#[derive(Debug)]
pub struct Balance {
    /// ln π, `[classes]`.
    log_prior: Tensor,
}

impl Balance {
    /// Of labels: `π_c = n_c / n`. A class without any counts as half a label, so that its logit is finite.
    pub fn of_labels(labels: impl Iterator<Item = usize>, classes: usize) -> Self {
        let mut counts = vec![0.5f64; classes];
        let mut met = vec![0.0; classes];
        labels.for_each(|label| met[label] += 1.0);
        counts.iter_mut().zip(met).filter(|(_, met)| *met > 0.0).for_each(|(count, met)| *count = met);
        let all: f64 = counts.iter().sum();
        let log_prior: Vec<f32> = counts.iter().map(|count| (count / all).ln() as f32).collect();
        Self { log_prior: Tensor::from_slice(&log_prior) }
    }

    /// Of a step's guesses: classes int64 `[n]` that count as `weights` float `[n]` say, among `classes`. [`EVEN`] of it is
    /// spread over all; so one class is adjusted by at most ln(4 · classes + 1) against another.
    pub fn of_guesses(guesses: &Tensor, weights: &Tensor, classes: i64) -> Self {
        let shares = guesses.one_hot(classes).to_kind(Kind::Float) * weights.unsqueeze(1);
        let counts = shares.sum_dim_intlist(0i64, false, Kind::Float);
        let share = &counts / counts.sum(Kind::Float).clamp_min(1e-6);
        Self { log_prior: (share * (1.0 - EVEN) + EVEN / classes as f64).log() }
    }

    /// ln p `[n, classes]` of logits `[n, classes]` as the loss sees them.
    pub fn log_softmax(&self, logits: &Tensor) -> Tensor {
        (logits + self.log_prior.to_device(logits.device())).log_softmax(1, Kind::Float)
    }

    /// Cross-entropy per picture `[n]` of logits `[n, classes]` with classes int64 `[n]`.
    pub fn cross_entropy(&self, logits: &Tensor, classes: &Tensor) -> Tensor {
        -self.log_softmax(logits).gather(1, &classes.unsqueeze(1), false).squeeze_dim(1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn even_classes_change_nothing_and_a_rare_one_asks_for_more() {
        let logits = Tensor::from_slice(&[0f32, 0.0]).view([1, 2]);
        let loss = |labels: &[usize], class: i64| {
            let balance = Balance::of_labels(labels.iter().copied(), 2);
            balance.cross_entropy(&logits, &Tensor::from_slice(&[class])).double_value(&[0])
        };
        assert!((loss(&[0, 1, 1, 0], 0) - 2f64.ln()).abs() < 1e-6);
        // One of four: at equal logits the loss says 1/4, and so pulls until the logits differ by ln 3.
        assert!((loss(&[0, 0, 0, 1], 1) - 4f64.ln()).abs() < 1e-6);
        assert!((loss(&[0, 0, 0, 1], 0) - (4f64 / 3.0).ln()).abs() < 1e-6);
        // Without a label: half of one.
        assert!((loss(&[0, 0, 0], 0) - (3.5f64 / 3.0).ln()).abs() < 1e-6);
    }

    #[test]
    fn guesses_that_do_not_count_do_not_and_a_rare_class_is_not_blown_up() {
        let logits = Tensor::from_slice(&[0f32, 0.0]).view([1, 2]);
        let guesses = Tensor::from_slice(&[0i64, 0, 0, 1]);
        let loss = |weights: &[f32]| {
            let balance = Balance::of_guesses(&guesses, &Tensor::from_slice(weights), 2);
            balance.cross_entropy(&logits, &Tensor::from_slice(&[1i64])).double_value(&[0])
        };
        assert!((loss(&[1.0; 4]) + 0.3f64.ln()).abs() < 1e-6); // 0.8 / 4 + 0.1
        assert!((loss(&[1.0, 0.0, 0.0, 1.0]) + 0.5f64.ln()).abs() < 1e-6);
        assert!((loss(&[1.0, 1.0, 1.0, 0.0]) + 0.1f64.ln()).abs() < 1e-6);
        assert!((loss(&[0.0; 4]) - 2f64.ln()).abs() < 1e-6);
    }
}
