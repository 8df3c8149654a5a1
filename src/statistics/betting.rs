//! Bounds on the mean of what draws with known chances show, which hold at every look: whoever watches while answers come in,
//! and stops when he likes what he sees, is wrong no more often than the named error.
//!
//! A bet against "the mean is at least m" (Waudby-Smith & Ramdas 2023, arXiv:2010.09686, §4): the capital
//! K = Π(1 − λ·v·(x − m)) of one who bets λ on each draw is a martingale where the mean is m, and falls on the average where
//! it is larger. So it ever reaches 1/error with probability `error` at most (Ville), and all m at which it has are excluded.
//! The weight v makes the chances even: an item that was drawn with chance π, where the least chance of any was ρ at that
//! moment, has v = ρ/π, as in the weighted mean Σ(x/π) / Σ(1/π). ρ may change from draw to draw, but not with the item.
//!
//! λ is spread over [`BETS`] constants (§5.5, "diversified Kelly betting"). They do not depend on answers, and each factor
//! falls as x rises: so a draw that is still open may be counted at its worst, whatever comes later, and the bound holds.
//!
//! What is assumed: given those before, each item has the same mean. A belt that drifts breaks it; then a bound speaks of the
//! mixture that was drawn.

/// Constants over which a bet is spread.
const BETS: usize = 32;

/// One draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// ρ/π, above 0 and at most 1; see above.
    pub weight: f64,
    /// What was found; `None` while it is open.
    pub found: Option<f64>,
}

/// Capital won by betting that the mean of values of at most `most` is below `null`, per constant. A value is `most` where it
/// is open. It starts at 1.
///
/// With λ = (1 − r)/(most − null), r from 0 to 1, a factor is 1 − (1 − r)·v·(x − null)/(most − null), never below r. The r
/// are the mid-points of even shares of a density like 1/√r: as Jeffreys' prior has it for a share near 0, so that the price
/// of not knowing the best r stays small where losses are rare and where they are not.
#[derive(Clone, Debug)]
pub struct Capital {
    null: f64,
    most: f64,
    /// Per constant, over e to `scale`.
    won: [f64; BETS],
    scale: f64,
}

impl Capital {
    /// Nothing was bet yet. `null` must be below `most`, or nothing is ever won.
    pub fn new(null: f64, most: f64) -> Self {
        Self { null, most, won: [1.0; BETS], scale: 0.0 }
    }

    /// Bets on one draw. A weight that is none, or a value above `most` or that is no number, counts as the worst.
    pub fn bet(&mut self, draw: Draw) {
        let (room, worst) = (self.most - self.null, self.most);
        let sound = draw.weight > 0.0 && draw.weight <= 1.0 && room > 0.0;
        let found = draw.found.filter(|x| *x <= worst && sound).unwrap_or(worst);
        let weight = if sound { draw.weight } else { 1.0 };
        let lost = weight * if room > 0.0 { (found - self.null) / room } else { 1.0 };
        for (won, bet) in self.won.iter_mut().zip(bets()) {
            *won *= (1.0 - bet * lost).max(0.0);
        }
        let top = self.won.iter().copied().fold(0.0, f64::max);
        if top > 1e100 || (top < 1e-100 && top > 0.0) {
            self.won.iter_mut().for_each(|won| *won /= top);
            self.scale += top.ln();
        }
    }

    /// The mean over the constants, as a natural logarithm: evidence against the null; −∞ where all is lost.
    pub fn log(&self) -> f64 {
        self.scale + (self.won.iter().sum::<f64>() / BETS as f64).ln()
    }

    /// Whether the null is excluded at `error`, which must be above 0.
    pub fn excludes(&self, error: f64) -> bool {
        error > 0.0 && self.log() >= -error.ln()
    }
}

fn bets() -> impl Iterator<Item = f64> {
    (0..BETS).map(|j| {
        let place = (j as f64 + 0.5) / BETS as f64;
        1.0 - place * place
    })
}

/// Upper bound on the mean of values from 0 to 1, open draws counted as 1: with probability `error` at most it is ever below
/// the mean, over all looks together. 1 without draws.
pub fn upper(draws: &[Draw], error: f64) -> f64 {
    let excluded = |mean: f64| {
        let mut capital = Capital::new(mean, 1.0);
        draws.iter().for_each(|draw| capital.bet(*draw));
        capital.excludes(error)
    };
    // What is excluded grows upwards: each factor rises with the mean.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..40 {
        let mean = (low + high) / 2.0;
        if excluded(mean) { high = mean } else { low = mean }
    }
    high
}

/// Lower bound, likewise, with open draws counted as 0. 0 without draws.
pub fn lower(draws: &[Draw], error: f64) -> f64 {
    let turned: Vec<Draw> = draws.iter().map(|d| Draw { found: d.found.map(|x| 1.0 - x), ..*d }).collect();
    1.0 - upper(&turned, error)
}

/// How many settings, from the strictest to the mildest, keep to what they promise: those before the first one of which it is
/// not shown (fixed-sequence testing, Angelopoulos et al. 2021, arXiv:2110.01052 §2.3). Each is tested at the full error, and
/// with probability `error` at most any of them is promised wrongly, at any look. `draws[j]` are those that setting j lets
/// pass, `limit` is the mean of them that is promised.
pub fn promised(draws: &[Vec<Draw>], limit: f64, error: f64) -> usize {
    let kept = |draws: &Vec<Draw>| {
        let mut capital = Capital::new(limit, 1.0);
        draws.iter().for_each(|draw| capital.bet(*draw));
        capital.excludes(error)
    };
    draws.iter().take_while(|draws| kept(draws)).count()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::statistics::exact;

    const ERROR: f64 = 0.05;

    fn even(found: f64) -> Draw {
        Draw { weight: 1.0, found: Some(found) }
    }

    #[test]
    fn the_capital_is_a_fair_game_where_the_mean_is_the_null() {
        // All 2^10 outcomes of ten draws with a mean of 0.3: the expected capital is 1.
        let (mean, mut expected) = (0.3f64, 0.0);
        for outcome in 0..1024u32 {
            let mut capital = Capital::new(mean, 1.0);
            let mut chance = 1.0;
            for draw in 0..10 {
                let lost = outcome >> draw & 1 == 1;
                chance *= if lost { mean } else { 1.0 - mean };
                capital.bet(even(f64::from(u8::from(lost))));
            }
            expected += chance * capital.log().exp();
        }
        assert!((expected - 1.0).abs() < 1e-12, "{expected}");
    }

    #[test]
    fn a_bound_is_hardly_wider_than_the_exact_one_of_a_single_look() {
        for n in [300, 1000, 3000] {
            for mean in [0.0, 0.002, 0.01, 0.05] {
                let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
                let (mut ours, mut exact, mut weighted) = (0.0, 0.0, 0.0);
                for _ in 0..20 {
                    let losses: Vec<f64> = (0..n).map(|_| f64::from(u8::from(rng.random_bool(mean)))).collect();
                    let draws: Vec<Draw> = losses.iter().map(|loss| even(*loss)).collect();
                    ours += upper(&draws, ERROR) / 20.0;
                    exact += exact::upper(losses.iter().sum::<f64>() as usize, n, ERROR) / 20.0;
                    // Every tenth draw was three times as likely as the others.
                    let tripled = losses.iter().enumerate().map(|(at, loss)| Draw {
                        weight: if at % 10 == 0 { 1.0 / 3.0 } else { 1.0 },
                        found: Some(*loss),
                    });
                    weighted += upper(&tripled.collect::<Vec<_>>(), ERROR) / 20.0;
                }
                println!(
                    "{n} answers, mean {mean}: {ours:.5}, exact {exact:.5}, ratio {:.2}, weighted {weighted:.5}",
                    ours / exact
                );
                assert!(ours <= 1.7 * exact, "{n} answers, mean {mean}: {ours} where the exact bound is {exact}");
            }
        }
    }

    /// A belt: scores from 0 to 1, the chance that an item is bad falls with its score; each is drawn with a chance that is
    /// three times as high for low scores.
    fn belt(rng: &mut ChaCha8Rng) -> (f64, f64, bool) {
        let score: f64 = rng.random();
        let bad = rng.random_bool(0.12 * (1.0 - score));
        let weight = if score < 0.3 { 1.0 / 3.0 } else { 1.0 };
        (score, weight, bad)
    }

    /// P(bad | score ≥ threshold) = 0.12·∫(1 − s) ds / (1 − t) = 0.06·(1 − t).
    fn risk(threshold: f64) -> f64 {
        0.06 * (1.0 - threshold)
    }

    #[test]
    fn whoever_stops_at_the_mildest_promise_breaks_it_on_at_most_5_of_100_belts() {
        let thresholds: Vec<f64> = (1..9).rev().map(|t| f64::from(t) / 10.0).collect();
        let limit = 0.0299; // the risk at 0.5 breaks it by a hair
        let (belts, mut broken, mut promised_any, mut bound_broken) = (1000, 0, 0, 0);
        for seed in 0..belts {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut capitals: Vec<(Capital, Capital)> =
                thresholds.iter().map(|t| (Capital::new(limit, 1.0), Capital::new(risk(*t), 1.0))).collect();
            let (mut mildest, mut below) = (0, false);
            for _ in 0..3000 {
                // Drawn in proportion to its chance.
                let (score, weight, bad) = loop {
                    let item = belt(&mut rng);
                    if rng.random_bool((1.0 / item.1 / 3.0).min(1.0)) {
                        break item;
                    }
                };
                for (threshold, (promise, own)) in thresholds.iter().zip(&mut capitals) {
                    if score >= *threshold {
                        let draw = Draw { weight, found: Some(f64::from(u8::from(bad))) };
                        promise.bet(draw);
                        own.bet(draw);
                    }
                }
                // The adversary looks after each answer.
                let now = capitals.iter().take_while(|(promise, _)| promise.excludes(ERROR)).count();
                mildest = mildest.max(now);
                below |= capitals[3].1.excludes(ERROR); // the upper bound at 0.5 fell below the risk there
            }
            promised_any += u64::from(mildest > 0);
            broken += u64::from(mildest > 0 && risk(thresholds[mildest - 1]) > limit);
            bound_broken += u64::from(below);
        }
        println!(
            "of {belts} belts {promised_any} promise something, {broken} too much; a bound breaks on {bound_broken}"
        );
        assert!(promised_any > belts / 4, "it promises nothing");
        assert!(broken <= belts / 20 && bound_broken <= belts / 20, "{broken} and {bound_broken} of {belts}");
        assert!(bound_broken > 0, "a bound that never breaks is too wide");
    }

    #[test]
    fn what_is_open_counts_at_its_worst_on_both_sides() {
        let mut draws = vec![even(0.0); 600];
        let (closed, lowest) = (upper(&draws, ERROR), lower(&draws, ERROR));
        assert!(closed < 0.01 && lowest == 0.0, "{closed}");
        draws[10].found = None;
        let one_open = upper(&draws, ERROR);
        let mut lost = draws.clone();
        lost[10].found = Some(1.0);
        assert_eq!(one_open, upper(&lost, ERROR));
        draws.iter_mut().step_by(20).for_each(|draw| draw.found = None);
        assert!(upper(&draws, ERROR) > 0.05, "5 % open: nothing under 50 per 1,000 can be promised");
        let bad: Vec<Draw> = (0..600).map(|at| Draw { weight: 1.0, found: (at % 20 != 0).then_some(1.0) }).collect();
        assert!((0.85..0.95).contains(&lower(&bad, ERROR)), "{}", lower(&bad, ERROR));
        assert_eq!((upper(&[], ERROR), lower(&[], ERROR)), (1.0, 0.0));
        for wrong in [0.0, -1.0, 2.0, f64::NAN] {
            assert_eq!(upper(&[Draw { weight: wrong, found: Some(0.0) }; 600], ERROR), 1.0, "a chance of {wrong}");
        }
        assert_eq!(upper(&[even(f64::NAN); 600], ERROR), 1.0);
    }

    #[test]
    fn settings_are_promised_from_the_strictest_on_until_one_is_not_shown() {
        let clean = vec![even(0.0); 1000];
        let dirty: Vec<Draw> = (0..1000).map(|at| even(f64::from(u8::from(at % 50 == 0)))).collect();
        assert_eq!(promised(&[clean.clone(), clean.clone(), dirty.clone(), clean.clone()], 0.01, ERROR), 2);
        assert_eq!(promised(&[dirty, clean], 0.01, ERROR), 0, "what comes after is not looked at");
    }
}
