//! Arguments of `beltsight bench frames`.

use std::path::PathBuf;

use super::words;
use crate::bench::frames::FramesPlan;

/// Arguments of `bench frames`.
#[derive(clap::Args)]
pub struct FramesBenchArgs {
    /// Frames, each a picture of its own.
    #[arg(long, default_value_t = 100_000)]
    frames: usize,
    /// Rounds on them, one after the other.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// What `beltsight train` is told.
    #[arg(long, default_value = "pseudo-label --input 64 --views 1 --steps 200")]
    train: String,
    /// Seed of the frames.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Model folder of the student that serves.
    #[arg(long, default_value = "models/belt-small")]
    model: PathBuf,
    /// Where the store is made.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// Each round is appended here, one line of JSON.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl FramesBenchArgs {
    /// What is measured.
    pub fn plan(self) -> FramesPlan {
        let Self { frames, rounds, train, seed, model, folder, out } = self;
        FramesPlan { frames, rounds, train: words(&train), seed, model, folder, out }
    }
}
