//! From out-of-fold logits to calibrated probabilities and thresholds.
//!
//! Invariant: only logits of pictures that the model did not train on come in here.

use beltsight::{
    domain::Thresholds,
    student::scorecard::{self, Scorecard},
};
use serde::{Deserialize, Serialize};

/// `cv.json`: what held-out pictures say.
#[derive(Debug, Serialize, Deserialize)]
pub struct Validation {
    /// Folds; 1 for a single held-out share.
    pub folds: usize,
    /// Over all held-out pictures, at the calibrated temperature.
    pub pooled: Scorecard,
    /// One per fold, at the calibrated temperature.
    pub per_fold: Vec<Scorecard>,
    /// Calibration error before the temperature was fitted (to the same pictures).
    pub calibration_error_at_temperature_1: f64,
    /// How scores become decisions.
    pub thresholds: Thresholds,
    /// Seconds from the program's start until here.
    pub seconds: f64,
    /// Every held-out picture.
    pub pictures: Vec<Prediction>,
}

/// One held-out picture.
#[derive(Debug, Serialize, Deserialize)]
pub struct Prediction {
    /// File name.
    pub file: String,
    /// Its class, an index.
    pub truth: usize,
    /// Fold that held it out.
    pub fold: usize,
    /// Calibrated probability per class.
    pub probabilities: Vec<f32>,
}

/// The temperature that makes `logits / T` most likely (Guo et al. 2017, arXiv:1706.04599 §4.2), from 1/20 to 20, by
/// golden-section search over ln T (the likelihood has one peak).
///
/// n pictures that are all right can't prove certainty: as in Platt (1999, §2.2) the target of the true class is
/// (n + 1) / (n + 2), and the rest is spread over all classes. Without it T would run to its lower end.
pub fn temperature(logits: &[Vec<f32>], truth: &[usize]) -> f64 {
    let spread = 1.0 / (truth.len() as f64 + 2.0);
    let loss = |ln_t: f64| -> f64 {
        let of_row = |row: &Vec<f32>, t: usize| {
            let log_p = log_softmax(row, ln_t.exp());
            -(1.0 - spread) * log_p[t] - spread * log_p.iter().sum::<f64>() / log_p.len() as f64
        };
        logits.iter().zip(truth).map(|(row, &t)| of_row(row, t)).sum()
    };
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let (mut low, mut high) = (-(20f64.ln()), 20f64.ln());
    for _ in 0..60 {
        let (a, b) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
        if loss(a) < loss(b) { high = b } else { low = a }
    }
    ((low + high) / 2.0).exp()
}

/// Probabilities of `logits / temperature`.
pub fn softmax(logits: &[Vec<f32>], temperature: f64) -> Vec<Vec<f32>> {
    logits.iter().map(|row| log_softmax(row, temperature).iter().map(|l| l.exp() as f32).collect()).collect()
}

fn log_softmax(row: &[f32], temperature: f64) -> Vec<f64> {
    let scaled: Vec<f64> = row.iter().map(|x| f64::from(*x) / temperature).collect();
    let top = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scaled.iter().map(|x| (x - top).exp()).sum();
    scaled.iter().map(|x| x - top - sum.ln()).collect()
}

/// The accept probability at which passing an item pays where an escape costs as much as 20 false rejects: 20 / 21.
const PAYS: f64 = 20.0 / 21.0;

/// Accepts from half-way between the scores where at most 1 % of the other items pass, but never below one half: an item
/// that is more likely something else must not pass however clean the calibration pictures were. Nor above [`PAYS`], where
/// a calibrated score is proof enough: one picture with a wrong label would shut the gate for all. Without good or without
/// bad pictures nothing was measured, and it is [`PAYS`]. The unsure band reaches down to half of it.
pub fn thresholds(
    probabilities: &[Vec<f32>],
    truth: &[usize],
    classes: &[String],
    accept: &[String],
    temperature: f64,
) -> Thresholds {
    let ranked = scorecard::ranked(probabilities, truth, classes, accept);
    let accept_from = scorecard::threshold_at(&ranked, 0.01).unwrap_or(PAYS).clamp(0.5, PAYS) as f32;
    Thresholds {
        accept: accept.to_vec(),
        accept_from,
        unsure_from: accept_from / 2.0,
        temperature: temperature as f32,
        unknown_from: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temperature_undoes_overconfidence() {
        // Three of four right at logit gap g: the likeliest probability is 3/4, a gap of ln 3.
        let gap = 3f32.ln() * 4.0;
        let truth: Vec<usize> = (0..4000).map(|i| usize::from(i % 4 == 3)).collect();
        let found = temperature(&vec![vec![gap, 0.0]; 4000], &truth);
        assert!((found - 4.0).abs() < 0.01, "{found}");
        let calibrated = softmax(&[vec![gap, 0.0]], found);
        assert!((calibrated[0][0] - 0.75).abs() < 1e-3);
    }

    #[test]
    fn a_few_pictures_all_right_do_not_prove_certainty() {
        let found = temperature(&vec![vec![3.0, 0.0]; 98], &[0; 98]);
        // Target of the true class: 0.99 + 0.01 / 2.
        assert!((softmax(&[vec![3.0, 0.0]], found)[0][0] - 0.995).abs() < 1e-4);
    }

    #[test]
    fn a_clean_separation_still_asks_for_one_half() {
        let classes = ["good".to_string(), "bad".to_string()];
        let rows = [vec![0.4f32, 0.6], vec![0.45, 0.55], vec![0.01, 0.99]];
        let found = thresholds(&rows, &[0, 0, 1], &classes, &classes[..1], 1.0);
        assert_eq!((found.accept_from, found.unsure_from), (0.5, 0.25));
        let strict = thresholds(&[vec![0.8f32, 0.2], vec![0.7, 0.3]], &[0, 1], &classes, &classes[..1], 1.0);
        assert_eq!(strict.accept_from, 0.75, "half-way between 0.8 and 0.7");
    }

    #[test]
    fn one_wrong_label_or_an_empty_side_does_not_shut_the_gate() {
        let classes = ["good".to_string(), "bad".to_string()];
        let row = |p: f32| vec![p, 1.0 - p];
        let found = |rows: &[f32], truth: &[usize]| {
            let rows: Vec<Vec<f32>> = rows.iter().map(|p| row(*p)).collect();
            thresholds(&rows, truth, &classes, &classes[..1], 1.0).accept_from
        };
        let pays = PAYS as f32;
        assert_eq!(found(&[0.99, 0.98, 0.995, 0.02], &[0, 0, 1, 1]), pays, "0.995 is a good one that was labeled bad");
        assert_eq!(found(&[0.99, 0.98], &[0, 0]), pays, "nothing bad was held out");
        assert_eq!(found(&[0.01, 0.02], &[1, 1]), pays, "nothing good was held out");
        assert_eq!(found(&[0.7, 0.9, 0.6, 0.1], &[0, 0, 1, 1]), 0.65, "not the lowest good score that was seen");
    }
}
