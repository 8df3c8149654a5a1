//! One item that is followed. Positions are in cells.

use std::time::Instant;

use super::blob::Blob;
use crate::domain::Region;

/// Share of its largest area from which on an item counts as seen whole again.
const AS_LARGE: f32 = 0.8;

pub(super) struct Track {
    pub number: u64,
    pub blob: Blob,
    pub seen: Instant,
    /// The belt's travel when it was last seen.
    pub position: f64,
    /// Pictures in which it was returned.
    pub looks: usize,
    /// How it lay when it was last seen as large as ever, and the belt's travel then.
    pub largest: (Blob, f64),
    /// It was returned as several.
    pub several: bool,
    /// It was a part of an item that has a track of its own.
    pub swallowed: bool,
}

impl Track {
    pub fn new(number: u64, blob: Blob, seen: Instant, position: f64) -> Self {
        Self { number, blob, seen, position, looks: 0, largest: (blob, position), several: false, swallowed: false }
    }

    /// It lies at `blob` now.
    pub fn seen_as(&mut self, blob: Blob, seen: Instant, position: f64) {
        (self.blob, self.seen, self.position) = (blob, seen, position);
        if blob.area as f32 >= AS_LARGE * self.largest.0.area as f32 {
            self.largest = (blob, position);
        }
    }
}

/// Whether the picture's left and right end cut the item: its cells reach them, or its pixels do (`region`, in a picture so many
/// pixels `wide`), for cells end where an item fades. An item as high as the picture is not cut: it will not get any wholer.
pub(super) fn cut(blob: &Blob, across: usize, region: Region, wide: u32) -> [bool; 2] {
    [blob.left == 0 || region.x == 0, blob.right + 1 >= across || region.x + region.width >= wide]
}

/// Whether an item that the picture's ends cut so has begun to leave the way that the belt runs (`way`: 1 towards larger x, -1
/// towards smaller, 0 unknown): no later picture shows more of it.
pub(super) fn leaves([left, right]: [bool; 2], way: i8) -> bool {
    match way {
        0 => false,
        1.. => right,
        _ => left,
    }
}

/// Whether no part of it lies outside the picture's ends.
pub(super) fn whole(blob: &Blob, across: usize) -> bool {
    blob.left > 0 && blob.right + 1 < across
}

/// How far `now` lies from `before` along the belt, by the edge that is inside the picture both times and agrees best
/// with `expected`; `None` when they cannot be the same item.
pub(super) fn moved(before: &Blob, now: &Blob, expected: f32, across: usize) -> Option<f32> {
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

/// Share of the shorter of two stretches of belt that both cover, in the picture and at the same height across the belt: that of
/// `before`, `moved` on, and that of `now`.
pub(super) fn covered(before: &Blob, now: &Blob, moved: f32, across: usize) -> f32 {
    let overlap = before.bottom.min(now.bottom) as f32 + 1.0 - before.top.max(now.top) as f32;
    if overlap < 0.4 * (1 + (before.bottom - before.top).min(now.bottom - now.top)) as f32 {
        return 0.0;
    }
    let [left, right] =
        [before.left as f32 + moved, before.right as f32 + 1.0 + moved].map(|x| x.clamp(0.0, across as f32));
    let both = right.min(now.right as f32 + 1.0) - left.max(now.left as f32);
    both / (right - left).min((now.right + 1 - now.left) as f32).max(1.0)
}

/// Whether `part`, having `moved`, lies inside `item`, three cells more or less.
pub(super) fn holds(item: &Blob, part: &Blob, moved: f32) -> bool {
    let inside = |a: [f32; 2], b: [usize; 2]| a[0] + 3.0 >= b[0] as f32 && a[1] <= b[1] as f32 + 3.0;
    inside([part.left as f32 + moved, part.right as f32 + moved], [item.left, item.right])
        && inside([part.top as f32, part.bottom as f32], [item.top, item.bottom])
}
