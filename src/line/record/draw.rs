//! Which items the audit draws, and with which chance. It knows nothing of what becomes of them.
//!
//! Invariant: an item's chance depends on what was seen before it and on its verdict alone, it is never 0, and it is known
//! when the item is drawn. Sure accepts are drawn too: what the student is wrong about and sure of is found nowhere else.

use std::time::{Duration, Instant};

use crate::domain::{Action, AuditDraw, Verdict};

/// How much likelier those are drawn that were taken off, or that lie beyond the edge of what was learned.
const FAVOUR: f64 = 3.0;
/// No item has a smaller chance.
const LEAST: f64 = 1e-6;
/// Time over which the belt's pace is measured.
const PACE: Duration = Duration::from_secs(3600);

/// Draws so many items a day, by the pace at which they come.
#[derive(Debug)]
pub struct AuditSampler {
    per_second: f64,
    most: f64,
    /// Items since the start, each counted as much as it is favoured; older ones count less.
    seen: f64,
    /// Seconds in which they came, likewise.
    span: f64,
    at: Option<Instant>,
}

impl AuditSampler {
    /// Draws `per_day` items a day, none with a larger chance than `most`.
    pub fn new(per_day: u32, most: f64) -> Self {
        Self { per_second: f64::from(per_day) / 86_400.0, most, seen: 0.0, span: 0.0, at: None }
    }

    /// Whether the item of `verdict`, which came at `now`, is drawn; `luck` is drawn evenly from 0..1.
    pub fn draw(&mut self, verdict: &Verdict, now: Instant, luck: f64) -> Option<AuditDraw> {
        if self.per_second <= 0.0 {
            return None;
        }
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = self.at.max(Some(now));
        let kept = (-passed.as_secs_f64() / PACE.as_secs_f64()).exp();
        (self.seen, self.span) = (self.seen * kept, self.span * kept + passed.as_secs_f64());
        // Of what came before, so that all items of a moment have the same.
        let least = (self.per_second * self.span / self.seen.max(1.0)).clamp(LEAST, self.most.max(LEAST));
        let favour = if is_favoured(verdict) { FAVOUR } else { 1.0 };
        self.seen += favour;
        let chance = (least * favour).min(self.most.max(LEAST));
        (luck < chance).then_some(AuditDraw { chance, least })
    }
}

fn is_favoured(verdict: &Verdict) -> bool {
    verdict.decision.action != Action::Accept
        || verdict.novelty.is_some_and(|novelty| novelty > 1.0 || novelty.is_nan())
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::domain::testing::verdict;

    #[test]
    fn the_budget_is_met_at_any_pace_and_the_weights_undo_the_favour() {
        for per_minute in [10u32, 800] {
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            let mut sampler = AuditSampler::new(500, 0.5);
            let start = Instant::now();
            let (mut drawn, mut rejects, mut weights, mut weighted) = (0, 0, 0.0, 0.0);
            let items = per_minute * 60 * 24;
            for n in 0..items {
                let reject = rng.random_bool(0.2);
                let item = verdict(if reject { Action::Reject } else { Action::Accept });
                let now = start + Duration::from_secs_f64(f64::from(n) * 60.0 / f64::from(per_minute));
                let Some(draw) = sampler.draw(&item, now, rng.random()) else { continue };
                (drawn, rejects) = (drawn + 1, rejects + usize::from(reject));
                assert!(draw.least <= draw.chance && draw.chance <= 0.5 && draw.least > 0.0);
                weights += draw.weight();
                weighted += if reject { draw.weight() } else { 0.0 };
            }
            let share = weighted / weights;
            println!("{per_minute} items a minute: {drawn} drawn, {rejects} of them rejects, weighted {share:.3}");
            assert!((400..600).contains(&drawn), "{drawn} of 500 at {per_minute} a minute");
            assert!((0.14..0.26).contains(&share), "a fifth is rejected, the weighted draws say {share}");
        }
    }

    #[test]
    fn without_a_budget_nothing_is_drawn_and_without_a_verdict_that_is_sure_more() {
        let mut none = AuditSampler::new(0, 0.5);
        assert_eq!(none.draw(&verdict(Action::Reject), Instant::now(), 0.0), None);
        let strange = Verdict { novelty: Some(f32::NAN), ..verdict(Action::Accept) };
        assert!(
            is_favoured(&strange) && is_favoured(&verdict(Action::Divert)) && !is_favoured(&verdict(Action::Accept))
        );
    }
}
