//! The validation share, plain and corrupted: what every student of a comparison is measured on.
//!
//! Invariant: a corruption depends on its kind, strength and picture only, so all students see the same pixels.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use beltsight::{
    picture::corrupt::{CORRUPTIONS, Corruption, corrupt},
    student::scorecard::{Scorecard, argmax},
};
use rayon::prelude::*;
use tch::{Tensor, no_grad};

use crate::{
    network::model::{Model, rows},
    pictures::{data::Dataset, views::through_trunk},
    random::generator,
    training::{TrainError, comparison::ValidationScore, evaluate, interrupt},
};

/// Held-out pictures with their truth, and seven corruptions of them at five strengths.
pub struct RobustnessBenchmark {
    classes: Vec<String>,
    truth: Vec<usize>,
    accept: Vec<String>,
    cut: usize,
    corrupted: Vec<CorruptedShare>,
}

/// The whole validation share under one corruption.
struct CorruptedShare {
    corruption: &'static str,
    strength: usize,
    inputs: StudentInputs,
}

/// What the trained part of a student takes.
enum StudentInputs {
    Pictures(Vec<Vec<u8>>),
    Activations(Tensor),
}

impl RobustnessBenchmark {
    /// Corrupts the pictures `validation` of `data`, and sends them through the blocks of `start` before `cut`. Without
    /// classes to `accept` nothing is measured against the rest. `out` is where a stopped command can go on.
    ///
    /// # Errors
    /// ONNX Runtime's; [`TrainError::Stopped`].
    pub fn new(
        data: &Dataset,
        validation: &[usize],
        (start, cut): (&Model, usize),
        accept: &[String],
        out: &Path,
    ) -> anyhow::Result<Self> {
        let mut corrupted = Vec::new();
        for corruption in CORRUPTIONS {
            for strength in 1..=5 {
                let pictures = corrupt_all(data, validation, start.net.input, corruption, strength)?;
                let inputs = if cut == 0 {
                    StudentInputs::Pictures(pictures)
                } else {
                    match through_trunk(start, cut, &pictures, |_| !interrupt::requested())? {
                        Some(activations) => StudentInputs::Activations(activations),
                        None => return Err(TrainError::Stopped(out.into()).into()),
                    }
                };
                corrupted.push(CorruptedShare { corruption: corruption.name(), strength, inputs });
            }
        }
        let truth = validation.iter().map(|&i| data.labels[i]).collect();
        let accept = if accept.is_empty() { data.accept.clone() } else { accept.to_vec() };
        Ok(Self { classes: data.classes.clone(), truth, accept, cut, corrupted })
    }

    /// Measures `student`, whose `logits` are those of the plain validation share.
    ///
    /// # Errors
    /// ONNX Runtime's.
    pub fn score(&self, student: &Model, logits: &[Vec<f32>]) -> anyhow::Result<ValidationScore> {
        let accept = &self.accept;
        let card = Scorecard::measure(&evaluate::softmax(logits, 1.0), &self.truth, &self.classes, accept);
        let mut corrupted: BTreeMap<String, [f64; 5]> = BTreeMap::new();
        for share in &self.corrupted {
            let logits = match &share.inputs {
                StudentInputs::Activations(x) => no_grad(|| student.forward(x, self.cut, None).1),
                StudentInputs::Pictures(pictures) => {
                    let blocks = student.net.blocks.len();
                    let embedding =
                        through_trunk(student, blocks, pictures, |_| true)?.context("it was not stopped")?;
                    no_grad(|| student.head(&embedding, None))
                }
            };
            let wrong = rows(&logits).iter().zip(&self.truth).filter(|(row, truth)| argmax(row) != **truth).count();
            let errors = corrupted.entry(share.corruption.to_string()).or_default();
            errors[share.strength - 1] = wrong as f64 / self.truth.len() as f64;
        }
        Ok(ValidationScore { accuracy: card.accuracy, auc: (!accept.is_empty()).then_some(card.auc), corrupted })
    }
}

fn corrupt_all(
    data: &Dataset,
    validation: &[usize],
    side: usize,
    corruption: Corruption,
    strength: usize,
) -> anyhow::Result<Vec<Vec<u8>>> {
    let corrupted = validation.par_iter().map(|&i| {
        let mut rng = generator(corruption as u64, 0, i as u64);
        Ok(corrupt(&data.pictures.get(i)?, side, corruption, strength, &mut rng)?)
    });
    corrupted.collect()
}
