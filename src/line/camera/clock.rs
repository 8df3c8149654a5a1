//! When a network camera took a picture that came later than it should have.
//!
//! A camera that tells its own time is believed, up to the least delay seen ([`CameraClock`]). Of one that does not, a picture is
//! taken to have been taken when it came, but for what comes late after a hiccup: nobody can tell whether the first picture
//! after a silence was taken just now or lay in a buffer, and what comes right behind it, faster than the camera takes
//! pictures, did lie in one. By the camera's cadence such a picture was taken somewhere between one interval after the one
//! before and now. Where that is more than an interval, it is refused: doubt about where an item lies moves the wrong gate.
//!
//! Pure: time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// By how much the camera's clock and ours may differ, 100 parts in a million being a bad quartz.
const DRIFT: f64 = 1e-4;
/// Seconds by which a picture may be older than the silence after which its camera is reopened.
const SPARE: f64 = 1.0;

/// Intervals that tell the cadence, and those without which it is unknown.
const NEWEST: usize = 16;
const LEAST: usize = 8;
/// A silence of so many intervals, and of so many seconds, is a hiccup.
const HICCUP: f64 = 3.0;
const HICCUP_LEAST: f64 = 0.1;
/// What comes within this share of an interval after the picture before lay in a buffer.
const BUFFERED: f64 = 0.5;
/// After so many hiccups with nothing buffered behind them the camera has another cadence.
const OTHER_CADENCE: u32 = 3;
/// A camera's own time is compared with ours about so often, in seconds, and may be off by so many.
const COMPARED: f64 = 10.0;
const OFF: f64 = 1.0;

/// The camera's time as ours. It counts when pictures were taken from a moment that nobody tells, so the picture that
/// came fastest, reckoned by that count, is taken to have come at once, and others by so much earlier than they came as
/// they were slower. What also the fastest one needs belongs into the camera's `geometry.latency`.
pub(super) struct CameraClock {
    /// The moment when the first picture came, the least delay against that in seconds, and when it was reckoned.
    known: Option<(Instant, f64, Instant)>,
    /// A picture that seems to be older, in seconds, has a wrong timestamp.
    oldest: f64,
}

impl CameraClock {
    /// The clock of a camera that is reopened after a silence of `timeout`: none of its pictures is much older than that.
    pub fn new(timeout: Duration) -> Self {
        Self { known: None, oldest: timeout.as_secs_f64() + SPARE }
    }

    /// When a picture was taken whose count says `stamp` seconds, and that came at `arrived`.
    pub fn captured(&mut self, stamp: f64, arrived: Instant) -> Instant {
        let (first, least, then) = self.known.unwrap_or((arrived, -stamp, arrived));
        let delay = arrived.saturating_duration_since(first).as_secs_f64() - stamp;
        // Clocks drift apart: a least delay of long ago may not be reached any more.
        let least = least + DRIFT * arrived.saturating_duration_since(then).as_secs_f64();
        let more = delay - least;
        let (least, more) = if (0.0..self.oldest).contains(&more) { (least, more) } else { (delay, 0.0) };
        self.known = Some((first, least, arrived));
        arrived.checked_sub(Duration::from_secs_f64(more)).unwrap_or(arrived)
    }
}

/// When pictures were taken that come over HTTP, one after another; for one connection.
pub(super) struct ArrivalClock {
    stamps: StampClock,
    /// Seconds from one picture to the next, as they came without a hiccup.
    intervals: VecDeque<f64>,
    /// When the last picture came, and when it was taken at the earliest.
    last: Option<(Instant, Instant)>,
    /// There was a hiccup, and what lay in a buffer may still come.
    late: bool,
    /// Hiccups in a row with nothing buffered behind them.
    hiccups: u32,
}

impl ArrivalClock {
    /// For a camera that is reopened after a silence of `timeout`.
    pub fn new(timeout: Duration) -> Self {
        let stamps = StampClock { clock: CameraClock::new(timeout), seen: None, wrong: false };
        Self { stamps, intervals: VecDeque::new(), last: None, late: false, hiccups: 0 }
    }

    /// When the next picture was taken, whose first byte came at `arrived` and of which the camera says that it was taken at
    /// `stamp` seconds; `None` where that can't be known.
    pub fn captured(&mut self, arrived: Instant, stamp: Option<f64>) -> Option<Instant> {
        let by_cadence = self.by_cadence(arrived);
        stamp.and_then(|stamp| self.stamps.captured(stamp, arrived)).or(by_cadence)
    }

    fn by_cadence(&mut self, arrived: Instant) -> Option<Instant> {
        let Some((before, taken)) = self.last.replace((arrived, arrived)) else { return Some(arrived) };
        let gap = arrived.saturating_duration_since(before).as_secs_f64();
        if self.intervals.len() < LEAST {
            self.learn(gap);
            return Some(arrived);
        }
        let interval = self.intervals.iter().sum::<f64>() / self.intervals.len() as f64;
        let earliest = arrived.min(taken + Duration::from_secs_f64(interval));
        let unsure = arrived.saturating_duration_since(earliest).as_secs_f64();
        if self.late && gap < BUFFERED * interval {
            self.hiccups = 0;
            self.last = Some((arrived, earliest));
            return (unsure <= interval).then_some(earliest);
        }
        if !self.late && gap > (HICCUP * interval).max(HICCUP_LEAST) {
            self.late = true;
            self.hiccups += 1;
            self.last = Some((arrived, earliest));
            if self.hiccups == OTHER_CADENCE {
                (self.late, self.hiccups) = (false, 0);
                self.intervals.clear();
            }
            return None;
        }
        if !std::mem::take(&mut self.late) {
            self.hiccups = 0;
            self.learn(gap);
        }
        Some(arrived)
    }

    fn learn(&mut self, gap: f64) {
        self.intervals.push_back(gap);
        if self.intervals.len() > NEWEST {
            self.intervals.pop_front();
        }
    }
}

/// A camera's own time, as long as it makes sense.
struct StampClock {
    clock: CameraClock,
    /// The last picture's time and when it came, and the same of an earlier one, with which it is compared.
    seen: Option<[(f64, Instant); 2]>,
    /// It made no sense.
    wrong: bool,
}

impl StampClock {
    /// When a picture was taken; `None` for a camera whose time stands, runs back, or runs at another speed than ours.
    fn captured(&mut self, stamp: f64, arrived: Instant) -> Option<Instant> {
        let now = (stamp, arrived);
        let [last, first] = self.seen.unwrap_or([now; 2]);
        // By how much more time went by here than there.
        let more = |since: (f64, Instant)| arrived.saturating_duration_since(since.1).as_secs_f64() - (stamp - since.0);
        let compared = arrived.saturating_duration_since(first.1).as_secs_f64() > COMPARED;
        let stands = self.seen.is_some() && stamp <= last.0;
        let strange = more(last).abs() > self.clock.oldest || (compared && more(first).abs() > OFF);
        self.wrong |= stands || strange || !stamp.is_finite();
        self.seen = Some([now, if compared { now } else { first }]);
        (!self.wrong).then(|| self.clock.captured(stamp, arrived))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What a camera of 25 pictures per second sent: when each picture was taken and when it came, in ms, and what it says of
    /// its time in seconds. When each was said to be taken, in ms.
    fn said(pictures: &[(u64, u64, Option<f64>)]) -> Vec<Option<u64>> {
        let start = Instant::now();
        let mut clock = ArrivalClock::new(Duration::from_secs(2));
        let mut captured = |came: u64, stamp| clock.captured(start + Duration::from_millis(came), stamp);
        let since = |at: Instant| at.saturating_duration_since(start).as_millis() as u64;
        pictures.iter().map(|(_, came, stamp)| captured(*came, *stamp).map(since)).collect()
    }

    /// Twenty pictures that came at once, a silence of 400 ms, and the ten of it within 20 ms, but for the first `lost` of them;
    /// then well again.
    fn hiccup(lost: u64, stamp: &dyn Fn(u64) -> Option<f64>) -> Vec<(u64, u64, Option<f64>)> {
        let came = |n: u64| if (20..30).contains(&n) { 20 * 40 + 400 - 20 + (n - 20) * 2 } else { n * 40 };
        (0..50).filter(|n| !(20..20 + lost).contains(n)).map(|n| (n * 40, came(n), stamp(n * 40))).collect()
    }

    #[test]
    fn what_comes_in_a_burst_after_a_hiccup_is_late_or_earlier_by_the_cadence() {
        for lost in [0, 3, 9, 10] {
            let pictures = hiccup(lost, &|_| None);
            let said = said(&pictures);
            let refused = said.iter().filter(|said| said.is_none()).count();
            println!("{lost} of 10 lost: {refused} refused");
            for ((taken, came, _), said) in pictures.iter().zip(&said) {
                let Some(said) = said else { continue };
                assert!(said.abs_diff(*taken) <= 40, "{lost} lost: taken at {taken}, came at {came}, said {said}");
            }
            assert!(said[..20].iter().all(Option::is_some) && said[said.len() - 18..].iter().all(Option::is_some));
            assert!((1..=10).contains(&refused), "{refused}");
        }
        // What was buffered whole and came last is fresh enough, and its time is told by the cadence, not by when it came.
        let all = said(&hiccup(0, &|_| None));
        assert_eq!(all[28..31], [None, Some(29 * 40), Some(30 * 40)]);
    }

    #[test]
    fn a_camera_that_tells_its_time_loses_nothing() {
        let pictures = hiccup(0, &|taken| Some(1.7e9 + taken as f64 / 1e3));
        for ((taken, ..), said) in pictures.iter().zip(said(&pictures)) {
            assert!(said.unwrap().abs_diff(*taken) <= 1, "{taken}: {said:?}");
        }
    }

    #[test]
    fn a_time_that_makes_no_sense_is_not_believed() {
        let wrong: [&dyn Fn(u64) -> Option<f64>; 6] = [
            &|_| Some(1.7e9),                     // it stands
            &|taken| Some((taken / 1000) as f64), // whole seconds
            &|taken| Some(taken as f64),          // milliseconds
            &|taken| Some(-(taken as f64) / 1e3), // backwards
            &|_| Some(f64::NAN),
            &|_| Some(f64::INFINITY),
        ];
        for stamp in wrong {
            assert_eq!(said(&hiccup(0, stamp))[2..], said(&hiccup(0, &|_| None))[2..]);
        }
        // One that is a tenth too slow is found out within ten seconds.
        let pictures: Vec<_> = (0..500).map(|n| (n * 40, n * 40, Some(n as f64 * 0.036))).collect();
        let said = said(&pictures);
        assert_eq!(said.last(), Some(&Some(499 * 40)));
    }

    #[test]
    fn jitter_and_single_losses_are_no_hiccup_and_another_cadence_is_learned() {
        let jitter = |n: u64| n * 40 + [0, 9, 31, 4, 17][n as usize % 5];
        let pictures: Vec<_> = (0..200).filter(|n| n % 7 != 3).map(|n| (n * 40, jitter(n), None)).collect();
        for ((_, came, _), said) in pictures.iter().zip(said(&pictures)) {
            assert_eq!(said, Some(*came), "as before");
        }
        // At dusk it takes five pictures per second.
        let came = |n: u64| if n < 50 { n * 40 } else { 2000 + (n - 50) * 200 };
        let said = said(&(0..100).map(|n| (came(n), came(n), None)).collect::<Vec<_>>());
        let refused = said.iter().filter(|said| said.is_none()).count();
        assert!(refused <= 3 && said[60..].iter().all(Option::is_some), "{refused}");
    }

    #[test]
    fn a_burst_after_a_silence_just_short_of_the_timeout_keeps_its_times() {
        let start = Instant::now();
        let mut clock = CameraClock::new(Duration::from_secs(5));
        for n in 0..400 {
            let taken = f64::from(n) / 25.0;
            let came = if (4.0..8.5).contains(&taken) { 8.5 } else { taken };
            let captured = clock.captured(taken, start + Duration::from_secs_f64(came));
            let off = captured.saturating_duration_since(start).as_secs_f64() - taken;
            assert!(off.abs() < 0.002, "picture {n}, taken at {taken}: {off}");
        }
    }

    #[test]
    fn a_picture_that_was_slow_was_taken_when_its_count_says() {
        let start = Instant::now();
        let mut clock = CameraClock::new(Duration::from_secs(2));
        // 25 pictures per second; the first comes slowly, every tenth by 80 ms more than the fastest.
        for n in 0..200u32 {
            let taken = f64::from(n) / 25.0;
            let delay = if n == 0 {
                0.05
            } else if n % 10 == 0 {
                0.09
            } else {
                0.01
            };
            let captured = clock.captured(1000.0 + taken, start + Duration::from_secs_f64(taken + delay));
            let off = captured.saturating_duration_since(start).as_secs_f64() - taken;
            assert!(n == 0 || (0.009..0.011).contains(&off), "picture {n}: {off}");
        }
    }

    #[test]
    fn a_clock_that_drifts_or_jumps_is_followed() {
        let start = Instant::now();
        let mut clock = CameraClock::new(Duration::from_secs(2));
        let mut off = |stamp: f64, arrives: f64| {
            let arrived = start + Duration::from_secs_f64(arrives);
            arrived.saturating_duration_since(clock.captured(stamp, arrived)).as_secs_f64()
        };
        // The camera's clock is slow by 50 parts in a million: after an hour that is 180 ms.
        let worst = (0..3600).map(|n| off(f64::from(n) * (1.0 - 5e-5), f64::from(n))).fold(0.0, f64::max);
        assert!(worst < 0.001, "{worst}");
        for stamp in [9.0, 1e6, -1e6] {
            assert!(off(stamp, 3600.0) < 1e-6, "a count that makes no sense means: just now");
            assert!(off(stamp + 0.04, 3600.04) < 1e-3);
        }
        assert!(off(f64::NAN, 3601.0) < 1e-6);
    }
}
