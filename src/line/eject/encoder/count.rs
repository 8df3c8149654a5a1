//! What an encoder's raw count says: how far the belt went, a wrap, or that the counting began anew. Pure.
//!
//! Invariant: the unwrapped count is always the raw one plus a multiple of the counter's range, so that a place on the belt
//! can be told to a PLC in its own counts.

use std::time::{Duration, Instant};

/// Counts by which a standing counter may tremble.
const TREMBLE: f64 = 2.0;

/// What a reading said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::line::eject) enum CountStep {
    /// The first one: the counting begins.
    First,
    /// So far the belt went.
    On {
        /// The counter passed its end.
        wrapped: bool,
    },
    /// No belt runs so far in that time: the counter was reset or jumped, and the counting begins anew.
    Jump {
        /// Counts from the last reading to this one.
        by: i64,
    },
}

/// One counter of 16 or 32 bits that counts round and round.
#[derive(Debug)]
pub(in crate::line::eject) struct Counter {
    range: i64,
    /// Counts a second at the belt's highest speed.
    fastest: f64,
    /// The newest reading: count, moment, and by how much the moment may be wrong.
    last: Option<(i64, Instant, Duration)>,
}

impl Counter {
    /// A counter of `bits` bits on a belt that makes at most `fastest` counts a second.
    pub fn new(bits: u32, fastest: f64) -> Self {
        Self { range: 1 << bits, fastest, last: None }
    }

    /// The counter was at `raw` at `at`, give or take `doubt`: the unwrapped count, and what that says. `None` for a number
    /// that the counter does not have, and for a reading that is no newer than the last. A counter may call its upper half
    /// negative.
    pub fn read(&mut self, raw: i64, at: Instant, doubt: Duration) -> Option<(i64, CountStep)> {
        if raw < -self.range / 2 || raw >= self.range {
            return None;
        }
        let raw = raw.rem_euclid(self.range);
        let Some((before, then, doubted)) = self.last else {
            self.last = Some((raw, at, doubt));
            return Some((raw, CountStep::First));
        };
        let seconds = (at.checked_duration_since(then).filter(|time| !time.is_zero())? + doubt + doubted).as_secs_f64();
        let by = (raw - before + self.range / 2).rem_euclid(self.range) - self.range / 2;
        let most = self.fastest * seconds + TREMBLE;
        let (count, step) = if by.abs() as f64 > most || most >= (self.range / 2) as f64 {
            (raw, CountStep::Jump { by: raw - before.rem_euclid(self.range) })
        } else {
            let count = before + by;
            let wrapped = count.div_euclid(self.range) != before.div_euclid(self.range);
            (count, CountStep::On { wrapped })
        };
        self.last = Some((count, at, doubt));
        Some((count, step))
    }

    /// What the counter shows at an unwrapped count.
    pub fn raw(&self, count: i64) -> u32 {
        count.rem_euclid(self.range) as u32 // below 2^32
    }

    /// Whether a place so many counts ahead can be told from one behind.
    pub fn reaches(&self, ahead: f64) -> bool {
        ahead.abs() < (self.range / 2) as f64
    }

    /// Nobody knows what the counter did meanwhile: the next reading is the first.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn wraps_go_both_ways_and_resets_are_no_wraps() {
        let start = Instant::now();
        for bits in [16, 32] {
            let end = 1i64 << bits;
            let mut counter = Counter::new(bits, 20_000.0); // 2 m/s of tenths of a millimetre
            let mut n = 0;
            let mut read = |raw| {
                n += 1;
                counter.read(raw, start + 10 * MS * n, Duration::ZERO).unwrap()
            };
            let on = |wrapped| CountStep::On { wrapped };
            assert_eq!(read(end - 150), (end - 150, CountStep::First));
            assert_eq!(read(30), (end + 30, on(true)));
            assert_eq!(read(end - 60), (end - 60, on(true)), "it runs backwards");
            assert_eq!(read(-50), (end - 50, on(false)), "a signed counter of the same");
            assert_eq!(read(end / 2), (end / 2, CountStep::Jump { by: end / 2 - (end - 50) }));
            assert_eq!(read(end / 2 + 100), (end / 2 + 100, on(false)));
            assert_eq!(read(0), (0, CountStep::Jump { by: -(end / 2 + 100) }));
            assert_eq!(read(-1), (-1, on(true)));
            assert_eq!(counter.raw(-1), (end - 1) as u32);
            assert_eq!(counter.read(end, start + 999 * MS, Duration::ZERO), None, "it has no such count");
            assert_eq!(counter.read(5, start + 10 * MS * n, Duration::ZERO), None, "it is no newer");
        }
    }

    #[test]
    fn after_so_long_that_a_counter_may_have_gone_round_nobody_knows_how_far_the_belt_went() {
        let start = Instant::now();
        for (seconds, known) in [(1, true), (2, false)] {
            let mut counter = Counter::new(16, 20_000.0);
            counter.read(0, start, Duration::ZERO);
            let (count, step) = counter.read(0, start + Duration::from_secs(seconds), Duration::ZERO).unwrap();
            assert_eq!((count, step == CountStep::On { wrapped: false }), (0, known));
        }
    }

    proptest! {
        #[test]
        fn the_unwrapped_count_is_the_belts_way_whatever_it_does(
            bits in prop::sample::select(vec![16u32, 32]),
            first in any::<u32>(),
            // Milliseconds to the next reading, the share of the highest speed, and whether it is reset before it.
            steps in prop::collection::vec((1u64..200, -1.0f64..1.0, prop::bool::weighted(0.02)), 1..200),
        ) {
            let (range, fastest) = (1i64 << bits, 25_000.0);
            let mut counter = Counter::new(bits, fastest);
            let mut at = Instant::now();
            let mut way = i64::from(first) % range; // what a counter without end would show
            let (mut offset, mut jumps) = (0, 0);
            prop_assert_eq!(counter.read(way, at, Duration::ZERO), Some((way, CountStep::First)));
            for (ms, share, reset) in steps {
                at += Duration::from_millis(ms);
                let step = (share * fastest * ms as f64 / 1e3) as i64;
                let before = way;
                // A reset to somewhere that no belt can have reached.
                way = if reset { before + range / 2 - step.abs() } else { before + step };
                let raw = way.rem_euclid(range);
                let (count, said) = counter.read(raw, at, Duration::ZERO).unwrap();
                prop_assert_eq!(i64::from(counter.raw(count)), raw);
                if reset {
                    let jumped = matches!(said, CountStep::Jump { .. });
                    prop_assert!(jumped, "{:?}", said);
                    offset = count - way;
                    jumps += 1;
                } else {
                    prop_assert_eq!(count, way + offset, "after {} resets", jumps);
                    let wrapped = (way + offset).div_euclid(range) != (before + offset).div_euclid(range);
                    prop_assert_eq!(said, CountStep::On { wrapped });
                }
            }
        }
    }
}
