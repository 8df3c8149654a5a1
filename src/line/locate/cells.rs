//! A picture shrunk to cells, and which of them are no belt.

use std::cell::RefCell;

use fast_image_resize::{
    self as fir,
    images::{TypedImage, TypedImageRef},
    pixels::U8x3,
};

use crate::domain::Picture;

/// Cells across the shrunken picture.
const CELLS_ACROSS: u32 = 160;
/// Share of the least difference of an item that is a trace of one.
const TRACE: f32 = 0.6;

/// The picture, shrunk.
pub(super) struct Cells {
    pub across: usize,
    pub down: usize,
    /// Pixels of the picture per cell.
    pub scale: f32,
    pub rgb: Vec<u8>,
}

impl Cells {
    pub fn of(picture: &Picture) -> Option<Self> {
        let across = picture.width.min(CELLS_ACROSS);
        let scale = picture.width as f32 / across as f32;
        let down = ((picture.height as f32 / scale).round() as u32).max(1);
        let mut rgb = vec![0; (across * down * 3) as usize];
        let source = TypedImageRef::<U8x3>::from_buffer(picture.width, picture.height, &picture.rgb).ok()?;
        let mut target = TypedImage::<U8x3>::from_buffer(across, down, &mut rgb).ok()?;
        let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Box));
        thread_local! { static RESIZER: RefCell<fir::Resizer> = RefCell::new(fir::Resizer::new()); }
        RESIZER.with_borrow_mut(|resizer| resizer.resize_typed(&source, &mut target, &options)).ok()?;
        Some(Self { across: across as usize, down: down as usize, scale, rgb })
    }

    /// The belt's colour per cell as one picture shows it: lamps and lens shade rows and columns, so a cell is the
    /// middle of its row times the middle of its column. Right wherever items cover less than half of both.
    pub fn ground(&self) -> Vec<f32> {
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
    pub fn light(&self, belt: &[f32]) -> [f32; 3] {
        let mut counts = [[0usize; 256]; 3];
        for (pixel, belt) in self.rgb.chunks_exact(3).zip(belt.chunks_exact(3)) {
            for c in 0..3 {
                let ratio = f32::from(pixel[c]) / belt[c].max(1.0) * 128.0;
                counts[c][ratio.min(255.0) as usize] += 1;
            }
        }
        let half = self.rgb.len() / 6;
        counts.map(|counts| within(&counts, half) / 128.0)
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

/// The same, and how far within its step, so that what is measured again and again does not creep.
fn within(counts: &[usize; 256], half: usize) -> f32 {
    let at = half_way(counts, half);
    let before: usize = counts[..at as usize].iter().sum();
    at + (half - before) as f32 / counts[at as usize].max(1) as f32
}

/// What a cell shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Belt,
    /// It may be a dim part of an item, or a stain of the belt.
    Trace,
    Item,
}

impl Mark {
    pub fn of(pixel: &[u8], belt: &[f32], threshold: f32) -> Self {
        let excess = excess(pixel, belt, threshold);
        if excess > 1.0 {
            Self::Item
        } else if excess > TRACE {
            Self::Trace
        } else {
            Self::Belt
        }
    }
}

/// The difference from the belt over the least one that is no belt, which has a floor, below which lies a sensor's noise.
pub(super) fn excess(pixel: &[u8], belt: &[f32], threshold: f32) -> f32 {
    let difference: f32 = (0..3).map(|c| (f32::from(pixel[c]) - belt[c]).abs()).sum();
    difference / (threshold * (belt[0] + belt[1] + belt[2])).max(12.0)
}
