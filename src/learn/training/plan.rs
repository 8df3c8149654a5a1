//! What one training is given: its settings, its pictures, and where it keeps its state.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{pictures::views::ViewSource, training::optim::Schedule};

/// The settings of one training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingPlan {
    /// The first block that is trained; all blocks of the network for the head alone.
    pub cut: usize,
    /// Steps in all.
    pub steps: usize,
    /// Steps between two lines of the log; the warm-up lasts as long, but at most a tenth of the run.
    pub pass: usize,
    /// Labeled pictures per step.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// How it falls.
    pub schedule: Schedule,
    /// λ on kernels.
    pub weight_decay: f64,
    /// d of the moving average.
    pub ema: f64,
    /// Dropout before the classifier.
    pub dropout: f64,
    /// Chance that the last residual block takes part; 1 without stochastic depth.
    pub survival: f64,
    /// Seed of order, dropout and views.
    pub seed: u64,
    /// What else the run depends on: the method and its settings, the hash of the data snapshot.
    pub identity: String,
}

/// Indices of the pictures that take part.
#[derive(Clone, Copy, Debug)]
pub struct PicturePools<'a> {
    /// Trained on with their labels.
    pub labeled: &'a [usize],
    /// Trained on without; may repeat some, may be empty.
    pub unlabeled: &'a [usize],
    /// Labeled pictures to check with at every line of the log; may be empty.
    pub validation: &'a [usize],
}

/// Pictures as the trained part of the network sees them, and which of them teach and check.
pub struct TrainingData<'a> {
    /// Inputs.
    pub views: &'a ViewSource<'a>,
    /// Class per picture, where it is known. For unlabeled pictures it serves the log alone.
    pub labels: &'a [Option<usize>],
    /// Who takes part.
    pub pools: PicturePools<'a>,
}

/// Where a run keeps its state, what it is called in the log, and who can stop it.
pub struct RunContext<'a> {
    /// Its name in `metrics.jsonl`.
    pub name: &'a str,
    /// The output folder.
    pub out: &'a Path,
    /// Go on from the checkpoint if there is one.
    pub resume: bool,
    /// Asked after every step with the number of steps done; true stops the run.
    pub stop: &'a dyn Fn(usize) -> bool,
}
