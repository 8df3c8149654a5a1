//! `beltsight bench precision`: what int8 costs in agreement and saves in time on real pictures, and what a GPU does.
//!
//! Invariant: the two sides take turns picture by picture, so that a busy machine slows both alike.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, ensure};

use crate::student::{
    engine::{Device, Engine, Outputs, softmax, stack},
    manifest::Manifest,
};

/// Batch sizes measured.
pub const BATCHES: [usize; 2] = [1, 8];
/// Threads inside an operator on the CPU.
const THREADS: usize = 2;
/// Turns at each batch size; the median of them is reported.
const TURNS: usize = 60;

/// What one side costs and saves against the other.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PrecisionReport {
    /// What is compared with what, as in "float32 on cpu".
    pub sides: [String; 2],
    /// Pictures compared.
    pub pictures: usize,
    /// Share of pictures with the same most probable class.
    pub agreement: f64,
    /// Largest difference of a class's probability.
    pub max_probability_difference: f64,
    /// Mean cosine similarity of the embeddings.
    pub embedding_cosine: f64,
    /// By batch size, in the order of [`BATCHES`].
    pub speed: Vec<BatchSpeed>,
}

/// Times at one batch size.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BatchSpeed {
    /// Batch size.
    pub batch: usize,
    /// Median milliseconds per picture, by side.
    pub ms: [f64; 2],
    /// How many times faster the second side is: the median of the turns' ratios.
    pub ratio: f64,
}

impl std::fmt::Display for PrecisionReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b] = &self.sides;
        writeln!(f, "{b} against {a}, {} pictures", self.pictures)?;
        writeln!(f, "  same most probable class        {:.2} %", self.agreement * 100.0)?;
        writeln!(f, "  largest probability difference  {:.2e}", self.max_probability_difference)?;
        writeln!(f, "  mean cosine of embeddings       {:.4}", self.embedding_cosine)?;
        for BatchSpeed { batch, ms: [first, second], ratio } in &self.speed {
            writeln!(
                f,
                "  batch {batch}, {THREADS} threads: {a} {first:.3} ms, {b} {second:.3} ms a picture, {ratio:.2} times faster"
            )?;
        }
        Ok(())
    }
}

/// Compares the files of the model in `folder` on `pictures` of `side * side * 3` bytes: on the CPU int8 with float32; on
/// another device its float32 with the CPU's, and then its int8 with its float32.
///
/// # Errors
/// When the folder lacks a file, a hash is wrong, the device can't run, a picture has another size, or there is none.
pub fn precision(folder: &Path, pictures: &[Vec<u8>], device: Device) -> anyhow::Result<Vec<PrecisionReport>> {
    let manifest = Manifest::read(folder)?;
    let float32 = manifest.onnx(folder, "float32").context("float32")?;
    let int8 = manifest.onnx(folder, "int8").context("int8")?;
    let side = |precision: &str, onnx: &[u8], device: Device| -> anyhow::Result<(String, Engine)> {
        Ok((format!("{precision} on {device}"), Engine::open(onnx, device, THREADS)?))
    };
    let mut pairs = Vec::new();
    if device != Device::Cpu {
        pairs.push([side("float32", &float32, Device::Cpu)?, side("float32", &float32, device)?]);
    }
    pairs.push([side("float32", &float32, device)?, side("int8", &int8, device)?]);
    pairs.into_iter().map(|pair| compare(pair, pictures)).collect()
}

/// Compares two named engines of one network.
///
/// # Errors
/// When one fails, or there is no picture.
fn compare(
    [(a, mut first), (b, mut second)]: [(String, Engine); 2],
    pictures: &[Vec<u8>],
) -> anyhow::Result<PrecisionReport> {
    ensure!(!pictures.is_empty(), "there are no pictures to compare on");
    let mut result =
        PrecisionReport { sides: [a, b], ..agreement(&first.run_all(pictures, 8)?, &second.run_all(pictures, 8)?) };
    for batch in BATCHES {
        result.speed.push(speed(&mut first, &mut second, pictures, batch)?);
    }
    Ok(result)
}

fn agreement(a: &Outputs, b: &Outputs) -> PrecisionReport {
    let pictures = a.logits.nrows();
    let (mut same, mut difference, mut cosines) = (0, 0.0_f64, 0.0);
    for row in 0..pictures {
        let of = |o: &Outputs| softmax(&o.logits.row(row).to_vec(), 1.0);
        let (p, q) = (of(a), of(b));
        same += usize::from(top(&p) == top(&q));
        difference = p.iter().zip(&q).map(|(p, q)| f64::from((p - q).abs())).fold(difference, f64::max);
        let (e, g) = (a.embedding.row(row), b.embedding.row(row));
        cosines += f64::from(e.dot(&g)) / (f64::from(e.dot(&e)) * f64::from(g.dot(&g))).sqrt();
    }
    let pictures_f = pictures as f64;
    PrecisionReport {
        sides: Default::default(),
        pictures,
        agreement: same as f64 / pictures_f,
        max_probability_difference: difference,
        embedding_cosine: cosines / pictures_f,
        speed: vec![],
    }
}

fn top(row: &[f32]) -> Option<usize> {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]))
}

fn speed(first: &mut Engine, second: &mut Engine, pictures: &[Vec<u8>], batch: usize) -> anyhow::Result<BatchSpeed> {
    let side = first.side();
    let timed = |engine: &mut Engine, turn: usize| -> anyhow::Result<f64> {
        let chosen: Vec<_> = (0..batch).map(|i| pictures[(turn * batch + i) % pictures.len()].clone()).collect();
        let stacked = stack(&chosen, side)?;
        let start = Instant::now();
        engine.run(stacked.view())?;
        Ok(start.elapsed().as_secs_f64() * 1e3 / batch as f64)
    };
    let (mut of_first, mut of_second, mut ratios) = (vec![], vec![], vec![]);
    for turn in 0..TURNS + 3 {
        let (a, b) = (timed(first, turn)?, timed(second, turn)?);
        if turn >= 3 {
            // The first turns warm caches and memory pools.
            of_first.push(a);
            of_second.push(b);
            ratios.push(a / b);
        }
    }
    Ok(BatchSpeed { batch, ms: [median(of_first), median(of_second)], ratio: median(ratios) })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
