//! One fish: what it is, how it lies, and how it is drawn.
//!
//! Fish coordinates: `t` runs from the snout (0) to the tips of the tail (1), `v` from the back (-1) to the belly (1).
//! `species` holds what each species looks like, `body` turns fish coordinates into outlines, `drawing` paints.

use std::f32::consts::{PI, TAU};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

mod body;
mod drawing;
mod species;

pub(super) use drawing::draw;
pub use species::Species;

/// [`Fish::half_width`] over what is really covered, on average.
const COVERED: f32 = 1.06;

/// Which side is up.
#[derive(Clone, Copy, PartialEq)]
enum Pose {
    OnItsSide,
    BellyDown,
    BellyUp,
}

/// Everything that makes one fish look as it does.
pub(super) struct Fish {
    pub species: Species,
    /// Snout to tail, pixels.
    length: f32,
    /// 0 small to 1 large within its species.
    size: f32,
    /// Where the head points: 0 is right, a quarter turn is down.
    angle: f32,
    mirrored: bool,
    pose: Pose,
    /// Share of the length that the middle is bent aside.
    bend: f32,
    /// Thickness against the species' usual.
    plump: f32,
    /// 0 dry to 1 dripping.
    wet: f32,
    /// Brightness and colour against the species' usual.
    tint: [f32; 3],
    /// 0 grayish to 1 as painted.
    colour: f32,
    /// Seed of spots, bars and scales.
    markings: u64,
}

impl Fish {
    /// A fish by the chances of `random`: a salmon, or one of `others`; `width` is the picture's.
    pub fn random(random: &mut ChaCha8Rng, salmon_share: f64, others: &[Species], width: f32) -> Self {
        let species = if random.random_bool(salmon_share) {
            Species::Salmon
        } else {
            others[random.random_range(0..others.len())]
        };
        let (shortest, longest) = species.lengths();
        let size = random.random_range(0.0f32..1.0);
        let along = if random.random_bool(0.5) { 0.0 } else { PI };
        let angle = if random.random_bool(0.8) {
            along + random.random_range(-0.5f32..0.5)
        } else {
            random.random_range(0.0..TAU)
        };
        let pose = match (species, random.random_range(0.0f32..1.0)) {
            (Species::Flounder, p) if p < 0.12 => Pose::BellyUp,
            (Species::Flounder, _) => Pose::BellyDown,
            (_, p) if p < 0.12 => Pose::BellyDown,
            _ => Pose::OnItsSide,
        };
        let shade = random.random_range(0.82f32..1.14);
        Self {
            species,
            length: (shortest + (longest - shortest) * size) * width,
            size,
            angle,
            mirrored: random.random_bool(0.5),
            pose,
            bend: random.random_range(-0.05f32..0.05),
            plump: random.random_range(0.88f32..1.14),
            wet: random.random_range(0.0f32..1.0),
            tint: [shade, shade, shade].map(|s| s * random.random_range(0.93f32..1.07)),
            colour: random.random_range(0.45f32..1.0),
            markings: random.random(),
        }
    }

    /// The same fish, so long that it covers about `width` of the picture's columns; one that lies across is turned along.
    pub fn covering(mut self, width: f32) -> Self {
        if self.angle.sin().abs() > 0.5 {
            self.angle = if self.angle.cos() < 0.0 { PI } else { 0.0 };
        }
        self.length *= COVERED * width / (2.0 * self.half_width());
        self
    }

    /// The same fish after it rolled by `angle` radians: it also turns, and shows more or less of its side.
    pub fn rolled(&self, angle: f32) -> Self {
        Self { angle: self.angle + angle, plump: self.plump * (1.0 - 0.25 * (2.0 * angle).sin().abs()), ..*self }
    }

    /// Half the height of the picture rows it may cover, pixels (an upper bound).
    pub fn half_height(&self) -> f32 {
        self.half(self.angle.sin().abs(), self.angle.cos().abs())
    }

    /// Half the width of the picture columns it may cover, pixels (an upper bound).
    pub fn half_width(&self) -> f32 {
        self.half(self.angle.cos().abs(), self.angle.sin().abs())
    }

    /// Half of what its length covers by the share `along` and its depth by the share `across`.
    fn half(&self, along: f32, across: f32) -> f32 {
        let depth = if self.species == Species::Flounder { 0.72 } else { 0.42 };
        self.length / 2.0 * (along * 1.02 + depth * self.plump * across + 0.04)
    }

    /// "a medium salmon lying on its side, head to the left, wet".
    pub fn sentence(&self) -> String {
        let size = ["small", "medium", "large"][((self.size * 3.0) as usize).min(2)];
        let species = self.species.name().replace('_', " ");
        let pose = match self.pose {
            Pose::OnItsSide => "on its side",
            Pose::BellyDown => "belly down",
            Pose::BellyUp => "belly up",
        };
        let quarter = (self.angle / (TAU / 4.0)).round().rem_euclid(4.0) as usize;
        let head = ["to the right", "towards the bottom", "to the left", "towards the top"][quarter.min(3)];
        let wet = if self.wet > 0.66 {
            "very wet"
        } else if self.wet > 0.33 {
            "wet"
        } else {
            "nearly dry"
        };
        format!("a {size} {species} lying {pose}, head {head}, {wet}")
    }
}
