//! One fish drawn once: premultiplied RGBA with its shadow, blurred by its motion, and its exact mask.

use super::{fish::Fish, scene::between};
use crate::domain::{Picture, Region};

/// Room around the fish for shadow and blur, in pixels.
const PAD: usize = 14;

/// Which pixels of an item's bounding box are item, rows top to bottom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// `width * height` of them.
    pub bits: Vec<bool>,
}

/// See the module.
pub(super) struct Sprite {
    width: usize,
    height: usize,
    /// Premultiplied.
    rgba: Vec<u8>,
    /// From the fish's centre to the top-left corner of its bounding box.
    corner: (i64, i64),
    pub mask: Mask,
}

impl Sprite {
    /// Draws `fish`; `blur` is how far it moves during the exposure, in pixels.
    pub fn new(fish: &Fish, blur: usize) -> Self {
        let pixmap = super::fish::draw(fish);
        let side = pixmap.width() as usize;
        let alpha = |x: usize, y: usize| pixmap.data()[(y * side + x) * 4 + 3];
        let solid = |x: usize, y: usize| alpha(x, y) > 127;
        let rows: Vec<usize> = (0..side).filter(|y| (0..side).any(|x| solid(x, *y))).collect();
        let columns: Vec<usize> = (0..side).filter(|x| (0..side).any(|y| solid(*x, y))).collect();
        let (top, bottom) = (rows.first().copied().unwrap_or(0), rows.last().copied().unwrap_or(0));
        let (left, right) = (columns.first().copied().unwrap_or(0), columns.last().copied().unwrap_or(0));
        let (box_width, box_height) = (right - left + 1, bottom - top + 1);
        let bits = (0..box_width * box_height).map(|i| solid(left + i % box_width, top + i / box_width)).collect();
        let mask = Mask { width: box_width as u32, height: box_height as u32, bits };

        let (width, height) = (box_width + 2 * PAD, box_height + 2 * PAD);
        let mut rgba = vec![0; width * height * 4];
        for y in 0..height.min(side + PAD - top) {
            let Some(from_y) = (y + top).checked_sub(PAD) else { continue };
            for x in 0..width.min(side + PAD - left) {
                let Some(from_x) = (x + left).checked_sub(PAD) else { continue };
                let (to, from) = ((y * width + x) * 4, (from_y * side + from_x) * 4);
                rgba[to..to + 4].copy_from_slice(&pixmap.data()[from..from + 4]);
            }
        }
        put_shadow(&mut rgba, width, height);
        smear(&mut rgba, width, blur);
        let centre = side as i64 / 2;
        Self { width, height, rgba, corner: (left as i64 - centre, top as i64 - centre), mask }
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
        let (left, top) = (x.floor() as i64 + self.corner.0 - PAD as i64, y + self.corner.1 - PAD as i64);
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

/// A soft shadow, 2 to the right and 4 down, under what is drawn.
fn put_shadow(rgba: &mut [u8], width: usize, height: usize) {
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
    for (pixel, shade) in rgba.chunks_exact_mut(4).zip(shade) {
        let under = u32::from(shade) * 90 / 255; // at most 90/255 dark
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

/// Motion blur along the belt: the mean of `blur` neighbours in a row.
fn smear(rgba: &mut [u8], width: usize, blur: usize) {
    let blur = blur.min(PAD);
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
