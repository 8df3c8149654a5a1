//! Two students sit one exam: the same held-out pictures, plain and damaged, through the engine that serves.
//!
//! Invariant: both see the same bytes, and their times are taken in turn, so that a busy neighbour slows both.

use std::{path::Path, time::Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{
    domain::{Action, Card, Scores, ms},
    files::heartbeat,
    picture::{
        corrupt::{CORRUPTIONS, corrupt},
        dataset::{DataError, Dataset},
        pixels::PixelError,
    },
    rounds::{
        audit::UNSETTLED,
        gate::{ExamAnswers, HeldOutTruth},
    },
    student::{
        decide::{Look, decide},
        engine::{Device, Engine, EngineError, softmax},
        manifest::{Manifest, ModelError},
    },
};

/// Strength of the damage, of 1 to 5: visible, but a person still tells the item.
const STRENGTH: usize = 3;
/// Held-out pictures that are damaged, each in every way; spread over the set.
const DAMAGED: usize = 100;
/// Pictures whose inference is timed.
const TIMED: usize = 100;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ExamError {
    /// A model is refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The held-out pictures can't be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A picture can't be damaged.
    #[error(transparent)]
    Pixels(#[from] PixelError),
    /// ONNX Runtime failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

struct Examinee {
    engine: Engine,
    exam: ExamAnswers,
}

/// What the models in `folders` answer to `data`, and the truth; `weights` says how much each picture counts.
///
/// # Errors
/// [`ExamError`].
pub fn sit(
    folders: [&Path; 2],
    data: &Dataset,
    weights: Vec<f64>,
) -> Result<([ExamAnswers; 2], HeldOutTruth), ExamError> {
    let class = |class: &str| if class == UNSETTLED { String::new() } else { class.to_string() };
    let classes: Vec<String> = data.samples.iter().map(|s| class(&s.class)).collect();
    let settled: Vec<usize> = (0..classes.len()).filter(|&at| !classes[at].is_empty()).collect();
    let damaged: Vec<usize> = settled.iter().copied().step_by(settled.len().div_ceil(DAMAGED).max(1)).collect();
    let truth = HeldOutTruth {
        damaged: damaged.iter().flat_map(|&at| std::iter::repeat_n(classes[at].clone(), CORRUPTIONS.len())).collect(),
        clean: classes,
        weights,
    };
    let [mut a, mut b] = [open(folders[0], data, &damaged)?, open(folders[1], data, &damaged)?];
    let mut times = [Vec::new(), Vec::new()];
    let blank = |engine: &Engine| vec![vec![128; engine.side() * engine.side() * 3]];
    for _ in 0..TIMED {
        for (candidate, times) in [&mut a, &mut b].into_iter().zip(&mut times) {
            let picture = blank(&candidate.engine);
            let began = Instant::now();
            candidate.engine.run_all(&picture, 1)?;
            times.push(ms(began.elapsed()));
        }
    }
    for (candidate, times) in [&mut a, &mut b].into_iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        candidate.exam.infer_ms = times[TIMED / 2];
    }
    Ok(([a.exam, b.exam], truth))
}

fn open(folder: &Path, data: &Dataset, chosen: &[usize]) -> Result<Examinee, ExamError> {
    let manifest = Manifest::read(folder)?;
    let card = manifest.card(folder, &manifest.serve)?;
    let mut engine = Engine::open(&manifest.onnx(folder, &manifest.serve)?, Device::Cpu, 1)?;
    let pictures = data.load(card.side)?;
    let mut damaged = Vec::new();
    for (n, picture) in chosen.iter().map(|&at| &pictures[at]).enumerate() {
        for corruption in CORRUPTIONS {
            // The same draw for both students.
            let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
            heartbeat::beat();
            damaged.push(corrupt(picture, card.side as usize, corruption, STRENGTH, &mut rng)?);
        }
    }
    let clean = scores(&mut engine, &card, &pictures)?;
    let accepts = |scores: &Scores| {
        let scores = Ok(scores.clone());
        decide(&scores, Look::whole(Some(&card), &scores)).action == Action::Accept
    };
    let accepted = clean.iter().map(accepts).collect();
    let damaged = scores(&mut engine, &card, &damaged)?;
    // In one order for both students, so that only classes that differ differ.
    let mut order: Vec<usize> = (0..card.classes.len()).collect();
    order.sort_by_key(|&c| &card.classes[c]);
    let ordered =
        |rows: Vec<Scores>| rows.iter().map(|row| order.iter().map(|&c| row.probabilities[c]).collect()).collect();
    let mut accept = card.thresholds.accept.clone();
    accept.sort();
    let exam = ExamAnswers {
        classes: order.iter().map(|&c| card.classes[c].clone()).collect(),
        accept,
        accepted,
        clean: ordered(clean),
        damaged: ordered(damaged),
        infer_ms: f64::NAN,
    };
    Ok(Examinee { engine, exam })
}

fn scores(engine: &mut Engine, card: &Card, pictures: &[Vec<u8>]) -> Result<Vec<Scores>, EngineError> {
    let mut rows = Vec::new();
    for chunk in pictures.chunks(64) {
        heartbeat::beat();
        let outputs = engine.run_all(chunk, 8)?;
        rows.extend(outputs.logits.rows().into_iter().zip(outputs.embedding.rows()).map(|(logits, embedding)| {
            Scores {
                probabilities: softmax(&logits.to_vec(), card.thresholds.temperature),
                embedding: embedding.to_vec(),
            }
        }));
    }
    Ok(rows)
}
