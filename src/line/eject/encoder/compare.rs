//! The belt's way as a camera sees it beside the way that the encoder counts: over a second they must agree to a tenth. Pure.
//!
//! Both ways are taken between the same two moments, so that ramps and stops make no difference.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Ways are compared over this long.
const OVER: Duration = Duration::from_secs(1);
/// Share of the longer way by which the two may differ.
const APART: f64 = 0.1;
/// Most pictures within [`OVER`] that are kept.
const MOST: usize = 1024;

/// One camera beside the encoder.
#[derive(Debug, Default)]
pub(in crate::line::eject) struct Comparison {
    /// The picture before: when, and where camera and encoder had the belt, and in which of the encoder's countings.
    before: Option<(Instant, f64, (u32, f64))>,
    /// From which moment to which the belt went how far, as the camera and as the encoder say.
    steps: VecDeque<(Instant, Instant, f64, f64)>,
    apart: bool,
}

impl Comparison {
    /// Whether they are apart.
    pub fn apart(&self) -> bool {
        self.apart
    }

    /// The metres that the belt went in the last second, as the camera and as the encoder say.
    pub fn ways(&self) -> (f64, f64) {
        self.steps.iter().fold((0.0, 0.0), |(seen, counted), (.., s, c)| (seen + s, counted + c))
    }

    /// At `at` the camera saw the belt at `seen`, if it could tell, and the encoder had it at `counted`, if it could; in metres
    /// from any place. Ways that differ by less than `floor` metres agree. Whether that makes them apart, where it changes.
    pub fn look(&mut self, at: Instant, seen: Option<f64>, counted: Option<(u32, f64)>, floor: f64) -> Option<bool> {
        let (Some(seen), Some(counted)) = (seen, counted) else {
            self.before = None;
            return None;
        };
        let (then, seen_then, (counting, counted_then)) = self.before.replace((at, seen, counted))?;
        if counting != counted.0 {
            return None;
        }
        self.steps.push_back((then, at, seen - seen_then, counted.1 - counted_then));
        while self.steps.len() > MOST
            || self.steps.front().is_some_and(|(_, end, ..)| at.saturating_duration_since(*end) >= OVER)
        {
            self.steps.pop_front();
        }
        // Pictures that told nothing, and times at which the encoder did not, are no second.
        let compared: Duration = self.steps.iter().map(|(from, to, ..)| to.saturating_duration_since(*from)).sum();
        if compared < OVER.mul_f64(0.9) {
            return None;
        }
        let (seen, counted) = self.ways();
        let apart = (seen - counted).abs() > floor.max(APART * seen.abs().max(counted.abs()));
        (std::mem::replace(&mut self.apart, apart) != apart).then_some(apart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures at 25 a second of a belt whose true speed is `speed(t)`, with an encoder that counts `gain(t)` of it: after
    /// which picture they came apart or agreed.
    fn run(speed: impl Fn(f64) -> f64, gain: impl Fn(f64) -> f64) -> Vec<(u32, bool)> {
        let (mut comparison, start) = (Comparison::default(), Instant::now());
        let (mut seen, mut counted, mut changes) = (0.0, 0.0, Vec::new());
        for n in 0..250 {
            let t = f64::from(n) / 25.0;
            seen += speed(t) / 25.0;
            counted += speed(t) * gain(t) / 25.0;
            let at = start + Duration::from_millis(40) * n;
            let changed = comparison.look(at, Some(seen), Some((0, counted)), 2e-3);
            changes.extend(changed.map(|apart| (n, apart)));
        }
        changes
    }

    #[test]
    fn a_stop_and_go_is_no_difference_and_a_slipping_encoder_is_one_within_a_second() {
        let stop_and_go = |t: f64| if t % 3.0 < 1.0 { 0.0 } else { 0.5 * (t % 3.0 - 1.0) };
        assert_eq!(run(stop_and_go, |_| 1.0), []);
        assert_eq!(run(|_| 0.5, |_| 0.92), []);
        assert_eq!(run(|_| 0.001, |_| 0.0), [], "too little to tell");
        // It stands from 4 s on, and runs again from 7 s on.
        let stuck = run(|_| 0.5, |t| if (4.0..7.0).contains(&t) { 0.0 } else { 1.0 });
        let [(begins, true), (ends, false)] = stuck[..] else { panic!("{stuck:?}") };
        assert!((100..=125).contains(&begins) && (175..=200).contains(&ends), "{stuck:?}");
        assert_eq!(run(|_| -0.5, |_| 1.2).first().map(|(_, apart)| *apart), Some(true));
    }

    #[test]
    fn what_either_can_not_tell_is_not_compared() {
        let (mut comparison, start) = (Comparison::default(), Instant::now());
        for n in 0..200u32 {
            let at = start + Duration::from_millis(40) * n;
            let (seen, counted) = (f64::from(n), f64::from(n) * 2.0);
            // Every other picture tells nothing; and a counting lasts for one picture only.
            assert_eq!(comparison.look(at, (n % 2 == 0).then_some(seen), Some((0, counted)), 0.0), None);
        }
        for n in 200..400u32 {
            let at = start + Duration::from_millis(40) * n;
            assert_eq!(comparison.look(at, Some(f64::from(n)), Some((n, 0.0)), 0.0), None);
        }
        assert!(!comparison.apart());
    }
}
