//! Where the belt was in the last seconds, and how fast it runs. Pure: time is an argument.
//!
//! Invariant: a position is told only where readings tell it: between two that lie close together or are the same, and a
//! little beyond the newest.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Readings are kept this long, and so many at most.
const KEPT: (Duration, usize) = (Duration::from_secs(10), 4096);
/// The speed is taken over the readings of this long, and over two at least.
const WINDOW: Duration = Duration::from_millis(40);
/// A position is told this long beyond the newest reading.
const BEYOND: Duration = Duration::from_millis(50);

/// Where the belt is and how it runs. Positions are metres that it has run since some moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Motion {
    /// Which counting the position belongs to: positions of two countings have nothing to do with each other.
    pub counting: u32,
    /// In metres.
    pub position: f64,
    /// In m/s, below 0 backwards.
    pub speed: f64,
    /// When that was.
    pub at: Instant,
}

/// Readings of one belt's position, in any unit.
#[derive(Debug)]
pub(super) struct BeltTrack {
    counting: u32,
    /// Between two readings that lie farther apart nobody knows the way.
    gap: Duration,
    readings: VecDeque<(Instant, f64)>,
}

impl BeltTrack {
    /// Nothing is known yet; between readings farther apart than `gap` nothing will be.
    pub fn new(gap: Duration) -> Self {
        Self { counting: 0, gap, readings: VecDeque::new() }
    }

    /// The belt was at `position` at `at`; false for a reading that is no newer than the newest, which changes nothing.
    pub fn went_to(&mut self, position: f64, at: Instant) -> bool {
        if self.readings.back().is_some_and(|(newest, _)| at <= *newest) {
            return false;
        }
        self.readings.push_back((at, position));
        while self.readings.len() > KEPT.1
            || self.readings.front().is_some_and(|(oldest, _)| at.duration_since(*oldest) > KEPT.0)
        {
            self.readings.pop_front();
        }
        true
    }

    /// From now on positions are counted from somewhere else.
    pub fn restart(&mut self) {
        self.counting = self.counting.wrapping_add(1);
        self.readings.clear();
    }

    /// The newest reading, and the speed over the last ones; `None` before the second.
    pub fn motion(&self) -> Option<Motion> {
        let (at, position) = *self.readings.back()?;
        let before = self.readings.iter().rev().skip(1);
        let within = before.clone().take_while(|(then, _)| at.duration_since(*then) <= WINDOW).last();
        let (then, from) = *within.or_else(|| before.clone().next())?;
        let speed = (position - from) / at.duration_since(then).as_secs_f64();
        Some(Motion { counting: self.counting, position, speed, at })
    }

    /// The counting and the position at `at`; `None` where nobody knows it.
    pub fn place(&self, at: Instant) -> Option<(u32, f64)> {
        let after = self.readings.partition_point(|(then, _)| *then < at);
        let position = match (after.checked_sub(1).and_then(|i| self.readings.get(i)), self.readings.get(after)) {
            (_, Some((then, position))) if *then == at => *position,
            (Some((from, here)), Some((to, there))) => {
                let between = to.duration_since(*from);
                if between > self.gap && here != there {
                    return None;
                }
                let share = at.duration_since(*from).as_secs_f64() / between.as_secs_f64();
                here + (there - here) * share
            }
            (Some((newest, position)), None) => {
                let beyond = at.duration_since(*newest);
                if beyond > BEYOND {
                    return None;
                }
                position + self.motion()?.speed * beyond.as_secs_f64()
            }
            _ => return None,
        };
        Some((self.counting, position))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_position_is_told_between_readings_and_a_little_beyond_and_nowhere_else() {
        let start = Instant::now();
        let mut track = BeltTrack::new(100 * MS);
        assert_eq!((track.motion(), track.place(start)), (None, None));
        for n in 0..100u32 {
            assert!(track.went_to(f64::from(n) * 0.01, start + 10 * MS * n), "1 m/s");
        }
        let place = |track: &BeltTrack, ms: u32| track.place(start + MS * ms).map(|(_, at)| (at * 1e6).round() / 1e6);
        assert_eq!(place(&track, 505), Some(0.505));
        assert_eq!(place(&track, 500), Some(0.5));
        assert_eq!(place(&track, 1039), Some(1.039));
        assert_eq!(place(&track, 1041), None, "too far beyond");
        assert_eq!(track.place(start - MS), None, "before the first");
        let motion = track.motion().unwrap();
        assert!((motion.speed - 1.0).abs() < 1e-9 && motion.at == start + 990 * MS);
        // Silent for 210 ms, in which it may have run in any way; then it stands, for as long without a word.
        assert!(track.went_to(1.1, start + 1200 * MS));
        assert!(track.went_to(1.1, start + 1410 * MS));
        assert!(!track.went_to(9.0, start + 1410 * MS), "it is no newer");
        assert_eq!((place(&track, 1100), place(&track, 1300)), (None, Some(1.1)));
        assert_eq!(track.motion().unwrap().speed, 0.0);
        track.restart();
        assert_eq!((place(&track, 1300), track.motion()), (None, None));
        track.went_to(0.0, start + 1420 * MS);
        track.went_to(0.0, start + 1430 * MS);
        assert_eq!(track.motion().unwrap().counting, 1);
    }

    #[test]
    fn ten_seconds_are_kept() {
        let start = Instant::now();
        let mut track = BeltTrack::new(100 * MS);
        for n in 0..20_000u32 {
            track.went_to(f64::from(n), start + MS * n);
            assert!(track.readings.len() <= KEPT.1);
        }
        assert_eq!(track.readings.front().map(|(at, _)| *at), Some(start + MS * (20_000 - 4096)));
    }
}
