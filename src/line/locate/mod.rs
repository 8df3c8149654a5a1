//! Frame → items: what lies on the belt, and which of it has not been judged yet.
//!
//! The picture is shrunk to cells; cells that differ from the learned belt form blobs; blobs are
//! followed along the belt, which runs along the picture's width.
//!
//! Items that touch are one to the locator: they are returned as one, marked as several when the outline is unlike those
//! of the items before. What is much smaller than an item and beside it is a part of it.
//!
//! Invariant: an item that passes is returned, first at the first picture in which it lies whole inside, or, if it never
//! does, when it begins to leave: doubt about it is for `decide`, not a reason to let it by unseen. It is returned again
//! from the pictures after that in which it is whole, until it was looked at as often as wanted. What was followed and is
//! gone without having been returned is counted: the belt moves too far from one picture to the next. (Where it moves so
//! far that one item is taken for the next, only a part of what is missed is counted: 15 of some hundred, tests.rs.)

use std::time::Instant;

mod blob;
mod cells;
mod motion;

use blob::{Blob, Outlines, blobs, gather};
use cells::{Cells, Mark, differs};
use motion::Motion;

use crate::domain::{Item, Picture, Region};

/// Share of its difference by which a belt cell follows the picture: light drifts, belts get wet.
const FOLLOW: f32 = 1.0 / 12.0;
/// The same for a cell under an item, so that a standing item is not learned away within ten seconds.
const FOLLOW_COVERED: f32 = 1.0 / 1024.0;
/// More of the picture than this is never fish: the light was switched or the camera moved, so the belt is learned again.
const MOST_COVERED: f32 = 0.7;
/// Share of its largest area from which on an item counts as seen whole again.
const AS_LARGE: f32 = 0.8;
/// A track that was not seen for this long is forgotten.
const FORGET_AFTER: f32 = 2.0;

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

/// The blob's bounding box in pixels, its edges sharpened at full resolution: a row or column belongs to the item when
/// at least three of its pixels differ from `belt`.
fn sharpen(picture: &Picture, blob: &Blob, scale: f32, belt: [f32; 3], threshold: f32) -> Region {
    let low = |cell: usize| ((cell.saturating_sub(1)) as f32 * scale) as usize;
    let high = |cell: usize, most: u32| (((cell + 2) as f32 * scale).ceil() as usize).min(most as usize);
    let (x0, x1) = (low(blob.left), high(blob.right, picture.width));
    let (y0, y1) = (low(blob.top), high(blob.bottom, picture.height));
    let mut columns = vec![0u32; x1 - x0];
    let (mut top, mut bottom) = (None, y0);
    for y in y0..y1 {
        let row = &picture.rgb[(y * picture.width as usize + x0) * 3..(y * picture.width as usize + x1) * 3];
        let mut count = 0;
        for (pixel, column) in row.chunks_exact(3).zip(&mut columns) {
            let differs = u32::from(differs(pixel, &belt, threshold));
            *column += differs;
            count += differs;
        }
        if count >= 3 {
            top.get_or_insert(y);
            bottom = y;
        }
    }
    let left = columns.iter().position(|n| *n >= 3);
    let right = columns.iter().rposition(|n| *n >= 3);
    let (left, right) = (left.map_or(x0, |l| x0 + l), right.map_or(x1 - 1, |r| x0 + r));
    let top = top.unwrap_or(y0);
    let bottom = bottom.max(top);
    Region { x: left as u32, y: top as u32, width: (right - left + 1) as u32, height: (bottom - top + 1) as u32 }
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
        let belt = blob.mean_belt(&ground, across);
        regions.push(sharpen(picture, &blob, cells.scale, belt, config.threshold));
    }
    regions
}

/// An item that is being followed. Positions in cells.
struct Track {
    number: u64,
    blob: Blob,
    seen: Instant,
    /// Pictures in which it was returned.
    looks: usize,
    /// How it lay when it was last seen as large as ever, and when that was.
    largest: (Blob, Instant),
    /// It was a part of an item that has a track of its own.
    swallowed: bool,
}

/// Finds every item on one camera's belt exactly once; see the module.
pub struct Locator {
    config: LocateConfig,
    /// The belt's colour per cell; empty before the first picture.
    belt: Vec<f32>,
    size: (u32, u32),
    /// Cells in a row of the picture.
    across: usize,
    /// Pixels of the picture in a cell's side.
    scale: f32,
    motion: Motion,
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
            belt: Vec::new(),
            size: (0, 0),
            across: 0,
            scale: 1.0,
            motion: Motion::default(),
            tracks: Vec::new(),
            next: 1,
            outlines: Outlines::default(),
            unjudged: 0,
        }
    }

    /// The items in `picture`, taken at `captured`, that are to be looked at now; pictures come in the order of capture.
    pub fn look(&mut self, picture: &Picture, captured: Instant) -> Vec<Item> {
        let Some(cells) = Cells::of(picture) else { return Vec::new() };
        if self.size != (picture.width, picture.height) {
            self.size = (picture.width, picture.height);
            (self.scale, self.across) = (cells.scale, cells.across);
            self.belt.clear();
            self.unjudged += self.tracks.iter().filter(|t| t.looks == 0 && !t.swallowed).count() as u64;
            self.tracks.clear();
        }
        let marked = self.mark(&cells);
        let min_area = (self.config.min_area * (cells.across * cells.down) as f32) as usize;
        let found = gather(blobs(&marked, cells.across, cells.down, min_area.max(1)), &self.outlines);
        let matched = self.follow(&found, captured, cells.across);
        let speed = self.motion.speed();
        let mut items = Vec::new();
        for (blob, track) in found.iter().zip(matched) {
            let Some(track) = track else { continue };
            let track = &mut self.tracks[track];
            let now = match track.looks {
                0 => due(blob, cells.across, speed),
                before => before < self.config.looks && whole(blob, cells.across),
            };
            if now {
                track.looks += 1;
                let belt = blob.mean_belt(&self.belt, cells.across);
                let region = sharpen(picture, blob, cells.scale, belt, self.config.threshold);
                // One that was never whole shows no outline of its own; it is judged as it is.
                let several = whole(blob, cells.across) && self.outlines.unlike(blob.outline());
                items.push(Item { track: track.number, region, several, look: track.looks });
            }
        }
        items
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

    /// Marks the cells that are no belt and lets the belt's colour follow the others.
    fn mark(&mut self, cells: &Cells) -> Vec<Mark> {
        if self.belt.is_empty() {
            self.belt = cells.ground();
        }
        // The light changes everywhere at once, under items too, so no shadow of the old light stays behind them.
        let light = cells.light(&self.belt);
        self.belt.chunks_exact_mut(3).for_each(|belt| (0..3).for_each(|c| belt[c] *= light[c]));
        let threshold = self.config.threshold;
        let mut covered = 0usize;
        let mut marked = Vec::with_capacity(cells.rgb.len() / 3);
        for (pixel, belt) in cells.rgb.chunks_exact(3).zip(self.belt.chunks_exact_mut(3)) {
            let mark = Mark::of(pixel, belt, threshold);
            let item = mark == Mark::Item;
            let follow = if item { FOLLOW_COVERED } else { FOLLOW };
            for c in 0..3 {
                belt[c] += (f32::from(pixel[c]) - belt[c]) * follow;
            }
            covered += usize::from(item);
            marked.push(mark);
        }
        if covered as f32 > MOST_COVERED * marked.len() as f32 {
            self.belt = cells.ground();
            for (pixel, (belt, mark)) in cells.rgb.chunks_exact(3).zip(self.belt.chunks_exact(3).zip(&mut marked)) {
                *mark = Mark::of(pixel, belt, threshold);
            }
        }
        marked
    }

    /// Gives every blob its track (an index into `self.tracks`), a new one where none fits, and none to a part
    /// that came off an item that was returned.
    fn follow(&mut self, found: &[Blob], captured: Instant, across: usize) -> Vec<Option<usize>> {
        let since = |seen: Instant| captured.saturating_duration_since(seen).as_secs_f32();
        self.motion.look(captured);
        let (speed, last) = (self.motion.speed(), across as f32);
        let unjudged = &mut self.unjudged;
        self.tracks.retain(|t| {
            let moved = speed.unwrap_or(0.0) * since(t.seen);
            let (left, right) = (t.blob.left as f32 + moved, t.blob.right as f32 + moved);
            let there = since(t.seen) < FORGET_AFTER && right > -0.1 * last && left < 1.1 * last && !t.swallowed;
            *unjudged += u64::from(!there && t.looks == 0 && !t.swallowed);
            there
        });
        let mut pairs = Vec::new();
        for (b, blob) in found.iter().enumerate() {
            for (t, track) in self.tracks.iter().enumerate() {
                let age = since(track.seen);
                let expected = speed.unwrap_or(0.0) * age;
                // A picture may have been held up on its way, or the one before.
                let held_up = |speed: f32| (speed * self.motion.interval).abs().min(0.15 * last);
                let gate = speed.map_or(0.3 * last, |speed| 4.0 + 0.4 * expected.abs() + held_up(speed));
                if let Some(moved) = moved(&track.blob, blob, expected, across)
                    && (moved - expected).abs() <= gate
                {
                    pairs.push(((moved - expected).abs(), b, t, moved, age));
                }
            }
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut of_blob: Vec<Option<usize>> = vec![None; found.len()];
        let mut taken = vec![false; self.tracks.len()];
        for (_, b, t, moved, age) in pairs {
            if of_blob[b].is_some() || taken[t] {
                continue;
            }
            of_blob[b] = Some(t);
            taken[t] = true;
            self.motion.moved(moved, age);
            let track = &mut self.tracks[t];
            (track.blob, track.seen) = (found[b], captured);
            if found[b].area as f32 >= AS_LARGE * track.largest.0.area as f32 {
                track.largest = (found[b], captured);
            }
        }
        if !taken.is_empty() && !found.is_empty() {
            self.motion.followed(taken.contains(&true));
        }
        // An item that came into the picture in parts needs one track only. One that was returned stays: items that
        // touch for a while come apart again.
        for (track, _) in self.tracks.iter_mut().zip(taken).filter(|(track, taken)| !taken && track.looks == 0) {
            let moved = speed.unwrap_or(0.0) * since(track.seen);
            track.swallowed = found.iter().zip(&of_blob).any(|(b, t)| t.is_some() && holds(b, &track.blob, moved));
        }
        let known = self.tracks.len();
        let part = |tracks: &[Track], blob: &Blob| {
            let newly = |track: &&Track| track.looks > 0 && since(track.seen) <= 3.0 * self.motion.interval;
            let came_off = tracks[..known].iter().filter(newly).any(|track| {
                let (largest, at) = &track.largest;
                holds(largest, blob, -speed.unwrap_or(0.0) * since(*at))
            });
            // A larger one may be one of two items that touched.
            came_off && self.outlines.small(blob.outline())
        };
        for (blob, track) in found.iter().zip(&mut of_blob).filter(|(_, track)| track.is_none()) {
            if part(&self.tracks, blob) {
                continue;
            }
            *track = Some(self.tracks.len());
            self.tracks.push(Track {
                number: self.next,
                blob: *blob,
                seen: captured,
                looks: 0,
                largest: (*blob, captured),
                swallowed: false,
            });
            self.next += 1;
        }
        of_blob
    }
}

/// Whether the item must be judged now: it is whole, or it has begun to leave. An item as high as the picture counts
/// as whole: it will not get any wholer.
fn due(blob: &Blob, across: usize, speed: Option<f32>) -> bool {
    let (enters_left, enters_right) = (blob.left == 0, blob.right + 1 >= across);
    let leaves = match speed {
        Some(speed) if speed > 0.0 => enters_right,
        Some(_) => enters_left,
        None => false,
    };
    whole(blob, across) || leaves
}

fn whole(blob: &Blob, across: usize) -> bool {
    blob.left > 0 && blob.right + 1 < across
}

/// How far `now` lies from `before` along the belt, by the edge that is inside the picture both times and agrees best
/// with `expected`; `None` when they cannot be the same item.
fn moved(before: &Blob, now: &Blob, expected: f32, across: usize) -> Option<f32> {
    let overlap = before.bottom.min(now.bottom) as f32 - before.top.max(now.top) as f32;
    let height = (before.bottom - before.top).min(now.bottom - now.top) as f32;
    if overlap < 0.4 * height {
        return None;
    }
    let left = (before.left > 0 && now.left > 0).then_some(now.left as f32 - before.left as f32);
    let right = (before.right + 1 < across && now.right + 1 < across).then_some(now.right as f32 - before.right as f32);
    match (left, right) {
        (Some(l), Some(r)) => Some(if (l - expected).abs() < (r - expected).abs() { l } else { r }),
        (Some(one), None) | (None, Some(one)) => Some(one),
        // Longer than the picture; otherwise one leaves while the other enters, and they are two.
        (None, None) => [before, now].iter().any(|b| b.left == 0 && b.right + 1 >= across).then_some(expected),
    }
}

/// Whether `part`, having `moved`, lies inside `item`, three cells more or less.
fn holds(item: &Blob, part: &Blob, moved: f32) -> bool {
    let inside = |a: [f32; 2], b: [usize; 2]| a[0] + 3.0 >= b[0] as f32 && a[1] <= b[1] as f32 + 3.0;
    inside([part.left as f32 + moved, part.right as f32 + moved], [item.left, item.right])
        && inside([part.top as f32, part.bottom as f32], [item.top, item.bottom])
}

#[cfg(test)]
mod tests;
