//! `beltsight belt`: data sets of the simulated belt.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::bench::stills;

/// The simulated belt.
#[derive(clap::Subcommand)]
pub enum BeltCommand {
    /// Draw a labeled data set, cut as serving cuts items.
    Draw {
        /// Output folder.
        #[arg(long)]
        out: PathBuf,
        /// Number of items.
        #[arg(long, default_value_t = 1000)]
        items: usize,
        /// Seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// Draws the data set.
///
/// # Errors
/// When a still can't be drawn or written.
pub fn run(command: &BeltCommand) -> Result<ExitCode> {
    let BeltCommand::Draw { out, items, seed } = command;
    stills::write(out, *seed, *items)?;
    Ok(ExitCode::SUCCESS)
}
