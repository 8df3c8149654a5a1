//! Frame → items: what lies on the belt, and which of it has not been judged yet.
//!
//! The picture is shrunk to [`CELLS_ACROSS`] cells; cells that differ from the learned belt form blobs; blobs are
//! followed along the belt, which runs along the picture's width.
//!
//! Items that touch are one to the locator: they are returned as one, marked as several when the outline is unlike those
//! of the items before. What is much smaller than an item and beside it is a part of it.
//!
//! Invariant: an item that passes is returned exactly once, at the first picture in which it lies whole inside, or,
//! if it never does, when it begins to leave: doubt about it is for `decide`, not a reason to let it by unseen.

use std::{cell::RefCell, cmp::Reverse, collections::VecDeque, f32::consts::PI, time::Instant};

use fast_image_resize as fir;

use crate::domain::{Item, Picture, Region};

/// Cells across the shrunken picture.
const CELLS_ACROSS: u32 = 160;
/// Share of its difference by which a belt cell follows the picture: light drifts, belts get wet.
const FOLLOW: f32 = 1.0 / 12.0;
/// The same for a cell under an item, so that a standing item is not learned away within ten seconds.
const FOLLOW_COVERED: f32 = 1.0 / 1024.0;
/// More of the picture than this is never fish: the light was switched or the camera moved, so learn anew.
const MOST_COVERED: f32 = 0.7;
/// Cells from an item within which what is no belt, and much smaller, is a part of it: a dim tail or fin comes apart from
/// its body.
const REACH: usize = 6;
/// How many times smaller a part is.
const PART: usize = 4;
/// Outlines that are remembered, and those without which there is nothing to compare with.
const KNOWN: usize = 200;
const FEW: usize = 40;
/// How many times longer and wider than nine tenths of them an outline is that may be several items'.
const LONGER: f32 = 1.3;
const WIDER: f32 = 1.5;
/// How much less than nine tenths of them it fills its ellipse.
const EMPTIER: f32 = 0.12;
/// Speeds of items that tell the belt's.
const SPEEDS: usize = 15;
/// Pictures in which no item is found again before the belt's speed is learned anew.
const LOST: u32 = 3;
/// A track that was not seen for this long is forgotten.
const FORGET_AFTER: f32 = 2.0;

/// How items are found.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocateConfig {
    /// Least difference from the belt that is no belt, as a share of the belt's brightness there (both summed over R, G
    /// and B), so that dim light hides nothing.
    pub threshold: f32,
    /// Smallest item, as a share of the picture's area.
    pub min_area: f32,
}

impl Default for LocateConfig {
    fn default() -> Self {
        Self { threshold: 0.14, min_area: 0.004 }
    }
}

/// The picture, shrunk.
struct Cells {
    across: usize,
    down: usize,
    /// Pixels of the picture per cell.
    scale: f32,
    rgb: Vec<u8>,
}

impl Cells {
    fn of(picture: &Picture) -> Option<Self> {
        let across = picture.width.min(CELLS_ACROSS);
        let scale = picture.width as f32 / across as f32;
        let down = ((picture.height as f32 / scale).round() as u32).max(1);
        let source =
            fir::images::ImageRef::new(picture.width, picture.height, &picture.rgb, fir::PixelType::U8x3).ok()?;
        let mut target = fir::images::Image::new(across, down, fir::PixelType::U8x3);
        let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Box));
        thread_local! { static RESIZER: RefCell<fir::Resizer> = RefCell::new(fir::Resizer::new()); }
        RESIZER.with_borrow_mut(|resizer| resizer.resize(&source, &mut target, &options)).ok()?;
        Some(Self { across: across as usize, down: down as usize, scale, rgb: target.into_vec() })
    }

    /// The belt's colour per cell as one picture shows it: lamps and lens shade rows and columns, so a cell is the
    /// middle of its row times the middle of its column. Right wherever items cover less than half of both.
    fn ground(&self) -> Vec<f32> {
        let value = |x: usize, y: usize, c: usize| self.rgb[(y * self.across + x) * 3 + c];
        let mut ground = vec![0.0; self.rgb.len()];
        for c in 0..3 {
            let rows: Vec<f32> = (0..self.down).map(|y| middle((0..self.across).map(|x| value(x, y, c)))).collect();
            let columns: Vec<f32> = (0..self.across).map(|x| middle((0..self.down).map(|y| value(x, y, c)))).collect();
            let all = middle(rows.iter().map(|row| *row as u8)).max(1.0);
            for (y, row) in rows.iter().enumerate() {
                for (x, column) in columns.iter().enumerate() {
                    ground[(y * self.across + x) * 3 + c] = row * column / all;
                }
            }
        }
        ground
    }

    /// By how much the light changed against `belt`, per channel: the middle of the cells' ratios.
    fn light(&self, belt: &[f32]) -> [f32; 3] {
        let mut counts = [[0usize; 256]; 3];
        for (pixel, belt) in self.rgb.chunks_exact(3).zip(belt.chunks_exact(3)) {
            for c in 0..3 {
                let ratio = f32::from(pixel[c]) / belt[c].max(1.0) * 128.0;
                counts[c][ratio.min(255.0) as usize] += 1;
            }
        }
        let half = self.rgb.len() / 6;
        counts.map(|counts| (half_way(&counts, half) + 0.5) / 128.0)
    }
}

/// The middle value.
fn middle(values: impl Iterator<Item = u8>) -> f32 {
    let mut counts = [0usize; 256];
    let mut all = 0;
    for value in values {
        counts[usize::from(value)] += 1;
        all += 1;
    }
    half_way(&counts, all / 2)
}

fn half_way(counts: &[usize; 256], half: usize) -> f32 {
    let mut sum = 0;
    let at = counts.iter().position(|n| {
        sum += n;
        sum > half
    });
    at.unwrap_or(0) as f32
}

/// A connected group of cells that are no belt: first and last column and row, how many cells, and the sums of their x,
/// y, x², y² and xy.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Blob {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
    area: usize,
    sums: [usize; 5],
}

impl Blob {
    fn outline(&self) -> Outline {
        let area = self.area as f64;
        let [x, y, xx, yy, xy] = self.sums.map(|sum| sum as f64 / area);
        // A cell is as wide as it is, not a point: a twelfth.
        let (a, b, c) = (xx - x * x + 1.0 / 12.0, yy - y * y + 1.0 / 12.0, xy - x * y);
        let (mean, half) = ((a + b) / 2.0, (((a - b) / 2.0).powi(2) + c * c).sqrt());
        let axis = |variance: f64| 4.0 * variance.max(0.0).sqrt() as f32;
        let (length, width) = (axis(mean + half), axis(mean - half));
        Outline { length, width, fill: self.area as f32 / (PI / 4.0 * length * width) }
    }
}

/// The ellipse with a blob's second moments: its axes in cells, and the blob's area over the ellipse's. A fish fills its
/// ellipse but for fins and tail; two that touch at an angle leave corners empty, two in a row are longer, two side by
/// side are wider.
#[derive(Clone, Copy, Debug)]
struct Outline {
    length: f32,
    width: f32,
    fill: f32,
}

/// The outlines of the newest items.
#[derive(Default)]
struct Outlines(VecDeque<Outline>);

impl Outlines {
    /// Whether `outline` is unlike the others; remembers it. Before there are [`FEW`] nothing is.
    fn unlike(&mut self, outline: Outline) -> bool {
        let at = |share: f32, of: fn(&Outline) -> f32| {
            let mut all: Vec<f32> = self.0.iter().map(of).collect();
            all.sort_by(f32::total_cmp);
            all[(share * (all.len() - 1) as f32).round() as usize]
        };
        let unlike = self.0.len() >= FEW
            && (outline.length > LONGER * at(0.9, |o| o.length)
                || outline.width > WIDER * at(0.9, |o| o.width)
                || outline.fill < at(0.1, |o| o.fill) - EMPTIER);
        if self.0.len() == KNOWN {
            self.0.pop_front();
        }
        self.0.push_back(outline);
        unlike
    }
}

/// Groups marked cells; cells up to two apart belong together, so that a pale stripe does not cut a fish in two.
fn blobs(marked: &[bool], across: usize, down: usize, min_area: usize) -> Vec<Blob> {
    let mut seen = vec![false; marked.len()];
    let mut stack = Vec::new();
    let mut found = Vec::new();
    for start in 0..marked.len() {
        if !marked[start] || seen[start] {
            continue;
        }
        seen[start] = true;
        stack.push(start);
        let mut blob = Blob { left: across, top: down, right: 0, bottom: 0, area: 0, sums: [0; 5] };
        while let Some(i) = stack.pop() {
            let (x, y) = (i % across, i / across);
            blob.left = blob.left.min(x);
            blob.right = blob.right.max(x);
            blob.top = blob.top.min(y);
            blob.bottom = blob.bottom.max(y);
            blob.area += 1;
            blob.sums = add(blob.sums, [x, y, x * x, y * y, x * y]);
            for ny in y.saturating_sub(2)..(y + 3).min(down) {
                for nx in x.saturating_sub(2)..(x + 3).min(across) {
                    let n = ny * across + nx;
                    if marked[n] && !seen[n] {
                        seen[n] = true;
                        stack.push(n);
                    }
                }
            }
        }
        if blob.area >= min_area {
            found.push(blob);
        }
    }
    found
}

fn add(a: [usize; 5], b: [usize; 5]) -> [usize; 5] {
    std::array::from_fn(|i| a[i] + b[i])
}

/// Joins parts to the items that they lie beside.
fn gather(mut found: Vec<Blob>) -> Vec<Blob> {
    found.sort_by_key(|blob| Reverse(blob.area));
    let mut items: Vec<Blob> = Vec::with_capacity(found.len());
    for part in found {
        let apart = |a: [usize; 2], b: [usize; 2]| a[0].saturating_sub(b[1]).max(b[0].saturating_sub(a[1]));
        let beside = |item: &&mut Blob| {
            part.area * PART <= item.area
                && apart([part.left, part.right], [item.left, item.right]) <= REACH
                && apart([part.top, part.bottom], [item.top, item.bottom]) <= REACH
        };
        match items.iter_mut().find(beside) {
            Some(item) => {
                item.left = item.left.min(part.left);
                item.right = item.right.max(part.right);
                item.top = item.top.min(part.top);
                item.bottom = item.bottom.max(part.bottom);
                item.area += part.area;
                item.sums = add(item.sums, part.sums);
            }
            None => items.push(part),
        }
    }
    items
}

/// Whether `pixel` is no belt. The least difference has a floor, below which lies a sensor's noise.
fn differs(pixel: &[u8], belt: &[f32], threshold: f32) -> bool {
    let difference: f32 = (0..3).map(|c| (f32::from(pixel[c]) - belt[c]).abs()).sum();
    difference > (threshold * (belt[0] + belt[1] + belt[2])).max(12.0)
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
    let marked: Vec<bool> = cells
        .rgb
        .chunks_exact(3)
        .zip(ground.chunks_exact(3))
        .map(|(pixel, belt)| differs(pixel, belt, config.threshold))
        .collect();
    let min_area = (config.min_area * (across * down) as f32) as usize;
    let found = gather(blobs(&marked, across, down, min_area.max(1)));
    let mut regions = Vec::with_capacity(found.len());
    for blob in found {
        let belt = mean_belt(&ground, &blob, across);
        regions.push(sharpen(picture, &blob, cells.scale, belt, config.threshold));
    }
    regions
}

/// An item that is being followed. Positions in cells.
struct Track {
    number: u64,
    blob: Blob,
    seen: Instant,
    returned: bool,
    /// It was a part of an item that has a track of its own.
    swallowed: bool,
}

/// How the belt moves, learned from the items.
#[derive(Default)]
struct Motion {
    /// The newest speeds of items, in cells per second along x.
    speeds: VecDeque<f32>,
    /// Usual time from one picture to the next, in seconds; 0 before the second.
    interval: f32,
    last: Option<Instant>,
    /// Pictures one after the other in which no item was found again.
    lost: u32,
}

impl Motion {
    /// The middle one of the newest speeds, so that a few that are wrong do no harm; `None` until an item was seen moving.
    fn speed(&self) -> Option<f32> {
        let mut sorted: Vec<f32> = self.speeds.iter().copied().collect();
        sorted.sort_by(f32::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    /// A picture was taken at `captured`.
    fn look(&mut self, captured: Instant) {
        if let Some(last) = self.last.replace(captured) {
            let seconds = captured.saturating_duration_since(last).as_secs_f32();
            self.interval = if self.interval == 0.0 { seconds } else { self.interval * 0.9 + seconds * 0.1 };
        }
    }

    /// An item moved by `cells` in `age` seconds. What came too soon tells no speed: network cameras hold pictures up and
    /// send several at once.
    fn moved(&mut self, cells: f32, age: f32) {
        if age > 0.5 * self.interval {
            if self.speeds.len() == SPEEDS {
                self.speeds.pop_front();
            }
            self.speeds.push_back(cells / age);
        }
    }

    /// A picture with items followed another one with items: whether any of them was found again. A belt whose speed
    /// was changed, or was learned wrongly, is learned anew.
    fn followed(&mut self, again: bool) {
        self.lost = if again { 0 } else { self.lost + 1 };
        if self.lost == LOST {
            self.speeds.clear();
            self.lost = 0;
        }
    }
}

/// Finds every item on one camera's belt exactly once; see the module.
pub struct Locator {
    config: LocateConfig,
    /// The belt's colour per cell; empty before the first picture.
    belt: Vec<f32>,
    size: (u32, u32),
    /// Pixels of the picture in a cell's side.
    scale: f32,
    motion: Motion,
    tracks: Vec<Track>,
    next: u64,
    outlines: Outlines,
}

impl Locator {
    /// A locator that has seen nothing yet.
    pub fn new(config: LocateConfig) -> Self {
        Self {
            config,
            belt: Vec::new(),
            size: (0, 0),
            scale: 1.0,
            motion: Motion::default(),
            tracks: Vec::new(),
            next: 1,
            outlines: Outlines::default(),
        }
    }

    /// The items in `picture`, taken at `captured`, that are to be judged now; pictures come in the order of capture.
    pub fn look(&mut self, picture: &Picture, captured: Instant) -> Vec<Item> {
        let Some(cells) = Cells::of(picture) else { return Vec::new() };
        if self.size != (picture.width, picture.height) {
            self.size = (picture.width, picture.height);
            self.scale = cells.scale;
            self.belt.clear();
            self.tracks.clear();
        }
        let marked = self.mark(&cells);
        let min_area = (self.config.min_area * (cells.across * cells.down) as f32) as usize;
        let found = gather(blobs(&marked, cells.across, cells.down, min_area.max(1)));
        let matched = self.follow(&found, captured, cells.across);
        let mut items = Vec::new();
        for (blob, track) in found.iter().zip(matched) {
            let track = &mut self.tracks[track];
            if !track.returned && due(blob, cells.across, self.motion.speed()) {
                track.returned = true;
                let belt = mean_belt(&self.belt, blob, cells.across);
                let region = sharpen(picture, blob, cells.scale, belt, self.config.threshold);
                // One that was never whole shows no outline of its own; it is judged as it is.
                let several = whole(blob, cells.across) && self.outlines.unlike(blob.outline());
                items.push(Item { track: track.number, region, several });
            }
        }
        items
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
    fn mark(&mut self, cells: &Cells) -> Vec<bool> {
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
            let item = differs(pixel, belt, threshold);
            let follow = if item { FOLLOW_COVERED } else { FOLLOW };
            for c in 0..3 {
                belt[c] += (f32::from(pixel[c]) - belt[c]) * follow;
            }
            covered += usize::from(item);
            marked.push(item);
        }
        if covered as f32 > MOST_COVERED * marked.len() as f32 {
            self.belt = cells.ground();
            for (pixel, (belt, mark)) in cells.rgb.chunks_exact(3).zip(self.belt.chunks_exact(3).zip(&mut marked)) {
                *mark = differs(pixel, belt, threshold);
            }
        }
        marked
    }

    /// Gives every blob its track (an index into `self.tracks`), a new one where none fits.
    fn follow(&mut self, found: &[Blob], captured: Instant, across: usize) -> Vec<usize> {
        let since = |seen: Instant| captured.saturating_duration_since(seen).as_secs_f32();
        self.motion.look(captured);
        let (speed, last) = (self.motion.speed(), across as f32);
        self.tracks.retain(|t| {
            let moved = speed.unwrap_or(0.0) * since(t.seen);
            let (left, right) = (t.blob.left as f32 + moved, t.blob.right as f32 + moved);
            since(t.seen) < FORGET_AFTER && right > -0.1 * last && left < 1.1 * last && !t.swallowed
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
            self.tracks[t].blob = found[b];
            self.tracks[t].seen = captured;
        }
        if !taken.is_empty() && !found.is_empty() {
            self.motion.followed(taken.contains(&true));
        }
        // An item that came into the picture in parts needs one track only. One that was returned stays: items that
        // touch for a while come apart again.
        for (track, _) in self.tracks.iter_mut().zip(taken).filter(|(track, taken)| !taken && !track.returned) {
            let moved = speed.unwrap_or(0.0) * since(track.seen);
            track.swallowed = found.iter().zip(&of_blob).any(|(b, t)| t.is_some() && holds(b, &track.blob, moved));
        }
        found
            .iter()
            .zip(of_blob)
            .map(|(blob, track)| {
                track.unwrap_or_else(|| {
                    self.tracks.push(Track {
                        number: self.next,
                        blob: *blob,
                        seen: captured,
                        returned: false,
                        swallowed: false,
                    });
                    self.next += 1;
                    self.tracks.len() - 1
                })
            })
            .collect()
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

fn mean_belt(belt: &[f32], blob: &Blob, across: usize) -> [f32; 3] {
    let mut sum = [0f32; 3];
    let mut n = 0f32;
    for y in blob.top..=blob.bottom {
        for x in blob.left..=blob.right {
            let cell = &belt[(y * across + x) * 3..][..3];
            (0..3).for_each(|c| sum[c] += cell[c]);
            n += 1.0;
        }
    }
    sum.map(|s| s / n.max(1.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::belt::{Belt, BeltConfig, Species};

    fn iou(a: Region, b: Region) -> f32 {
        let x = (a.x + a.width).min(b.x + b.width) as f32 - a.x.max(b.x) as f32;
        let y = (a.y + a.height).min(b.y + b.height) as f32 - a.y.max(b.y) as f32;
        let both = x.max(0.0) * y.max(0.0);
        both / ((a.width * a.height + b.width * b.height) as f32 - both)
    }

    /// Runs the belt for `places` places: how often each item was returned, the IoU with its truth, and ms per look. Pictures
    /// are taken up to `unsteady` late, and if they are, some are lost.
    fn run(config: BeltConfig, places: u64, unsteady: Duration) -> (Vec<u64>, BTreeMap<u64, Vec<f32>>, f64) {
        let mut belt = Belt::new(config.clone()).unwrap();
        let mut locator = Locator::new(LocateConfig::default());
        let start = Instant::now();
        let pitch_frames = 60.0 * config.frame_rate / config.items_per_minute;
        let frames = ((places as f64 + 1.0) * pitch_frames + 2.0 * 640.0 * config.frame_rate / config.speed) as u64;
        let expected: Vec<u64> = (0..places).filter(|i| belt.species(*i).is_some()).collect();
        let (mut returned, mut looking): (BTreeMap<u64, Vec<f32>>, _) = (BTreeMap::new(), Duration::ZERO);
        let mut random = ChaCha8Rng::seed_from_u64(config.seed);
        for n in 0..frames {
            let late = unsteady.as_secs_f64() * random.random::<f64>();
            if n > 0 && !unsteady.is_zero() && random.random_bool(0.01) {
                continue; // a newer picture was there
            }
            let (picture, truths) = belt.frame(n);
            let captured = start + Duration::from_secs_f64(n as f64 / config.frame_rate + late);
            let began = Instant::now();
            let items = locator.look(&picture, captured);
            looking += began.elapsed();
            for item in items {
                let best =
                    truths.iter().max_by(|a, b| iou(a.region, item.region).total_cmp(&iou(b.region, item.region)));
                let (truth, iou) = best.map(|t| (t.item, iou(t.region, item.region))).unwrap_or((u64::MAX, 0.0));
                returned.entry(truth).or_default().push(iou);
            }
        }
        (expected, returned, looking.as_secs_f64() * 1e3 / frames as f64)
    }

    #[test]
    fn every_item_is_found_once_and_where_it_lies() {
        let settings = [(1, 240.0, 40.0, 12.0), (2, 150.0, 25.0, 10.0), (3, 600.0, 90.0, 15.0), (4, 240.0, 40.0, 25.0)];
        let mut items = 0;
        for (seed, speed, items_per_minute, frame_rate) in settings {
            let config = BeltConfig { seed, speed, items_per_minute, frame_rate, ..BeltConfig::default() };
            let (expected, mut returned, ms) = run(config, 40, Duration::ZERO);
            returned.retain(|item, _| *item == u64::MAX || *item < 40);
            let wrong: Vec<_> = returned.iter().filter(|(_, ious)| ious.len() != 1 || ious[0] < 0.7).collect();
            let found: Vec<u64> = returned.keys().copied().collect();
            println!("seed {seed}: {} items, {ms:.2} ms a look", expected.len());
            assert!(wrong.is_empty(), "seed {seed}: twice, nowhere or badly placed: {wrong:?}");
            assert_eq!(found, expected, "seed {seed}");
            items += expected.len();
        }
        assert!(items >= 120, "{items}");
    }

    /// At 36 pixels a picture fish come into view in parts, and a few pictures are lost. How well a blurred fish is framed
    /// is not asked here.
    #[test]
    fn a_fast_belt_before_an_unsteady_camera_loses_and_doubles_nothing() {
        let config = BeltConfig {
            width: 320,
            height: 180,
            speed: 2160.0,
            items_per_minute: 800.0,
            frame_rate: 60.0,
            empty_share: 0.0,
            ..BeltConfig::default()
        };
        for unsteady in [2, 15] {
            once(&config, 560, Duration::from_millis(unsteady));
        }
    }

    /// The first pictures of a stream come at once.
    #[test]
    fn a_wrong_first_speed_is_forgotten() {
        let mut motion = Motion::default();
        let start = Instant::now();
        for n in [0, 1, 17, 33, 49] {
            motion.look(start + Duration::from_millis(n));
        }
        motion.moved(18.0, 0.0001);
        assert_eq!(motion.speed(), None, "too soon to tell a speed");
        motion.speeds.push_back(180_000.0);
        (0..2).for_each(|_| motion.followed(false));
        motion.followed(true);
        (0..3).for_each(|_| motion.followed(false));
        assert_eq!(motion.speed(), None);
    }

    fn once(config: &BeltConfig, places: u64, unsteady: Duration) {
        let (expected, mut returned, _) = run(config.clone(), places, unsteady);
        returned.retain(|item, _| *item == u64::MAX || *item < places);
        let wrong: Vec<_> = returned.iter().filter(|(_, ious)| ious.len() != 1).collect();
        assert!(wrong.is_empty(), "twice or nowhere: {wrong:?}");
        assert_eq!(returned.into_keys().collect::<Vec<_>>(), expected);
    }

    /// Of pairs that touch, and of single items, the shares that are marked as several.
    fn marked(config: BeltConfig, places: u64) -> [f32; 2] {
        let mut belt = Belt::new(config.clone()).unwrap();
        let mut locator = Locator::new(LocateConfig::default());
        let (start, mut counts) = (Instant::now(), [[0u32; 2]; 2]);
        for n in 0..(places as f64 * 60.0 * config.frame_rate / config.items_per_minute) as u64 {
            let (picture, truths) = belt.frame(n);
            for item in locator.look(&picture, start + Duration::from_secs_f64(n as f64 / config.frame_rate)) {
                let inside = truths.iter().filter(|t| iou(t.region, item.region) > 0.2).map(|t| t.item);
                let pair = inside.clone().count() > 1 && inside.clone().any(|item| belt.touches(item));
                if inside.max() > Some(FEW as u64) {
                    counts[usize::from(!pair)][usize::from(item.several)] += 1;
                }
            }
        }
        println!("pairs, singles; not marked, marked: {counts:?}");
        counts.map(|[not, marked]| marked as f32 / (not + marked) as f32)
    }

    #[test]
    fn items_that_touch_are_mostly_told_from_one() {
        for (seed, others) in [(1, vec![Species::Herring]), (2, Species::ALL[1..].to_vec())] {
            let (width, height, speed) = (320, 180, 120.0);
            let touching_share = 0.15; // every seventh item, or half as many pairs
            let config = BeltConfig {
                seed,
                others,
                touching_share,
                width,
                height,
                speed,
                frame_rate: 8.0,
                ..BeltConfig::default()
            };
            let [pairs, singles] = marked(config, 300);
            assert!(pairs > 0.5 && singles < 0.05, "{pairs} of the pairs, {singles} of the single ones");
        }
    }

    #[test]
    fn a_single_picture_shows_its_items_without_history() {
        let mut belt = Belt::new(BeltConfig { seed: 5, empty_share: 0.0, ..BeltConfig::default() }).unwrap();
        let mut tried = 0;
        for n in (100..1100).step_by(50) {
            let (picture, truths) = belt.frame(n);
            let found = find(&picture);
            for truth in truths.iter().filter(|t| t.whole) {
                tried += 1;
                let best = found.iter().map(|r| iou(*r, truth.region)).fold(0.0, f32::max);
                assert!(best > 0.6, "frame {n}, {}: {best}", truth.sentence);
            }
        }
        assert!(tried >= 10, "{tried}");
    }

    #[test]
    fn an_empty_belt_and_a_black_picture_hold_nothing() {
        assert!(find(&Picture::filled(640, 360, [0; 3])).is_empty());
        let mut belt = Belt::new(BeltConfig { empty_share: 1.0, ..BeltConfig::default() }).unwrap();
        let mut locator = Locator::new(LocateConfig::default());
        for n in 0..60 {
            assert!(locator.look(&belt.frame(n * 3).0, Instant::now()).is_empty());
        }
    }
}
