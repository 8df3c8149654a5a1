//! Shows a belt to the item search and holds what it says against what was drawn.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{ItemPassage, LookScore, ProfileScore, SpeedProfile};
use crate::{
    belt::Belt,
    domain::{Item, Picture, Region, Truth},
    line::locate::{LocateConfig, Locator},
};

/// Share of the picture that must lie between an item and both ends, so that a picture can tell that it shows it whole.
const MARGIN: f32 = 0.01;

/// What came of a belt.
pub struct Watched {
    /// By item; a clump has its first one's number.
    pub passages: BTreeMap<u64, ItemPassage>,
    /// Looks at nothing.
    pub ghosts: usize,
    /// Mean share of the picture's columns that held an item.
    pub covered: f64,
    /// Milliseconds of the item search per picture.
    pub ms: f64,
    /// How long all of it took.
    pub seconds: f64,
}

impl Watched {
    /// What that is worth.
    pub fn score(&self) -> ProfileScore {
        ProfileScore::of(&self.passages, self.ghosts)
    }
}

/// An item or clump in a picture.
struct Shown {
    item: u64,
    /// What of it lies in the picture.
    region: Region,
    /// Pixels of its whole region.
    area: u32,
    whole: bool,
    clump: bool,
}

/// Shows the belt to the item search.
///
/// # Errors
/// When the belt can't be drawn.
pub fn watch(profile: &SpeedProfile, seed: u64) -> Result<Watched> {
    let (config, pictures) = profile.belt(seed)?;
    let mut belt = Belt::new(config)?;
    let mut locator = Locator::new(LocateConfig::default());
    let (start, mut looking, mut covered) = (Instant::now(), Duration::ZERO, 0.0);
    let mut watched = Watched { passages: BTreeMap::new(), ghosts: 0, covered: 0.0, ms: 0.0, seconds: 0.0 };
    for n in 0..pictures {
        let (mut picture, mut truths) = belt.frame(n);
        if profile.mirrored {
            mirror(&mut picture, &mut truths);
        }
        covered += share_of_columns(&truths, picture.width);
        let shown = shown(&mut belt, &truths);
        watched.passages.values_mut().for_each(|passage| passage.inside = false);
        let margin = (MARGIN * picture.width as f32).ceil() as u32;
        for Shown { item, region, whole, clump, .. } in &shown {
            let passage = watched.passages.entry(*item).or_default();
            let apart = region.x >= margin && region.x + region.width + margin <= picture.width;
            passage.at_end |= whole;
            passage.whole |= *whole && apart;
            (passage.inside, passage.clump) = (true, passage.clump || *clump);
        }
        let captured = start + Duration::from_secs_f64(belt.taken(n));
        let began = Instant::now();
        let items = locator.look(&picture, captured);
        looking += began.elapsed();
        items.iter().for_each(|item| watched.take(item, &shown));
    }
    watched.covered = covered / pictures as f64;
    watched.ms = looking.as_secs_f64() * 1e3 / pictures as f64;
    watched.seconds = start.elapsed().as_secs_f64();
    Ok(watched)
}

impl Watched {
    /// Gives the look to the item that it shows most of.
    fn take(&mut self, look: &Item, shown: &[Shown]) {
        let shares = shown.iter().map(|shown| (shown.item, overlap(shown, look.region)));
        match shares.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, share)| *share > 0.0) {
            Some((item, share)) => {
                let score = LookScore { share, partial: look.partial, several: look.several };
                self.passages.entry(item).or_default().looks.push(score);
            }
            None => self.ghosts += 1,
        }
    }
}

/// The items in a picture; one that lies against the one before is one with it.
fn shown(belt: &mut Belt, truths: &[Truth]) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    for truth in truths {
        let region = truth.region;
        let mask = (!truth.whole).then(|| belt.mask(truth.item)).flatten();
        let area = mask.map_or(region.width * region.height, |mask| mask.width * mask.height);
        let touches = belt.touches(truth.item);
        let item = truth.item - u64::from(touches);
        match all.iter_mut().find(|shown| shown.item == item) {
            Some(before) => {
                before.region = around(before.region, region);
                before.area = before.region.width * before.region.height;
                before.whole &= truth.whole;
                before.clump = true;
            }
            None => {
                // A part of a clump whose other part is outside is not whole.
                let clump = touches || belt.touches(item + 1);
                all.push(Shown { item, region, area, whole: truth.whole && !clump, clump });
            }
        }
    }
    for clump in all.iter_mut().filter(|shown| shown.clump) {
        let parts = || truths.iter().filter(|truth| truth.item == clump.item || truth.item == clump.item + 1);
        clump.whole = parts().count() == 2 && parts().all(|truth| truth.whole);
    }
    all
}

/// What holds both.
fn around(a: Region, b: Region) -> Region {
    let (x, y) = (a.x.min(b.x), a.y.min(b.y));
    let (right, bottom) = ((a.x + a.width).max(b.x + b.width), (a.y + a.height).max(b.y + b.height));
    Region { x, y, width: right - x, height: bottom - y }
}

/// Share of the picture's columns that hold an item.
fn share_of_columns(truths: &[Truth], width: u32) -> f64 {
    let holds = |x: &u32| truths.iter().any(|t| (t.region.x..t.region.x + t.region.width).contains(x));
    (0..width).filter(holds).count() as f64 / f64::from(width)
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

/// Intersection over union of a look with an item's whole region.
fn overlap(shown: &Shown, look: Region) -> f32 {
    let a = shown.region;
    let span = |a: u32, a_size: u32, b: u32, b_size: u32| (a + a_size).min(b + b_size).saturating_sub(a.max(b)) as f32;
    let both = span(a.x, a.width, look.x, look.width) * span(a.y, a.height, look.y, look.height);
    both / ((shown.area + look.width * look.height) as f32 - both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrored_belt_has_its_truth_mirrored() {
        let mut picture = Picture { width: 4, height: 1, rgb: (0..12).collect() };
        let region = Region { x: 0, y: 0, width: 1, height: 1 };
        let truth = Truth { item: 0, species: String::new(), region, whole: true, sentence: String::new() };
        let mut truths = [truth];
        mirror(&mut picture, &mut truths);
        assert_eq!((picture.at(0, 0), truths[0].region.x), ([9, 10, 11], 3));
    }

    /// A look at an item of which half is outside counts against all of it.
    #[test]
    fn a_look_at_a_part_is_held_against_the_whole() {
        let region = Region { x: 0, y: 0, width: 10, height: 10 };
        let shown = |item, area| Shown { item, region, area, whole: true, clump: false };
        assert_eq!(overlap(&shown(1, 100), region), 1.0);
        assert_eq!(overlap(&shown(1, 200), region), 0.5);
        let mut watched = Watched { passages: BTreeMap::new(), ghosts: 0, covered: 0.0, ms: 0.0, seconds: 0.0 };
        let look = |x| {
            let region = Region { x, ..region };
            Item { track: 1, region, several: false, partial: false, look: 1 }
        };
        watched.take(&look(0), &[shown(7, 100)]);
        watched.take(&look(50), &[shown(7, 100)]);
        assert_eq!((watched.passages[&7].looks.len(), watched.ghosts), (1, 1));
    }
}
