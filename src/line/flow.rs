//! Pictures → the belt's speed: how far everything that moves went from one picture to the next.
//!
//! Each picture becomes a few rows of brightness along the belt. What stands still in them (lamps, dirt on the lens) is
//! learned and taken away; the shift at which the rest of two pictures correlates best is how far the belt went: marks,
//! scuffs and seams of an empty belt, and the items on it. Pictures that do not tell it clearly are passed over.
//!
//! Source: normalised cross-correlation, coarse to fine, with a parabola through the best shift and its neighbours
//! (Tian and Huns 1986, "Algorithms for subpixel registration").

use std::{collections::VecDeque, ops::RangeInclusive, time::Instant};

use crate::domain::Picture;

/// Strips along the belt.
const STRIPS: usize = 6;
/// Columns of a strip at most.
const COLUMNS: usize = 320;
/// Rows of the picture that are read at most.
const ROWS: usize = 180;
/// Columns that the coarse search takes as one; the weave of a belt, which looks the same after each of its periods, is
/// mostly averaged away by it.
const COARSE: usize = 4;
/// Pictures over which the standing part is averaged, and those without which it is unknown: it holds a ghost of what was on
/// the belt at first.
const STILL: f32 = 64.0;
const STILL_LEAST: f32 = 16.0;
/// Least correlation that tells a shift.
const CLEAR: f32 = 0.5;
/// The best other shift's correlation, as a share of the best one's, above which nothing is told.
const RIVAL: f32 = 0.9;
/// Least share of what two pictures show that must overlap.
const INSIDE: f32 = 0.6;
/// Pictures that are kept, and how far the belt may have gone since one, as a share of the picture.
const BACK: usize = 8;
const FURTHEST: f32 = 0.25;
/// Newest shifts that tell the speed, and those without which it is unknown.
const NEWEST: usize = 30;
const LEAST: usize = 10;
/// Seconds after which a shift counts no more.
const COUNTS: f32 = 2.0;

/// Rows of brightness along the belt.
type Strips = Vec<Vec<f32>>;

/// Follows one camera's belt.
#[derive(Default)]
pub struct Flow {
    /// What stands still, by strip and column, and the pictures that it was averaged over.
    still: Strips,
    averaged: f32,
    /// The pictures' width in pixels.
    width: f32,
    /// The pictures before, oldest first, and when they were taken.
    before: VecDeque<(Strips, Instant)>,
    /// When a shift was seen, how many pixels it had, and in how many seconds.
    shifts: VecDeque<(Instant, f32, f32)>,
}

impl Flow {
    /// Takes in the next picture, taken at `captured`; one that is too small tells nothing.
    pub fn look(&mut self, picture: &Picture, captured: Instant) {
        let Some((mut strips, pixels)) = strips(picture) else { return };
        if self.width != picture.width as f32 {
            *self = Self { still: strips, averaged: 1.0, width: picture.width as f32, ..Self::default() };
            return;
        }
        self.averaged = (self.averaged + 1.0).min(STILL);
        for (still, row) in self.still.iter_mut().zip(&mut strips) {
            for (still, value) in still.iter_mut().zip(row.iter_mut()) {
                *still += (*value - *still) / self.averaged;
                *value /= still.max(1.0);
            }
            let light = middle(row.clone());
            row.iter_mut().for_each(|value| *value -= light);
        }
        if self.averaged >= STILL_LEAST
            && let Some(newest) = self.before.len().checked_sub(1)
        {
            // A fraction of a column is told badly, so the picture that lies furthest back comes first, and the newest if
            // that tells nothing.
            let seconds = |at: Instant| captured.saturating_duration_since(at).as_secs_f32();
            let speed = self.agreed(captured).map(|(way, seconds)| (way / seconds).abs() / pixels);
            let near = |at: Instant| speed.is_some_and(|speed| speed * seconds(at) < FURTHEST * strips[0].len() as f32);
            let far_back = self.before.iter().position(|(_, at)| near(*at)).filter(|index| *index != newest);
            let told =
                far_back.into_iter().chain([newest]).map(|index| &self.before[index]).find_map(|(before, at)| {
                    let counts = (f32::MIN_POSITIVE..COUNTS).contains(&seconds(*at));
                    Some((captured, counts.then(|| shift(before, &strips))?? * pixels, seconds(*at)))
                });
            self.shifts.extend(told);
        }
        self.before.push_back((strips, captured));
        while self.before.len() > BACK {
            self.before.pop_front();
        }
        while self.shifts.len() > NEWEST {
            self.shifts.pop_front();
        }
    }

    /// The belt's speed at `now` in pixels per second, below 0 towards smaller x. `None` unless ten shifts of the last two
    /// seconds agree on it and add up to half a picture, before which fractions of a column count too much.
    pub fn speed(&self, now: Instant) -> Option<f32> {
        let (way, seconds) = self.agreed(now)?;
        (way.abs() >= 0.5 * self.width).then(|| way / seconds)
    }

    /// All of the way in pixels, and all of the seconds, without shifts that are far from the middle one.
    fn agreed(&self, now: Instant) -> Option<(f32, f32)> {
        let fresh = |at: Instant| now.saturating_duration_since(at).as_secs_f32() <= COUNTS;
        let shifts = || self.shifts.iter().filter(|(at, ..)| fresh(*at));
        shifts().next()?;
        let middle = middle(shifts().map(|(_, way, seconds)| way / seconds).collect());
        let like = |way: f32, seconds: f32| (way - middle * seconds).abs() <= 1.0 + 0.02 * (middle * seconds).abs();
        let (mut way, mut time, mut count) = (0.0, 0.0, 0);
        for (_, moved, seconds) in shifts().filter(|(_, way, seconds)| like(*way, *seconds)) {
            way += moved;
            time += seconds;
            count += 1;
        }
        (count >= LEAST).then_some((way, time))
    }
}

/// The middle one of some values.
fn middle(mut values: Vec<f32>) -> f32 {
    let half = values.len() / 2;
    *values.select_nth_unstable_by(half, f32::total_cmp).1
}

/// A picture's strips, and how many of its pixels a column is; `None` for one that is too small to tell anything.
fn strips(picture: &Picture) -> Option<(Strips, f32)> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let merged = width.div_ceil(COLUMNS).max(1);
    let columns = width / merged;
    if columns < 8 * COARSE || height < STRIPS {
        return None;
    }
    let step = height.div_ceil(ROWS);
    let mut strips = vec![vec![0.0; columns]; STRIPS];
    let mut read = [0u32; STRIPS];
    for y in (0..height).step_by(step) {
        let strip = y * STRIPS / height;
        read[strip] += 1;
        let row = &picture.rgb[y * width * 3..(y * width + columns * merged) * 3];
        for (value, pixels) in strips[strip].iter_mut().zip(row.chunks_exact(merged * 3)) {
            *value += pixels.iter().map(|v| u32::from(*v)).sum::<u32>() as f32;
        }
    }
    for (strip, read) in strips.iter_mut().zip(read) {
        strip.iter_mut().for_each(|value| *value /= (read.max(1) as usize * merged * 3) as f32);
        // Detail of a column's width would only be seen at shifts by whole columns, and favour them.
        let sharp = strip.clone();
        for (value, three) in strip[1..].iter_mut().zip(sharp.windows(3)) {
            *value = (three[0] + 2.0 * three[1] + three[2]) / 4.0;
        }
    }
    Some((strips, merged as f32))
}

/// By how many columns `now` lies further along than `before`; `None` when that is not clear.
fn shift(before: &Strips, now: &Strips) -> Option<f32> {
    let [coarse_before, coarse_now] = [before, now].map(|strips| {
        let merge = |strip: &Vec<f32>| strip.chunks_exact(COARSE).map(|c| c.iter().sum()).collect();
        strips.iter().map(merge).collect::<Strips>()
    });
    let most = (coarse_now[0].len() / 2) as i32;
    let coarse = correlations(&coarse_before, &coarse_now, -most..=most);
    let best = (0..coarse.len()).max_by(|a, b| coarse[*a].total_cmp(&coarse[*b]))?;
    let rival = coarse.iter().enumerate().filter(|(i, _)| i.abs_diff(best) > 2).map(|(_, c)| *c).fold(0.0, f32::max);
    if coarse[best] < CLEAR || rival > RIVAL * coarse[best] {
        return None;
    }
    let about = (best as i32 - most) * COARSE as i32;
    let reach = COARSE as i32 + 1;
    let fine = correlations(before, now, about - reach..=about + reach);
    let best = (1..fine.len() - 1).max_by(|a, b| fine[*a].total_cmp(&fine[*b]))?;
    let [left, middle, right] = [fine[best - 1], fine[best], fine[best + 1]];
    let bend = left - 2.0 * middle + right;
    // At the window's end the best one may lie outside: nothing is told.
    (bend < 0.0 && left <= middle && right <= middle)
        .then(|| (about - reach + best as i32) as f32 + 0.5 * (left - right) / bend)
}

/// How well `before`, moved on by each of some numbers of columns, fits `now`, where they overlap. 0 for what is blank, and
/// for a shift that leaves too much of either outside: one item of a row fits the next, if the others do not count.
fn correlations(before: &Strips, now: &Strips, by: RangeInclusive<i32>) -> Vec<f32> {
    let energy = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>();
    let all = |strips: &Strips| strips.iter().map(|row| energy(row)).sum::<f32>();
    let (all_before, all_now) = (all(before), all(now));
    let correlation = |by: i32| {
        let (mut both, mut of_before, mut of_now) = (0.0, 0.0, 0.0);
        for (before, now) in before.iter().zip(now) {
            let outside = (by.unsigned_abs() as usize).min(now.len());
            let (from, to) = if by < 0 { (outside, 0) } else { (0, outside) };
            let (before, now) = (&before[from..before.len() - to], &now[to..now.len() - from]);
            both += before.iter().zip(now).map(|(a, b)| a * b).sum::<f32>();
            of_before += energy(before);
            of_now += energy(now);
        }
        let inside = of_before > INSIDE * all_before && of_now > INSIDE * all_now;
        if inside { both / (of_before * of_now).sqrt() } else { 0.0 }
    };
    by.map(correlation).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::belt::{Belt, BeltConfig};

    /// The speeds that were told in `frames` pictures of the simulated belt, and how many pictures told none.
    fn told(config: &BeltConfig, frames: std::ops::Range<u64>, mirrored: bool) -> (Vec<f32>, usize, f64) {
        let mut belt = Belt::new(config.clone()).unwrap();
        let (mut flow, start) = (Flow::default(), Instant::now());
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
            flow.look(&picture, captured);
            match flow.speed(captured) {
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
        let (mut flow, start) = (Flow::default(), Instant::now());
        let mut told = [Vec::new(), Vec::new()];
        for n in 0..240 {
            let (half, captured) = (n / 120, start + Duration::from_millis(n as u64 * 40));
            flow.look(&belts[half].frame(n as u64).0, captured);
            told[half].extend(flow.speed(captured));
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
        let (mut flow, start) = (Flow::default(), Instant::now());
        let at = |n: u64| start + Duration::from_millis(n * 80);
        for n in 0..100 {
            flow.look(&picture, at(n));
            let speed = flow.speed(at(n));
            assert!(speed.is_none_or(|speed| speed.abs() < 1.0), "{n}: {speed:?}");
        }
        for blank in [Picture::filled(640, 360, [0; 3]), Picture::filled(3, 3, [9; 3])] {
            let mut flow = Flow::default();
            (0..20).for_each(|n| flow.look(&blank, at(n)));
            assert_eq!(flow.speed(at(19)), None);
        }
    }

    #[test]
    fn a_speed_that_was_seen_long_ago_is_no_speed() {
        let mut belt = Belt::new(BeltConfig::default()).unwrap();
        let (mut flow, start) = (Flow::default(), Instant::now());
        let at = |n: u64| start + Duration::from_secs_f64(n as f64 / 12.0);
        for n in 0..40 {
            flow.look(&belt.frame(n).0, at(n));
        }
        assert!(flow.speed(at(39)).is_some());
        assert_eq!(flow.speed(at(39 + 25)), None, "no picture came");
        let dark = Picture::filled(640, 360, [0; 3]);
        (40..80).for_each(|n| flow.look(&dark, at(n)));
        assert_eq!(flow.speed(at(79)), None);
    }
}
