//! What makes items on the simulated belt harder to find and to follow. Everything is off by default.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

/// How often a lamp's light swells and fades, per second: a little off twice the mains, so that it beats with every camera.
const FLICKER_RATE: f64 = 100.7;
/// Most lanes.
const MOST_LANES: u32 = 4;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disturbance {
    /// Items side by side, 1 to 4; `items_per_minute` are each lane's, and items are that many times smaller.
    pub lanes: u32,
    /// Share of the picture's columns that an item covers, up to 0.9: items are so long. 0: each as long as its kind.
    pub coverage: f64,
    /// Median difference of an item from the belt, as a share of the belt's brightness. 0: each as its kind looks.
    pub contrast: f64,
    /// Share by which the lamps' light rises and falls, 100 times per second.
    pub flicker: f64,
    /// The lamps' light as they age: `[seconds after the first picture, share]` in the order of time, straight in between.
    pub lamp: Vec<[f64; 2]>,
    /// Share of the belt's travel by which items slide on it at most, on or back.
    pub slide: f64,
    /// Radians by which an item rolls and turns at most while it crosses the picture.
    pub roll: f64,
    /// Seconds from taking a picture to its arrival, and by how many more that varies.
    pub delay: f64,
    /// See `delay`.
    pub jitter: f64,
    /// Millionths by which the camera's clock is slow.
    pub drift: f64,
}

impl Default for Disturbance {
    fn default() -> Self {
        Self {
            lanes: 1,
            coverage: 0.0,
            contrast: 0.0,
            flicker: 0.0,
            lamp: Vec::new(),
            slide: 0.0,
            roll: 0.0,
            delay: 0.0,
            jitter: 0.0,
            drift: 0.0,
        }
    }
}

impl Disturbance {
    /// Whether every value lies in its range, on a belt with that share of items that touch.
    ///
    /// # Errors
    /// Names the key that does not.
    pub(super) fn check(&self, touching_share: f64) -> Result<(), String> {
        let within = |name: &str, value: f64, most: f64| {
            let good = (0.0..=most).contains(&value);
            if good { Ok(()) } else { Err(format!("disturbed.{name} must be 0 to {most}")) }
        };
        if !(1..=MOST_LANES).contains(&self.lanes) {
            return Err(format!("disturbed.lanes must be 1 to {MOST_LANES}"));
        }
        if self.lanes > 1 && (touching_share > 0.0 || self.coverage > 0.0) {
            return Err("disturbed.lanes goes neither with touching_share nor with disturbed.coverage".into());
        }
        if self.lamp.iter().any(|[at, share]| !at.is_finite() || !(0.05..=3.0).contains(share)) {
            return Err("disturbed.lamp must name seconds, and shares of 0.05 to 3".into());
        }
        within("coverage", self.coverage, 0.9)?;
        within("contrast", self.contrast, 10.0)?;
        within("flicker", self.flicker, 0.5)?;
        within("slide", self.slide, 0.3)?;
        within("roll", self.roll, 3.0)?;
        within("delay", self.delay, 1.0)?;
        within("jitter", self.jitter, 1.0)?;
        within("drift", self.drift.abs(), 1000.0)
    }

    /// What the lamps give at `time`, as a share of what they give when new.
    pub(super) fn lamp_at(&self, time: f64) -> f32 {
        let next = self.lamp.iter().position(|[at, _]| *at > time).unwrap_or(self.lamp.len());
        let before = next.checked_sub(1).and_then(|before| self.lamp.get(before));
        let aged = match (before, self.lamp.get(next)) {
            (None, None) => 1.0,
            (Some([_, share]), None) | (None, Some([_, share])) => *share,
            (Some([from, a]), Some([to, b])) => a + (b - a) * (time - from) / (to - from),
        };
        (aged * (1.0 + self.flicker * (TAU * FLICKER_RATE * time).sin())) as f32
    }
}
