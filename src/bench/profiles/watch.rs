//! Shows a belt to the item search and holds what it says against what was drawn.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Clump, ItemPassage, LookScore, ProfileScore, SpeedProfile};
use crate::{
    belt::{Belt, Mask},
    domain::{Item, Picture, Region, Truth},
    line::locate::{LocateConfig, Locator},
};

/// Share of the picture that must lie between an item and both ends, so that a picture can tell that it shows it whole.
const MARGIN: f32 = 0.01;
/// Pixels between two items up to which they touch, and share of the picture from which on they lie apart.
const TOUCHING: u32 = 1;
const APART: f32 = 0.02;

/// What came of a belt.
pub struct Watched {
    /// By item; a clump has its first one's number.
    pub passages: BTreeMap<u64, ItemPassage>,
    /// Looks at nothing.
    pub ghosts: usize,
    /// Mean share of the picture's columns that held an item, once the first belt that carries any had crossed it.
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
    clump: Clump,
}

/// Shows the belt to the item search.
///
/// # Errors
/// When the belt can't be drawn.
pub fn watch(profile: &SpeedProfile, seed: u64) -> Result<Watched> {
    let (config, pictures) = profile.belt(seed)?;
    let mut belt = Belt::new(config)?;
    let mut locator = Locator::new(LocateConfig::default());
    let (start, mut looking, mut covered) = (Instant::now(), Duration::ZERO, (0.0, 0.0f64));
    let mut watched = Watched { passages: BTreeMap::new(), ghosts: 0, covered: 0.0, ms: 0.0, seconds: 0.0 };
    let mut pairs = BTreeMap::new();
    for n in 0..pictures {
        let (mut picture, mut truths) = belt.frame(n);
        learn_pairs(&mut pairs, &mut belt, &truths);
        if profile.mirrored {
            mirror(&mut picture, &mut truths);
        }
        if belt.travel(belt.taken(n)) >= f64::from(picture.width) {
            covered = (covered.0 + share_of_columns(&truths, picture.width), covered.1 + 1.0);
        }
        let shown = shown(&mut belt, &truths, &pairs);
        watched.passages.values_mut().for_each(|passage| passage.inside = false);
        let margin = (MARGIN * picture.width as f32).ceil() as u32;
        for Shown { item, region, whole, clump, .. } in &shown {
            let passage = watched.passages.entry(*item).or_default();
            let apart = region.x >= margin && region.x + region.width + margin <= picture.width;
            passage.at_end |= whole;
            passage.whole |= *whole && apart;
            (passage.inside, passage.clump) = (true, passage.clump.max(*clump));
        }
        let captured = start + Duration::from_secs_f64(belt.taken(n));
        let began = Instant::now();
        let items = locator.look(&picture, captured);
        looking += began.elapsed();
        items.iter().for_each(|item| watched.take(item, &shown));
    }
    watched.covered = covered.0 / covered.1.max(1.0);
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

/// How items lie that were drawn against the one before, by the first one's number: told when both are in view.
type Pairs = BTreeMap<u64, Clump>;

/// Adds the pairs of which both are in the picture, before it is mirrored.
fn learn_pairs(pairs: &mut Pairs, belt: &mut Belt, truths: &[Truth]) {
    for truth in truths {
        let before = truth.item.checked_sub(1).filter(|before| !pairs.contains_key(before) && belt.touches(truth.item));
        let Some(other) = before.and_then(|before| truths.iter().find(|truth| truth.item == before)) else { continue };
        let masks = belt.mask(other.item).zip(belt.mask(truth.item));
        let Some((first, second)) = masks else { continue };
        let apart = APART * belt.config().width as f32;
        let gap = gap(&corner(other, &first), &first, &corner(truth, &second), &second, apart.ceil() as i64);
        let clump = match gap {
            gap if gap <= i64::from(TOUCHING) => Clump::Touching,
            gap if (gap as f32) < apart => Clump::Near,
            _ => Clump::No,
        };
        pairs.insert(other.item, clump);
    }
}

/// Where the top-left corner of an item's whole region lies; only one end of the picture cuts it.
fn corner(truth: &Truth, mask: &Mask) -> [i64; 2] {
    let Region { x, y, width, .. } = truth.region;
    let left = if x == 0 { i64::from(width) - i64::from(mask.width) } else { x.into() };
    [left, y.into()]
}

/// Pixels between two items, across or down, whichever is more: 0 where they overlap, 1 where nothing is between; counted up to
/// `most`.
fn gap(a: &[i64; 2], first: &Mask, b: &[i64; 2], second: &Mask, most: i64) -> i64 {
    let inside = |mask: &Mask, x: i64, y: i64| {
        let within = (0..i64::from(mask.width)).contains(&x) && (0..i64::from(mask.height)).contains(&y);
        within && mask.bits[(y * i64::from(mask.width) + x) as usize]
    };
    let mut least = most;
    for y in 0..i64::from(first.height) {
        for x in (0..i64::from(first.width)).filter(|x| inside(first, *x, y)) {
            let (x, y) = (x + a[0] - b[0], y + a[1] - b[1]);
            while least > 0 {
                let near = 1 - least..least;
                let closer = near.clone().any(|dy| near.clone().any(|dx| inside(second, x + dx, y + dy)));
                if !closer {
                    break;
                }
                least -= 1;
            }
        }
    }
    least
}

/// The items in a picture; of those that lie against the one before both are one, unless they lie apart.
fn shown(belt: &mut Belt, truths: &[Truth], pairs: &Pairs) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    let clump = |first: u64| pairs.get(&first).copied().unwrap_or(Clump::No);
    for truth in truths {
        let region = truth.region;
        let mask = (!truth.whole).then(|| belt.mask(truth.item)).flatten();
        let area = mask.map_or(region.width * region.height, |mask| mask.width * mask.height);
        let joins = truth.item.checked_sub(1).is_some_and(|before| clump(before) != Clump::No);
        let item = truth.item - u64::from(joins);
        match all.iter_mut().find(|shown| shown.item == item) {
            Some(before) => {
                before.region = around(before.region, region);
                before.area = before.region.width * before.region.height;
            }
            None => all.push(Shown { item, region, area, whole: truth.whole, clump: clump(item) }),
        }
    }
    for clump in all.iter_mut().filter(|shown| shown.clump != Clump::No) {
        let parts = || truths.iter().filter(|truth| truth.item == clump.item || truth.item == clump.item + 1);
        clump.whole = parts().count() == 2 && parts().all(|truth| truth.whole); // nor is one whose other part is outside
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
    fn items_that_touch_lie_near_or_apart_are_told_from_one_another() {
        let square = Mask { width: 3, height: 3, bits: vec![true; 9] };
        let hollow = Mask { width: 3, height: 3, bits: (0..9).map(|n| n == 0).collect() };
        let told = |x: i64, y: i64| gap(&[0, 0], &square, &[x, y], &square, 7);
        assert_eq!([told(2, 0), told(3, 0), told(4, 0), told(9, 0), told(3, 5)], [0, 1, 2, 7, 3]);
        assert_eq!(gap(&[0, 0], &hollow, &[2, 2], &hollow, 7), 2, "boxes overlap, items do not");
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

    /// A look at an item of which half is outside counts against all of it.
    #[test]
    fn a_look_at_a_part_is_held_against_the_whole() {
        let region = Region { x: 0, y: 0, width: 10, height: 10 };
        let shown = |item, area| Shown { item, region, area, whole: true, clump: Clump::No };
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
