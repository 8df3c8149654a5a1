//! Which items' pictures are kept. The choice is pure; the recorder only asks.
//!
//! Invariant: the picture of an item that was taken off the belt is always kept, and doubt keeps: a probability or
//! novelty that is not a number counts as the most informative one. Of the accepted, each reason has its own quota, so
//! that a flood of one kind neither fills the disk nor hides the others.

use std::time::Instant;

use crate::{
    domain::{Action, Verdict},
    line::record::RecordSettings,
};

/// Why a picture is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepReason {
    /// The item was rejected or diverted.
    TakenOff,
    /// Two classes were nearly as probable.
    Doubtful,
    /// It lies away from what the student was trained on.
    Novel,
    /// The audit drew it.
    Audit,
    /// By chance: what is sure and known must be seen too, or nobody finds what the student is wrong about and sure of.
    Random,
}

impl KeepReason {
    /// Every reason.
    pub const ALL: [KeepReason; 5] =
        [KeepReason::TakenOff, KeepReason::Doubtful, KeepReason::Novel, KeepReason::Audit, KeepReason::Random];

    /// Snake-case name, as in metrics.
    pub fn name(self) -> &'static str {
        match self {
            KeepReason::TakenOff => "taken_off",
            KeepReason::Doubtful => "doubtful",
            KeepReason::Novel => "novel",
            KeepReason::Audit => "audit",
            KeepReason::Random => "random",
        }
    }
}

/// Why the picture of `verdict` is worth keeping, if it is; `chance` is drawn evenly from 0..1.
pub fn reason_to_keep(verdict: &Verdict, settings: &RecordSettings, chance: f64) -> Option<KeepReason> {
    let sure = verdict.margin() >= settings.keep_margin;
    let known = verdict.novelty.is_none_or(|n| n <= settings.keep_novelty);
    match verdict.decision.action {
        Action::Reject | Action::Divert => Some(KeepReason::TakenOff),
        Action::Accept if !sure => Some(KeepReason::Doubtful),
        Action::Accept if !known => Some(KeepReason::Novel),
        Action::Accept => (chance < settings.keep_share).then_some(KeepReason::Random),
    }
}

/// How many pictures of accepted items may still be kept, by reason. It fills evenly, up to an hour's worth.
#[derive(Debug)]
pub struct Quotas {
    per_hour: f64,
    left: [f64; KeepReason::ALL.len()],
    at: Instant,
}

impl Quotas {
    /// Full ones, at `now`.
    pub fn new(per_hour: u32, now: Instant) -> Self {
        let per_hour = f64::from(per_hour);
        Self { per_hour, left: [per_hour; KeepReason::ALL.len()], at: now }
    }

    /// Takes one place, if there is one; what was taken off the belt needs none, nor what the audit drew: it has a budget of
    /// its own.
    pub fn take(&mut self, reason: KeepReason, now: Instant) -> bool {
        let new = now.saturating_duration_since(self.at).as_secs_f64() / 3600.0 * self.per_hour;
        self.left.iter_mut().for_each(|left| *left = (*left + new).min(self.per_hour));
        self.at = self.at.max(now);
        if matches!(reason, KeepReason::TakenOff | KeepReason::Audit) {
            return true;
        }
        let left = &mut self.left[reason as usize];
        let there = *left >= 1.0;
        if there {
            *left -= 1.0;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{ClassScore, testing::verdict};

    fn accepted(best: f32, second: f32, novelty: Option<f32>) -> Verdict {
        let score = |class: &str, probability| ClassScore { class: class.into(), probability };
        Verdict { scores: vec![score("cod", best), score("bass", second)], novelty, ..verdict(Action::Accept) }
    }

    #[test]
    fn what_was_taken_off_is_kept_and_of_the_rest_the_informative_and_a_random_share() {
        let settings =
            RecordSettings { keep_share: 0.1, keep_margin: 0.2, keep_novelty: 1.0, ..RecordSettings::default() };
        let reason = |v: &Verdict, chance| reason_to_keep(v, &settings, chance);
        assert_eq!(reason(&verdict(Action::Reject), 0.99), Some(KeepReason::TakenOff));
        assert_eq!(reason(&verdict(Action::Divert), 0.99), Some(KeepReason::TakenOff));
        assert_eq!(reason(&accepted(0.58, 0.42, None), 0.99), Some(KeepReason::Doubtful));
        assert_eq!(reason(&accepted(0.7, 0.3, None), 0.99), None);
        assert_eq!(reason(&accepted(f32::NAN, 0.3, None), 0.99), Some(KeepReason::Doubtful));
        assert_eq!(reason(&accepted(0.99, 0.01, Some(1.0)), 0.99), None);
        assert_eq!(reason(&accepted(0.99, 0.01, Some(1.1)), 0.99), Some(KeepReason::Novel));
        assert_eq!(reason(&accepted(0.99, 0.01, Some(f32::NAN)), 0.99), Some(KeepReason::Novel));
        let kept = (0..1000).filter(|i| reason(&accepted(0.99, 0.01, None), f64::from(*i) / 1000.0).is_some());
        assert_eq!(kept.count(), 100);
    }

    #[test]
    fn a_flood_of_one_kind_stops_at_its_quota_and_leaves_the_others_theirs() {
        let start = Instant::now();
        let mut quotas = Quotas::new(60, start);
        let mut taken = |reason: KeepReason, tries: usize, at: Duration| {
            (0..tries).filter(|_| quotas.take(reason, start + at)).count()
        };
        assert_eq!(taken(KeepReason::Novel, 1000, Duration::ZERO), 60);
        assert_eq!(taken(KeepReason::Random, 5, Duration::ZERO), 5);
        assert_eq!(taken(KeepReason::TakenOff, 1000, Duration::ZERO), 1000, "never refused");
        assert_eq!(taken(KeepReason::Novel, 1000, Duration::from_secs(600)), 10, "a sixth of an hour later");
        assert_eq!(
            taken(KeepReason::Novel, 1000, Duration::from_secs(360_000)),
            60,
            "no more than an hour's worth at once"
        );
        assert!(!Quotas::new(0, start).take(KeepReason::Random, start));
    }
}
