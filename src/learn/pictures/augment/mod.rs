//! Views of a picture. Weak ones are here: flip, shift, and for photos a little scale, rotation and light; strong ones
//! in `strong.rs`.
//!
//! Invariant: a view depends on (seed, epoch, picture) only, so that a resumed run sees what an unbroken one would.

mod strong;

pub use strong::{OPERATIONS, StrongAugmentation, strong_view};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// How far a weak view may stray; shares of the side unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeakAugmentation {
    /// Largest shift, each way (FixMatch, arXiv:2001.07685 §2.3: 12.5 %).
    pub shift: f32,
    /// Shifts by whole pixels only: between them a picture is blurred, which small ones do not bear.
    pub whole: bool,
    /// Largest change of scale: sizes from `1 − scale` to `1 + scale`.
    pub scale: f32,
    /// Largest rotation in degrees.
    pub degrees: f32,
    /// Largest change of brightness: factors from `1 − brightness` to `1 + brightness`.
    pub brightness: f32,
}

impl WeakAugmentation {
    /// Flip and shift only, as in FixMatch.
    pub const FLIP_AND_SHIFT: WeakAugmentation =
        WeakAugmentation { shift: 0.125, whole: false, scale: 0.0, degrees: 0.0, brightness: 0.0 };
    /// The same for the smallest pictures.
    pub const FLIP_AND_STEP: WeakAugmentation = WeakAugmentation { whole: true, ..WeakAugmentation::FLIP_AND_SHIFT };
    /// For photos that differ in distance, angle and light.
    pub const PHOTO: WeakAugmentation =
        WeakAugmentation { shift: 0.08, whole: false, scale: 0.12, degrees: 10.0, brightness: 0.15 };

    /// Photos from 96 pixels on, flip and shift for smaller crops.
    pub fn for_side(side: usize) -> WeakAugmentation {
        match side {
            96.. => WeakAugmentation::PHOTO,
            48.. => WeakAugmentation::FLIP_AND_SHIFT,
            _ => WeakAugmentation::FLIP_AND_STEP,
        }
    }
}

/// A weak view of `picture` (`side * side * 3` bytes, HWC); what comes in at the edges is mirrored.
pub fn weak_view(picture: &[u8], side: usize, options: WeakAugmentation, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut within = |reach: f32| if reach > 0.0 { rng.random_range(-reach..=reach) } else { 0.0 };
    let (dx, dy) = (within(options.shift) * side as f32, within(options.shift) * side as f32);
    let (dx, dy) = if options.whole { (dx.round(), dy.round()) } else { (dx, dy) };
    let (scale, angle) = (1.0 + within(options.scale), within(options.degrees).to_radians());
    let light = 1.0 + within(options.brightness);
    let flip = if rng.random::<bool>() { -1.0 } else { 1.0 };
    // Inverse map: output pixel → place in the input, around the centre.
    let (cos, sin) = (angle.cos() / scale, angle.sin() / scale);
    let centre = (side as f32 - 1.0) / 2.0;
    let mut out = Vec::with_capacity(picture.len());
    for row in 0..side {
        for column in 0..side {
            let (x, y) = (flip * (column as f32 - centre) - dx, row as f32 - centre - dy);
            let (x, y) = (cos * x + sin * y + centre, cos * y - sin * x + centre);
            out.extend(bilinear(picture, side, x, y).map(|v| (v * light + 0.5) as u8));
        }
    }
    out
}

fn bilinear(picture: &[u8], side: usize, x: f32, y: f32) -> [f32; 3] {
    let (left, top) = (floor(x), floor(y));
    let (fx, fy) = (x - left as f32, y - top as f32);
    let [x0, x1] = [mirror(left, side), mirror(left + 1, side)];
    let [y0, y1] = [mirror(top, side), mirror(top + 1, side)];
    let pixels = picture.as_chunks::<3>().0;
    let at = |x: usize, y: usize| pixels[y * side + x].map(f32::from);
    let [a, b, c, d] = [at(x0, y0), at(x1, y0), at(x0, y1), at(x1, y1)];
    std::array::from_fn(|channel| {
        let [a, b, c, d] = [a[channel], b[channel], c[channel], d[channel]];
        (a * (1.0 - fx) + b * fx) * (1.0 - fy) + (c * (1.0 - fx) + d * fx) * fy
    })
}

/// Plain `f32::floor` is a call into the C library on the oldest x86-64.
fn floor(place: f32) -> i32 {
    let whole = place as i32;
    if place < whole as f32 { whole - 1 } else { whole }
}

/// … 2 1 | 0 1 2 … n−1 | n−2 …
fn mirror(place: i32, side: usize) -> usize {
    let last = side as i32 - 1;
    let place = place.abs();
    (if place > last { (2 * last - place).max(0) } else { place }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;

    #[test]
    fn a_view_depends_on_seed_epoch_and_picture_only() {
        let picture: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * 31 % 251) as u8).collect();
        let view =
            |seed, epoch, index| weak_view(&picture, 16, WeakAugmentation::PHOTO, &mut generator(seed, epoch, index));
        assert_eq!(view(1, 2, 3), view(1, 2, 3));
        for other in [view(2, 2, 3), view(1, 3, 3), view(1, 2, 4)] {
            assert_ne!(other, view(1, 2, 3));
        }
    }

    #[test]
    fn without_options_a_view_is_the_picture_or_its_mirror_image() {
        let picture: Vec<u8> = (0..8 * 8 * 3).map(|i| i as u8).collect();
        let mirrored: Vec<u8> =
            picture.chunks(24).flat_map(|row| row.chunks(3).rev().flatten().copied().collect::<Vec<_>>()).collect();
        let still = WeakAugmentation { shift: 0.0, ..WeakAugmentation::FLIP_AND_SHIFT };
        let views: Vec<_> = (0..20).map(|i| weak_view(&picture, 8, still, &mut generator(0, 0, i))).collect();
        assert!(views.iter().all(|v| *v == picture || *v == mirrored));
        assert!(views.contains(&picture) && views.contains(&mirrored));
    }

    #[test]
    fn a_shift_by_whole_pixels_makes_no_new_values() {
        let side = 32;
        let picture: Vec<u8> = (0..side * side).flat_map(|i| [(i % 32 * 7) as u8, (i / 32 * 5) as u8, 9]).collect();
        let pixels = |bytes: &[u8]| bytes.as_chunks::<3>().0.to_vec();
        for i in 0..20 {
            let view = weak_view(&picture, side, WeakAugmentation::for_side(side), &mut generator(3, 0, i));
            assert!(pixels(&view).iter().all(|pixel| pixels(&picture).contains(pixel)));
        }
    }

    #[test]
    fn weak_views_keep_the_bytes_that_the_shipped_student_saw() {
        let picture: Vec<u8> = (0..96 * 96 * 3_u32).map(|i| (i * i / 7 % 253) as u8).collect();
        let checksum = |options| {
            let views = (0..16).flat_map(|i| weak_view(&picture, 96, options, &mut generator(5, 1, i)));
            views.fold(0_u64, |sum, v| sum.wrapping_mul(31).wrapping_add(u64::from(v)))
        };
        assert_eq!(
            [checksum(WeakAugmentation::FLIP_AND_SHIFT), checksum(WeakAugmentation::PHOTO)],
            [16744462047350870578, 6755875006500634287]
        );
    }
}
