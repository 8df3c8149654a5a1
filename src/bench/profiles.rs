//! The item search on belts of every speed: steady, ramping, standing, creeping, jogging, sticking.
//!
//! Each cell is one profile of speeds with one seed. The simulated belt draws its pictures and says what is on them; the item
//! search alone sees the pictures; the score compares. A finished cell is one line of JSON, so that an interrupted run goes on
//! where it was.
//!
//! Invariant: the score shares no code with the item search, and knows the truth before the search looks.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::machine;
use crate::{
    belt::{Belt, BeltConfig},
    domain::{Picture, Region, Truth},
    line::locate::{LocateConfig, Locator},
};

/// Pictures per second, and their width and height.
const FRAME_RATE: f64 = 30.0;
const SIZE: (u32, u32) = (320, 180);
/// Pixels from the middle of one item's place to the next one's.
const PITCH: f64 = 190.0;
/// Speed that the changing profiles change from and to, in pixels per second.
const FAST: f64 = 200.0;
/// Least intersection over union of a look with the item's whole region.
const GOOD: f32 = 0.7;

/// What is to be measured.
pub struct ProfilesPlan {
    /// Seeds 1 to this one.
    pub seeds: u64,
    /// Profiles whose name contains this; empty: all.
    pub only: String,
    /// Lines of finished cells, read first and appended to.
    pub out: Option<PathBuf>,
}

/// How the belt runs in a cell.
pub struct SpeedProfile {
    /// Its name in the report.
    pub name: String,
    /// The steady speed, or the one that sets how far apart items lie, in pixels per second.
    pub speed: f64,
    /// Changes of the speed; see [`BeltConfig::profile`].
    pub changes: Vec<[f64; 2]>,
    /// How long it is watched.
    pub seconds: f64,
    /// Seen in a mirror: the belt runs towards smaller x.
    pub mirrored: bool,
}

impl SpeedProfile {
    /// A belt of constant speed that goes `share` of the picture per picture, until it went `views` pictures.
    pub fn steady(share: f64, views: f64, mirrored: bool) -> Self {
        let way = if mirrored { "left" } else { "right" };
        let speed = share * f64::from(SIZE.0) * FRAME_RATE;
        let seconds = views / (share * FRAME_RATE);
        Self { name: format!("steady, {} % {way}", share * 100.0), speed, changes: Vec::new(), seconds, mirrored }
    }

    /// `times` rounds of `legs`: seconds, and the speed at their end.
    pub fn changing(name: &str, times: usize, legs: &[[f64; 2]]) -> Self {
        let (mut changes, mut at) = (vec![[0.0, legs.last().map_or(FAST, |leg| leg[1])]], 0.0);
        for [seconds, speed] in (0..times).flat_map(|_| legs) {
            at += seconds;
            changes.push([at, *speed]);
        }
        Self { name: name.into(), speed: FAST, changes, seconds: at, mirrored: false }
    }

    /// The belt with `seed` that runs so.
    pub fn belt(&self, seed: u64) -> BeltConfig {
        let (width, height) = SIZE;
        BeltConfig {
            seed,
            width,
            height,
            speed: self.speed,
            profile: self.changes.clone(),
            items_per_minute: self.speed * 60.0 / PITCH,
            frame_rate: FRAME_RATE,
            ..BeltConfig::default()
        }
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
    for pictures in [2.0, 10.0, 60.0] {
        let ramp = pictures / FRAME_RATE;
        let legs = [[ramp, FAST], [2.3, FAST], [ramp, 0.0], [2.0, 0.0]];
        all.push(SpeedProfile::changing(&format!("ramps of {pictures} pictures"), 6, &legs));
    }
    all.push(SpeedProfile::changing("stands for a minute", 3, &[[0.3, FAST], [3.3, FAST], [0.3, 0.0], [60.0, 0.0]]));
    all.push(SpeedProfile::changing("creeps", 3, &[[0.5, FAST], [2.0, FAST], [0.5, 3.0], [30.0, 3.0]]));
    all.push(SpeedProfile::changing("jogs back", 6, &[[0.3, FAST], [2.0, FAST], [0.3, -100.0], [0.7, -100.0]]));
    all.push(SpeedProfile::changing("sticks and slips", 90, &[[0.4, 0.0], [0.03, 120.0], [0.1, 120.0], [0.03, 0.0]]));
    all
}

/// What came of one item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemPassage {
    /// Whether a picture showed it whole.
    pub whole: bool,
    /// Whether it was still in the last picture.
    pub inside: bool,
    /// Intersection over union of each look at it with its region in that picture.
    pub looks: Vec<f32>,
}

/// What came of a belt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProfileScore {
    /// Items that a picture showed whole and that left.
    pub items: usize,
    /// Of these, with exactly one look, and that good.
    pub once: usize,
    /// Without a look.
    pub missed: usize,
    /// With more than one.
    pub doubles: usize,
    /// With one that is not good.
    pub poor: usize,
    /// Looks at no item.
    pub ghosts: usize,
    /// The worst single look.
    pub worst: Option<f32>,
}

impl ProfileScore {
    /// Scores passages and looks at nothing.
    pub fn of(passages: &BTreeMap<u64, ItemPassage>, ghosts: usize) -> Self {
        let mut score = Self { ghosts, ..Self::default() };
        for passage in passages.values().filter(|passage| passage.whole && !passage.inside) {
            score.items += 1;
            match passage.looks[..] {
                [] => score.missed += 1,
                [look] => {
                    *(if look >= GOOD { &mut score.once } else { &mut score.poor }) += 1;
                    score.worst = Some(score.worst.map_or(look, |worst| worst.min(look)));
                }
                _ => score.doubles += 1,
            }
        }
        score
    }
}

/// One finished cell.
#[derive(Debug, Serialize, Deserialize)]
struct ProfileCell {
    profile: String,
    seed: u64,
    #[serde(flatten)]
    score: ProfileScore,
    /// Milliseconds of the item search per picture.
    ms: f64,
    machine: String,
}

/// Runs the cells that are not in `out` yet, appends them there, and prints a table of all.
///
/// # Errors
/// When `out` can't be read or written, or a belt can't be drawn.
pub fn run(plan: &ProfilesPlan) -> Result<()> {
    let known = plan.out.as_ref().filter(|out| out.exists()).map(fs::read_to_string).transpose()?.unwrap_or_default();
    let mut cells: Vec<ProfileCell> = Vec::new();
    for line in known.lines() {
        cells.push(serde_json::from_str(line).context("a line of the cells that were finished before")?);
    }
    for seed in 1..=plan.seeds {
        for profile in profiles().iter().filter(|profile| profile.name.contains(&plan.only)) {
            if cells.iter().any(|cell| cell.profile == profile.name && cell.seed == seed) {
                continue;
            }
            let (passages, ghosts, ms) = watch(profile, seed)?;
            let score = ProfileScore::of(&passages, ghosts);
            let cell = ProfileCell { profile: profile.name.clone(), seed, score, ms, machine: machine() };
            if let Some(out) = &plan.out {
                let mut file = fs::OpenOptions::new().create(true).append(true).open(out)?;
                writeln!(file, "{}", serde_json::to_string(&cell)?)?;
            }
            cells.push(cell);
        }
    }
    print!("{}", table(&cells));
    Ok(())
}

/// Shows the belt to the item search; what came of each item, looks at none, and milliseconds per picture.
///
/// # Errors
/// When the belt can't be drawn.
pub fn watch(profile: &SpeedProfile, seed: u64) -> Result<(BTreeMap<u64, ItemPassage>, usize, f64)> {
    let mut belt = Belt::new(profile.belt(seed))?;
    let mut locator = Locator::new(LocateConfig::default());
    let (start, mut ghosts, mut looking) = (Instant::now(), 0, Duration::ZERO);
    let mut passages: BTreeMap<u64, ItemPassage> = BTreeMap::new();
    let pictures = (profile.seconds * FRAME_RATE) as u64;
    for n in 0..pictures {
        let (mut picture, mut truths) = belt.frame(n);
        if profile.mirrored {
            mirror(&mut picture, &mut truths);
        }
        passages.values_mut().for_each(|passage| passage.inside = false);
        for truth in &truths {
            let passage = passages.entry(truth.item).or_default();
            passage.whole |= truth.whole;
            passage.inside = true;
        }
        let captured = start + Duration::from_secs_f64(n as f64 / FRAME_RATE);
        let began = Instant::now();
        let items = locator.look(&picture, captured);
        looking += began.elapsed();
        for item in items {
            let most =
                truths.iter().map(|t| (t.item, overlap(t.region, item.region))).max_by(|a, b| a.1.total_cmp(&b.1));
            match most.filter(|(_, share)| *share > 0.0) {
                Some((item, share)) => passages.entry(item).or_default().looks.push(share),
                None => ghosts += 1,
            }
        }
    }
    Ok((passages, ghosts, looking.as_secs_f64() * 1e3 / pictures as f64))
}

/// Turns picture and truth round, left for right.
fn mirror(picture: &mut Picture, truths: &mut [Truth]) {
    for row in picture.rgb.chunks_exact_mut(picture.width as usize * 3) {
        let turned: Vec<u8> = row.chunks_exact(3).rev().flatten().copied().collect();
        row.copy_from_slice(&turned);
    }
    for truth in truths {
        truth.region.x = picture.width - truth.region.x - truth.region.width;
    }
}

/// Intersection over union.
fn overlap(a: Region, b: Region) -> f32 {
    let span = |a: u32, a_size: u32, b: u32, b_size: u32| (a + a_size).min(b + b_size).saturating_sub(a.max(b)) as f32;
    let both = span(a.x, a.width, b.x, b.width) * span(a.y, a.height, b.y, b.height);
    both / ((a.width * a.height + b.width * b.height) as f32 - both)
}

/// The cells by profile, as Markdown.
fn table(cells: &[ProfileCell]) -> String {
    let mut by_profile: Vec<(&str, usize, ProfileScore, f64)> = Vec::new();
    for cell in cells {
        let at = by_profile.iter().position(|(name, ..)| *name == cell.profile).unwrap_or_else(|| {
            by_profile.push((&cell.profile, 0, ProfileScore::default(), 0.0));
            by_profile.len() - 1
        });
        let (_, seeds, sum, ms) = &mut by_profile[at];
        *seeds += 1;
        *ms += cell.ms;
        let score = &cell.score;
        sum.items += score.items;
        sum.once += score.once;
        sum.missed += score.missed;
        sum.doubles += score.doubles;
        sum.poor += score.poor;
        sum.ghosts += score.ghosts;
        sum.worst = [sum.worst, score.worst].into_iter().flatten().min_by(f32::total_cmp);
    }
    let mut text = String::from(
        "| profile | seeds | items | once | missed | doubled | poor | ghosts | worst look | ms per picture |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, seeds, s, ms) in by_profile {
        let worst = s.worst.map_or("-".into(), |worst| format!("{worst:.2}"));
        let ms = ms / seeds as f64;
        text += &format!(
            "| {name} | {seeds} | {} | {} | {} | {} | {} | {} | {worst} | {ms:.2} |\n",
            s.items, s.once, s.missed, s.doubles, s.poor, s.ghosts
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A belt with one of every kind, planted.
    #[test]
    fn planted_misses_doubles_and_ghosts_are_counted() {
        let passage = |whole, inside, looks: &[f32]| ItemPassage { whole, inside, looks: looks.to_vec() };
        let passages = BTreeMap::from([
            (0, passage(true, false, &[0.9])),
            (1, passage(true, false, &[])),
            (2, passage(true, false, &[0.9, 0.8])),
            (3, passage(true, false, &[0.6])),
            (4, passage(true, true, &[])),
            (5, passage(false, false, &[0.3])),
        ]);
        let score = ProfileScore::of(&passages, 2);
        let worst = Some(0.6);
        assert_eq!(score, ProfileScore { items: 4, once: 1, missed: 1, doubles: 1, poor: 1, ghosts: 2, worst });
    }

    #[test]
    fn a_mirrored_belt_has_its_truth_mirrored() {
        let mut picture = Picture { width: 4, height: 1, rgb: (0..12).collect() };
        let region = Region { x: 0, y: 0, width: 1, height: 1 };
        let truth = Truth { item: 0, species: String::new(), region, whole: true, sentence: String::new() };
        let mut truths = [truth];
        mirror(&mut picture, &mut truths);
        assert_eq!((picture.at(0, 0), truths[0].region.x), ([9, 10, 11], 3));
    }
}
