//! A sensor after each gate says what really left the belt; verdicts say what should have. Pure: time is an argument.
//!
//! Invariant: every verdict that asked for a gate with a sensor ends exactly once, confirmed or missed; every pulse
//! counts once, as a confirmation or as a false reject. At most `queue` verdicts wait.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::line::eject::output::{LineAction, Subject};

/// What a late or failed command leads to, besides a log entry and a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLate {
    /// The line is stopped.
    StopLine,
    /// Everything is led aside from now on.
    Divert,
    /// Nothing but the log entry, the count and the alert on it.
    Alarm,
}

impl OnLate {
    /// Closed set of names for metrics.
    pub fn name(self) -> &'static str {
        match self {
            OnLate::StopLine => "stop_line",
            OnLate::Divert => "divert",
            OnLate::Alarm => "alarm",
        }
    }

    /// What it asks of the line.
    pub fn asks(self) -> Option<LineAction> {
        match self {
            OnLate::StopLine => Some(LineAction::StopLine),
            OnLate::Divert => Some(LineAction::Divert),
            OnLate::Alarm => None,
        }
    }
}

/// The sensor after a gate. Its pulses come as a Modbus discrete input, over MQTT, or by `POST /confirmations`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensor {
    /// Modbus: the discrete input that is on while an item passes, at least as long as `poll`.
    pub input: Option<u16>,
    /// From the moment when the gate hits an item to its passing the sensor.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    /// A pulse this much earlier or later still belongs to the item.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// What so many rejects in a row that it did not see lead to; absent: nothing but their entries.
    pub on_missed: Option<OnLate>,
    /// How many that are.
    #[serde(default = "three")]
    pub in_a_row: u32,
}

fn three() -> u32 {
    3
}

/// What came of a verdict or a pulse.
#[derive(Clone, Debug)]
pub enum SensorOutcome {
    /// The item left the belt.
    Confirmed(Arc<Subject>),
    /// The item should have left the belt and was not seen to.
    Missed(Arc<Subject>),
    /// Something left the belt that no verdict asked for.
    False,
}

impl SensorOutcome {
    /// Closed set of names for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            SensorOutcome::Confirmed(_) => "confirmed",
            SensorOutcome::Missed(_) => "missed",
            SensorOutcome::False => "false",
        }
    }
}

/// One gate's sensor and the verdicts that wait for a pulse.
pub struct Reconciler {
    sensor: Sensor,
    queue: usize,
    /// When each item should pass the sensor.
    expected: VecDeque<(Instant, Arc<Subject>)>,
}

impl Reconciler {
    /// Nothing is expected yet.
    pub fn new(sensor: Sensor, queue: usize) -> Self {
        Self { sensor, queue, expected: VecDeque::new() }
    }

    /// The gate hits the item at `hit`; `None` where nobody knows, which no pulse can confirm.
    pub fn expect(&mut self, hit: Option<Instant>, subject: Arc<Subject>) -> Option<SensorOutcome> {
        let Some(hit) = hit.filter(|_| self.expected.len() < self.queue) else {
            return Some(SensorOutcome::Missed(subject));
        };
        self.expected.push_back((hit + self.sensor.after, subject));
        None
    }

    /// The gate will hit the item at `hit` instead: the belt runs otherwise than it did.
    pub fn moved(&mut self, subject: &Arc<Subject>, hit: Instant) {
        let passes = hit + self.sensor.after;
        self.expected.iter_mut().filter(|(_, s)| Arc::ptr_eq(s, subject)).for_each(|(at, _)| *at = passes);
    }

    /// The gate will not be ordered for the item: it is missed now.
    pub fn lost(&mut self, subject: &Arc<Subject>) -> Option<SensorOutcome> {
        let place = self.expected.iter().position(|(_, s)| Arc::ptr_eq(s, subject))?;
        self.expected.remove(place).map(|(_, subject)| SensorOutcome::Missed(subject))
    }

    /// The sensor saw something at `at`: it confirms the nearest expected item within the window.
    pub fn pulse(&mut self, at: Instant) -> SensorOutcome {
        let off = |expected: Instant| if at > expected { at - expected } else { expected - at };
        let near = self.expected.iter().enumerate().map(|(i, (expected, _))| (off(*expected), i));
        let near = near.filter(|(off, _)| *off <= self.sensor.window).min();
        match near.and_then(|(_, i)| self.expected.remove(i)) {
            Some((_, subject)) => SensorOutcome::Confirmed(subject),
            None => SensorOutcome::False,
        }
    }

    /// The verdicts whose window has passed at `now`.
    pub fn missed(&mut self, now: Instant) -> Vec<SensorOutcome> {
        let window = self.sensor.window;
        let (passed, waiting) = self.expected.drain(..).partition(|(expected, _)| *expected + window < now);
        self.expected = waiting;
        VecDeque::into_iter(passed).map(|(_, subject)| SensorOutcome::Missed(subject)).collect()
    }

    /// When [`Reconciler::missed`] has something to say next.
    pub fn next(&self) -> Option<Instant> {
        let passes = self.expected.iter().map(|(expected, _)| *expected).min()?;
        Some(passes + self.sensor.window + Duration::from_nanos(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Action, testing::verdict};

    const MS: Duration = Duration::from_millis(1);

    fn item(track: u64) -> Arc<Subject> {
        let mut verdict = verdict(Action::Reject);
        verdict.track = track;
        Arc::new(Subject::new("out".into(), &verdict))
    }

    #[test]
    fn pulses_and_verdicts_are_matched_by_time() {
        let start = Instant::now();
        let sensor = Sensor { input: None, after: 100 * MS, window: 30 * MS, on_missed: None, in_a_row: 3 };
        let mut gate = Reconciler::new(sensor, 8);
        for n in 0..4u32 {
            assert!(gate.expect(Some(start + 75 * n * MS), item(n.into())).is_none());
        }
        // Expected at 100, 175, 250 and 325 ms.
        assert_eq!(gate.next(), Some(start + 130 * MS + Duration::from_nanos(1)));
        let mut said = Vec::new();
        for at in [60, 90, 170, 172, 340] {
            let tracks = gate.missed(start + at * MS).into_iter().map(|outcome| match outcome {
                SensorOutcome::Missed(subject) => format!("{} missed", subject.track),
                other => panic!("{other:?}"),
            });
            said.extend(tracks);
            said.push(format!("{at} {}", gate.pulse(start + at * MS).name()));
        }
        let want = ["60 false", "90 confirmed", "170 confirmed", "172 false", "2 missed", "340 confirmed"];
        assert_eq!(said, want);
        assert_eq!((gate.next(), gate.missed(start + 9999 * MS).len()), (None, 0));
    }

    #[test]
    fn an_item_that_is_lost_on_its_way_is_missed_once() {
        let sensor = Sensor { input: None, after: MS, window: MS, on_missed: None, in_a_row: 3 };
        let (start, lost) = (Instant::now(), item(1));
        let mut gate = Reconciler::new(sensor, 8);
        assert!(gate.expect(Some(start), lost.clone()).is_none());
        assert!(matches!(gate.lost(&lost), Some(SensorOutcome::Missed(subject)) if subject.track == 1));
        assert!(gate.lost(&lost).is_none());
        assert_eq!((gate.next(), gate.missed(start + 9 * MS).len()), (None, 0));
    }

    #[test]
    fn an_item_that_nobody_can_wait_for_is_missed_at_once() {
        let sensor = Sensor { input: None, after: MS, window: MS, on_missed: None, in_a_row: 3 };
        let mut gate = Reconciler::new(sensor, 1);
        assert!(matches!(gate.expect(None, item(1)), Some(SensorOutcome::Missed(_))));
        assert!(gate.expect(Some(Instant::now()), item(2)).is_none());
        assert!(matches!(gate.expect(Some(Instant::now()), item(3)), Some(SensorOutcome::Missed(_))));
    }
}
