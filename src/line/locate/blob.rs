//! Cells that are no belt → blobs, and what their outlines say.

use std::{cmp::Reverse, collections::VecDeque, f32::consts::PI};

use super::cells::Mark;

/// Cells from an item within which what is no belt, and much smaller, is a part of it: a dim tail or fin comes apart from
/// its body.
const REACH: usize = 8;
/// How many times smaller a part is.
const PART: usize = 4;
/// How many times smaller than the smallest item the cells are that a faint one shows for certain.
const FAINT: usize = 3;
/// Outlines that are remembered, and those without which there is nothing to compare with.
const KNOWN: usize = 200;
pub(super) const FEW: usize = 40;
/// How many times longer and wider than nine tenths of them an outline is that may be several items'.
const LONGER: f32 = 1.3;
const WIDER: f32 = 1.5;
/// How much less than nine tenths of them it fills its ellipse.
const EMPTIER: f32 = 0.12;

/// A connected group of cells of items: first and last column and row, and how many; of these and the traces between and
/// around them how many, and the sums of their x, y, x², y² and xy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Blob {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
    pub area: usize,
    /// First and last column, first and last row, of the traces around it too.
    pub traces: [usize; 4],
    sums: [usize; 6],
}

impl Blob {
    pub fn outline(&self) -> Outline {
        let area = self.sums[0] as f64;
        let [_, x, y, xx, yy, xy] = self.sums.map(|sum| sum as f64 / area);
        // A cell is as wide as it is, not a point: a twelfth.
        let (a, b, c) = (xx - x * x + 1.0 / 12.0, yy - y * y + 1.0 / 12.0, xy - x * y);
        let (mean, half) = ((a + b) / 2.0, (((a - b) / 2.0).powi(2) + c * c).sqrt());
        let axis = |variance: f64| 4.0 * variance.max(0.0).sqrt() as f32;
        let (length, width) = (axis(mean + half), axis(mean - half));
        Outline { length, width, fill: area as f32 / (PI / 4.0 * length * width) }
    }
}

/// The ellipse with a blob's second moments: its axes in cells, and the blob's area over the ellipse's. A fish fills its
/// ellipse but for fins and tail; two that touch at an angle leave corners empty, two in a row are longer, two side by
/// side are wider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outline {
    length: f32,
    width: f32,
    fill: f32,
}

impl Outline {
    fn area(&self) -> f32 {
        self.fill * PI / 4.0 * self.length * self.width
    }
}

/// The outlines of the newest items.
#[derive(Default)]
pub(super) struct Outlines(VecDeque<Outline>);

impl Outlines {
    /// Whether it is less than half as large as the usual item. Before there are [`FEW`] nothing is.
    pub fn small(&self, outline: Outline) -> bool {
        let mut areas: Vec<f32> = self.0.iter().map(Outline::area).collect();
        areas.sort_by(f32::total_cmp);
        areas.len() >= FEW && outline.area() < 0.5 * areas[areas.len() / 2]
    }

    /// Whether `outline` is unlike the others; remembers it. Before there are [`FEW`] nothing is.
    pub fn unlike(&mut self, outline: Outline) -> bool {
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

/// Groups the cells of items. Those up to two apart belong together, so that a pale stripe does not cut a fish in two, and
/// so do those that traces connect, as in Canny's hysteresis (1986): a fish of nearly the belt's colour shows here and
/// there. Traces only connect: a blob is as large as its cells of items, but one of [`FAINT`] of `min_area` counts if it is
/// large enough together with its traces.
pub(super) fn blobs(marked: &[Mark], across: usize, down: usize, min_area: usize) -> Vec<Blob> {
    let mut seen = vec![false; marked.len()];
    let mut stack = Vec::new();
    let mut found = Vec::new();
    for start in 0..marked.len() {
        if marked[start] != Mark::Item || seen[start] {
            continue;
        }
        seen[start] = true;
        stack.push(start);
        let mut blob =
            Blob { left: across, top: down, right: 0, bottom: 0, area: 0, traces: [across, 0, down, 0], sums: [0; 6] };
        while let Some(i) = stack.pop() {
            let (x, y) = (i % across, i / across);
            if marked[i] == Mark::Item {
                blob.left = blob.left.min(x);
                blob.right = blob.right.max(x);
                blob.top = blob.top.min(y);
                blob.bottom = blob.bottom.max(y);
                blob.area += 1;
            }
            blob.traces = around(blob.traces, [x, x, y, y]);
            blob.sums = add(blob.sums, [1, x, y, x * x, y * y, x * y]);
            for ny in y.saturating_sub(2)..(y + 3).min(down) {
                for nx in x.saturating_sub(2)..(x + 3).min(across) {
                    let n = ny * across + nx;
                    let next = nx.abs_diff(x) < 2 && ny.abs_diff(y) < 2;
                    let joins = marked[n] != Mark::Belt && (next || marked[n] == marked[i] && marked[i] == Mark::Item);
                    if joins && !seen[n] {
                        seen[n] = true;
                        stack.push(n);
                    }
                }
            }
        }
        if blob.area >= min_area || blob.area * FAINT >= min_area && blob.sums[0] >= min_area {
            found.push(blob);
        }
    }
    found
}

fn around(a: [usize; 4], b: [usize; 4]) -> [usize; 4] {
    [a[0].min(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].max(b[3])]
}

fn add(a: [usize; 6], b: [usize; 6]) -> [usize; 6] {
    std::array::from_fn(|i| a[i] + b[i])
}

/// Joins parts to the items that they lie beside; two that are both less than half an item are parts of one.
pub(super) fn gather(mut found: Vec<Blob>, outlines: &Outlines) -> Vec<Blob> {
    found.sort_by_key(|blob| Reverse(blob.area));
    let mut items: Vec<Blob> = Vec::with_capacity(found.len());
    for part in found {
        let apart = |a: [usize; 2], b: [usize; 2]| a[0].saturating_sub(b[1]).max(b[0].saturating_sub(a[1]));
        let beside = |item: &&mut Blob| {
            (part.area * PART <= item.area || outlines.small(part.outline()) && outlines.small(item.outline()))
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
                item.traces = around(item.traces, part.traces);
                item.sums = add(item.sums, part.sums);
            }
            None => items.push(part),
        }
    }
    items
}
