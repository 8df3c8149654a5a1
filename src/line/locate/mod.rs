//! Frame → items: what lies on the belt, and which of it has not been judged yet.
//!
//! The picture is shrunk to cells; cells that differ from the learned belt form blobs; blobs are
//! followed along the belt, which runs along the picture's width.
//!
//! How far the belt went is told by the whole picture ([`travel`]), not by the items: an item is known by the stretch of belt
//! that it covers, so it stays the same one while the belt creeps, stands, starts, jogs back, or pictures are lost. What slides
//! on the belt is followed from picture to picture.
//!
//! Items that touch are one to the locator: they are returned as one, marked as several when the outline is unlike those
//! of the items before. What is much smaller than an item and beside it is a part of it.
//!
//! Invariants: an item that passes is returned, first at the first picture in which it lies whole inside, or, if it never
//! does, when it begins to leave in the belt's direction, marked as partial: doubt about it is for `decide`, not a reason to let
//! it by unseen. It is returned again from the pictures after that in which it is whole, until it was looked at as often as
//! wanted. What was followed and is gone without having been returned is counted. A standing belt learns nothing under an item.

use std::time::Instant;

mod blob;
mod cells;
mod pace;
mod sharpen;
mod track;
mod travel;
mod way;

use blob::{Blob, Outlines, blobs, gather};
use cells::{Cells, Mark};
use pace::Pace;
use sharpen::sharpen;
use track::{Track, covered, cut, holds, leaves, moved, whole};
use travel::Travel;
use way::Way;

use super::{area::SearchArea, geometry::Direction};
use crate::domain::{Item, Picture, Region};

/// Share of its difference by which a belt cell follows the picture at most and at least: light drifts, belts get wet.
const FOLLOW: f32 = 1.0 / 12.0;
const FOLLOW_STANDING: f32 = 1.0 / 1024.0;
/// Cells of travel after which a belt cell shows another stretch of belt: it follows no faster than that, else it would learn
/// a faint item that creeps by.
const ANOTHER_STRETCH: f32 = 12.0;
/// The same for a cell under an item or a trace of one: a mark that no belt carries away is learned after a dozen views, and a
/// belt that stands learns nothing under an item.
const ANOTHER_STRETCH_COVERED: f32 = 2000.0;
/// More of the picture than this is never fish: the light was switched or the camera moved, so the belt is learned again.
const MOST_COVERED: f32 = 0.7;
/// A track that was not seen for this many seconds is forgotten while the belt's travel is not known.
const FORGET_AFTER: f32 = 2.0;
/// Share of the picture by which the belt carries an item out of it before it is forgotten, and one that was returned: a belt that
/// jogs back brings it in again.
const GONE: f32 = 0.1;
const GONE_RETURNED: f32 = 1.0;
/// How many times smaller than the whole item what came off it is, before usual outlines are known.
const SPLIT: usize = 3;
/// Cells and share of the travel by which an item may lie elsewhere than the belt carried it, and share of the picture where
/// the travel is not known.
const SLIDE: f32 = 4.0;
const SLIDE_SHARE: f32 = 0.1;
const SLIDE_UNKNOWN: f32 = 0.3;

/// An item that differs by fewer multiples of the threshold is looked for among the traces around it too.
const FAINT: f32 = 1.5;
/// Cells of travel without which a belt teaches nothing: a standing one seems to tremble.
const TREMBLES: f64 = 0.5;
/// Share of the shorter of two stretches of belt that both cover, from which on they are one item's.
const SAME: f32 = 0.6;

/// Maximum frames scored per item.
const MAX_LOOKS: usize = 8;

/// How items are found.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocateConfig {
    /// Least difference from the belt that is no belt, as a share of the belt's brightness there (both summed over R, G
    /// and B), so that dim light hides nothing.
    pub threshold: f32,
    /// Smallest item, as a share of the picture's area.
    pub min_area: f32,
    /// Pictures in which an item is looked at, if it is whole in so many; the mean of their scores decides.
    pub looks: usize,
}

impl Default for LocateConfig {
    fn default() -> Self {
        Self { threshold: 0.14, min_area: 0.004, looks: 1 }
    }
}

impl LocateConfig {
    /// It with other values for the keys in `own`.
    ///
    /// # Errors
    /// Names the key that is none, or whose value is none.
    pub fn with(&self, own: &toml::Table) -> Result<Self, String> {
        let read = || {
            let mut table = toml::Table::try_from(self).map_err(|error| error.to_string())?;
            table.extend(own.clone());
            table.try_into().map_err(|error: toml::de::Error| error.to_string())
        };
        read().map_err(|why| format!("locate: {why}"))
    }

    /// Whether every value lies in its range.
    ///
    /// # Errors
    /// Names the key that does not.
    pub fn check(&self) -> Result<(), String> {
        // Out of range the locator would see no items at all, and all would pass unjudged.
        if !(self.threshold > 0.0 && self.threshold < 1.0) {
            return Err("locate.threshold must lie between 0 and 1".into());
        }
        if !(1..=MAX_LOOKS).contains(&self.looks) {
            return Err(format!("locate.looks must lie between 1 and {MAX_LOOKS}"));
        }
        if !(self.min_area > 0.0 && self.min_area < 0.5) {
            return Err("locate.min_area must lie between 0 and 0.5".into());
        }
        Ok(())
    }
}

/// What lies in a single picture of a roughly uniform ground, largest first; see [`Cells::ground`].
pub fn find(picture: &Picture) -> Vec<Region> {
    let config = LocateConfig::default();
    let Some(cells) = Cells::of(picture) else { return Vec::new() };
    let (across, down) = (cells.across, cells.down);
    let ground = cells.ground();
    let marked: Vec<Mark> = cells
        .rgb
        .chunks_exact(3)
        .zip(ground.chunks_exact(3))
        .map(|(pixel, belt)| Mark::of(pixel, belt, config.threshold))
        .collect();
    let min_area = (config.min_area * (across * down) as f32) as usize;
    let found = gather(blobs(&marked, across, down, min_area.max(1)), &Outlines::default());
    let mut regions = Vec::with_capacity(found.len());
    for blob in found {
        regions.push(sharpen(picture, &cells, &blob, &ground, config.threshold));
    }
    regions
}

/// Finds every item on one camera's belt exactly once; see the module.
pub struct Locator {
    config: LocateConfig,
    /// Where nothing is an item, and which cells of the picture that hides.
    area: SearchArea,
    hidden: Vec<bool>,
    /// The belt's colour per cell; empty before the first picture.
    belt: Vec<f32>,
    size: (u32, u32),
    /// Cells in a row of the picture.
    across: usize,
    /// Pixels of the picture in a cell's side.
    scale: f32,
    travel: Travel,
    pace: Pace,
    way: Way,
    /// The belt's travel at the last picture, in cells, and whether that picture told it.
    position: f64,
    known: bool,
    /// The belt's travel when it taught its colour last, in cells.
    taught: f64,
    /// Usual time from one picture to the next, in seconds; 0 before the second.
    interval: f32,
    last: Option<Instant>,
    tracks: Vec<Track>,
    next: u64,
    outlines: Outlines,
    unjudged: u64,
}

impl Locator {
    /// A locator that has seen nothing yet.
    pub fn new(config: LocateConfig) -> Self {
        Self {
            config,
            area: SearchArea::default(),
            hidden: Vec::new(),
            belt: Vec::new(),
            size: (0, 0),
            across: 0,
            scale: 1.0,
            travel: Travel::default(),
            pace: Pace::default(),
            way: Way::default(),
            position: 0.0,
            known: false,
            taught: 0.0,
            interval: 0.0,
            last: None,
            tracks: Vec::new(),
            next: 1,
            outlines: Outlines::default(),
            unjudged: 0,
        }
    }

    /// It searches the parts of pictures that `area` cuts out, on a belt that runs in `direction`, where that is known.
    pub fn before(mut self, area: SearchArea, direction: Option<Direction>) -> Self {
        self.area = area;
        self.way = direction.map(Way::known).unwrap_or_default();
        self
    }

    /// The items in `picture`, taken at `captured`, that are to be looked at now; pictures come in the order of capture.
    pub fn look(&mut self, picture: &Picture, captured: Instant) -> Vec<Item> {
        let Some(cells) = Cells::of(picture) else { return Vec::new() };
        if self.size != (picture.width, picture.height) {
            self.size = (picture.width, picture.height);
            (self.scale, self.across) = (cells.scale, cells.across);
            self.belt.clear();
            let share = |cell: usize, of: usize| (cell as f64 + 0.5) / of as f64;
            let places = (0..cells.across * cells.down).map(|n| (n % cells.across, n / cells.across));
            let hides = |(x, y)| self.area.hides(share(x, cells.across), share(y, cells.down));
            self.hidden = places.map(hides).collect();
            self.unjudged += self.tracks.iter().filter(|t| t.looks == 0 && !t.swallowed).count() as u64;
            self.tracks.clear();
        }
        self.register(picture, captured);
        let step = self.travel_to_learn_from();
        let marked = self.mark(&cells, step);
        let min_area = (self.config.min_area * (cells.across * cells.down) as f32) as usize;
        let found = gather(blobs(&marked, cells.across, cells.down, min_area.max(1)), &self.outlines);
        let matched = self.follow(&found, captured, cells.across);
        let way = self.way.sign();
        let mut items = Vec::new();
        for (blob, track) in found.iter().zip(matched) {
            let Some(track) = track else { continue };
            let track = &mut self.tracks[track];
            if track.looks >= self.config.looks {
                continue;
            }
            let region = sharpen(picture, &cells, blob, &self.belt, self.config.threshold);
            let cut = cut(blob, cells.across, region, picture.width);
            let partial = cut.contains(&true);
            if !partial || track.looks == 0 && leaves(cut, way) {
                track.looks += 1;
                // One that was never whole shows no outline of its own; it is judged as it is.
                let several = !partial && self.outlines.unlike(blob.outline());
                track.several |= several;
                items.push(Item { track: track.number, region, several, partial, look: track.looks });
            }
        }
        items
    }

    /// Pixels that the belt has gone since the first picture, towards larger x; `None` where the last picture did not tell it.
    pub fn travel(&self) -> Option<f64> {
        self.known.then(|| self.travel.position())
    }

    /// The belt's speed at `now` in pixels per second, below 0 towards smaller x; `None` where the pictures of the last two seconds
    /// do not tell it: of a belt that stands, creeps, or shows nothing.
    pub fn speed(&self, now: Instant) -> Option<f32> {
        self.pace.speed(now, self.size.0.into())
    }

    /// What was followed and went without having been returned, since the last call.
    pub fn take_unjudged(&mut self) -> u64 {
        std::mem::take(&mut self.unjudged)
    }

    /// Whether an item that was returned may be returned again: it lay whole in the last picture and was not looked at
    /// as often as wanted.
    pub fn looks_again(&self, number: u64) -> bool {
        let newest = self.tracks.iter().map(|t| t.seen).max();
        self.tracks.iter().any(|t| {
            t.number == number && Some(t.seen) == newest && t.looks < self.config.looks && whole(&t.blob, self.across)
        })
    }

    /// The items in the last picture, by track number, about where they are (a cell is a few pixels): for people who
    /// watch.
    pub fn tracks(&self) -> Vec<(u64, Region)> {
        let newest = self.tracks.iter().map(|t| t.seen).max();
        let pixels = |cells: usize| (cells as f32 * self.scale) as u32;
        let region = |b: &Blob| Region {
            x: pixels(b.left),
            y: pixels(b.top),
            width: pixels(b.right + 1 - b.left).max(1),
            height: pixels(b.bottom + 1 - b.top).max(1),
        };
        self.tracks.iter().filter(|t| Some(t.seen) == newest).map(|t| (t.number, region(&t.blob))).collect()
    }

    /// Takes in how far the belt went.
    fn register(&mut self, picture: &Picture, captured: Instant) {
        if let Some(last) = self.last.replace(captured) {
            let seconds = captured.saturating_duration_since(last).as_secs_f32();
            self.interval = if self.interval == 0.0 { seconds } else { self.interval * 0.9 + seconds * 0.1 };
        }
        self.known = self.travel.look(picture, captured);
        self.pace.went_to(self.travel(), captured);
        self.position = self.travel.position() / f64::from(self.scale);
        self.way.went_to(self.position, self.across);
    }

    /// Cells that the belt went since its colour was learned last, without direction; 0 while it stands.
    fn travel_to_learn_from(&mut self) -> f32 {
        let step = (self.position - self.taught).abs();
        if step < TREMBLES {
            return 0.0;
        }
        self.taught = self.position;
        step as f32
    }

    /// Marks the cells that are no belt and lets the belt's colour follow the others, by how far the belt went: `step` cells.
    fn mark(&mut self, cells: &Cells, step: f32) -> Vec<Mark> {
        if self.belt.is_empty() {
            self.belt = cells.ground();
        }
        // The light changes everywhere at once, under items too, so no shadow of the old light stays behind them.
        let light = cells.light(&self.belt);
        self.belt.chunks_exact_mut(3).for_each(|belt| (0..3).for_each(|c| belt[c] *= light[c]));
        let threshold = self.config.threshold;
        let least = if self.known { 0.0 } else { FOLLOW_STANDING };
        let follow_belt = (step / ANOTHER_STRETCH).clamp(least, FOLLOW);
        let follow_covered = (step / ANOTHER_STRETCH_COVERED).min(FOLLOW_STANDING);
        let mut covered = 0usize;
        let mut marked = Vec::with_capacity(cells.rgb.len() / 3);
        for (pixel, belt) in cells.rgb.chunks_exact(3).zip(self.belt.chunks_exact_mut(3)) {
            let mark = Mark::of(pixel, belt, threshold);
            let follow = if mark == Mark::Belt { follow_belt } else { follow_covered };
            for c in 0..3 {
                belt[c] += (f32::from(pixel[c]) - belt[c]) * follow;
            }
            covered += usize::from(mark == Mark::Item);
            marked.push(mark);
        }
        if covered as f32 > MOST_COVERED * marked.len() as f32 {
            self.belt = cells.ground();
            for (pixel, (belt, mark)) in cells.rgb.chunks_exact(3).zip(self.belt.chunks_exact(3).zip(&mut marked)) {
                *mark = Mark::of(pixel, belt, threshold);
            }
        }
        marked.iter_mut().zip(&self.hidden).filter(|(_, hidden)| **hidden).for_each(|(mark, _)| *mark = Mark::Belt);
        marked
    }

    /// Gives every blob its track (an index into `self.tracks`), a new one where none fits, and none to a part
    /// that came off an item that was returned.
    fn follow(&mut self, found: &[Blob], captured: Instant, across: usize) -> Vec<Option<usize>> {
        self.forget(captured, across);
        let mut of_blob: Vec<Option<usize>> = vec![None; found.len()];
        let mut taken = vec![false; self.tracks.len()];
        for (b, t) in self.matches(found, across) {
            if of_blob[b].is_some() || taken[t] {
                continue;
            }
            of_blob[b] = Some(t);
            taken[t] = true;
            self.tracks[t].seen_as(found[b], captured, self.position);
        }
        // An item that came into the picture in parts needs one track only. One that was returned stays: items that
        // touch for a while come apart again.
        for (track, _) in self.tracks.iter_mut().zip(taken).filter(|(track, taken)| !taken && track.looks == 0) {
            let carried = (self.position - track.position) as f32;
            track.swallowed = found.iter().zip(&of_blob).any(|(b, t)| t.is_some() && holds(b, &track.blob, carried));
        }
        let known = self.tracks.len();
        for (blob, track) in found.iter().zip(&mut of_blob).filter(|(_, track)| track.is_none()) {
            if self.came_off(blob, &self.tracks[..known], captured) {
                continue;
            }
            *track = Some(self.tracks.len());
            self.tracks.push(Track::new(self.next, *blob, captured, self.position));
            self.next += 1;
        }
        of_blob
    }

    /// Forgets what the belt carried out of the picture, and counts what of it was never returned.
    fn forget(&mut self, captured: Instant, across: usize) {
        let across = across as f32;
        let (position, known, unjudged) = (self.position, self.known, &mut self.unjudged);
        self.tracks.retain(|track| {
            let carried = (position - track.position) as f32;
            let (left, right) = (track.blob.left as f32 + carried, track.blob.right as f32 + carried);
            let room = across * if track.looks > 0 { GONE_RETURNED } else { GONE };
            let inside = right > -room && left < across + room;
            let age = captured.saturating_duration_since(track.seen).as_secs_f32();
            let stays = inside && !track.swallowed && (known || age < FORGET_AFTER);
            *unjudged += u64::from(!stays && track.looks == 0 && !track.swallowed);
            stays
        });
    }

    /// Which blob may be which track, the likeliest pair first.
    fn matches(&self, found: &[Blob], across: usize) -> Vec<(usize, usize)> {
        let mut pairs = Vec::new();
        for (b, blob) in found.iter().enumerate() {
            for (t, track) in self.tracks.iter().enumerate() {
                let carried = (self.position - track.position) as f32;
                let room = if self.known { SLIDE + SLIDE_SHARE * carried.abs() } else { SLIDE_UNKNOWN * across as f32 };
                if let Some(moved) = moved(&track.blob, blob, carried, across)
                    && (moved - carried).abs() <= room
                {
                    pairs.push(((moved - carried).abs(), b, t));
                }
            }
        }
        pairs.extend(self.same_stretch(found, across));
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        pairs.into_iter().map(|(_, b, t)| (b, t)).collect()
    }

    /// Blobs that cover a track's stretch of belt, whatever became of its edges; after all those whose edges agree.
    fn same_stretch(&self, found: &[Blob], across: usize) -> Vec<(f32, usize, usize)> {
        let mut pairs = Vec::new();
        if !self.known {
            return pairs;
        }
        for (b, blob) in found.iter().enumerate() {
            for (t, track) in self.tracks.iter().enumerate() {
                let carried = (self.position - track.position) as f32;
                let covered = covered(&track.blob, blob, carried, across);
                if covered >= SAME {
                    pairs.push((across as f32 * (2.0 - covered), b, t));
                }
            }
        }
        pairs
    }

    /// Whether `blob` is a part of an item that was returned a moment ago. A larger one may be one of two items that touched.
    fn came_off(&self, blob: &Blob, tracks: &[Track], captured: Instant) -> bool {
        let fresh = |track: &&Track| {
            let age = captured.saturating_duration_since(track.seen).as_secs_f32();
            track.looks > 0 && age <= 3.0 * self.interval
        };
        tracks.iter().filter(fresh).any(|track| {
            let (largest, then) = &track.largest;
            let small = track.several || blob.area * SPLIT <= largest.area || self.outlines.small(blob.outline());
            small && holds(largest, blob, (then - self.position) as f32)
        })
    }
}

#[cfg(test)]
mod tests;
