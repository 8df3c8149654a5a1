//! How the belt runs in each cell, and what disturbs it.

use anyhow::Result;

use crate::belt::{Belt, BeltConfig, Disturbance};

/// Pictures per second, and their width and height.
const FRAME_RATE: f64 = 30.0;
const SIZE: (u32, u32) = (320, 180);
/// From the middle of one item's place to the next one's, as a share of the picture.
const PITCH: f64 = 190.0 / 320.0;
/// Speed that the changing profiles change from and to, in pictures per second.
const FAST: f64 = 200.0 / 320.0;
/// Least difference from the belt that the item search takes for an item by default, as a share of the belt's brightness.
const THRESHOLD: f64 = 0.14;
/// Seeds at most of ordinary profiles, and of long stops.
const SEEDS: u64 = 60;
const SEEDS_STANDING: u64 = 10;
/// Seconds in which a belt comes to a stop or to its speed.
const RAMP: f64 = 0.3;

/// How the belt runs in a cell. Speeds are in pixels per second.
#[derive(Clone)]
pub struct SpeedProfile {
    /// Its name in the report.
    pub name: String,
    /// The steady speed, or the one that sets how far apart items lie.
    pub speed: f64,
    /// Changes of the speed; see [`BeltConfig::profile`].
    pub changes: Vec<[f64; 2]>,
    /// Where an item's middle lies when the belt stops, as a share of the picture, and for how many seconds it stands.
    pub stops: Vec<[f64; 2]>,
    /// How long it is watched; with stops: after the last.
    pub seconds: f64,
    /// Seen in a mirror: the belt runs towards smaller x.
    pub mirrored: bool,
    /// Pictures per second.
    pub frame_rate: f64,
    /// Width and height of the picture.
    pub size: (u32, u32),
    /// Share of the places without an item.
    pub empty_share: f64,
    /// Share of the items that lie against the one before.
    pub touching_share: f64,
    /// What disturbs it.
    pub disturbed: Option<Disturbance>,
    /// Seeds at most.
    pub seeds: u64,
}

impl SpeedProfile {
    /// A belt of constant speed that goes `share` of the picture per picture, until it went `views` pictures.
    pub fn steady(share: f64, views: f64, mirrored: bool) -> Self {
        let way = if mirrored { "left" } else { "right" };
        Self {
            name: format!("steady, {} % {way}", share * 100.0),
            speed: share * f64::from(SIZE.0) * FRAME_RATE,
            changes: Vec::new(),
            stops: Vec::new(),
            seconds: views / (share * FRAME_RATE),
            mirrored,
            frame_rate: FRAME_RATE,
            size: SIZE,
            empty_share: BeltConfig::default().empty_share,
            touching_share: 0.0,
            disturbed: None,
            seeds: SEEDS,
        }
    }

    /// `times` rounds of `legs`: seconds, and the speed at their end.
    pub fn changing(name: &str, times: usize, legs: &[[f64; 2]]) -> Self {
        let fast = FAST * f64::from(SIZE.0);
        let (mut changes, mut at) = (vec![[0.0, legs.last().map_or(fast, |leg| leg[1])]], 0.0);
        for [seconds, speed] in (0..times).flat_map(|_| legs) {
            at += seconds;
            changes.push([at, *speed]);
        }
        Self { name: name.into(), speed: fast, changes, seconds: at, ..Self::steady(1.0, 1.0, false) }
    }

    /// A belt that stops each time an item's middle lies at the first of `stops`, for the second.
    pub fn stopping(name: String, stops: Vec<[f64; 2]>, frame_rate: f64, size: (u32, u32)) -> Self {
        let (speed, seconds) = (FAST * f64::from(size.0), 4.0);
        Self { name, speed, stops, seconds, frame_rate, size, ..Self::steady(1.0, 1.0, false) }
    }

    /// A belt that goes 2 % of the picture per picture for `views` pictures, under a disturbance.
    pub fn disturbed(name: &str, views: f64, disturbed: Disturbance) -> Self {
        Self { name: name.into(), disturbed: Some(disturbed), ..Self::steady(FAST / FRAME_RATE, views, false) }
    }

    /// The belt with `seed` that runs so, and the number of pictures.
    ///
    /// # Errors
    /// When no such belt can be drawn.
    pub fn belt(&self, seed: u64) -> Result<(BeltConfig, u64)> {
        let (width, height) = self.size;
        let mut config = BeltConfig {
            seed,
            width,
            height,
            speed: self.speed,
            profile: self.changes.clone(),
            items_per_minute: self.speed * 60.0 / (PITCH * f64::from(width)),
            frame_rate: self.frame_rate,
            empty_share: self.empty_share,
            touching_share: self.touching_share,
            disturbed: self.disturbed.clone(),
            ..BeltConfig::default()
        };
        let mut seconds = self.seconds;
        if !self.stops.is_empty() {
            config.profile = self.stopping_at(&Belt::new(config.clone())?);
            seconds += config.profile.last().map_or(0.0, |[at, _]| *at);
        }
        Ok((config, (seconds * self.frame_rate) as u64))
    }

    /// Changes of the speed that bring the belt to its stops.
    fn stopping_at(&self, belt: &Belt) -> Vec<[f64; 2]> {
        let (mut changes, mut at, mut travel, ramps) = (vec![[0.0, self.speed]], 0.0, 0.0, self.speed * RAMP);
        let (mut items, mut starting) = ((1..).filter_map(|item| belt.position(item)), false);
        // With fewer stops than places of an item, each seed has others.
        let turn = (belt.config().seed % 3) as f64 / 2.0;
        for [share, seconds] in &self.stops {
            let share = if self.stops.len() < 3 { (share + turn) % 1.5 } else { *share };
            let started = if starting { ramps / 2.0 } else { 0.0 };
            let least = started + ramps / 2.0 + 1.5 * f64::from(self.size.0);
            let Some(wanted) = items.by_ref().map(|p| p + share * f64::from(self.size.0)).find(|w| w - travel > least)
            else {
                break;
            };
            let running = (wanted - travel - started - ramps / 2.0) / self.speed;
            if starting {
                at += RAMP;
                changes.push([at, self.speed]);
            }
            changes.extend([[at + running, self.speed], [at + running + RAMP, 0.0]]);
            at += running + RAMP + seconds;
            changes.push([at, 0.0]);
            (travel, starting) = (wanted, true);
        }
        changes.push([at + RAMP, self.speed]);
        changes
    }
}

/// Every profile of the report.
pub fn profiles() -> Vec<SpeedProfile> {
    let mut all = Vec::new();
    for (share, views) in
        [(0.0005, 2.5), (0.002, 3.0), (0.005, 4.0), (0.01, 5.0), (0.03, 8.0), (0.1, 12.0), (0.3, 30.0), (0.6, 60.0)]
    {
        all.extend([false, true].map(|mirrored| SpeedProfile::steady(share, views, mirrored)));
    }
    let fast = FAST * f64::from(SIZE.0);
    for pictures in [2.0, 10.0, 60.0] {
        let ramp = pictures / FRAME_RATE;
        let legs = [[ramp, fast], [2.3, fast], [ramp, 0.0], [2.0, 0.0]];
        all.push(SpeedProfile::changing(&format!("ramps of {pictures} pictures"), 6, &legs));
    }
    all.push(SpeedProfile::changing("creeps", 3, &[[0.5, fast], [2.0, fast], [0.5, 3.0], [30.0, 3.0]]));
    all.push(SpeedProfile::changing("jogs back", 6, &[[0.3, fast], [2.0, fast], [0.3, -100.0], [0.7, -100.0]]));
    all.push(SpeedProfile::changing("sticks and slips", 90, &[[0.4, 0.0], [0.03, 120.0], [0.1, 120.0], [0.03, 0.0]]));
    all.extend(standing());
    all.extend(disturbances());
    all
}

/// Stops with an item half in, whole, and leaving.
fn standing() -> Vec<SpeedProfile> {
    let mut all = Vec::new();
    let places = [0.0, 0.5, 1.0];
    for rate in [12.0, 30.0, 60.0] {
        let stops = places.map(|place| [place, 60.0]).to_vec();
        all.push(SpeedProfile::stopping(format!("3 stops of 1 minute, {rate} fps"), stops, rate, SIZE));
    }
    for rate in [12.0, 30.0, 60.0] {
        let stops = places.map(|place| [place, 600.0])[..2].to_vec();
        all.push(SpeedProfile::stopping(format!("2 stops of 10 minutes, {rate} fps"), stops, rate, SIZE));
    }
    all.iter_mut().for_each(|profile| profile.seeds = SEEDS_STANDING);
    all
}

/// One disturbance at a time.
fn disturbances() -> Vec<SpeedProfile> {
    let none = Disturbance::default;
    let mut all = Vec::new();
    for coverage in [0.3, 0.5, 0.7, 0.85] {
        let name = format!("coverage {:.0} %", coverage * 100.0);
        let covered = SpeedProfile::disturbed(&name, 12.0, Disturbance { coverage, ..none() });
        all.push(SpeedProfile { empty_share: 0.0, ..covered });
    }
    for (times, how) in [
        (5.0, ""),
        (3.0, ""),
        (2.0, ""),
        (1.5, ""),
        (1.0, " (reported only)"),
        (0.7, " (reported only)"),
        (0.4, " (reported only)"),
        (0.1, " (reported only)"),
    ] {
        let contrast = Disturbance { contrast: times * THRESHOLD, ..none() };
        all.push(SpeedProfile::disturbed(&format!("contrast {times}{how}"), 12.0, contrast));
    }
    all.push(SpeedProfile::disturbed("flicker of 10 %", 12.0, Disturbance { flicker: 0.1, ..none() }));
    let lamp = vec![[0.0, 1.0], [16.0, 0.6]];
    all.push(SpeedProfile::disturbed("lamp ages to 60 %", 12.0, Disturbance { lamp, ..none() }));
    all.push(SpeedProfile::disturbed("items slide by up to 10 %", 12.0, Disturbance { slide: 0.1, ..none() }));
    all.push(SpeedProfile::disturbed("items roll", 12.0, Disturbance { roll: 0.6, ..none() }));
    all.push(SpeedProfile::disturbed("2 lanes", 12.0, Disturbance { lanes: 2, ..none() }));
    let touching = SpeedProfile::disturbed("touching", 90.0, none());
    all.push(SpeedProfile { touching_share: 0.15, seeds: SEEDS_STANDING, ..touching });
    all
}
