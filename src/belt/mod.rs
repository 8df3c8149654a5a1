//! The simulated belt: seeded fish on a moving belt under a camera, with exact truth.
//!
//! Invariant: a frame is a pure function of ([`BeltConfig`], frame number); the truth about an item is a pure function
//! of (configuration, item number). Nothing here reads a clock.

use std::{collections::VecDeque, sync::Arc};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::domain::{Picture, Region, Truth};

mod disturbance;
mod fish;
mod scene;
mod sprite;

pub use disturbance::Disturbance;
pub use fish::Species;
pub use sprite::Mask;

use fish::Fish;
use scene::{Light, Scene};
use sprite::Sprite;

/// Longest fish, as a share of the picture's width.
const LONGEST: f64 = 0.45;
/// Sprites kept: as many as can be in view, and a few.
const SPRITES: usize = 12;
/// Streams from here on belong to the purposes beyond the fourth.
const LATE: u64 = 1 << 60;
/// Seconds for which a picture is exposed.
const EXPOSURE: f64 = 0.006;

/// What the simulated belt looks like. Lengths are pixels of the picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BeltConfig {
    /// Decides everything that is random.
    pub seed: u64,
    /// Picture width, 160 to 1920.
    pub width: u32,
    /// Picture height, 90 to 1080; at least 0.55 of the width, so that a fish fits in every pose.
    pub height: u32,
    /// Belt speed in pixels per second, towards larger x.
    pub speed: f64,
    /// How the speed changes: `[seconds after the first picture, pixels per second]` in the order of time, straight in between
    /// and constant after the last; below 0 the belt runs backwards. Empty: always `speed`, which also sets how far apart
    /// items lie.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<[f64; 2]>,
    /// Places for an item per minute; `empty_share` of them stay empty.
    pub items_per_minute: f64,
    /// Share of places without an item, 0 to 1.
    pub empty_share: f64,
    /// Pictures per second.
    pub frame_rate: f64,
    /// Share of salmon among the items; the others share the rest equally.
    pub salmon_share: f64,
    /// The species that come beside salmon, each as often as it is named.
    pub others: Vec<Species>,
    /// Share of the items that lie against the one before, or a little over it.
    pub touching_share: f64,
    /// What is different from some moment on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// What makes items harder to find and to follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disturbed: Option<Disturbance>,
}

/// What is different from some moment on: another lamp, a dirty lens, other fish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// Seconds after the first picture.
    pub after: f64,
    /// The light is multiplied by this.
    pub light: f32,
    /// Added to the light's colour: -1 bluish to 1 yellowish.
    pub warmth: f32,
    /// Specks of dirt on the lens, beside those that were there.
    pub dirt: usize,
    /// The species that come beside salmon.
    pub others: Vec<Species>,
}

impl Default for Change {
    fn default() -> Self {
        Self { after: 0.0, light: 1.0, warmth: 0.0, dirt: 0, others: Species::ALL[1..].to_vec() }
    }
}

impl Default for BeltConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            width: 640,
            height: 360,
            speed: 240.0,
            profile: Vec::new(),
            items_per_minute: 40.0,
            empty_share: 0.1,
            frame_rate: 25.0,
            salmon_share: 0.5,
            others: Species::ALL[1..].to_vec(),
            touching_share: 0.0,
            change: None,
            disturbed: None,
        }
    }
}

/// Why a belt cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum BeltError {
    /// A number outside its range.
    #[error("belt: {0}")]
    Invalid(String),
}

/// Where and how one item lies.
struct Placed {
    /// Belt position of the item's centre: it is at `x = offset - position`.
    position: f64,
    /// Picture row of the item's centre.
    y: f64,
    fish: Fish,
    /// Whether it is one of those that lie against the one before.
    touches: bool,
}

/// The simulated belt; see [`Belt::frame`].
pub struct Belt {
    config: BeltConfig,
    scene: Scene,
    /// What [`BeltConfig::disturbed`] says, or nothing.
    disturbance: Disturbance,
    /// By item, blur and roll.
    sprites: VecDeque<((u64, usize, i32), Arc<Sprite>)>,
}

impl Belt {
    /// Draws the belt itself, without items.
    ///
    /// # Errors
    /// [`BeltError::Invalid`] when a number is out of range or items would lie on one another.
    pub fn new(config: BeltConfig) -> Result<Self, BeltError> {
        let invalid = |what: String| Err(BeltError::Invalid(what));
        if !(160..=1920).contains(&config.width) || !(90..=1080).contains(&config.height) {
            return invalid("width must be 160 to 1920 and height 90 to 1080".into());
        }
        if f64::from(config.height) < 0.55 * f64::from(config.width) {
            return invalid("height must be at least 0.55 of the width".into());
        }
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !positive(config.speed) || !positive(config.items_per_minute) || !positive(config.frame_rate) {
            return invalid("speed, items_per_minute and frame_rate must be above 0".into());
        }
        if ![config.empty_share, config.salmon_share, config.touching_share].iter().all(|s| (0.0..=1.0).contains(s)) {
            return invalid("empty_share, salmon_share and touching_share must be 0 to 1".into());
        }
        if config.others.is_empty() || config.change.as_ref().is_some_and(|change| change.others.is_empty()) {
            return invalid("others must name a species".into());
        }
        let change = config.change.clone().unwrap_or_default();
        if !(0.05..=3.0).contains(&change.light) || !(-5.0..=5.0).contains(&change.warmth) || change.after.is_nan() {
            return invalid("change.light must be 0.05 to 3, change.warmth -5 to 5, change.after a number".into());
        }
        let disturbance = config.disturbed.clone().unwrap_or_default();
        disturbance.check(config.touching_share).map_err(BeltError::Invalid)?;
        let longest = LONGEST * f64::from(config.width) / f64::from(disturbance.lanes);
        let pitch = config.speed * 60.0 / config.items_per_minute;
        if pitch < longest * 1.12 {
            return invalid(format!(
                "items would overlap: at {} px/s at most {:.0} items a minute fit",
                config.speed,
                config.speed * 60.0 / (longest * 1.12)
            ));
        }
        Ok(Self { scene: Scene::new(&config), config, disturbance, sprites: VecDeque::new() })
    }

    /// The configuration the belt was made with.
    pub fn config(&self) -> &BeltConfig {
        &self.config
    }

    /// Seconds after the first picture at which picture `n` is taken: `n / frame_rate`, by the camera's clock.
    pub fn taken(&self, n: u64) -> f64 {
        n as f64 / self.config.frame_rate * (1.0 + self.disturbance.drift * 1e-6)
    }

    /// Seconds from taking picture `n` to its arrival.
    pub fn delay(&self, n: u64) -> f64 {
        let late = stream(self.config.seed, Purpose::Delay, n).random_range(0.0..=1.0);
        self.disturbance.delay + self.disturbance.jitter * late
    }

    /// Picture number `n` (see [`Belt::taken`]) and the truth about every item in it, first come first.
    pub fn frame(&mut self, n: u64) -> (Picture, Vec<Truth>) {
        let time = self.taken(n);
        let (offset, blur) = (self.travel(time), self.blur(time));
        let mut picture = self.scene.belt(offset);
        let mut truths = Vec::new();
        for item in self.items_in_view(offset) {
            let Some(placed) = self.place(item) else { continue };
            let x = offset - placed.position + self.slid(item, offset - placed.position);
            let sprite = self.sprite(item, &placed.fish, blur, self.rolled(item, offset - placed.position));
            let y = placed.y.round() as i64;
            sprite.blit(&mut picture, x, y);
            if let Some((region, whole)) = sprite.region(x.round() as i64, y, self.config.width, self.config.height) {
                truths.push(self.truth(item, &placed, region, whole));
            }
        }
        let light = self.light(offset);
        let light = Light { level: light.level * self.disturbance.lamp_at(time), ..light };
        self.scene.expose(&mut picture, n, light, self.changed(offset).is_some());
        (picture, truths)
    }

    /// Which pixels of the item's bounding box are fish; `None` for an empty place.
    pub fn mask(&mut self, item: u64) -> Option<Mask> {
        let placed = self.place(item)?;
        Some(self.sprite(item, &placed.fish, 0, 0).mask.clone())
    }

    /// The species at place `item`; `None` for an empty place.
    pub fn species(&self, item: u64) -> Option<Species> {
        self.place(item).map(|placed| placed.fish.species)
    }

    /// Whether the item at place `item` lies against the one before.
    pub fn touches(&self, item: u64) -> bool {
        self.place(item).is_some_and(|placed| placed.touches)
    }

    /// Belt position of the centre of the item at place `item`: at the time of picture `n` it lies at
    /// `x = n * speed / frame_rate - position`. `None` for an empty place.
    pub fn position(&self, item: u64) -> Option<f64> {
        self.place(item).map(|placed| placed.position)
    }

    fn truth(&self, item: u64, placed: &Placed, region: Region, whole: bool) -> Truth {
        let light = self.light(placed.position + f64::from(self.config.width) / 2.0); // when it is in the middle
        let sentence = format!("{}, {}", placed.fish.sentence(), light.words());
        Truth { item, species: placed.fish.species.name().to_string(), region, whole, sentence }
    }

    fn pitch(&self) -> f64 {
        self.config.speed * 60.0 / self.config.items_per_minute
    }

    fn items_in_view(&self, offset: f64) -> std::ops::Range<u64> {
        let reach = LONGEST * f64::from(self.config.width);
        let first = ((offset - f64::from(self.config.width) - reach) / self.pitch()).floor().max(0.0) as u64;
        let end = ((offset + reach) / self.pitch()).ceil().max(0.0) as u64;
        let end = end + u64::from(self.config.touching_share > 0.0); // which comes earlier than its place
        let lanes = u64::from(self.disturbance.lanes);
        first * lanes..end * lanes
    }

    fn place(&self, item: u64) -> Option<Placed> {
        let own = self.place_apart(item)?;
        if !own.touches {
            return Some(own);
        }
        match item.checked_sub(1).and_then(|before| self.place_apart(before)) {
            Some(before) if !before.touches => {
                let apart = f64::from(before.fish.half_width() + own.fish.half_width()) * 0.75;
                Some(Placed { position: before.position + apart, y: before.y, ..own })
            }
            _ => Some(Placed { touches: false, ..own }),
        }
    }

    /// Where an item lies that touches no other.
    fn place_apart(&self, item: u64) -> Option<Placed> {
        let mut random = stream(self.config.seed, Purpose::Item, item);
        let lanes = f64::from(self.disturbance.lanes);
        let (lane, item) = (item % u64::from(self.disturbance.lanes), item / u64::from(self.disturbance.lanes));
        if random.random_bool(self.config.empty_share) {
            return None;
        }
        let width = f64::from(self.config.width);
        let middle = (item as f64 + 0.5) * self.pitch() + width / 2.0; // of the picture, where it then lies
        let others = self.changed(middle).map_or(&self.config.others, |change| &change.others);
        let mut fish = Fish::random(&mut random, self.config.salmon_share, others, (width / lanes) as f32);
        let mut slack = (self.pitch() - LONGEST * width / lanes * 1.12) / 2.0;
        if self.disturbance.coverage > 0.0 {
            fish = fish.covering((self.disturbance.coverage * self.pitch()) as f32);
            slack = ((self.pitch() - 2.0 * f64::from(fish.half_width())) / 2.0 - 0.01 * width).max(0.0);
        }
        let position = (item as f64 + 0.5) * self.pitch() + slack.min(width) * random.random_range(-1.0..=1.0);
        let half = f64::from(fish.half_height()) + 4.0;
        let height = f64::from(self.config.height) / lanes;
        let free = (height / 2.0 - half).max(0.0);
        let y = height * (lane as f64 + 0.5) + free * random.random_range(-1.0..=1.0);
        let touches = self.config.touching_share > 0.0 && random.random_bool(self.config.touching_share);
        Some(Placed { position, y, fish, touches })
    }

    fn sprite(&mut self, item: u64, fish: &Fish, blur: usize, rolled: i32) -> Arc<Sprite> {
        let key = (item, blur, rolled);
        if let Some((_, sprite)) = self.sprites.iter().find(|(known, _)| *known == key) {
            return sprite.clone();
        }
        let faint = (self.disturbance.contrast > 0.0).then_some((self.disturbance.contrast, self.scene.colour));
        let rolled = (rolled != 0).then(|| fish.rolled(f64::from(rolled).to_radians() as f32));
        let sprite = Arc::new(Sprite::new(rolled.as_ref().unwrap_or(fish), blur, faint));
        if self.sprites.len() == SPRITES * self.disturbance.lanes as usize {
            self.sprites.pop_front();
        }
        self.sprites.push_back((key, sprite.clone()));
        sprite
    }

    /// How far an item has slid on the belt since the middle of the picture, in pixels, where the belt alone would have carried
    /// it to `x`.
    fn slid(&self, item: u64, x: f64) -> f64 {
        self.chance(item, 0) * self.disturbance.slide * (x - f64::from(self.config.width) / 2.0)
    }

    /// By how many degrees it has rolled and turned by then, likewise.
    fn rolled(&self, item: u64, x: f64) -> i32 {
        let views = x / f64::from(self.config.width) - 0.5;
        (self.chance(item, 1) * self.disturbance.roll * views).to_degrees().round() as i32
    }

    /// How an item moves by itself: 1 or -1, times 0.5 to 1; 0 where nothing does.
    fn chance(&self, item: u64, of: usize) -> f64 {
        if self.disturbance.slide == 0.0 && self.disturbance.roll == 0.0 {
            return 0.0;
        }
        let mut random = stream(self.config.seed, Purpose::Motion, item);
        let chances: [f64; 2] =
            std::array::from_fn(|_| random.random_range(0.5..=1.0) * if random.random_bool(0.5) { 1.0 } else { -1.0 });
        chances[of]
    }

    /// How far the belt has moved `time` seconds after the first picture, in pixels.
    pub fn travel(&self, time: f64) -> f64 {
        let (mut way, mut at) = (0.0, 0.0);
        let mut speed = self.config.profile.first().map_or(self.config.speed, |[_, speed]| *speed);
        for [until, next] in &self.config.profile {
            let end = until.min(time);
            if end > at {
                let reached = speed + (next - speed) * (end - at) / (until - at);
                way += (speed + reached) / 2.0 * (end - at);
            }
            if time <= *until {
                return way;
            }
            (at, speed) = (*until, *next);
        }
        way + speed * (time - at)
    }

    /// How far an item moves while the picture is exposed that is taken then, in pixels.
    fn blur(&self, time: f64) -> usize {
        let half = EXPOSURE / 2.0;
        (self.travel(time + half) - self.travel(time - half)).abs().round() as usize
    }

    /// What is different when the belt has moved by `offset`.
    fn changed(&self, offset: f64) -> Option<&Change> {
        self.config.change.as_ref().filter(|change| offset >= change.after * self.config.speed)
    }

    /// The light over the belt, which drifts slowly: one knot every three places.
    fn light(&self, offset: f64) -> Light {
        let s = offset / self.pitch() / 3.0;
        let knot = |k: f64| {
            let mut random = stream(self.config.seed, Purpose::Light, k as u64);
            (random.random_range(0.6f32..1.15), random.random_range(-1.0f32..1.0))
        };
        let (a, b, f) = (knot(s.floor()), knot(s.floor() + 1.0), s.fract() as f32);
        let f = f * f * (3.0 - 2.0 * f);
        let (level, warmth) = self.changed(offset).map_or((1.0, 0.0), |change| (change.light, change.warmth));
        Light { level: (a.0 + (b.0 - a.0) * f) * level, warmth: a.1 + (b.1 - a.1) * f + warmth }
    }
}

/// Independent random streams of one seed.
#[derive(Clone, Copy)]
enum Purpose {
    Item = 0,
    Light = 1,
    Scene = 2,
    Change = 3,
    Motion = 4,
    Delay = 5,
}

fn stream(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (purpose, index) = match purpose as u64 {
        purpose @ 0..4 => (purpose, index),
        late => (late - 4, index ^ LATE), // those that came later keep off the others' streams
    };
    random.set_stream(index.wrapping_mul(4) + purpose);
    random
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_depends_on_nothing_but_configuration_and_number() {
        let mut a = Belt::new(BeltConfig::default()).unwrap();
        let mut b = Belt::new(BeltConfig::default()).unwrap();
        for n in [0, 40, 41, 200] {
            let _ = a.frame(n);
        }
        assert!(a.frame(123) == b.frame(123));
        assert!(a.frame(123).0 != a.frame(124).0);
        let mut c = Belt::new(BeltConfig { seed: 2, ..BeltConfig::default() }).unwrap();
        assert!(b.frame(123).0 != c.frame(123).0);
    }

    #[test]
    fn items_never_overlap_and_each_gets_whole() {
        let mut belt = Belt::new(BeltConfig { frame_rate: 10.0, ..BeltConfig::default() }).unwrap();
        let mut whole = std::collections::BTreeSet::new();
        for n in 0..400 {
            let (_, truths) = belt.frame(n);
            for pair in truths.windows(2) {
                let (first, second) = (pair[0].region, pair[1].region);
                assert!(second.x + second.width <= first.x, "items {} and {}", pair[0].item, pair[1].item);
            }
            whole.extend(truths.iter().filter(|t| t.whole).map(|t| t.item));
        }
        let expected: Vec<u64> = (0..24).filter(|i| belt.species(*i).is_some()).collect();
        assert!(expected.iter().all(|i| whole.contains(i)), "{whole:?}");
    }

    #[test]
    fn the_share_of_salmon_is_as_configured() {
        let belt = Belt::new(BeltConfig { salmon_share: 0.3, ..BeltConfig::default() }).unwrap();
        let species: Vec<Species> = (0..2000).filter_map(|i| belt.species(i)).collect();
        let share = species.iter().filter(|s| **s == Species::Salmon).count() as f64 / species.len() as f64;
        assert!((share - 0.3).abs() < 0.04, "{share}");
        assert!((1700..1900).contains(&species.len()), "one place in ten is empty, got {}", species.len());
    }

    #[test]
    fn from_its_moment_on_a_change_shows_in_light_dirt_and_fish_and_not_before() {
        let change = Change { after: 20.0, light: 0.5, warmth: 1.0, dirt: 30, others: vec![Species::Flounder] };
        let plain = BeltConfig { others: vec![Species::Herring], ..BeltConfig::default() };
        let mut before = Belt::new(plain.clone()).unwrap();
        let mut after = Belt::new(BeltConfig { change: Some(change), ..plain }).unwrap();
        assert!(before.frame(400) == after.frame(400), "4 s before, no changed fish is in sight yet");
        let mean = |p: &Picture| p.rgb.iter().map(|v| f64::from(*v)).sum::<f64>() / p.rgb.len() as f64;
        let ratio = mean(&after.frame(500).0) / mean(&before.frame(500).0);
        assert!((0.4..0.6).contains(&ratio), "{ratio}");
        let others: Vec<Species> = (0..60).filter_map(|i| after.species(i)).filter(|s| *s != Species::Salmon).collect();
        assert!(others.contains(&Species::Herring) && others.contains(&Species::Flounder));
        let first = others.iter().position(|s| *s == Species::Flounder).unwrap();
        assert!(others[..first].iter().all(|s| *s == Species::Herring));
        assert!(others[first..].iter().all(|s| *s == Species::Flounder));
    }

    #[test]
    fn pictures_come_as_late_as_is_said_and_a_slow_clock_takes_them_later_and_later() {
        let disturbed = Disturbance { delay: 0.08, jitter: 0.03, drift: 50.0, ..Disturbance::default() };
        let config = BeltConfig { disturbed: Some(disturbed.clone()), ..BeltConfig::default() };
        let (mut belt, mut plain) =
            (Belt::new(config.clone()).unwrap(), Belt::new(BeltConfig { disturbed: None, ..config }).unwrap());
        let delays: Vec<f64> = (0..2000).map(|n| belt.delay(n)).collect();
        let most = delays.iter().copied().fold(0.0, f64::max);
        let least = delays.iter().copied().fold(1.0, f64::min);
        assert!((0.08..0.082).contains(&least) && (0.108..0.11).contains(&most), "{least} to {most}");
        let mean = delays.iter().sum::<f64>() / 2000.0;
        assert!((mean - 0.095).abs() < 0.001, "{mean}");
        assert!(delays == (0..2000).map(|n| belt.delay(n)).collect::<Vec<_>>() && plain.delay(7) == 0.0);
        // An hour by the camera's clock, 25 pictures a second: 180 ms more by ours, in which the belt goes 43 pixels.
        let hour = 3600 * 25;
        assert!((belt.taken(hour) - 3600.18).abs() < 1e-9 && plain.taken(hour) == 3600.0);
        let went = belt.travel(belt.taken(hour)) - plain.travel(plain.taken(hour));
        assert!((went - 0.18 * 240.0).abs() < 1e-6, "{went}");
        let places =
            |belt: &mut Belt| belt.frame(hour).1.iter().map(|truth| (truth.item, truth.region.x)).collect::<Vec<_>>();
        let (late, early) = (places(&mut belt), places(&mut plain));
        let both = late.iter().filter_map(|(item, x)| Some((*x, early.iter().find(|(other, _)| other == item)?.1)));
        let moved: Vec<u32> = both.filter(|(_, early)| *early > 0).map(|(late, early)| late - early).collect();
        assert!(!moved.is_empty() && moved.iter().all(|by| (42..=44).contains(by)), "{moved:?}");
    }

    #[test]
    fn the_mask_is_as_large_as_the_whole_item() {
        let mut belt = Belt::new(BeltConfig::default()).unwrap();
        let truth = (0..200).find_map(|n| belt.frame(n).1.into_iter().find(|t| t.whole)).unwrap();
        let mask = belt.mask(truth.item).unwrap();
        assert_eq!((mask.width, mask.height), (truth.region.width, truth.region.height));
        let fish = mask.bits.iter().filter(|b| **b).count() as f64 / mask.bits.len() as f64;
        assert!((0.1..0.9).contains(&fish), "{fish}");
    }

    #[test]
    fn a_belt_whose_items_would_overlap_is_refused_in_words() {
        let error = Belt::new(BeltConfig { speed: 100.0, ..BeltConfig::default() }).err().unwrap().to_string();
        assert!(error.contains("items would overlap"), "{error}");
    }
}
