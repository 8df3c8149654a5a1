//! Strong views: RandAugment (Cubuk et al. 2020, arXiv:1909.13719) with the operations and ranges of FixMatch
//! (arXiv:2001.07685, appendix D), then Cutout (DeVries & Taylor 2017, arXiv:1708.04552).
//!
//! Invariant: every operation gives the pixels of Pillow, on which the published results rest, byte for byte; geometry
//! takes the nearest pixel, Pillow's default and the published code's choice.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{WeakAugmentation, weak_view};

/// What Cutout leaves and what geometry moves in: the middle of the range, as in the published code.
const GRAY: u8 = 127;

/// One change to a picture. The ranges go from magnitude 0, the gentle end, to magnitude 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Each channel stretched over 0 to 255; no magnitude.
    AutoContrast,
    /// Towards black: share kept 0.95 to 0.05.
    Brightness,
    /// Towards gray: share kept 0.95 to 0.05.
    Color,
    /// Towards the picture's mean gray: share kept 0.95 to 0.05.
    Contrast,
    /// Each channel's histogram made flat; no magnitude.
    Equalize,
    /// No change.
    Identity,
    /// Bits kept per channel: 8 to 4.
    Posterize,
    /// By 0 to 30 degrees; anticlockwise, clockwise when negative.
    Rotate,
    /// Towards the picture smoothed over 3 × 3 pixels: share kept 0.95 to 0.05.
    Sharpness,
    /// Rows moved by 0 to 0.3 pixels per row; to the left, to the right when negative.
    ShearX,
    /// Columns moved by 0 to 0.3 pixels per column; up, down when negative.
    ShearY,
    /// Levels from 256 (none) down to 0 (all) upwards inverted.
    Solarize,
    /// By 0 to 0.3 of the side; to the left, to the right when negative.
    TranslateX,
    /// By 0 to 0.3 of the side; up, down when negative.
    TranslateY,
}

/// Every operation, in the order of FixMatch's table.
pub const OPERATIONS: [Operation; 14] = [
    Operation::AutoContrast,
    Operation::Brightness,
    Operation::Color,
    Operation::Contrast,
    Operation::Equalize,
    Operation::Identity,
    Operation::Posterize,
    Operation::Rotate,
    Operation::Sharpness,
    Operation::ShearX,
    Operation::ShearY,
    Operation::Solarize,
    Operation::TranslateX,
    Operation::TranslateY,
];

impl Operation {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Operation::AutoContrast => "AutoContrast",
            Operation::Brightness => "Brightness",
            Operation::Color => "Color",
            Operation::Contrast => "Contrast",
            Operation::Equalize => "Equalize",
            Operation::Identity => "Identity",
            Operation::Posterize => "Posterize",
            Operation::Rotate => "Rotate",
            Operation::Sharpness => "Sharpness",
            Operation::ShearX => "ShearX",
            Operation::ShearY => "ShearY",
            Operation::Solarize => "Solarize",
            Operation::TranslateX => "TranslateX",
            Operation::TranslateY => "TranslateY",
        }
    }

    /// `picture` (`side * side * 3` bytes, HWC) changed. `magnitude` is the share of the range, 0 to 1; `negative` turns
    /// the direction of the five geometric operations and means nothing to the others.
    pub fn apply(self, picture: &[u8], side: usize, magnitude: f32, negative: bool) -> Vec<u8> {
        let magnitude = f64::from(magnitude);
        let keep = (0.95 - 0.9 * magnitude) as f32;
        let signed = if negative { -magnitude } else { magnitude };
        match self {
            Operation::Identity => picture.to_vec(),
            Operation::AutoContrast => per_channel(picture, auto_contrast),
            Operation::Equalize => per_channel(picture, equalize),
            Operation::Posterize => {
                let lost = (4.0 * magnitude).round() as u32;
                same_for_all(picture, |v| v & (0xff << lost))
            }
            Operation::Solarize => {
                let from = (256.0 * (1.0 - magnitude)).round() as u16;
                same_for_all(picture, |v| if u16::from(v) < from { v } else { 255 - v })
            }
            Operation::Brightness => same_for_all(picture, |v| blend(0, v, keep)),
            Operation::Contrast => {
                let mean = mean_gray(picture);
                same_for_all(picture, |v| blend(mean, v, keep))
            }
            Operation::Color => {
                let mut out = picture.to_vec();
                for pixel in out.as_chunks_mut::<3>().0 {
                    let gray = gray(*pixel);
                    *pixel = pixel.map(|v| blend(gray, v, keep));
                }
                out
            }
            Operation::Sharpness => {
                let mut out = smooth(picture, side);
                out.iter_mut().zip(picture).for_each(|(v, original)| *v = blend(*v, *original, keep));
                out
            }
            Operation::Rotate => {
                let (sin, cos) = (30.0 * signed).to_radians().sin_cos();
                let centre = side as f64 / 2.0;
                let (x, y) = (centre - centre * (cos - sin), centre - centre * (sin + cos));
                // In pictures y points down, so this turns anticlockwise.
                affine(picture, side, [cos, -sin, x], [sin, cos, y])
            }
            Operation::ShearX => affine(picture, side, [1.0, 0.3 * signed, 0.0], [0.0, 1.0, 0.0]),
            Operation::ShearY => affine(picture, side, [1.0, 0.0, 0.0], [0.3 * signed, 1.0, 0.0]),
            Operation::TranslateX => affine(picture, side, [1.0, 0.0, 0.3 * signed * side as f64], [0.0, 1.0, 0.0]),
            Operation::TranslateY => affine(picture, side, [1.0, 0.0, 0.0], [0.0, 1.0, 0.3 * signed * side as f64]),
        }
    }
}

/// How strong a view is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StrongAugmentation {
    /// Operations one after another, each drawn from all of [`OPERATIONS`].
    pub operations: usize,
    /// Magnitude of every operation, 0 to 1; drawn uniformly for each when `None`.
    pub magnitude: Option<f32>,
    /// Largest side of Cutout's square as a share of the picture's; 0 for none.
    pub cutout: f32,
}

impl StrongAugmentation {
    /// Two operations of random magnitude and a square of up to half the side (FixMatch §2.3 and appendix D).
    pub const FIXMATCH: StrongAugmentation = StrongAugmentation { operations: 2, magnitude: None, cutout: 0.5 };
    /// Two operations at 27 of 30 (Noisy Student, arXiv:1911.04252 §3.1), here of FixMatch's ranges, which never
    /// brighten; the paper's own code has wider ones.
    pub const NOISY_STUDENT: StrongAugmentation =
        StrongAugmentation { operations: 2, magnitude: Some(27.0 / 30.0), cutout: 0.0 };
}

/// A strong view of `picture` (`side * side * 3` bytes, HWC): a weak view, then the operations, then Cutout.
pub fn strong_view(
    picture: &[u8],
    side: usize,
    weak: WeakAugmentation,
    options: &StrongAugmentation,
    rng: &mut ChaCha8Rng,
) -> Vec<u8> {
    let mut view = weak_view(picture, side, weak, rng);
    for _ in 0..options.operations {
        let operation = OPERATIONS[rng.random_range(0..OPERATIONS.len())];
        let magnitude = options.magnitude.unwrap_or_else(|| rng.random());
        view = operation.apply(&view, side, magnitude, rng.random());
    }
    if options.cutout > 0.0 {
        cut_out(&mut view, side, options.cutout, rng);
    }
    view
}

/// A gray square around any pixel, of a side from 0 to `largest` (a share of the picture's); what lies outside is lost.
fn cut_out(picture: &mut [u8], side: usize, largest: f32, rng: &mut ChaCha8Rng) {
    let half = (rng.random::<f32>() * largest * side as f32 / 2.0).round() as usize;
    let mut range = || {
        let centre = rng.random_range(0..side);
        centre.saturating_sub(half)..(centre + half).min(side)
    };
    let (rows, columns) = (range(), range());
    for row in rows {
        picture[(row * side + columns.start) * 3..(row * side + columns.end) * 3].fill(GRAY);
    }
}

/// Pillow's `Image.blend` between two levels.
fn blend(from: u8, to: u8, share: f32) -> u8 {
    (f32::from(from) + share * (f32::from(to) - f32::from(from))) as u8
}

/// Pillow's conversion to gray (ITU-R 601-2).
fn gray([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

fn mean_gray(picture: &[u8]) -> u8 {
    let pixels = picture.as_chunks::<3>().0;
    let sum: u64 = pixels.iter().map(|pixel| u64::from(gray(*pixel))).sum();
    (sum as f64 / pixels.len() as f64 + 0.5) as u8
}

/// The same function of the level for all channels.
fn same_for_all(picture: &[u8], level: impl Fn(u8) -> u8) -> Vec<u8> {
    let table: [u8; 256] = std::array::from_fn(|v| level(v as u8));
    picture.iter().map(|v| table[usize::from(*v)]).collect()
}

/// A function of the level for each channel, made from the channel's histogram.
fn per_channel(picture: &[u8], table: impl Fn(&[u32; 256]) -> [u8; 256]) -> Vec<u8> {
    let mut histograms = [[0; 256]; 3];
    let mut out = picture.to_vec();
    for pixel in out.as_chunks::<3>().0 {
        for (histogram, v) in histograms.iter_mut().zip(pixel) {
            histogram[usize::from(*v)] += 1;
        }
    }
    let [r, g, b] = histograms.map(|histogram| table(&histogram));
    for pixel in out.as_chunks_mut::<3>().0 {
        *pixel = [r[usize::from(pixel[0])], g[usize::from(pixel[1])], b[usize::from(pixel[2])]];
    }
    out
}

/// `ImageOps.autocontrast`: from the darkest to the lightest level present; a single level stays.
fn auto_contrast(histogram: &[u32; 256]) -> [u8; 256] {
    let low = histogram.iter().position(|n| *n > 0).unwrap_or(0);
    let high = histogram.iter().rposition(|n| *n > 0).unwrap_or(0);
    if high == low {
        return std::array::from_fn(|v| v as u8);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    std::array::from_fn(|v| (v as f64 * scale + offset) as u8)
}

/// `ImageOps.equalize`; with fewer than 255 pixels below the lightest level nothing changes.
fn equalize(histogram: &[u32; 256]) -> [u8; 256] {
    let lightest = histogram.iter().rev().find(|n| **n > 0).copied().unwrap_or(0);
    let step = (histogram.iter().sum::<u32>() - lightest) / 255;
    if step == 0 {
        return std::array::from_fn(|v| v as u8);
    }
    let mut below = step / 2;
    histogram.map(|n| {
        let level = (below / step).min(255) as u8;
        below += n;
        level
    })
}

/// `ImageFilter.SMOOTH`: the pixel five times and its eight neighbours once, over 13, rounded; the outermost pixels stay.
fn smooth(picture: &[u8], side: usize) -> Vec<u8> {
    let mut out = picture.to_vec();
    let row = side * 3;
    for y in 1..side.saturating_sub(1) {
        let [above, here, below] = [y - 1, y, y + 1].map(|y| &picture[y * row..(y + 1) * row]);
        let columns: Vec<u16> = above
            .iter()
            .zip(here)
            .zip(below)
            .map(|((a, h), b)| u16::from(*a) + u16::from(*h) + u16::from(*b))
            .collect();
        let sums = columns.iter().zip(&columns[3..]).zip(&columns[6..]);
        for ((v, ((left, middle), right)), centre) in out[y * row + 3..].iter_mut().zip(sums).zip(&here[3..]) {
            *v = ((left + middle + right + 4 * u16::from(*centre) + 6) / 13) as u8;
        }
    }
    out
}

/// Pillow's affine transform, nearest pixel: the output's pixel with its centre at (x, y) is the input's that holds
/// (`xs` · (x, y, 1), `ys` · (x, y, 1)), gray outside; in 16.16 fixed point as in Pillow.
fn affine(picture: &[u8], side: usize, xs: [f64; 3], ys: [f64; 3]) -> Vec<u8> {
    let fixed = |v: f64| (v * 65536.0 + 0.5).floor() as i32;
    // The first output pixel's centre is at (0.5, 0.5).
    let start = |[along, down, offset]: [f64; 3]| fixed(offset + along * 0.5 + down * 0.5);
    let (mut row_x, mut row_y) = (start(xs), start(ys));
    let pixels = picture.as_chunks::<3>().0;
    let mut out = vec![GRAY; picture.len()];
    for row in out.as_chunks_mut::<3>().0.chunks_mut(side) {
        let (mut x, mut y) = (row_x, row_y);
        for pixel in row {
            // Negative places become huge ones.
            let (column, line) = ((x >> 16) as usize, (y >> 16) as usize);
            if column < side && line < side {
                *pixel = pixels[line * side + column];
            }
            x += fixed(xs[0]);
            y += fixed(ys[0]);
        }
        row_x += fixed(xs[1]);
        row_y += fixed(ys[1]);
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::random::generator;

    const STILL: WeakAugmentation = WeakAugmentation { shift: 0.0, ..WeakAugmentation::FLIP_AND_SHIFT };

    #[test]
    fn every_operation_gives_pillows_pixels() {
        let picture = |side: usize| -> Vec<u8> {
            let level = |x, y, c: usize| (30 + (7 * x * x * (c + 1) + 13 * y + 5 * x * y + 59 * c) % 190) as u8;
            (0..side * side).flat_map(|i| [0, 1, 2].map(|c| level(i % side, i / side, c))).collect()
        };
        let mut seen = Vec::new();
        for line in include_str!("pillow.txt").lines().filter(|line| !line.starts_with('#')) {
            let [name, magnitude, direction, side, wanted] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let operation = OPERATIONS.into_iter().find(|o| o.name() == name).unwrap();
            let side = side.parse().unwrap();
            let found = operation.apply(&picture(side), side, magnitude.parse().unwrap(), direction == "-1");
            let found: String = found.iter().map(|v| format!("{v:02x}")).collect();
            assert_eq!(found, wanted, "{name} at {magnitude}, direction {direction}");
            seen.push(operation);
        }
        assert!(OPERATIONS.iter().all(|o| seen.contains(o)));
    }

    #[test]
    fn a_strong_view_depends_on_its_generator_alone() {
        let picture: Vec<u8> = (0..32 * 32 * 3).map(|i| (i * 31 % 251) as u8).collect();
        for options in [StrongAugmentation::FIXMATCH, StrongAugmentation::NOISY_STUDENT] {
            let view = |seed| strong_view(&picture, 32, WeakAugmentation::PHOTO, &options, &mut generator(seed, 0, 0));
            assert_eq!(view(3), view(3));
            assert_ne!(view(3), view(4));
        }
    }

    #[test]
    fn without_operations_and_cutout_it_is_the_weak_view() {
        let picture: Vec<u8> = (0..32 * 32 * 3).map(|i| (i * 31 % 251) as u8).collect();
        let nothing = StrongAugmentation { operations: 0, magnitude: None, cutout: 0.0 };
        let view = strong_view(&picture, 32, WeakAugmentation::PHOTO, &nothing, &mut generator(1, 0, 0));
        assert_eq!(view, weak_view(&picture, 32, WeakAugmentation::PHOTO, &mut generator(1, 0, 0)));
    }

    #[test]
    fn cutout_leaves_squares_of_up_to_half_the_side() {
        let only_cutout = StrongAugmentation { operations: 0, ..StrongAugmentation::FIXMATCH };
        let lost: Vec<usize> = (0..500)
            .map(|seed| {
                let view = strong_view(&[9; 40 * 40 * 3], 40, STILL, &only_cutout, &mut generator(seed, 0, 0));
                assert!(view.iter().all(|v| *v == 9 || *v == GRAY));
                view.iter().filter(|v| **v == GRAY).count() / 3
            })
            .collect();
        // Whole squares of 20 × 20 at most; on average a third of that, less what hangs over the edge.
        assert!((361..=400).contains(lost.iter().max().unwrap()), "{:?}", lost.iter().max());
        let mean = lost.iter().sum::<usize>() as f64 / 500.0;
        assert!((90.0..135.0).contains(&mean), "{mean}");
    }
}
