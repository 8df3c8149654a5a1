//! What a factory does to pictures, in seven kinds of five strengths, to examine a trained student with (after
//! Hendrycks & Dietterich 2019, arXiv:1903.12261).
//!
//! Invariant: none of them is a view that training shows. Two are kin to one: dim light to Brightness, but its light
//! also falls off to one side; shift to weak shifts and Translate, but the edge is drawn out, where those mirror it or
//! fill in gray. Blur is wider than the 3 × 3 pixels of Sharpness; the others have no counterpart.

use image::{RgbImage, imageops};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::{
    domain::Picture,
    picture::pixels::{self, PixelError, PixelLimits},
};

/// What happened to a picture; each gives its five strengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// Out of focus: Gaussian of σ 0.8, 1.4, 2, 3 and 4.5 % of the side.
    Blur,
    /// A hot sensor: Gaussian of σ 8, 16, 28, 45 and 70 levels in each channel.
    Noise,
    /// A lamp mirrored by a wet item: a soft spot that adds 100, 160, 230, 310 and 400 levels in its middle.
    Glare,
    /// A failing lamp: 25, 40, 55, 70 and 82 % of the light lost at one side, three fifths of that at the other.
    Dim,
    /// Dirt on the lens: 3, 6, 10, 15 and 21 dark, soft specks.
    Dirt,
    /// JPEG of quality 25, 18, 12, 8 and 5.
    Jpeg,
    /// An item off the middle: by 4, 8, 13, 19 and 26 % of the side in any direction.
    Shift,
}

/// Every corruption.
pub const CORRUPTIONS: [Corruption; 7] = [
    Corruption::Blur,
    Corruption::Noise,
    Corruption::Glare,
    Corruption::Dim,
    Corruption::Dirt,
    Corruption::Jpeg,
    Corruption::Shift,
];

impl Corruption {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Corruption::Blur => "blur",
            Corruption::Noise => "noise",
            Corruption::Glare => "glare",
            Corruption::Dim => "dim light",
            Corruption::Dirt => "dirt",
            Corruption::Jpeg => "JPEG",
            Corruption::Shift => "shift",
        }
    }
}

/// `picture` (`side * side * 3` bytes, HWC) corrupted; `strength` from 1 to 5, others count as the nearest of these.
///
/// The same state of `rng` gives the same spot, specks or direction at every strength.
///
/// # Errors
/// When the JPEG encoder or decoder refuses.
pub fn corrupt(
    picture: &[u8],
    side: usize,
    corruption: Corruption,
    strength: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<u8>, PixelError> {
    let wide = side as f32;
    let of = |values: [f32; 5]| values[strength.clamp(1, 5) - 1];
    Ok(match corruption {
        Corruption::Blur => blur(picture, side, of([0.008, 0.014, 0.02, 0.03, 0.045]) * wide),
        Corruption::Noise => {
            let sigma = of([8.0, 16.0, 28.0, 45.0, 70.0]);
            picture.iter().map(|v| byte(f32::from(*v) + sigma * normal(rng))).collect()
        }
        Corruption::Glare => {
            let spot = Spot::draw(rng, 0.15..0.3);
            let peak = of([100.0, 160.0, 230.0, 310.0, 400.0]);
            relight(picture, side, |x, y| (1.0, peak * spot.at(x, y)))
        }
        Corruption::Dim => {
            let lost = of([0.25, 0.4, 0.55, 0.7, 0.82]);
            let [dx, dy] = direction(rng);
            // −0.71 to 0.71 along the direction, corner to corner.
            relight(picture, side, |x, y| (1.0 - lost * (0.8 + 0.28 * ((x - 0.5) * dx + (y - 0.5) * dy)), 0.0))
        }
        Corruption::Dirt => {
            let specks: Vec<Spot> =
                (0..of([3.0, 6.0, 10.0, 15.0, 21.0]) as usize).map(|_| Spot::draw(rng, 0.02..0.06)).collect();
            relight(picture, side, |x, y| (specks.iter().map(|speck| 1.0 - 0.85 * speck.at(x, y)).product(), 0.0))
        }
        Corruption::Jpeg => {
            let picture = Picture { width: side as u32, height: side as u32, rgb: picture.to_vec() };
            let quality = of([25.0, 18.0, 12.0, 8.0, 5.0]) as i32;
            pixels::decode(&pixels::encode_jpeg(&picture, quality)?, PixelLimits::default())?.rgb
        }
        Corruption::Shift => {
            let [dx, dy] = direction(rng).map(|d| (d * of([0.04, 0.08, 0.13, 0.19, 0.26]) * wide).round() as isize);
            let from = |place: usize, by: isize| place.saturating_add_signed(by).min(side - 1);
            let pixels = picture.as_chunks::<3>().0;
            (0..side * side).flat_map(|i| pixels[from(i / side, dy) * side + from(i % side, dx)]).collect()
        }
    })
}

/// A soft round spot; lengths in sides of the picture.
struct Spot {
    x: f32,
    y: f32,
    radius: f32,
}

impl Spot {
    fn draw(rng: &mut ChaCha8Rng, radius: std::ops::Range<f32>) -> Self {
        Self { x: rng.random(), y: rng.random(), radius: rng.random_range(radius) }
    }

    /// 1 in its middle, falling to nothing.
    fn at(&self, x: f32, y: f32) -> f32 {
        let squared = ((x - self.x).powi(2) + (y - self.y).powi(2)) / self.radius.powi(2);
        if squared < 9.0 { (-squared).exp() } else { 0.0 }
    }
}

fn direction(rng: &mut ChaCha8Rng) -> [f32; 2] {
    let (sin, cos) = rng.random_range(0.0..std::f32::consts::TAU).sin_cos();
    [cos, sin]
}

/// Normally distributed (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v) = (1.0 - rng.random::<f32>(), rng.random::<f32>());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

fn byte(level: f32) -> u8 {
    level.round().clamp(0.0, 255.0) as u8
}

/// At each place (0 to 1 each way) levels times the first number, plus the second.
fn relight(picture: &[u8], side: usize, light: impl Fn(f32, f32) -> (f32, f32)) -> Vec<u8> {
    let place = |i: usize| (i as f32 + 0.5) / side as f32;
    let mut out = picture.to_vec();
    for (i, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (times, plus) = light(place(i % side), place(i / side));
        *pixel = pixel.map(|v| byte(f32::from(v) * times + plus));
    }
    out
}

/// Gaussian of `sigma` pixels.
fn blur(picture: &[u8], side: usize, sigma: f32) -> Vec<u8> {
    match RgbImage::from_raw(side as u32, side as u32, picture.to_vec()) {
        Some(image) => imageops::blur(&image, sigma).into_raw(),
        None => picture.to_vec(), // not side × side pixels: nothing to blur
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const SIDE: usize = 64;

    /// A light, textured disc on a darker slope.
    fn picture() -> Vec<u8> {
        relight(&[0; SIDE * SIDE * 3], SIDE, |x, y| {
            let inside = (x - 0.5).hypot(y - 0.5) < 0.3;
            let disc = if inside { 70.0 + 20.0 * (40.0 * x).sin() * (50.0 * y).sin() } else { 0.0 };
            (1.0, 60.0 + 50.0 * x + disc)
        })
    }

    /// Mean absolute difference in levels.
    fn apart(a: &[u8], b: &[u8]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
    }

    #[test]
    fn stronger_is_farther_from_the_picture() {
        let picture = picture();
        for corruption in CORRUPTIONS {
            for seed in 0..5 {
                let distances: Vec<f64> = (1..=5)
                    .map(|strength| {
                        let mut rng = ChaCha8Rng::seed_from_u64(seed);
                        let found = corrupt(&picture, SIDE, corruption, strength, &mut rng).unwrap();
                        assert_eq!(found.len(), picture.len());
                        apart(&found, &picture)
                    })
                    .collect();
                assert!(distances[0] > 0.2, "{corruption:?}, seed {seed}: {distances:?}");
                assert!(distances.is_sorted_by(|a, b| a < b), "{corruption:?}, seed {seed}: {distances:?}");
            }
        }
    }

    #[test]
    fn a_corruption_depends_on_its_generator_alone() {
        let picture = picture();
        for corruption in CORRUPTIONS {
            let found = |seed| corrupt(&picture, SIDE, corruption, 3, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
            assert_eq!(found(1), found(1), "{corruption:?}");
            let drawn = !matches!(corruption, Corruption::Blur | Corruption::Jpeg);
            assert_eq!(found(1) != found(2), drawn, "{corruption:?}");
        }
    }

    #[test]
    fn noise_has_the_spread_it_says_and_blur_keeps_the_light() {
        let gray = [128; SIDE * SIDE * 3];
        let noisy = corrupt(&gray, SIDE, Corruption::Noise, 2, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        let variance = noisy.iter().map(|v| (f64::from(*v) - 128.0).powi(2)).sum::<f64>() / gray.len() as f64;
        assert!((variance.sqrt() - 16.0).abs() < 0.5, "{}", variance.sqrt());
        let blurred = corrupt(&gray, SIDE, Corruption::Blur, 5, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        assert!(apart(&blurred, &gray) < 1.0);
    }
}
