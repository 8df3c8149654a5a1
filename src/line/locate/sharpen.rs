//! A blob's bounding box in pixels, its edges sharpened at full resolution.
//!
//! Each pixel is held against the belt's colour at its own place, since lamps shade a belt by more than an item's edge stands
//! out. A shadow shows the belt's own colour, darker, and is no part of the item; but what is mostly like a shadow is a dark
//! item.

use super::{
    FAINT,
    blob::Blob,
    cells::{Cells, excess},
};
use crate::domain::{Picture, Region};

/// An item's edge lies where it differs from the belt by this share of what all of it does, and by no fewer and no more than so
/// many multiples of the threshold.
const EDGE: f32 = 0.4;
const LEAST_EDGE: f32 = 0.6;
const MOST_EDGE: f32 = 0.8;
/// Pixels of the item that a row or column of it has at least.
const FEW: u32 = 2;
/// Cells around a blob in which thin fins and tails of it are looked for, as far as each row and column has some.
const AROUND: f32 = 2.0;
/// How far apart the shares of the belt's red, green and blue lie at most that a shadow leaves, and by how many multiples of the
/// threshold it differs at most.
const SHADE: f32 = 0.15;
const DARKEST: f32 = 3.0;
/// Share of an item's pixels at least that are unlike a shadow, on one that isn't all dark.
const LIT: f32 = 0.6;

/// How many pixels of each row and column are an item's.
struct Counts {
    rows: Vec<u32>,
    columns: Vec<u32>,
}

impl Counts {
    fn none(across: usize, down: usize) -> Self {
        Self { rows: vec![0; down], columns: vec![0; across] }
    }

    fn all(&self) -> u32 {
        self.rows.iter().sum()
    }
}

/// How much the blob differs from `belt`, a colour per cell, as a multiple of `threshold`: the mean of its cells that differ at
/// all.
fn strength(cells: &Cells, blob: &Blob, belt: &[f32], threshold: f32) -> f32 {
    let (mut sum, mut count) = (0.0, 0.0f32);
    for y in blob.top..=blob.bottom {
        let row = (y * cells.across + blob.left) * 3..(y * cells.across + blob.right + 1) * 3;
        let both = cells.rgb[row.clone()].chunks_exact(3).zip(belt[row].chunks_exact(3));
        for excess in both.map(|(pixel, belt)| excess(pixel, belt, threshold)).filter(|e| *e > LEAST_EDGE) {
            sum += excess;
            count += 1.0;
        }
    }
    sum / count.max(1.0)
}

/// Whether the pixel shows `belt` in a shadow.
fn shaded(pixel: &[u8], belt: &[f32]) -> bool {
    let left: [f32; 3] = std::array::from_fn(|c| f32::from(pixel[c]) / belt[c].max(1.0));
    let [least, most] = [left[0].min(left[1]).min(left[2]), left[0].max(left[1]).max(left[2])];
    most < 1.0 && most - least < SHADE
}

/// The blob's bounding box in pixels; see the module. `belt` is a colour per cell.
pub(super) fn sharpen(picture: &Picture, cells: &Cells, blob: &Blob, belt: &[f32], threshold: f32) -> Region {
    let (scale, strength) = (cells.scale, strength(cells, blob, belt, threshold));
    let least = (EDGE * strength).clamp(LEAST_EDGE, MOST_EDGE);
    let strong = [blob.left, blob.right, blob.top, blob.bottom];
    let [left, right, top, bottom] = if strength < FAINT { blob.traces } else { strong };
    let low = |cell: usize| ((cell as f32 - 1.0 - AROUND).max(0.0) * scale) as usize;
    let high = |cell: usize, most: u32| (((cell as f32 + 2.0 + AROUND) * scale).ceil() as usize).min(most as usize);
    let (x0, x1) = (low(left), high(right, picture.width));
    let (y0, y1) = (low(top), high(bottom, picture.height));
    let cell = |at: usize, most: usize| ((at as f32 / scale) as usize).min(most - 1);
    let of_column: Vec<usize> = (x0..x1).map(|x| cell(x, cells.across) * 3).collect();
    let (mut differ, mut lit) = (Counts::none(x1 - x0, y1 - y0), Counts::none(x1 - x0, y1 - y0));
    for y in y0..y1 {
        let row = &picture.rgb[(y * picture.width as usize + x0) * 3..(y * picture.width as usize + x1) * 3];
        let belt = &belt[cell(y, cells.down) * cells.across * 3..];
        for (x, (pixel, of_column)) in row.chunks_exact(3).zip(&of_column).enumerate() {
            let belt = &belt[*of_column..of_column + 3];
            let excess = excess(pixel, belt, threshold);
            if excess <= least {
                continue;
            }
            differ.rows[y - y0] += 1;
            differ.columns[x] += 1;
            if excess >= DARKEST || !shaded(pixel, belt) {
                lit.rows[y - y0] += 1;
                lit.columns[x] += 1;
            }
        }
    }
    let counts = if lit.all() as f32 >= LIT * differ.all() as f32 { lit } else { differ };
    let around = (AROUND * scale) as usize;
    let (left, right) = span(&counts.columns, around, x0);
    let (top, bottom) = span(&counts.rows, around, y0);
    Region { x: left as u32, y: top as u32, width: (right - left + 1) as u32, height: (bottom - top + 1) as u32 }
}

/// First and last of the counted rows or columns that belong to the item, the first of which is number `from`: those inside, and
/// of `around` at both ends those that follow without a gap.
fn span(counts: &[u32], around: usize, from: usize) -> (usize, usize) {
    let enough = |at: &usize| counts[*at] >= FEW;
    let inside = || (around.min(counts.len() / 2)..counts.len() - around.min(counts.len() / 2)).filter(enough);
    let (Some(first), Some(last)) = (inside().next(), inside().next_back()) else {
        return (from, from + counts.len() - 1);
    };
    let first = (0..first).rev().take_while(enough).last().unwrap_or(first);
    let last = (last + 1..counts.len()).take_while(enough).last().unwrap_or(last);
    (from + first, from + last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_followed_outwards_as_far_as_it_goes_on() {
        assert_eq!(span(&[0, 9, 2, 5, 7, 9, 3, 2, 0, 4], 3, 10), (11, 17));
        assert_eq!(span(&[0, 2, 0, 5, 7, 9, 0, 2, 0, 4], 3, 10), (13, 15));
        assert_eq!(span(&[1, 0, 1], 1, 10), (10, 12), "nothing clear: all of it");
        assert_eq!(span(&[3], 4, 10), (10, 10));
    }

    #[test]
    fn a_shadow_is_the_belts_own_colour_but_darker() {
        let belt = [60.0, 100.0, 140.0];
        assert!(shaded(&[45, 74, 105], &belt));
        assert!(!shaded(&[45, 60, 60], &belt), "brown");
        assert!(!shaded(&[70, 116, 160], &belt), "lighter");
    }
}
