//! From a method and pictures to a student: what feeds the loop, the loop, and what a finished run leaves behind.
//!
//! Upwards: `plan` and `optim` → `state` → `trainer` → `fit` → `generations` → `method_plan`.

pub mod comparison;
pub mod evaluate;
pub mod export;
pub mod feed;
pub mod fit;
pub mod generations;
pub mod interrupt;
pub mod log;
pub mod method_plan;
pub mod model_folder;
pub mod optim;
pub mod plan;
pub mod robustness;
pub mod start;
pub mod state;
pub mod teacher;
pub mod trainer;

use std::{io, path::PathBuf};

use beltsight::picture::dataset::DataError;

use crate::network::weights::WeightsError;

/// Why a run ended without a student.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Asked to stop; the checkpoint is written.
    #[error("stopped; `--resume` goes on from {0}")]
    Stopped(PathBuf),
    /// The loss is not a number.
    #[error("the loss became {loss} at step {step}: use a smaller `--lr`")]
    Diverged {
        /// The step.
        step: usize,
        /// What it became.
        loss: f64,
    },
    /// The checkpoint is of another run.
    #[error("{0} was made with other settings or data: start without `--resume`, or in another folder")]
    OtherRun(PathBuf),
    /// The checkpoint can't be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A picture can't be read.
    #[error(transparent)]
    Picture(#[from] DataError),
    /// The run's log can't be written.
    #[error("metrics.jsonl: {0}")]
    Log(#[from] io::Error),
}
