//! `beltsight bench precision`: what int8 costs in agreement and saves in time, on real pictures.
//!
//! Invariant: the two files take turns picture by picture, so that a busy machine slows both alike.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, ensure};

use crate::{
    engine::{Device, Engine, Outputs, softmax, stack},
    model::Manifest,
};

/// Batch sizes measured.
pub const BATCHES: [usize; 2] = [1, 8];
/// Threads inside an operator, for both files.
const THREADS: usize = 2;
/// Turns at each batch size; the median of them is reported.
const TURNS: usize = 60;

/// What int8 costs and saves against float32.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Precision {
    /// Pictures compared.
    pub pictures: usize,
    /// Share of pictures with the same most probable class.
    pub agreement: f64,
    /// Largest difference of a class's probability.
    pub max_probability_difference: f64,
    /// Mean cosine similarity of the embeddings.
    pub embedding_cosine: f64,
    /// By batch size, in the order of [`BATCHES`].
    pub speed: Vec<Speed>,
}

/// Times at one batch size.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Speed {
    /// Batch size.
    pub batch: usize,
    /// Median milliseconds a picture, float32.
    pub float32_ms: f64,
    /// Median milliseconds a picture, int8.
    pub int8_ms: f64,
    /// How many times faster int8 is: the median of the turns' ratios.
    pub ratio: f64,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "pictures                        {}", self.pictures)?;
        writeln!(f, "same most probable class        {:.2} %", self.agreement * 100.0)?;
        writeln!(f, "largest probability difference  {:.4}", self.max_probability_difference)?;
        writeln!(f, "mean cosine of embeddings       {:.4}", self.embedding_cosine)?;
        for Speed { batch, float32_ms, int8_ms, ratio } in &self.speed {
            writeln!(
                f,
                "batch {batch}, {THREADS} threads: float32 {float32_ms:.2} ms, int8 {int8_ms:.2} ms a picture, {ratio:.2} times faster"
            )?;
        }
        Ok(())
    }
}

/// Opens the float32 and the int8 file of the model in `folder` on the CPU and compares them on `pictures` of
/// `side * side * 3` bytes.
///
/// # Errors
/// When the folder lacks a file, a hash is wrong, a picture has another size, or there is no picture.
pub fn precision(folder: &Path, pictures: &[Vec<u8>]) -> anyhow::Result<Precision> {
    let manifest = Manifest::read(folder)?;
    let float32 = manifest.onnx(folder, "float32").context("float32")?;
    let int8 = manifest.onnx(folder, "int8").context("int8")?;
    compare(&float32, &int8, pictures)
}

/// Compares two ONNX files of one network; see [`precision`].
///
/// # Errors
/// When a file can't be opened or run, or there is no picture.
pub fn compare(float32: &[u8], int8: &[u8], pictures: &[Vec<u8>]) -> anyhow::Result<Precision> {
    ensure!(!pictures.is_empty(), "there are no pictures to compare on");
    let mut engines = [float32, int8].map(|bytes| Engine::open(bytes, Device::Cpu, THREADS));
    let [Ok(float32), Ok(int8)] = &mut engines else {
        let refusal = engines.into_iter().find_map(Result::err).map(|e| e.to_string()).unwrap_or_default();
        anyhow::bail!("{refusal}");
    };
    let (a, b) = (float32.run_all(pictures, 8)?, int8.run_all(pictures, 8)?);
    let mut result = agreement(&a, &b);
    for batch in BATCHES {
        result.speed.push(speed(float32, int8, pictures, batch)?);
    }
    Ok(result)
}

fn agreement(a: &Outputs, b: &Outputs) -> Precision {
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
    Precision {
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

fn speed(float32: &mut Engine, int8: &mut Engine, pictures: &[Vec<u8>], batch: usize) -> anyhow::Result<Speed> {
    let side = float32.side();
    let mut timed = |engine: &mut Engine, turn: usize| -> anyhow::Result<f64> {
        let chosen: Vec<_> = (0..batch).map(|i| pictures[(turn * batch + i) % pictures.len()].clone()).collect();
        let stacked = stack(&chosen, side)?;
        let start = Instant::now();
        engine.run(stacked.view())?;
        Ok(start.elapsed().as_secs_f64() * 1e3 / batch as f64)
    };
    let (mut of_float32, mut of_int8, mut ratios) = (vec![], vec![], vec![]);
    for turn in 0..TURNS + 3 {
        let (a, b) = (timed(float32, turn)?, timed(int8, turn)?);
        if turn >= 3 {
            // The first turns warm caches and memory pools.
            of_float32.push(a);
            of_int8.push(b);
            ratios.push(a / b);
        }
    }
    Ok(Speed { batch, float32_ms: median(of_float32), int8_ms: median(of_int8), ratio: median(ratios) })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
