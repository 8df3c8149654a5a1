//! Everything in a picture that is no item: the belt's surface, the lamps, dirt on the lens, sensor noise.

use rand::RngExt;

use super::{BeltConfig, Purpose, stream};
use crate::domain::Picture;

/// The belt's texture repeats after this many pixels.
const PERIOD: usize = 1024;
const NOISE: usize = 1 << 16;

/// The light at one moment.
#[derive(Clone, Copy)]
pub(super) struct Light {
    /// 1 is as designed.
    pub level: f32,
    /// -1 bluish to 1 yellowish.
    pub warmth: f32,
}

impl Light {
    pub fn words(self) -> &'static str {
        match self.level {
            l if l < 0.78 => "under dim light",
            l if l < 0.98 => "under normal light",
            _ => "under bright light",
        }
    }
}

/// What stays the same from picture to picture.
pub(super) struct Scene {
    seed: u64,
    /// The belt's usual colour, before lamps and lens.
    pub colour: [f32; 3],
    width: usize,
    height: usize,
    /// Belt surface, `height` rows of `1 + PERIOD + width` RGB pixels: the last column before the start, which is repeated at the
    /// end, so that a row is one copy.
    surface: Vec<u8>,
    /// Lamps and lens: 256 is neutral, one per pixel.
    gain: Vec<u16>,
    /// The same after the change.
    dirty: Vec<u16>,
    /// Normal noise, read from a random place for every row.
    noise: Vec<i8>,
}

impl Scene {
    pub fn new(config: &BeltConfig) -> Self {
        let (width, height) = (config.width as usize, config.height as usize);
        let mut random = stream(config.seed, Purpose::Scene, 0);
        let (surface, colour) = surface(&mut random, width, height);
        let gain = gain(&mut random, width, height);
        let mut changed = stream(config.seed, Purpose::Change, 0);
        let specks = config.change.as_ref().map_or(0, |change| change.dirt);
        let mut dirty: Vec<f32> = gain.clone();
        soil(&mut changed, &mut dirty, specks, width, height);
        let fixed = |gain: Vec<f32>| gain.into_iter().map(|g| (g * 256.0).round() as u16).collect();
        let sigma = random.random_range(1.8f32..3.2);
        let noise = (0..NOISE + width * 3)
            .map(|_| {
                let sum: f32 = (0..6).map(|_| random.random::<f32>()).sum(); // variance 6/12
                ((sum - 3.0) * 1.414 * sigma).round() as i8
            })
            .collect();
        Self { seed: config.seed, colour, width, height, surface, gain: fixed(gain), dirty: fixed(dirty), noise }
    }

    /// The empty belt, moved by `offset` pixels, before lamps and lens.
    pub fn belt(&self, offset: f64) -> Picture {
        let whole = offset.floor();
        let start = PERIOD - 1 - whole.rem_euclid(PERIOD as f64) as usize;
        let share = ((offset - whole) * 256.0).round() as u32; // of the column before
        let row = (PERIOD + self.width + 1) * 3;
        let mut rgb = Vec::with_capacity(self.width * self.height * 3);
        for y in 0..self.height {
            let from = y * row + start * 3;
            let [before, here] = [from, from + 3].map(|from| &self.surface[from..from + self.width * 3]);
            if share == 0 {
                rgb.extend_from_slice(here);
            } else {
                rgb.extend(here.iter().zip(before).map(|(here, before)| between(*here, *before, share)));
            }
        }
        Picture { width: self.width as u32, height: self.height as u32, rgb }
    }

    /// Lamps, lens and sensor: multiplies with the gain (`changed`: the one after the change) and the light, adds the
    /// noise of picture `n`.
    pub fn expose(&self, picture: &mut Picture, n: u64, light: Light, changed: bool) {
        let gain = if changed { &self.dirty } else { &self.gain };
        let scale = |tint: f32| (light.level * tint * 256.0) as u32;
        let scale = [scale(1.0 + 0.09 * light.warmth), scale(1.0), scale(1.0 - 0.09 * light.warmth)];
        let width = self.width;
        for (y, (row, gain)) in picture.rgb.chunks_exact_mut(width * 3).zip(gain.chunks_exact(width)).enumerate() {
            let at = mix(self.seed ^ n.wrapping_mul(0x9e37_79b9) ^ ((y as u64) << 40)) as usize % NOISE;
            let noise = &self.noise[at..at + width * 3];
            for ((pixel, gain), noise) in row.chunks_exact_mut(3).zip(gain).zip(noise.chunks_exact(3)) {
                let gain = u32::from(*gain);
                for c in 0..3 {
                    let lit = (u32::from(pixel[c]) * gain * scale[c]) >> 16;
                    pixel[c] = (lit as i32 + i32::from(noise[c])).clamp(0, 255) as u8;
                }
            }
        }
    }
}

/// What a pixel of the sensor sees of which `share` of 256 lies on the column before: it sees an area, not a point.
pub(super) fn between(here: u8, before: u8, share: u32) -> u8 {
    ((u32::from(here) * (256 - share) + u32::from(before) * share + 128) >> 8) as u8
}

/// SplitMix64's finalizer.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn surface(random: &mut impl RngExt, width: usize, height: usize) -> (Vec<u8>, [f32; 3]) {
    // Food belts are blue, teal or bluish gray, so that food stands out.
    let colours = [[52.0, 96.0, 158.0], [46.0, 120.0, 138.0], [88.0, 112.0, 146.0], [62.0, 104.0, 118.0]];
    let base: [f32; 3] = colours[random.random_range(0..colours.len())];
    let base = base.map(|c| c + random.random_range(-10.0..10.0));
    let mut shade = vec![0f32; PERIOD * height];
    let weave = random.random_range(2.0f32..5.0);
    let step = [8usize, 16][random.random_range(0..2)];
    for y in 0..height {
        for x in 0..PERIOD {
            let line = if x % step == 0 || y % step == 0 { -weave } else { 0.0 };
            shade[y * PERIOD + x] = line + random.random_range(-2.0f32..2.0);
        }
    }
    // Scuffs along the belt, stains and wet patches: soft ellipses, wrapped around.
    for _ in 0..60 {
        let (cx, cy) = (random.random_range(0..PERIOD) as i64, random.random_range(0..height) as i64);
        let scuff = random.random_bool(0.4);
        let (rx, ry) = if scuff {
            (random.random_range(20..90), random.random_range(1..3))
        } else {
            (random.random_range(6..50), random.random_range(5..30))
        };
        let strength = random.random_range(-9.0f32..9.0);
        for dy in -ry..=ry {
            for dx in -rx..=rx {
                let d = (dx * dx) as f32 / (rx * rx) as f32 + (dy * dy) as f32 / (ry * ry) as f32;
                let y = cy + dy;
                if d < 1.0 && (0..height as i64).contains(&y) {
                    let x = (cx + dx).rem_euclid(PERIOD as i64) as usize;
                    shade[y as usize * PERIOD + x] += strength * (1.0 - d);
                }
            }
        }
    }
    let mut rgb = Vec::with_capacity((PERIOD + width + 1) * height * 3);
    for y in 0..height {
        for x in 0..PERIOD + width + 1 {
            let shade = shade[y * PERIOD + (x + PERIOD - 1) % PERIOD];
            rgb.extend(base.map(|c| (c + shade).clamp(0.0, 255.0) as u8));
        }
    }
    (rgb, base)
}

fn gain(random: &mut impl RngExt, width: usize, height: usize) -> Vec<f32> {
    let (w, h) = (width as f32, height as f32);
    let (lamp_x, lamp_y) = (random.random_range(0.3..0.7) * w, random.random_range(0.3..0.7) * h);
    let fall = random.random_range(0.12f32..0.3);
    let mut gain: Vec<f32> = (0..width * height)
        .map(|i| {
            let (x, y) = ((i % width) as f32 - lamp_x, (i / width) as f32 - lamp_y);
            1.05 - fall * (x * x / (w * w) + y * y / (h * h)) * 2.0
        })
        .collect();
    let specks = random.random_range(2..7);
    soil(random, &mut gain, specks, width, height);
    gain
}

/// Lays `specks` of dirt on the lens.
fn soil(random: &mut impl RngExt, gain: &mut [f32], specks: usize, width: usize, height: usize) {
    let (w, h) = (width as f32, height as f32);
    for _ in 0..specks {
        let (cx, cy) = (random.random_range(0.0..w), random.random_range(0.0..h));
        let radius = random.random_range(2.0f32..6.0) * w / 640.0;
        let dark = random.random_range(0.08f32..0.3);
        for (i, g) in gain.iter_mut().enumerate() {
            let (x, y) = ((i % width) as f32 - cx, (i / width) as f32 - cy);
            let d = (x * x + y * y) / (radius * radius);
            if d < 4.0 {
                *g *= 1.0 - dark * (-d).exp();
            }
        }
    }
}
