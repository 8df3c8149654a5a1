//! `beltsight round`: the process in which a round runs, beside the line.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};

use crate::rounds;

/// Run, or go on with, the round in a folder (the service starts it this way).
#[derive(clap::Args)]
pub struct RoundArgs {
    /// The round's folder, `<store>/rounds/<number>`.
    folder: PathBuf,
}

/// Runs the round to its ruling. A round that was killed exits with [`rounds::AGAIN`]: run again, it goes on.
///
/// # Errors
/// When the folder does not belong to a round, or the round failed.
pub fn run(RoundArgs { folder }: &RoundArgs) -> Result<ExitCode> {
    let number = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
    let number = number.with_context(|| format!("{} is not a round's folder", folder.display()))?;
    let done = rounds::run::run(&rounds::RoundFolder::at(std::path::absolute(folder)?, number));
    if let Err(e) = &done
        && e.is::<rounds::run::Killed>()
    {
        eprintln!("beltsight: {e:#}");
        return Ok(ExitCode::from(rounds::AGAIN));
    }
    done?;
    Ok(ExitCode::SUCCESS)
}
