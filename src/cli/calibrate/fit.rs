//! What a pixel is, and what the lens bends, from corners whose places on the board are known. Pure.
//!
//! For a given bend the rest, a turned and shifted board, is the solution of a linear problem; only the bend is searched for,
//! by Gauss and Newton's method.

use super::board::{Board, Place};

/// How often a better bend is looked for.
const STEPS: usize = 30;
/// A coefficient counts if it is so many times as large as its uncertainty.
const SURE: f64 = 5.0;
/// The bend can be told where the board reaches so far from the picture's middle, whose corner is at 1.
const REACH: f64 = 0.5;

/// What came of a board.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    /// Millimetres that a pixel is in the picture's middle, and its standard error.
    pub scale: (f64, f64),
    /// The lens's coefficients and their standard errors, where they can be told.
    pub lens: Option<[(f64, f64); 2]>,
    /// By how many degrees the board's edges are turned clockwise from the picture's, -45 to 45.
    pub turned: f64,
    /// By how many pixels the corners lie off the board, root mean square.
    pub off: f64,
    /// Whether the board reaches far enough to tell what the lens bends.
    pub reaches: bool,
}

/// A board of a known bend: the corners' residuals in mm, what a pixel is, and how the board is turned, in degrees.
struct Flat {
    residuals: Vec<f64>,
    scale: f64,
    /// Relative standard error of `scale` per mm of residual.
    doubt: f64,
    turned: f64,
}

/// Corners and where they are on the board, in mm, with the middle of each at 0.
struct Corners {
    seen: Vec<Place>,
    true_mm: Vec<Place>,
}

impl Corners {
    /// `straight` is where a place would be without the bend, from the picture's middle.
    fn flat(&self, bend: &[f64], straight: &dyn Fn(&[f64], Place) -> Place) -> Flat {
        let places: Vec<Place> = self.seen.iter().map(|place| straight(bend, *place)).collect();
        let middle = mean(&places);
        // As complex numbers: place - middle = turn * mm.
        let (mut re, mut im, mut square) = (0.0, 0.0, 0.0);
        for ((x, y), (u, v)) in places.iter().zip(&self.true_mm) {
            let (x, y) = (x - middle.0, y - middle.1);
            (re, im, square) = (re + u * x + v * y, im + u * y - v * x, square + u * u + v * v);
        }
        let (re, im) = (re / square, im / square);
        let scale = 1.0 / re.hypot(im);
        let off = |((x, y), (u, v)): (&Place, &Place)| {
            [(x - middle.0 - (re * u - im * v)) * scale, (y - middle.1 - (re * v + im * u)) * scale]
        };
        let residuals = places.iter().zip(&self.true_mm).flat_map(off).collect();
        Flat { residuals, scale, doubt: 1.0 / square.sqrt(), turned: im.atan2(re).to_degrees() }
    }
}

fn mean(places: &[Place]) -> Place {
    let count = places.len() as f64;
    places.iter().fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x / count, sum.1 + y / count))
}

/// What a pixel is, from a board with squares of `square` mm in a picture of this size. `straight` is where a pixel would be
/// without the bend of these two coefficients, in pixels from the picture's middle.
pub fn fit(board: &Board, square: f64, size: (f64, f64), straight: &dyn Fn([f64; 2], Place) -> Place) -> Fit {
    let seen: Vec<Place> = board.corners.values().copied().collect();
    let lies: Vec<Place> =
        board.corners.keys().map(|(column, row)| (f64::from(*column) * square, f64::from(*row) * square)).collect();
    let middle = mean(&lies);
    let corners = Corners { seen, true_mm: lies.iter().map(|(u, v)| (u - middle.0, v - middle.1)).collect() };
    let straight = |bend: &[f64], place: Place| {
        straight([bend.first().copied().unwrap_or(0.0), bend.get(1).copied().unwrap_or(0.0)], place)
    };
    let from_middle = |(x, y): &Place| (x - size.0 / 2.0).hypot(y - size.1 / 2.0) / (size.0 / 2.0).hypot(size.1 / 2.0);
    let reaches = corners.seen.iter().map(from_middle).fold(0.0, f64::max) >= REACH;
    let mut best = Bent { bend: Vec::new(), errors: Vec::new() };
    for coefficients in 1..=if reaches { 2 } else { 0 } {
        let bent = search(&corners, coefficients, &straight);
        let sure = bent.bend.iter().zip(&bent.errors).next_back().is_some_and(|(k, error)| k.abs() > SURE * error);
        if sure {
            best = bent;
        }
    }
    let flat = corners.flat(&best.bend, &straight);
    let rms = (sum_of_squares(&flat.residuals) / flat.residuals.len() as f64).sqrt();
    let freedom = (flat.residuals.len() - 4 - best.bend.len()) as f64;
    let mm = (sum_of_squares(&flat.residuals) / freedom).sqrt();
    let mut doubt = (flat.scale * flat.doubt * mm).powi(2);
    for (n, error) in best.errors.iter().enumerate() {
        let mut other = best.bend.clone();
        other[n] += error;
        doubt += (corners.flat(&other, &straight).scale - flat.scale).powi(2);
    }
    let coefficient = |n: usize| best.bend.get(n).copied().zip(best.errors.get(n).copied()).unwrap_or_default();
    Fit {
        scale: (flat.scale, doubt.sqrt()),
        lens: (!best.bend.is_empty()).then(|| [coefficient(0), coefficient(1)]),
        turned: (flat.turned + 45.0).rem_euclid(90.0) - 45.0,
        off: rms / flat.scale * std::f64::consts::SQRT_2,
        reaches,
    }
}

/// A bend and its standard errors.
struct Bent {
    bend: Vec<f64>,
    errors: Vec<f64>,
}

fn sum_of_squares(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum()
}

/// The bend of one or two coefficients that leaves the least residuals.
fn search(corners: &Corners, coefficients: usize, straight: &dyn Fn(&[f64], Place) -> Place) -> Bent {
    const STEP: f64 = 1e-4;
    let mut bend = vec![0.0; coefficients];
    let mut errors = vec![f64::INFINITY; coefficients];
    let (mut damping, mut least) = (1e-3, sum_of_squares(&corners.flat(&bend, straight).residuals));
    for _ in 0..STEPS {
        let here = corners.flat(&bend, straight).residuals;
        let slopes: Vec<Vec<f64>> = (0..coefficients)
            .map(|n| {
                let mut other = bend.clone();
                other[n] += STEP;
                let there = corners.flat(&other, straight).residuals;
                there.iter().zip(&here).map(|(a, b)| (a - b) / STEP).collect()
            })
            .collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let normal =
            |n: usize, m: usize, more: f64| dot(&slopes[n], &slopes[m]) * if n == m { 1.0 + more } else { 1.0 };
        let towards: Vec<f64> = slopes.iter().map(|slope| -dot(slope, &here)).collect();
        // One or two equations.
        let solved = |more: f64, towards: &[f64]| match coefficients {
            1 => vec![towards[0] / normal(0, 0, more)],
            _ => {
                let [a, b, d] = [normal(0, 0, more), normal(0, 1, more), normal(1, 1, more)];
                let determinant = a * d - b * b;
                vec![(d * towards[0] - b * towards[1]) / determinant, (a * towards[1] - b * towards[0]) / determinant]
            }
        };
        let variance = least / (here.len() - 4 - coefficients) as f64;
        for (n, error) in errors.iter_mut().enumerate() {
            let unit: Vec<f64> = (0..coefficients).map(|m| f64::from(u8::from(n == m))).collect();
            *error = (variance * solved(0.0, &unit)[n]).sqrt();
        }
        let next: Vec<f64> = bend.iter().zip(solved(damping, &towards)).map(|(k, by)| k + by).collect();
        let left = sum_of_squares(&corners.flat(&next, straight).residuals);
        if left < least {
            (bend, damping) = (next, damping / 10.0);
            let better = least - left;
            least = left;
            if better < 1e-12 * least {
                break;
            }
        } else {
            damping *= 10.0;
        }
    }
    Bent { bend, errors }
}
