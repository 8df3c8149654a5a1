//! The item search on belts of every speed, and under one disturbance at a time.
//!
//! Each cell is one profile with one seed. The simulated belt draws its pictures and says what is on them; the item search alone
//! sees the pictures; the score compares. A finished cell is one line of JSON, so that an interrupted run goes on where it was.
//!
//! Invariant: the score shares no code with the item search, and knows the truth before the search looks.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

mod course;
mod score;
mod watch;

pub use course::{SpeedProfile, profiles};
pub use score::{Clump, ItemPassage, LookScore, ProfileScore};
pub use watch::{Watched, watch};

use super::machine;

/// What is to be measured.
pub struct ProfilesPlan {
    /// The first seed, and how many.
    pub first: u64,
    /// See `first`.
    pub seeds: u64,
    /// Profiles whose name contains this; empty: all.
    pub only: String,
    /// Lines of finished cells, read first and appended to.
    pub out: Option<PathBuf>,
}

/// One finished cell.
#[derive(Debug, Serialize, Deserialize)]
struct ProfileCell {
    profile: String,
    seed: u64,
    #[serde(flatten)]
    score: ProfileScore,
    /// Mean share of the picture's columns that held an item.
    covered: f64,
    /// Milliseconds of the item search per picture.
    ms: f64,
    /// How long the cell took.
    seconds: f64,
    machine: String,
}

/// Runs the cells that are not in `out` yet, one on each core, appends them there, and prints a table of all.
///
/// # Errors
/// When `out` can't be read or written, or a belt can't be drawn.
pub fn run(plan: &ProfilesPlan) -> Result<()> {
    let known = plan.out.as_ref().filter(|out| out.exists()).map(fs::read_to_string).transpose()?.unwrap_or_default();
    let mut cells: Vec<ProfileCell> = Vec::new();
    for line in known.lines() {
        cells.push(serde_json::from_str(line).context("a line of the cells that were finished before")?);
    }
    let (profiles, done) = (profiles(), |name: &str, seed| cells.iter().any(|c| c.profile == name && c.seed == seed));
    let wanted: Vec<(u64, &SpeedProfile)> = (plan.first..plan.first + plan.seeds)
        .flat_map(|seed| profiles.iter().map(move |profile| (seed, profile)))
        .filter(|(seed, profile)| profile.name.contains(&plan.only) && seed - plan.first < profile.seeds)
        .filter(|(seed, profile)| !done(&profile.name, *seed))
        .collect();
    let file = plan.out.as_ref().map(|out| fs::OpenOptions::new().create(true).append(true).open(out)).transpose()?;
    let file = file.map(Mutex::new);
    let watched: Result<Vec<ProfileCell>> = wanted
        .par_iter()
        .with_max_len(1)
        .map(|(seed, profile)| {
            let cell = cell(profile, *seed)?;
            if let Some(file) = &file {
                let line = serde_json::to_string(&cell)? + "\n";
                file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())?;
            }
            Ok(cell)
        })
        .collect();
    cells.extend(watched?);
    print!("{}", table(&cells));
    Ok(())
}

fn cell(profile: &SpeedProfile, seed: u64) -> Result<ProfileCell> {
    let watched = watch(profile, seed)?;
    Ok(ProfileCell {
        profile: profile.name.clone(),
        seed,
        score: watched.score(),
        covered: watched.covered,
        ms: watched.ms,
        seconds: watched.seconds,
        machine: machine(),
    })
}

/// The cells by profile, as Markdown.
fn table(cells: &[ProfileCell]) -> String {
    let mut text = String::from(
        "| profile | seeds | items | once | missed | doubled | poor | ghosts | wrongly partial | never whole: partial | clumps: as one | near pairs: one or two looks | worst look | columns covered | ms per picture |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for profile in profiles() {
        let own: Vec<&ProfileCell> = cells.iter().filter(|cell| cell.profile == profile.name).collect();
        if own.is_empty() {
            continue;
        }
        let mean = |of: fn(&ProfileCell) -> f64| own.iter().map(|cell| of(cell)).sum::<f64>() / own.len() as f64;
        let s = own.iter().fold(ProfileScore::default(), |sum, cell| sum.and(&cell.score));
        let worst = s.worst.map_or("-".into(), |worst| format!("{worst:.2}"));
        let of = |part: usize, all: usize| if all == 0 { "-".into() } else { format!("{part} of {all}") };
        let (cut, clumps, near) = (of(s.cut_partial, s.cut), of(s.clumps_as_one, s.clumps), of(s.near_seen, s.near));
        let (covered, ms) = (mean(|cell| cell.covered) * 100.0, mean(|cell| cell.ms));
        let ProfileScore { items, once, missed, doubles, poor, ghosts, partial, .. } = s;
        text += &format!(
            "| {} | {} | {items} | {once} | {missed} | {doubles} | {poor} | {ghosts} | {partial} | {cut} | {clumps} | {near} | {worst} | {covered:.0} % | {ms:.2} |\n",
            profile.name,
            own.len()
        );
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Three seeds of one profile of each kind, and the share of items that may lie badly and the number that may go unseen: at
    /// 60 % of the picture per picture items fade over 35 pixels, and in lanes they are half as large.
    #[test]
    fn three_seeds_of_each_kind_have_items_seen_once_and_nothing_else() {
        let all = profiles();
        let bounds = [
            ("steady, 1 % right", 0.02, 0),
            ("steady, 1 % left", 0.02, 0),
            ("steady, 10 % right", 0.02, 0),
            ("steady, 60 % left", 0.06, 2),
            ("ramps of 2 pictures", 0.02, 0),
            ("jogs back", 0.02, 0),
            ("sticks and slips", 0.02, 0),
            ("contrast 2", 0.04, 0),
            ("flicker of 10 %", 0.02, 0),
            ("items slide by up to 10 %", 0.02, 0),
            ("2 lanes", 0.1, 0),
        ];
        bounds.par_iter().with_max_len(1).for_each(|(name, poor, missed)| {
            let profile = all.iter().find(|profile| profile.name == *name).unwrap();
            let scores = (1..=3).map(|seed| watch(profile, seed).unwrap().score());
            let score = scores.fold(ProfileScore::default(), |sum, score| sum.and(&score));
            println!("{name}: {score:?}");
            assert!(score.doubles == 0 && score.ghosts == 0 && score.missed <= *missed, "{name}: {score:?}");
            assert!(score.poor as f64 <= poor * score.items as f64, "{name}: {score:?}");
        });
    }
}
