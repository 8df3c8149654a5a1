//! `beltsight evaluate`: measures a model on labeled pictures.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::student::evaluate::evaluate;

/// Measure a model on labeled pictures.
#[derive(clap::Args)]
pub struct EvaluateArgs {
    /// Model folder.
    #[arg(long)]
    model: PathBuf,
    /// Folder with photos.csv or index.csv, or with a folder per class.
    #[arg(long)]
    data: PathBuf,
    /// `float32` or `int8`; absent: what the manifest says serves.
    #[arg(long)]
    precision: Option<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Prints the scorecard.
///
/// # Errors
/// When the model or the pictures can't be read, or inference fails.
pub fn run(args: &EvaluateArgs) -> Result<ExitCode> {
    let card = evaluate(&args.model, args.precision.as_deref(), &args.data)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&card)?)
    } else {
        print!("{card}")
    }
    Ok(ExitCode::SUCCESS)
}
