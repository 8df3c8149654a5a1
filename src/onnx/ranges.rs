//! Ranges of activations over calibration pictures.

use super::OnnxError;
use crate::engine;

/// Bins of a histogram.
const BINS: usize = 2048;

/// The interval that 0–255 will be spread over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// Lowest value kept.
    pub low: f32,
    /// Highest value kept.
    pub high: f32,
}

/// Runs the float graph twice over the pictures, first for the extremes, then for the distribution between them, and
/// returns for each of `names` the range with the least squared error after rounding to 256 levels.
pub fn observe(onnx: &[u8], pictures: &[Vec<u8>], side: usize, names: &[String]) -> Result<Vec<Range>, OnnxError> {
    let mut extremes = vec![Range::default(); names.len()];
    engine::observe(onnx, pictures, side, names, |index, values| {
        let Range { low, high } = &mut extremes[index];
        for v in values {
            (*low, *high) = (low.min(*v), high.max(*v));
        }
    })?;
    if std::env::var("RANGES").as_deref() == Ok("minmax") {
        return Ok(extremes);
    }
    let mut histograms = vec![vec![0_u64; BINS]; names.len()];
    engine::observe(onnx, pictures, side, names, |index, values| {
        let Range { low, high } = extremes[index];
        let per_value = BINS as f32 / (high - low).max(f32::MIN_POSITIVE);
        for v in values {
            histograms[index][(((v - low) * per_value) as usize).min(BINS - 1)] += 1;
        }
    })?;
    Ok(extremes.iter().zip(&histograms).map(|(extreme, histogram)| least_error(*extreme, histogram)).collect())
}

/// Shrinks each end in steps of 1 % of the full range while the error falls. Values beyond the range are cut to its
/// end; values inside are off by a rounding error of step² / 12 in the mean (arXiv:2106.08295 §3.1, "MSE").
fn least_error(full: Range, histogram: &[u64]) -> Range {
    let width = f64::from(full.high - full.low) / BINS as f64;
    let centre = |bin: usize| f64::from(full.low) + (bin as f64 + 0.5) * width;
    let error = |low: f64, high: f64| -> f64 {
        let rounding = ((high - low) / 255.0).powi(2) / 12.0;
        let each = |bin: usize| {
            let v = centre(bin);
            let beyond = (v - high).max(low - v).max(0.0);
            if beyond > 0.0 { beyond * beyond } else { rounding }
        };
        histogram.iter().enumerate().filter(|(_, n)| **n > 0).map(|(bin, n)| *n as f64 * each(bin)).sum()
    };
    let (mut low, mut high) = (f64::from(full.low), f64::from(full.high));
    let step = (high - low) / 100.0;
    let mut least = error(low, high);
    loop {
        let shorter = [(low, high - step), ((low + step).min(0.0), high)];
        let best = shorter
            .into_iter()
            .filter(|(l, h)| h - l > step)
            .map(|(l, h)| (error(l, h), l, h))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((e, l, h)) if e < least => (least, low, high) = (e, l, h),
            _ => return Range { low: low as f32, high: high as f32 },
        }
    }
}
