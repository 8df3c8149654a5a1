//! `beltsight labels`: writes labels to files, takes labels from files.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

use super::DEFAULT_CONFIG;
use crate::{
    config::Config,
    rounds::snapshot::{self, SnapshotLimits},
    store::{
        Store,
        labels::{
            formats::{ImportedLabel, from_csv, from_label_studio, to_csv, to_label_studio},
            transfer::{Imported, add_missing, all_labeled},
        },
    },
    student::manifest::Manifest,
};

/// Labels in and out: a data set to learn from, Label Studio's JSON, CSV.
#[derive(clap::Args)]
pub struct LabelsArgs {
    #[command(subcommand)]
    command: LabelsCommand,
    /// Configuration file, for the store and the classes.
    #[arg(long, default_value = DEFAULT_CONFIG, global = true)]
    config: PathBuf,
}

#[derive(clap::Subcommand)]
enum LabelsCommand {
    /// Write a data set for `beltsight train --data FOLDER --unlabeled FOLDER/unlabeled`, or print what people say now.
    Export {
        /// Folder of the data set.
        #[arg(long, required_unless_present = "format", conflicts_with = "format")]
        to: Option<PathBuf>,
        /// Print in this format instead.
        #[arg(long)]
        format: Option<LabelFormat>,
        /// Most labeled pictures in the data set, the newest.
        #[arg(long, default_value_t = 100_000)]
        labeled: usize,
        /// Most unlabeled pictures in the data set, the newest.
        #[arg(long, default_value_t = 10_000)]
        unlabeled: usize,
        /// Where Label Studio finds the pictures: the address of the service.
        #[arg(long, default_value = "http://127.0.0.1:8080")]
        url: String,
    },
    /// Take labels from a file: Label Studio's JSON (`.json`) or CSV. A label that is there already is not added again.
    Import {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LabelFormat {
    /// Label Studio's JSON.
    LabelStudio,
    /// One row per label.
    Csv,
}

/// Runs the command.
///
/// # Errors
/// When the store, a file or the serving model can't be read, or a label names an unknown item or class.
pub fn run(args: LabelsArgs) -> Result<ExitCode> {
    tokio::runtime::Runtime::new()?.block_on(read_or_write(args.command, &Config::read(&args.config)?))?;
    Ok(ExitCode::SUCCESS)
}

async fn read_or_write(command: LabelsCommand, config: &Config) -> Result<()> {
    let folder = &config.store.folder;
    let store = match command {
        LabelsCommand::Export { .. } => Store::open_to_read(folder).await?,
        LabelsCommand::Import { .. } => Store::open(folder).await?,
    };
    match command {
        LabelsCommand::Export { to: Some(folder), labeled, unlabeled, .. } => {
            let done = snapshot::snapshot(&store, &folder, SnapshotLimits { labeled, unlabeled }).await?;
            println!("{} labeled and {} unlabeled pictures, sha256 {}", done.labeled, done.unlabeled, done.sha256);
            println!(
                "left out: {} near-identical, {} unsettled, {} without a picture",
                done.duplicates, done.unsettled, done.missing
            );
        }
        LabelsCommand::Export { to: None, format, url, .. } => {
            let items = all_labeled(&store).await?;
            match format {
                Some(LabelFormat::Csv) => print!("{}", to_csv(&items)?),
                _ => println!("{}", serde_json::to_string_pretty(&to_label_studio(&items, url.trim_end_matches('/')))?),
            }
        }
        LabelsCommand::Import { file } => {
            let classes = classes(config)?;
            let Imported { added, known } = add_missing(&store, read(&file)?, &classes).await?;
            println!("{added} labels added, {known} were there already");
        }
    }
    store.close().await;
    Ok(())
}

/// The classes that labels may name: the serving model's and those that the configuration adds.
fn classes(config: &Config) -> Result<Vec<String>> {
    let model = &config.model;
    let version = model.registry().stack()?.pop().context("no version serves")?;
    let mut classes = Manifest::read(&model.root.join(version))?.classes;
    classes.extend(config.labels.classes.clone());
    Ok(classes)
}

fn read(file: &Path) -> Result<Vec<ImportedLabel>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let json = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let labels = if json { from_label_studio(&text) } else { from_csv(&text) };
    labels.with_context(|| file.display().to_string())
}
