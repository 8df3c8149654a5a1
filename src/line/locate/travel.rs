//! How far the belt has gone, to a fraction of a pixel: each picture is laid over an earlier one, the key, and the shift at which
//! both fit best is added to the key's place. A belt that creeps or stands is laid over the same key again and again, so that
//! errors do not add up; they do once per key, a fraction of a pixel each time that the belt went [`KEY`] of the picture.
//!
//! Belt and items move together and both tell the shift. What stands must not: bands of brightness along the belt are compared
//! without their coarse part (lamps, lens), and clipped, so that a speck of dirt on the lens weighs no more than the belt's own
//! texture. A surface that repeats looks much the same after each of its periods: of shifts that fit alike, the expected one counts.
//!
//! Source: normalised cross-correlation, coarse to fine, with a parabola through the best shift and its neighbours
//! (Tian and Huhns 1986, "Algorithms for subpixel registration").

use std::{ops::RangeInclusive, time::Instant};

use crate::domain::Picture;

/// Bands along the belt.
const BANDS: usize = 30;
/// Columns of a band at most.
const COLUMNS: usize = 640;
/// Rows of the picture that are read at most.
const ROWS: usize = 180;
/// Columns that the coarse search takes as one.
const COARSE: usize = 4;
/// Columns to each side over which the coarse part of a band is averaged.
const SMOOTH: usize = 12;
/// Values beyond this many mean absolute ones are clipped.
const CLIP: f32 = 2.0;
/// Least correlation that tells a shift. Noise reaches a sixth of it in the coarse search, less in the fine one.
const CLEAR: f32 = 0.12;
/// Shifts of the coarse search that are looked at closely: those that fit this share as well as the best, and how many.
const PEAK: f32 = 0.8;
const PEAKS: usize = 5;
/// How well another shift must fit, as a share of the best one, to be as likely.
const RIVAL: f32 = 0.95;
/// Columns, and share of the expected step, within which a shift is near the expected one.
const NEAR: f64 = 3.0;
const NEAR_SHARE: f64 = 0.5;
/// Least share of the picture's columns that must overlap: the belt may go 0.7 of the picture from one to the next.
const OVERLAP: f32 = 0.3;
/// The key is replaced when the belt has gone this share of the picture since.
const KEY: f64 = 0.15;

/// Brightness along the belt, band by band.
type Bands = Vec<Vec<f32>>;

/// The picture that others are laid over.
struct Key {
    fine: Bands,
    coarse: Bands,
    /// Where the belt was, in columns.
    position: f64,
}

/// Follows one camera's belt; see the module.
#[derive(Default)]
pub(super) struct Travel {
    width: u32,
    /// Pixels in a column.
    pixels: f64,
    key: Option<Key>,
    /// When the belt was seen last, and where it was, in columns.
    last: Option<(Instant, f64)>,
    /// Columns per second over the newest step; `None` before one was told.
    velocity: Option<f64>,
}

impl Travel {
    /// Takes in the next picture, taken at `captured`; whether it told how far the belt went. If it did not, the belt is taken
    /// to have gone on as before.
    pub fn look(&mut self, picture: &Picture, captured: Instant) -> bool {
        if self.width != picture.width {
            *self = Self { width: picture.width, ..Self::default() };
        }
        let Some((fine, pixels)) = bands(picture) else { return false };
        self.pixels = pixels;
        let columns = fine[0].len() as f64;
        let coarse = merged(&fine);
        let (Some(key), Some((last, before))) = (&self.key, self.last) else {
            self.key = Some(Key { fine, coarse, position: 0.0 });
            self.last = Some((captured, 0.0));
            return false;
        };
        let seconds = captured.saturating_duration_since(last).as_secs_f64();
        let step = self.velocity.unwrap_or(0.0) * seconds;
        let expected = self.velocity.map(|_| before + step - key.position);
        let told = shift(key, &fine, &coarse, expected, NEAR + NEAR_SHARE * step.abs());
        let position = told.map_or(before + step, |shift| key.position + f64::from(shift));
        if told.is_some() && seconds > 0.0 {
            self.velocity = Some((position - before) / seconds);
        }
        if told.is_none() || (position - key.position).abs() > KEY * columns {
            self.key = Some(Key { fine, coarse, position });
        }
        self.last = Some((captured, position));
        told.is_some()
    }

    /// Pixels that the belt has gone since the first picture, below 0 towards smaller x.
    pub fn position(&self) -> f64 {
        self.last.map_or(0.0, |(_, position)| position * self.pixels)
    }
}

/// A picture's bands, and how many of its pixels a column is; `None` for one that is too small to tell anything.
fn bands(picture: &Picture) -> Option<(Bands, f64)> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let merged = width.div_ceil(COLUMNS).max(1);
    let columns = width / merged;
    if columns < 8 * COARSE || height < BANDS {
        return None;
    }
    let step = height.div_ceil(ROWS);
    let mut bands = vec![vec![0.0f32; columns]; BANDS];
    let mut read = [0u32; BANDS];
    for y in (0..height).step_by(step) {
        let band = y * BANDS / height;
        read[band] += 1;
        let row = &picture.rgb[y * width * 3..(y * width + columns * merged) * 3];
        for (value, pixels) in bands[band].iter_mut().zip(row.chunks_exact(merged * 3)) {
            *value += pixels.iter().map(|v| u32::from(*v)).sum::<u32>() as f32;
        }
    }
    let mut sum = 0.0;
    for (band, read) in bands.iter_mut().zip(read) {
        let scale = 1.0 / (read.max(1) as usize * merged * 3) as f32;
        band.iter_mut().for_each(|value| *value *= scale);
        *band = detail(band);
        sum += band.iter().map(|value| value.abs()).sum::<f32>();
    }
    let most = CLIP * sum / (BANDS * columns) as f32;
    bands.iter_mut().flatten().for_each(|value| *value = value.clamp(-most, most));
    Some((bands, merged as f64))
}

/// A band without its coarse part, as a share of that, and without detail of a column's width, which would only be seen at
/// shifts by whole columns and favour them.
fn detail(band: &[f32]) -> Vec<f32> {
    let last = band.len() - 1;
    let mut sums = vec![0.0; band.len() + 1];
    for (x, value) in band.iter().enumerate() {
        sums[x + 1] = sums[x] + value;
    }
    (0..band.len())
        .map(|x| {
            let half = SMOOTH.min(x).min(last - x); // as far to both sides: else a lamp's slope stands at the ends
            let coarse = (sums[x + half + 1] - sums[x - half]) / (2 * half + 1) as f32;
            let (a, b, d, e) = (x.saturating_sub(2), x.saturating_sub(1), (x + 1).min(last), (x + 2).min(last));
            let fine = (band[a] + 4.0 * band[b] + 6.0 * band[x] + 4.0 * band[d] + band[e]) / 16.0;
            (fine - coarse) / coarse.max(1.0)
        })
        .collect()
}

/// Bands of a [`COARSE`] part of the columns.
fn merged(bands: &Bands) -> Bands {
    bands.iter().map(|band| band.chunks_exact(COARSE).map(|columns| columns.iter().sum()).collect()).collect()
}

/// By how many columns a picture lies further along than the key. A surface that repeats fits at several shifts: then the one
/// within `room` of `expected` is taken, and without an expectation, or where none is near, nothing is told.
fn shift(key: &Key, fine: &Bands, coarse: &Bands, expected: Option<f64>, room: f64) -> Option<f32> {
    let most = ((1.0 - OVERLAP) * coarse[0].len() as f32) as i32;
    let rough = correlations(&key.coarse, coarse, -most..=most);
    let best = rough.iter().copied().fold(0.0, f32::max);
    let peak = |index: &usize| {
        let fit = |at: Option<usize>| at.and_then(|at| rough.get(at)).copied().unwrap_or(f32::NEG_INFINITY);
        let here = rough[*index];
        here >= PEAK * best && here >= fit(index.checked_sub(1)) && here >= fit(Some(index + 1))
    };
    let mut peaks: Vec<usize> = (0..rough.len()).filter(peak).collect();
    peaks.sort_by(|a, b| rough[*b].total_cmp(&rough[*a]));
    let columns = |index: &usize| (*index as i32 - most) * COARSE as i32;
    let mut fits: Vec<(f32, f32)> =
        peaks.iter().take(PEAKS).filter_map(|peak| refined(key, fine, columns(peak))).collect();
    fits.sort_by(|a, b| b.1.total_cmp(&a.1));
    let (first, fit) = *fits.first()?;
    let like = |other: &&(f32, f32)| other.1 >= RIVAL * fit && (other.0 - first).abs() > COARSE as f32;
    let rivals = || fits.iter().filter(like);
    if rivals().next().is_none() {
        return Some(first);
    }
    let far = |shift: f32| expected.map_or(f64::INFINITY, |expected| (f64::from(shift) - expected).abs());
    let nearest = rivals().map(|(shift, _)| *shift).chain([first]).min_by(|a, b| far(*a).total_cmp(&far(*b)))?;
    (far(nearest) <= room).then_some(nearest)
}

/// The best shift about `about` to a fraction of a column, and how well it fits; `None` when that is not clear.
fn refined(key: &Key, fine: &Bands, about: i32) -> Option<(f32, f32)> {
    let reach = COARSE as i32 + 2;
    let close = correlations(&key.fine, fine, about - reach..=about + reach);
    let best = (1..close.len() - 1).max_by(|a, b| close[*a].total_cmp(&close[*b]))?;
    let [left, middle, right] = [close[best - 1], close[best], close[best + 1]];
    let bend = left - 2.0 * middle + right;
    // At the window's end the best one may lie outside: nothing is told.
    let peak = middle >= CLEAR && bend < 0.0 && left <= middle && right <= middle;
    peak.then(|| ((about - reach + best as i32) as f32 + 0.5 * (left - right) / bend, middle))
}

/// How well `before`, moved on by each of some numbers of columns, fits `now` where they overlap: -1 to 1, and 0 where too
/// little overlaps or nothing is shown.
fn correlations(before: &Bands, now: &Bands, by: RangeInclusive<i32>) -> Vec<f32> {
    let columns = now[0].len();
    // Of every beginning, so that each overlap's energy is a difference.
    let energies = |bands: &Bands| {
        let mut sums = vec![0.0f32; columns + 1];
        for x in 0..columns {
            sums[x + 1] = sums[x] + bands.iter().map(|band| band[x] * band[x]).sum::<f32>();
        }
        sums
    };
    let (of_before, of_now) = (energies(before), energies(now));
    by.map(|by| {
        let outside = by.unsigned_abs() as usize;
        if (columns as f32) < outside as f32 + OVERLAP * columns as f32 {
            return 0.0;
        }
        let (from, to) = if by < 0 { (outside, 0) } else { (0, outside) };
        let both: f32 = before
            .iter()
            .zip(now)
            .map(|(before, now)| dot(&before[from..columns - to], &now[to..columns - from]))
            .sum();
        let energy = (of_before[columns - to] - of_before[from]) * (of_now[columns - from] - of_now[to]);
        if energy > 0.0 { both / energy.sqrt() } else { 0.0 }
    })
    .collect()
}

/// Sum of products, in eight sums side by side, which the compiler makes one instruction of.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (eights_a, eights_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = eights_a.remainder().iter().zip(eights_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in eights_a.zip(eights_b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::belt::{Belt, BeltConfig};

    /// Worst error of the travel in pixels, and pictures after the first that told nothing.
    fn followed(config: BeltConfig, pictures: u64) -> (f64, usize) {
        let (frame_rate, start) = (config.frame_rate, Instant::now());
        let mut belt = Belt::new(config).unwrap();
        let (mut travel, mut worst, mut unclear) = (Travel::default(), 0.0f64, 0);
        let first = 100; // items lie all over the picture
        for n in first..first + pictures {
            let seconds = n as f64 / frame_rate;
            let told = travel.look(&belt.frame(n).0, start + Duration::from_secs_f64(seconds));
            unclear += usize::from(!told && n > first);
            let truth = belt.travel(seconds) - belt.travel(first as f64 / frame_rate);
            worst = worst.max((travel.position() - truth).abs());
        }
        (worst, unclear)
    }

    /// 0.16 pixels a picture is 80 px/s before a camera of 500 pictures/s, or a belt that creeps.
    #[test]
    fn the_travel_is_told_to_a_fraction_of_a_pixel_at_every_speed() {
        for (seed, empty_share) in [(1, 0.1), (2, 1.0), (3, 0.4)] {
            for step in [0.0, 0.16, 0.64, 3.2, 19.2, 96.0, 192.0] {
                let (frame_rate, speed) = (30.0, f64::max(step, 0.01) * 30.0);
                let items_per_minute = speed * 60.0 / 200.0;
                let config = BeltConfig {
                    seed,
                    width: 320,
                    height: 180,
                    speed,
                    profile: vec![[0.0, step * 30.0]],
                    items_per_minute,
                    empty_share,
                    frame_rate,
                    ..BeltConfig::default()
                };
                let (worst, unclear) = followed(config, 120);
                println!("seed {seed}, {step} px per picture: off by {worst:.3} px at most, {unclear} unclear");
                // A quarter of a pixel per key, and half a thousandth of the way.
                assert!(worst < 0.25 + 5e-4 * 120.0 * step && unclear == 0, "seed {seed}, {step}: {worst}, {unclear}");
            }
        }
    }

    /// Over any ten pictures in a row.
    #[test]
    fn a_drawn_shift_of_a_sixth_of_a_pixel_is_recovered() {
        const STEP: f64 = 0.16;
        for (seed, empty_share) in [(1, 0.1), (2, 1.0), (3, 0.4)] {
            let (width, height, frame_rate, speed) = (320, 180, 30.0, STEP * 30.0);
            let items_per_minute = speed * 60.0 / 200.0;
            let mut belt = Belt::new(BeltConfig {
                seed,
                width,
                height,
                speed,
                items_per_minute,
                empty_share,
                frame_rate,
                ..BeltConfig::default()
            })
            .unwrap();
            let (mut travel, start, mut positions) = (Travel::default(), Instant::now(), Vec::new());
            for n in 6000..6120 {
                travel.look(&belt.frame(n).0, start + Duration::from_secs_f64(n as f64 / frame_rate));
                positions.push(travel.position());
            }
            let off = |ten: &[f64]| ((ten[10] - ten[0]) / 10.0 - STEP).abs();
            let worst = positions.windows(11).map(off).fold(0.0, f64::max);
            println!("seed {seed}: off by {worst:.4} px per picture at most");
            assert!(worst < 0.03, "seed {seed}: {worst}");
        }
    }

    #[test]
    fn a_black_picture_and_a_tiny_one_tell_nothing() {
        for blank in [Picture::filled(640, 360, [0; 3]), Picture::filled(3, 3, [9; 3])] {
            let (mut travel, start) = (Travel::default(), Instant::now());
            for n in 0..20 {
                assert!(!travel.look(&blank, start + Duration::from_millis(40 * n)));
                assert_eq!(travel.position(), 0.0);
            }
        }
    }
}
