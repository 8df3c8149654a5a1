//! The belt's speed, from where it was in the newest pictures.

use std::{collections::VecDeque, time::Instant};

/// Seconds after which a place counts no more.
const COUNTS: f32 = 2.0;
/// Pictures in a row without which the speed is unknown, and how far the belt must have gone in them, as a share of the picture:
/// before that, fractions of a pixel count too much.
const LEAST: usize = 10;
const WAY: f64 = 0.5;

/// See the module.
#[derive(Default)]
pub(super) struct Pace(VecDeque<(Instant, f64)>);

impl Pace {
    /// The belt was at `position` in the picture taken at `captured`; `None`: that one told nothing, and nobody knows how far the
    /// belt went since the one before.
    pub fn went_to(&mut self, position: Option<f64>, captured: Instant) {
        match position {
            Some(position) => self.0.push_back((captured, position)),
            None => self.0.clear(),
        }
        while self.0.front().is_some_and(|(at, _)| old(*at, captured)) {
            self.0.pop_front();
        }
    }

    /// The speed at `now` over the newest pictures in which the belt went far enough, per second and in what `across`, the width of
    /// the picture, and positions are in; `None` where those of two seconds do not tell it.
    pub fn speed(&self, now: Instant, across: f64) -> Option<f32> {
        let (newest, position) = *self.0.back().filter(|(at, _)| !old(*at, now))?;
        let far = |(at, before): &&(Instant, f64)| (position - before).abs() >= WAY * across && !old(*at, now);
        let (first, before) = *self.0.iter().rev().skip(LEAST).find(far)?;
        let seconds = newest.saturating_duration_since(first).as_secs_f64();
        (seconds > 0.0).then(|| ((position - before) / seconds) as f32)
    }
}

/// Whether what was at `at` counts no more at `now`.
fn old(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at).as_secs_f32() > COUNTS
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        belt::{Belt, BeltConfig},
        domain::Picture,
        line::locate::{LocateConfig, Locator},
    };

    fn fresh() -> Locator {
        Locator::new(LocateConfig::default())
    }

    /// The speeds that were told in `frames` pictures of the simulated belt, and how many pictures told none.
    fn told(config: &BeltConfig, frames: std::ops::Range<u64>, mirrored: bool) -> (Vec<f32>, usize, f64) {
        let mut belt = Belt::new(config.clone()).unwrap();
        let (mut locator, start) = (fresh(), Instant::now());
        let (mut speeds, mut silent, mut looking, count) = (Vec::new(), 0, Duration::ZERO, frames.clone().count());
        for n in frames {
            let mut picture = belt.frame(n).0;
            if mirrored {
                let width = picture.width as usize;
                for row in picture.rgb.chunks_exact_mut(width * 3) {
                    let turned: Vec<u8> = row.chunks_exact(3).rev().flatten().copied().collect();
                    row.copy_from_slice(&turned);
                }
            }
            let began = Instant::now();
            let captured = start + Duration::from_secs_f64(n as f64 / config.frame_rate);
            locator.look(&picture, captured);
            match locator.speed(captured) {
                Some(speed) => speeds.push(speed),
                None => silent += 1,
            }
            looking += began.elapsed();
        }
        (speeds, silent, looking.as_secs_f64() * 1e3 / count as f64)
    }

    #[test]
    fn the_speed_of_a_belt_with_and_without_items_is_seen() {
        let settings = [
            (1, 640, 240.0, 25.0, 0.1, false),
            (6, 640, 337.0, 25.0, 0.1, true),
            (1, 320, 2160.0, 60.0, 0.0, false),
            (2, 320, 2160.0, 60.0, 1.0, false),
            (3, 320, 700.0, 60.0, 0.3, true),
            (4, 320, 240.0, 12.0, 1.0, true),
            (5, 320, 120.0, 12.0, 0.3, false),
        ];
        for (seed, width, speed, frame_rate, empty_share, mirrored) in settings {
            let (height, items_per_minute) = (width * 9 / 16, if speed > 2000.0 { 800.0 } else { 40.0 });
            let config = BeltConfig {
                seed,
                speed,
                frame_rate,
                empty_share,
                width,
                height,
                items_per_minute,
                ..BeltConfig::default()
            };
            let (speeds, silent, ms) = told(&config, 0..240, mirrored);
            let truth = if mirrored { -speed } else { speed } as f32;
            let off = |s: &f32| (s / truth - 1.0).abs();
            let worst = speeds.iter().map(off).fold(0.0, f32::max);
            let mean = speeds.iter().map(off).sum::<f32>() / speeds.len() as f32;
            println!(
                "seed {seed}, {width}: off by {mean:.4} on average, {worst:.4} at most, {silent} silent, {ms:.3} ms"
            );
            assert!(silent < 50 && worst < 0.02 && mean < 0.003, "seed {seed}");
        }
    }

    #[test]
    fn a_camera_of_another_width_is_followed_anew() {
        let config = |width, speed| BeltConfig { width, height: width * 9 / 16, speed, ..BeltConfig::default() };
        let mut belts = [config(640, 240.0), config(320, 120.0)].map(|config| Belt::new(config).unwrap());
        let (mut locator, start) = (fresh(), Instant::now());
        let mut told = [Vec::new(), Vec::new()];
        for n in 0..240 {
            let (half, captured) = (n / 120, start + Duration::from_millis(n as u64 * 40));
            locator.look(&belts[half].frame(n as u64).0, captured);
            told[half].extend(locator.speed(captured));
        }
        for (told, truth) in told.into_iter().zip([240.0, 120.0]) {
            assert!(
                told.len() > 60 && told.iter().all(|speed| (speed / truth - 1.0).abs() < 0.02),
                "{truth}: {told:?}"
            );
        }
    }

    #[test]
    fn a_standing_belt_and_a_black_picture_run_nowhere() {
        let mut belt = Belt::new(BeltConfig::default()).unwrap();
        let picture = belt.frame(100).0;
        let (mut locator, start) = (fresh(), Instant::now());
        let at = |n: u64| start + Duration::from_millis(n * 80);
        for n in 0..100 {
            locator.look(&picture, at(n));
            let speed = locator.speed(at(n));
            assert!(speed.is_none_or(|speed| speed.abs() < 1.0), "{n}: {speed:?}");
        }
        for blank in [Picture::filled(640, 360, [0; 3]), Picture::filled(3, 3, [9; 3])] {
            let mut locator = fresh();
            (0..20).for_each(|n| drop(locator.look(&blank, at(n))));
            assert_eq!(locator.speed(at(19)), None);
        }
    }

    #[test]
    fn a_speed_that_was_seen_long_ago_is_no_speed() {
        let config = BeltConfig { frame_rate: 12.0, ..BeltConfig::default() };
        let mut belt = Belt::new(config).unwrap();
        let (mut locator, start) = (fresh(), Instant::now());
        let at = |n: u64| start + Duration::from_secs_f64(n as f64 / 12.0);
        for n in 0..40 {
            locator.look(&belt.frame(n).0, at(n));
        }
        assert!(locator.speed(at(39)).is_some());
        assert_eq!(locator.speed(at(39 + 25)), None, "no picture came");
        let dark = Picture::filled(640, 360, [0; 3]);
        (40..80).for_each(|n| drop(locator.look(&dark, at(n))));
        assert_eq!(locator.speed(at(79)), None);
    }
}
