//! Exact bounds on the share behind a count of independent draws with equal chances.

use statrs::function::beta::beta_reg;

/// Upper Clopper-Pearson limit (Clopper & Pearson 1934) on a share of which `found` of `n` draws were: the largest share at
/// which so few are still found with probability `error`. 1 of none; for an `error` outside of 0 to 1 too.
pub fn upper(found: usize, n: usize, error: f64) -> f64 {
    if found >= n || !(error > 0.0 && error < 1.0) {
        return 1.0;
    }
    // P(X ≤ found) = 1 − I_p(found + 1, n − found) falls as p rises.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let p = (low + high) / 2.0;
        if 1.0 - beta_reg(found as f64 + 1.0, (n - found) as f64, p) > error { low = p } else { high = p }
    }
    high
}

/// Lower Clopper-Pearson limit, likewise; 0 of none.
pub fn lower(found: usize, n: usize, error: f64) -> f64 {
    1.0 - upper(n - found.min(n), n, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P(X ≤ k) of n draws, added up.
    fn at_most(k: usize, n: usize, p: f64) -> f64 {
        let mut term = (1.0 - p).powi(n as i32);
        let mut sum = term;
        for i in 1..=k {
            term *= (n - i + 1) as f64 / i as f64 * p / (1.0 - p);
            sum += term;
        }
        sum
    }

    #[test]
    fn at_the_limit_so_few_are_found_with_the_named_error() {
        for (k, n, error) in [(0, 299, 0.05), (1, 30, 0.025), (7, 60, 0.05), (40, 300, 0.001), (200, 300, 0.05)] {
            let limit = upper(k, n, error);
            assert!((at_most(k, n, limit) - error).abs() < 1e-9, "{k} of {n}: {limit}");
            let limit = lower(n - k, n, error);
            assert!((at_most(k, n, 1.0 - limit) - error).abs() < 1e-9);
        }
        assert!((upper(0, 299, 0.05) - 0.009_969).abs() < 1e-6, "299 without a miss bound 1 %");
    }

    #[test]
    fn of_none_nothing_is_known() {
        assert_eq!((lower(0, 0, 0.05), upper(0, 0, 0.05)), (0.0, 1.0));
        assert_eq!((upper(3, 3, 0.05), upper(1, 9, f64::NAN)), (1.0, 1.0));
    }
}
