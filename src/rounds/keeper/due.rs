//! When the next round is due: by new labels, by the clock, or because the belt shows what is new to the student.

use std::time::{Duration, Instant};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::rounds::{RoundFolder, RoundOutcome, RoundPlan, RoundSettings, gate::PromotionGateRuling};

/// How long no round has run: since the last one ended, or, before the first one, since the service started.
pub(super) struct IdleTime {
    since: Instant,
    /// Told by the wall clock when the service started; from then on the monotonic one counts.
    before: Duration,
}

impl Default for IdleTime {
    fn default() -> Self {
        Self { since: Instant::now(), before: Duration::ZERO }
    }
}

impl IdleTime {
    /// Since the end of the last of `rounds`, so that a restart does not put the next one off.
    pub(super) fn since_last(rounds: &[RoundFolder], now: OffsetDateTime) -> Self {
        let outcome = rounds.iter().rev().find_map(|round| round.read::<RoundOutcome>("outcome.json"));
        let ended = outcome.and_then(|outcome| OffsetDateTime::parse(&outcome.at, &Rfc3339).ok());
        let before = ended.and_then(|ended| Duration::try_from(now - ended).ok()); // none: the clock was set back
        Self { before: before.unwrap_or_default(), ..Self::default() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.before + self.since.elapsed()
    }
}

/// Candidates that the store's answers have judged in `rounds`, whatever became of them. Rulings of older programs, which had
/// no such count, are none.
pub(super) fn tests_made(rounds: &[RoundFolder]) -> u32 {
    let made = |round: &RoundFolder| {
        let ruling: PromotionGateRuling = round.read("ruling.json")?;
        let plan: RoundPlan = round.read("plan.json")?;
        ruling.checks.iter().any(|check| check.name == "tests").then_some(plan.tests_before + 1)
    };
    rounds.iter().filter_map(made).max().unwrap_or(0)
}

/// What starts a round now, if anything does: `labels`, `schedule` or `drift`. Of `labels` items that are labeled,
/// `new_labels` came since the last round began; no round has run for `idle`; `novelty` is the newest items' mean.
pub(super) fn trigger(
    settings: &RoundSettings,
    labels: usize,
    new_labels: usize,
    idle: Duration,
    novelty: Option<f32>,
) -> Option<&'static str> {
    if labels < settings.min_labels {
        return None;
    }
    // Without a new label a round for drift would only repeat the last one.
    let may_drift = settings.drift > 0.0 && idle >= settings.pause && new_labels > 0;
    if settings.new_labels > 0 && new_labels >= settings.new_labels {
        Some("labels")
    } else if !settings.every.is_zero() && idle >= settings.every {
        Some("schedule")
    } else if may_drift && novelty.is_some_and(|novelty| novelty >= settings.drift) {
        Some("drift")
    } else {
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rounds::RoundEnd;

    #[test]
    fn a_restart_does_not_put_the_next_round_off() {
        let folder = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let hours = |n: i64| now + time::Duration::hours(n);
        let ended = |number: u32, at: OffsetDateTime| {
            let round = RoundFolder::new(folder.path(), number);
            let at = at.format(&Rfc3339).unwrap();
            round
                .write("outcome.json", &RoundOutcome { end: RoundEnd::Held, why: String::new(), at, ruling: None })
                .unwrap();
            round
        };
        let idle = |rounds: &[RoundFolder]| IdleTime::since_last(rounds, now).elapsed().as_secs() / 3600;
        assert_eq!(idle(&[]), 0, "before the first round it counts from the start of the service");
        let rounds = [ended(1, hours(-30)), ended(2, hours(-7))];
        assert_eq!(idle(&rounds), 7);
        assert_eq!(
            idle(&[rounds[0].clone(), RoundFolder::new(folder.path(), 3)]),
            30,
            "one that was broken off has no end"
        );
        assert_eq!(idle(&[ended(4, hours(5))]), 0, "the clock was set back");
    }

    #[test]
    fn a_round_is_due_by_new_labels_by_the_clock_or_by_drift_but_never_with_too_few_labels() {
        const HOUR: Duration = Duration::from_secs(3600);
        let settings = RoundSettings { every: HOUR * 8, new_labels: 30, drift: 1.5, ..RoundSettings::default() };
        let due = |labels, new, hours, novelty| trigger(&settings, labels, new, HOUR * hours, novelty);
        assert_eq!(due(19, 19, 9, Some(9.0)), None, "a round needs 20");
        assert_eq!(due(100, 29, 7, Some(1.4)), None);
        assert_eq!(due(100, 30, 0, None), Some("labels"));
        assert_eq!(due(100, 0, 8, None), Some("schedule"));
        assert_eq!(due(100, 1, 1, Some(1.5)), Some("drift"));
        assert_eq!(due(100, 1, 0, Some(9.0)), None, "not at once after the last one");
        assert_eq!(due(100, 0, 7, Some(9.0)), None, "nothing was labeled that it could learn from");
        let by_hand = RoundSettings::default();
        assert_eq!(trigger(&by_hand, 1000, 1000, HOUR * 1000, Some(9.0)), None, "by a person alone");
    }
}
