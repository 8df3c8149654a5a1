//! One fish drawn once: premultiplied RGBA with its shadow, blurred by its motion, and its exact mask.

use super::{fish::Fish, scene::between};
use crate::domain::{Picture, Region};

/// Least room around the fish for shadow and blur, in pixels.
const PAD: usize = 14;

/// Which pixels of an item's bounding box are item, rows top to bottom: those of which it covers more than half. What moves while
/// it is exposed has no edge: of such an item those that it covers so for at least a quarter of the exposure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// `width * height` of them.
    pub bits: Vec<bool>,
}

impl Mask {
    /// Of what is drawn in rows of `across` pixels, and the top-left corner of its bounding box.
    fn of(rgba: &[u8], across: usize) -> (Self, (usize, usize)) {
        let solid: Vec<bool> = rgba.chunks_exact(4).map(|pixel| pixel[3] > 127).collect();
        let rows = || solid.chunks_exact(across);
        let top = rows().position(|row| row.contains(&true)).unwrap_or(0);
        let bottom = rows().rposition(|row| row.contains(&true)).unwrap_or(0);
        let left = rows().filter_map(|row| row.iter().position(|bit| *bit)).min().unwrap_or(0);
        let right = rows().filter_map(|row| row.iter().rposition(|bit| *bit)).max().unwrap_or(0);
        let bits: Vec<bool> = rows().take(bottom + 1).skip(top).flat_map(|row| &row[left..=right]).copied().collect();
        (Self { width: (right - left + 1) as u32, height: (bottom - top + 1) as u32, bits }, (left, top))
    }
}

/// See the module.
pub(super) struct Sprite {
    width: usize,
    height: usize,
    /// Premultiplied.
    rgba: Vec<u8>,
    /// From the top-left corner of the sprite to that of the fish's bounding box.
    inside: (i64, i64),
    /// From the fish's centre to the top-left corner of its bounding box.
    corner: (i64, i64),
    pub mask: Mask,
}

impl Sprite {
    /// Draws `fish`; `blur` is how far it moves during the exposure, in pixels; `faint`: its median difference from the colour
    /// of the belt that follows, as a share of that one's brightness.
    pub fn new(fish: &Fish, blur: usize, faint: Option<(f64, [f32; 3])>) -> Self {
        let mut pixmap = super::fish::draw(fish);
        let shown = faint.map_or(1.0, |(contrast, belt)| fade(pixmap.data_mut(), contrast as f32, belt));
        let side = pixmap.width() as usize;
        let alpha = |x: usize, y: usize| pixmap.data()[(y * side + x) * 4 + 3];
        let solid = |x: usize, y: usize| alpha(x, y) > 127;
        let rows: Vec<usize> = (0..side).filter(|y| (0..side).any(|x| solid(x, *y))).collect();
        let columns: Vec<usize> = (0..side).filter(|x| (0..side).any(|y| solid(*x, y))).collect();
        let (top, bottom) = (rows.first().copied().unwrap_or(0), rows.last().copied().unwrap_or(0));
        let (left, right) = (columns.first().copied().unwrap_or(0), columns.last().copied().unwrap_or(0));
        let (box_width, box_height) = (right - left + 1, bottom - top + 1);

        let pad = PAD.max(blur);
        let (width, height) = (box_width + 2 * pad, box_height + 2 * pad);
        let mut rgba = vec![0; width * height * 4];
        for y in 0..height.min(side + pad - top) {
            let Some(from_y) = (y + top).checked_sub(pad) else { continue };
            for x in 0..width.min(side + pad - left) {
                let Some(from_x) = (x + left).checked_sub(pad) else { continue };
                let (to, from) = ((y * width + x) * 4, (from_y * side + from_x) * 4);
                rgba[to..to + 4].copy_from_slice(&pixmap.data()[from..from + 4]);
            }
        }
        let mut covered = rgba.clone();
        sweep(&mut covered, width, blur);
        let (mask, (x, y)) = Mask::of(&covered, width);
        put_shadow(&mut rgba, width, height, shown.min(1.0));
        smear(&mut rgba, width, blur);
        let centre = side as i64 / 2;
        let place = |from: usize, inside: usize| (from + inside) as i64 - pad as i64 - centre;
        Self { width, height, rgba, inside: (x as i64, y as i64), corner: (place(left, x), place(top, y)), mask }
    }

    /// The bounding box, clipped to the picture, when the fish's centre lies at (`x`, `y`), and whether all of it is
    /// inside; `None` when nothing is.
    pub fn region(&self, x: i64, y: i64, width: u32, height: u32) -> Option<(Region, bool)> {
        let (left, top) = (x + self.corner.0, y + self.corner.1);
        let (right, bottom) = (left + i64::from(self.mask.width), top + i64::from(self.mask.height));
        let (l, t) = (left.max(0), top.max(0));
        let (r, b) = (right.min(width.into()), bottom.min(height.into()));
        let whole = (l, t, r, b) == (left, top, right, bottom);
        (r > l && b > t)
            .then(|| (Region { x: l as u32, y: t as u32, width: (r - l) as u32, height: (b - t) as u32 }, whole))
    }

    /// Lays the sprite over `picture`, the fish's centre at (`x`, `y`), between two columns where it lies there; what sticks
    /// out is cut.
    pub fn blit(&self, picture: &mut Picture, x: f64, y: i64) {
        let share = ((x - x.floor()) * 256.0).round() as u32; // of the column before
        let (left, top) = (x.floor() as i64 + self.corner.0 - self.inside.0, y + self.corner.1 - self.inside.1);
        let first = (-left).max(0) as usize;
        let last = (i64::from(picture.width) - left).clamp(0, self.width as i64) as usize;
        if first >= last {
            return;
        }
        for row in 0..self.height {
            let to_y = top + row as i64;
            if !(0..i64::from(picture.height)).contains(&to_y) {
                continue;
            }
            let source = &self.rgba[row * self.width * 4..(row + 1) * self.width * 4];
            let at = (to_y as usize * picture.width as usize + (left + first as i64) as usize) * 3;
            let target = &mut picture.rgb[at..at + (last - first) * 3];
            for (below, column) in target.chunks_exact_mut(3).zip(first..) {
                let here = &source[column * 4..][..4];
                let before = column.checked_sub(1).map_or(&[0; 4][..], |column| &source[column * 4..][..4]);
                let above: [u8; 4] = std::array::from_fn(|c| between(here[c], before[c], share));
                match above[3] {
                    0 => {}
                    255 => below.copy_from_slice(&above[..3]),
                    alpha => {
                        let rest = 255 - u32::from(alpha);
                        for c in 0..3 {
                            below[c] = (u32::from(above[c]) + (u32::from(below[c]) * rest + 127) / 255).min(255) as u8;
                        }
                    }
                }
            }
        }
    }
}

/// Takes the fish's colours towards `belt` or away from it until the middle one of their differences from it is `contrast` of its
/// brightness; returns by how much.
fn fade(rgba: &mut [u8], contrast: f32, belt: [f32; 3]) -> f32 {
    let under = |alpha: u8, c: usize| belt[c] * f32::from(alpha) / 255.0;
    let differs = |pixel: &[u8]| (0..3).map(|c| (f32::from(pixel[c]) - belt[c]).abs()).sum::<f32>();
    let mut all: Vec<f32> = rgba.chunks_exact(4).filter(|pixel| pixel[3] == 255).map(differs).collect();
    if all.is_empty() {
        return 1.0;
    }
    let half = all.len() / 2;
    let middle = *all.select_nth_unstable_by(half, f32::total_cmp).1;
    let share = contrast * belt.iter().sum::<f32>() / middle.max(1.0);
    for pixel in rgba.chunks_exact_mut(4) {
        let alpha = pixel[3];
        for (c, value) in pixel[..3].iter_mut().enumerate() {
            let under = under(alpha, c);
            *value = (under + (f32::from(*value) - under) * share).clamp(0.0, alpha.into()).round() as u8;
        }
    }
    share
}

/// A soft shadow, 2 to the right and 4 down, under what is drawn; `share` of a usual one.
fn put_shadow(rgba: &mut [u8], width: usize, height: usize, share: f32) {
    let mut shade: Vec<u16> = vec![0; width * height];
    for y in 4..height {
        for x in 2..width {
            shade[y * width + x] = rgba[((y - 4) * width + x - 2) * 4 + 3].into();
        }
    }
    for _ in 0..2 {
        shade = box_blur(&shade, width, height, true);
        shade = box_blur(&shade, width, height, false);
    }
    let darkest = (90.0 * share) as u32; // of 255
    for (pixel, shade) in rgba.chunks_exact_mut(4).zip(shade) {
        let under = u32::from(shade) * darkest / 255;
        pixel[3] = (u32::from(pixel[3]) + under * (255 - u32::from(pixel[3])) / 255) as u8;
    }
}

/// Mean of five along rows or columns; beyond the edges it is 0.
fn box_blur(from: &[u16], width: usize, height: usize, rows: bool) -> Vec<u16> {
    let (step, lines, length, next) = if rows { (1, height, width, width) } else { (width, width, height, 1) };
    let mut to = vec![0; from.len()];
    for line in 0..lines {
        let start = line * next;
        let mut sum = 0;
        for i in 0..length + 2 {
            if i < length {
                sum += from[start + i * step];
            }
            if i >= 5 {
                sum -= from[start + (i - 5) * step];
            }
            if i >= 2 {
                to[start + (i - 2) * step] = sum / 5;
            }
        }
    }
    to
}

/// Leaves of what moves by `blur` pixels what covers a pixel for a quarter of the exposure; see [`smear`] for the window.
fn sweep(rgba: &mut [u8], width: usize, blur: usize) {
    if blur < 2 {
        return;
    }
    for row in rgba.chunks_exact_mut(width * 4) {
        let before: Vec<bool> = row.chunks_exact(4).map(|pixel| pixel[3] > 127).collect();
        for (x, pixel) in row.chunks_exact_mut(4).enumerate() {
            let from = x.saturating_sub(blur / 2);
            let covers = before[from..(from + blur).min(width)].iter().filter(|covers| **covers).count();
            pixel[3] = if covers * 4 >= blur { 255 } else { 0 };
        }
    }
}

/// Motion blur along the belt: the mean of `blur` neighbours in a row.
fn smear(rgba: &mut [u8], width: usize, blur: usize) {
    if blur < 2 {
        return;
    }
    let mut row_before = vec![0u8; width * 4];
    for row in rgba.chunks_exact_mut(width * 4) {
        row_before.copy_from_slice(row);
        for x in 0..width {
            let from = x.saturating_sub(blur / 2);
            let to = (from + blur).min(width);
            for c in 0..4 {
                let sum: u32 = (from..to).map(|i| u32::from(row_before[i * 4 + c])).sum();
                row[x * 4 + c] = (sum / blur as u32) as u8;
            }
        }
    }
}
