//! Finds the inner corners of a checkerboard. Pure.
//!
//! A corner at which four squares meet is a saddle of the blurred brightness: there the determinant of its second derivatives
//! is most negative, and around it light and dark change four times. Neighbours are found from one corner to the next, so that
//! a bent or turned board needs no model.
//!
//! Source: the saddle condition of Lucchese and Mitra 2002, "Using saddle points for subpixel feature detection in camera
//! calibration targets".

use std::collections::{BTreeMap, VecDeque};

/// A corner has no other within so many pixels: squares are at least twice as wide.
const APART: usize = 5;
/// Light and dark are looked for on a circle of so many pixels around a corner, at so many places.
const RING: (f64, usize) = (5.0, 32);
/// Least difference of light and dark on it, of 1.
const CONTRAST: f32 = 0.08;
/// Least strength of a saddle, as a share of the strongest.
const STRENGTH: f32 = 0.05;
/// Corners that are looked at, the strongest ones.
const MOST: usize = 2000;
/// Seeds from which a grid is grown.
const SEEDS: usize = 24;
/// Least corners along a board's sides.
const LEAST: [i32; 2] = [4, 3];
/// By how much of a square's side a neighbour may lie off where it is expected.
const OFF: f64 = 0.25;

/// Brightness from 0 to 1, row by row.
pub struct Gray {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `width * height` values.
    pub values: Vec<f32>,
}

impl Gray {
    fn at(&self, x: usize, y: usize) -> f32 {
        self.values[y * self.width + x]
    }

    /// Between pixels; the place must lie inside.
    fn between(&self, x: f64, y: f64) -> f32 {
        let (left, top) = (x.floor() as usize, y.floor() as usize);
        let (right, below) = ((left + 1).min(self.width - 1), (top + 1).min(self.height - 1));
        let (a, b) = (x.fract() as f32, y.fract() as f32);
        let row = |y| self.at(left, y) * (1.0 - a) + self.at(right, y) * a;
        row(top) * (1.0 - b) + row(below) * b
    }

    /// Blurred by a Gaussian of 1.5 pixels.
    fn blurred(&self) -> Self {
        const KERNEL: [f32; 6] = [0.266_2, 0.213_2, 0.109_5, 0.036_0, 0.007_6, 0.000_6];
        let along = |from: &[f32], length: usize, place: &dyn Fn(isize) -> usize, at: usize| {
            let tap = |n: usize| {
                let [before, after] = [at as isize - n as isize, (at + n) as isize];
                let inside = |at: isize| from[place(at.clamp(0, length as isize - 1))];
                if n == 0 { KERNEL[0] * inside(before) } else { KERNEL[n] * (inside(before) + inside(after)) }
            };
            (0..KERNEL.len()).map(tap).sum::<f32>()
        };
        let (width, height) = (self.width, self.height);
        let mut rows = vec![0.0; width * height];
        for (y, row) in rows.chunks_mut(width).enumerate() {
            let place = |x: isize| y * width + x as usize;
            row.iter_mut().enumerate().for_each(|(x, value)| *value = along(&self.values, width, &place, x));
        }
        let mut values = vec![0.0; width * height];
        for (y, row) in values.chunks_mut(width).enumerate() {
            for (x, value) in row.iter_mut().enumerate() {
                *value = along(&rows, height, &|y: isize| y as usize * width + x, y);
            }
        }
        Self { width, height, values }
    }

    /// The first and second derivatives at a pixel that is not on the edge: x, y, xx, yy, xy.
    fn derivatives(&self, x: usize, y: usize) -> [f32; 5] {
        let at = |dx: isize, dy: isize| self.at(x.wrapping_add_signed(dx), y.wrapping_add_signed(dy));
        let twice = 2.0 * at(0, 0);
        [
            (at(1, 0) - at(-1, 0)) / 2.0,
            (at(0, 1) - at(0, -1)) / 2.0,
            at(1, 0) + at(-1, 0) - twice,
            at(0, 1) + at(0, -1) - twice,
            (at(1, 1) + at(-1, -1) - at(1, -1) - at(-1, 1)) / 4.0,
        ]
    }
}

/// A place in the picture, in pixels from the middle of its first one.
pub type Place = (f64, f64);

/// The inner corners of a board: column and row of each, from wherever, and its place in the picture.
#[derive(Debug)]
pub struct Board {
    /// At least four columns and three rows.
    pub corners: BTreeMap<(i32, i32), Place>,
    /// Columns and rows, the larger number first.
    pub size: (i32, i32),
}

/// The largest board in the picture.
///
/// # Errors
/// What is seen instead, in words.
pub fn find(picture: &Gray) -> Result<Board, String> {
    let corners = corners(&picture.blurred());
    let none = |seen: String| {
        format!(
            "no checkerboard is seen: {seen}. It needs {} by {} inner corners or more, squares of 12 pixels or more, \
                 and even light",
            LEAST[0], LEAST[1]
        )
    };
    if corners.len() < (LEAST[0] * LEAST[1]) as usize {
        return Err(none(format!("{} corners", corners.len())));
    }
    let count = corners.len() as f64;
    let middle = corners.iter().fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x / count, sum.1 + y / count));
    let mut seeds: Vec<usize> = (0..corners.len()).collect();
    seeds.sort_by(|a, b| distance(corners[*a], middle).total_cmp(&distance(corners[*b], middle)));
    let grids = seeds.iter().take(SEEDS).map(|seed| grow(&corners, *seed));
    let grid = grids.max_by_key(BTreeMap::len).unwrap_or_default();
    let span = |of: &dyn Fn(&(i32, i32)) -> i32| {
        let (least, most) = (grid.keys().map(of).min(), grid.keys().map(of).max());
        least.zip(most).map_or(0, |(least, most)| most - least + 1)
    };
    let (columns, rows) = (span(&|key| key.0), span(&|key| key.1));
    let size = (columns.max(rows), columns.min(rows));
    let whole = grid.len() as i32 * 10 >= columns * rows * 8;
    if size.0 < LEAST[0] || size.1 < LEAST[1] || !whole {
        return Err(none(format!(
            "{} corners, of which {} lie in a grid of {columns} by {rows}",
            corners.len(),
            grid.len()
        )));
    }
    Ok(Board { corners: grid, size })
}

fn distance(a: Place, b: Place) -> f64 {
    (a.0 - b.0).hypot(a.1 - b.1)
}

/// Every place at which four squares may meet.
fn corners(blurred: &Gray) -> Vec<Place> {
    let (width, height, edge) = (blurred.width, blurred.height, RING.0 as usize + 2);
    if width <= 2 * edge || height <= 2 * edge {
        return Vec::new();
    }
    let mut strengths = vec![0.0_f32; width * height];
    for y in edge..height - edge {
        for x in edge..width - edge {
            let [_, _, xx, yy, xy] = blurred.derivatives(x, y);
            strengths[y * width + x] = xy * xy - xx * yy;
        }
    }
    let least = STRENGTH * strengths.iter().copied().fold(0.0, f32::max);
    let mut found: Vec<(f32, usize, usize)> = Vec::new();
    for y in edge..height - edge {
        for x in edge..width - edge {
            let strength = strengths[y * width + x];
            if strength <= least {
                continue;
            }
            let strongest = (y.saturating_sub(APART)..(y + APART + 1).min(height)).all(|v| {
                let row = &strengths[v * width + x - APART.min(x)..v * width + (x + APART + 1).min(width)];
                row.iter().all(|other| *other <= strength)
            });
            if strongest {
                found.push((strength, x, y));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(MOST);
    found.into_iter().filter_map(|(_, x, y)| saddle(blurred, x, y)).filter(|at| alternates(blurred, *at)).collect()
}

/// The saddle next to a pixel: where the slope ends.
fn saddle(blurred: &Gray, mut x: usize, mut y: usize) -> Option<Place> {
    for _ in 0..4 {
        let [gx, gy, xx, yy, xy] = blurred.derivatives(x, y).map(f64::from);
        let determinant = xx * yy - xy * xy;
        if determinant >= 0.0 {
            return None;
        }
        let (dx, dy) = ((xy * gy - yy * gx) / determinant, (xy * gx - xx * gy) / determinant);
        if dx.abs() <= 1.0 && dy.abs() <= 1.0 {
            return Some((x as f64 + dx, y as f64 + dy));
        }
        if dx.abs() > 3.0 || dy.abs() > 3.0 {
            return None;
        }
        let edge = RING.0 as usize + 2;
        x = x.checked_add_signed(dx.round() as isize).filter(|x| (edge..blurred.width - edge).contains(x))?;
        y = y.checked_add_signed(dy.round() as isize).filter(|y| (edge..blurred.height - edge).contains(y))?;
    }
    None
}

/// Whether light and dark change four times around it, each for about a quarter.
fn alternates(blurred: &Gray, (x, y): Place) -> bool {
    let (radius, count) = RING;
    let angle = |n: usize| std::f64::consts::TAU * n as f64 / count as f64;
    let ring: Vec<f32> =
        (0..count).map(|n| blurred.between(x + radius * angle(n).cos(), y + radius * angle(n).sin())).collect();
    let (least, most) = (ring.iter().copied().fold(1.0, f32::min), ring.iter().copied().fold(0.0, f32::max));
    let light = |n: usize| ring[n % count] > (least + most) / 2.0;
    let changes: Vec<usize> = (0..count).filter(|n| light(*n) != light(n + 1)).collect();
    let quarters = (0..changes.len()).all(|n| {
        let next = changes.get(n + 1).copied().unwrap_or(changes[0] + count);
        (count / 8..=count * 3 / 8).contains(&(next - changes[n]))
    });
    most - least > CONTRAST && changes.len() == 4 && quarters
}

/// A corner of the grid: which one, and the ways to its neighbours.
type Grown = ((i32, i32), usize, Place, Place);

/// The grid that reaches from one corner to the next, beginning with `seed`.
fn grow(corners: &[Place], seed: usize) -> BTreeMap<(i32, i32), Place> {
    let from = corners[seed];
    let way = |other: usize| (corners[other].0 - from.0, corners[other].1 - from.1);
    let mut near: Vec<usize> = (0..corners.len()).filter(|other| *other != seed).collect();
    near.sort_by(|a, b| distance(corners[*a], from).total_cmp(&distance(corners[*b], from)));
    near.truncate(8);
    let Some(across) = near.first().map(|other| way(*other)) else { return BTreeMap::new() };
    let length = across.0.hypot(across.1);
    let upright = |(x, y): Place| {
        let (other, dot) = (x.hypot(y), x * across.0 + y * across.1);
        dot.abs() < 0.35 * other * length && other < 1.6 * length
    };
    let Some(down) = near.iter().map(|other| way(*other)).find(|way| upright(*way)) else { return BTreeMap::new() };
    // Never mirrored: rows lie a quarter turn clockwise of columns, as in the picture.
    let down = if across.0 * down.1 - across.1 * down.0 > 0.0 { down } else { (-down.0, -down.1) };
    let mut grid = BTreeMap::from([((0, 0), from)]);
    let (mut taken, mut open) = (vec![false; corners.len()], VecDeque::<Grown>::from([((0, 0), seed, across, down)]));
    taken[seed] = true;
    while let Some(((column, row), at, across, down)) = open.pop_front() {
        for (key, sign, sideways) in [
            ((column + 1, row), 1.0, true),
            ((column - 1, row), -1.0, true),
            ((column, row + 1), 1.0, false),
            ((column, row - 1), -1.0, false),
        ] {
            let step = if sideways { across } else { down };
            let wanted = (corners[at].0 + sign * step.0, corners[at].1 + sign * step.1);
            let nearest = (0..corners.len())
                .filter(|other| !taken[*other])
                .min_by(|a, b| distance(corners[*a], wanted).total_cmp(&distance(corners[*b], wanted)));
            let Some(next) = nearest.filter(|next| distance(corners[*next], wanted) < OFF * step.0.hypot(step.1))
            else {
                continue;
            };
            if grid.contains_key(&key) {
                continue;
            }
            let went = (sign * (corners[next].0 - corners[at].0), sign * (corners[next].1 - corners[at].1));
            taken[next] = true;
            grid.insert(key, corners[next]);
            open.push_back(if sideways { (key, next, went, down) } else { (key, next, across, went) });
        }
    }
    grid
}
