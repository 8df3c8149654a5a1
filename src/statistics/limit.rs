//! A limit that further values of one kind exceed with a named share.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// The value that one more of the kind of `values` exceeds with probability `share` at most. All must be positive and finite.
///
/// From 1/`share` − 1 values on it is the ⌈(n + 1)(1 − `share`)⌉-th smallest, whatever their distribution (split conformal
/// prediction, Lei et al. 2018, arXiv:1604.04173 §2.2). Of fewer no value of theirs can say it: then their logarithms are
/// taken for normal, and it is the one-sided prediction limit m + t(n − 1)·s·√(1 + 1/n). `None` of fewer than two, of values
/// that are all alike, and for a share outside of 0 to 1.
pub fn exceeded_by(values: &[f32], share: f64) -> Option<f32> {
    let n = values.len();
    if n < 2 || !(share > 0.0 && share < 1.0) || !values.iter().all(|value| *value > 0.0 && value.is_finite()) {
        return None;
    }
    let place = ((n as f64 + 1.0) * (1.0 - share)).ceil() as usize;
    if place <= n {
        let mut sorted = values.to_vec();
        sorted.sort_by(f32::total_cmp);
        return sorted.get(place.saturating_sub(1)).copied();
    }
    let logs: Vec<f64> = values.iter().map(|value| f64::from(*value).ln()).collect();
    let mean = logs.iter().sum::<f64>() / n as f64;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n as f64 - 1.0);
    let t = StudentsT::new(0.0, 1.0, n as f64 - 1.0).ok()?.inverse_cdf(1.0 - share);
    let limit = (mean + t * (variance * (1.0 + 1.0 / n as f64)).sqrt()).exp() as f32;
    (variance > 0.0 && limit.is_finite()).then_some(limit)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// e to a sum of twelve uniform draws, which is nearly normal.
    fn draw(rng: &mut ChaCha8Rng) -> f32 {
        let normal: f64 = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        (0.3 * normal).exp() as f32
    }

    #[test]
    fn one_more_exceeds_the_limit_with_the_named_share() {
        for (n, share) in [(5, 0.05), (20, 0.02), (99, 0.01), (400, 0.01)] {
            let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
            let beyond = (0..20_000).filter(|_| {
                let values: Vec<f32> = (0..n).map(|_| draw(&mut rng)).collect();
                exceeded_by(&values, share).is_some_and(|limit| draw(&mut rng) > limit)
            });
            let found = beyond.count() as f64 / 20_000.0;
            assert!((0.6 * share..1.25 * share).contains(&found), "{n}: {found} beyond, {share} named");
        }
    }

    #[test]
    fn too_few_values_or_wrong_ones_say_nothing() {
        assert_eq!(exceeded_by(&[1.0], 0.01), None);
        assert_eq!(exceeded_by(&[1.0, 1.0, 1.0], 0.01), None);
        assert_eq!(exceeded_by(&[1.0, f32::NAN], 0.01), None);
        assert_eq!(exceeded_by(&[1.0, 0.0], 0.01), None);
        assert_eq!(exceeded_by(&[1.0, 2.0, 3.0], 0.0), None);
        assert_eq!(exceeded_by(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
    }
}
