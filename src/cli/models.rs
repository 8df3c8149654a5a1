//! `beltsight models`: the model folders and the registry of what serves.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};

use super::DEFAULT_CONFIG;
use crate::{
    config::Config,
    picture::dataset,
    student::{
        engine::Device,
        manifest::{self, Manifest},
        open::Student,
        reference::{self, LabeledPicture},
        registry::Registry,
    },
};

/// List, verify or show model folders; say which serves.
#[derive(clap::Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
    /// Folder with a folder per version.
    #[arg(long, default_value = "models", global = true)]
    root: PathBuf,
}

#[derive(clap::Subcommand)]
enum ModelsCommand {
    /// One line per version.
    List,
    /// Check hashes and open every file in ONNX Runtime.
    Verify {
        /// Version; absent: all.
        version: Option<String>,
    },
    /// Print a manifest.
    Show {
        /// Version.
        version: String,
    },
    /// Measure again what a version was trained on, so that the service can tell what is new to it.
    Reference {
        /// Version.
        version: String,
        /// The labeled pictures it was trained on: a data set's folder.
        #[arg(long)]
        data: PathBuf,
        /// Labeled pictures it was not trained on: a data set's folder. They set the limit to the unknown.
        #[arg(long)]
        held_out: Option<PathBuf>,
        /// Share of the good items that may be diverted as unknown.
        #[arg(long, default_value_t = 0.01)]
        false_diverts: f64,
    },
    /// Print every change of the serving student.
    History,
    /// Make a version serve; a running service takes it over at once.
    Promote {
        /// Version.
        version: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Make the student serve again that served before; a running service takes it over at once.
    Rollback {
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// Who changes what serves, from where on.
#[derive(clap::Args)]
struct ChangeArgs {
    /// Configuration file, for the version that serves when none was ever promoted.
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Name of the person.
    #[arg(long)]
    by: String,
    /// Why, for the record.
    #[arg(long, default_value = "")]
    why: String,
}

/// Runs the command; `verify` fails when a file is refused.
///
/// # Errors
/// When a folder, a manifest or the registry can't be read or written.
pub fn run(ModelsArgs { command, root }: ModelsArgs) -> Result<ExitCode> {
    match command {
        ModelsCommand::List => list(&root)?,
        ModelsCommand::Verify { version } => return verify(&root, version),
        ModelsCommand::Show { version } => {
            println!("{}", toml::to_string_pretty(&Manifest::read(&root.join(version))?)?);
        }
        ModelsCommand::Reference { version, data, held_out, false_diverts } => {
            measure_reference(&root.join(version), &data, held_out.as_deref(), false_diverts)?
        }
        ModelsCommand::History => print_history(root)?,
        ModelsCommand::Promote { version, change } => {
            registry(root, &change)?.promote(&version, &change.by, &change.why)?;
            println!("{version} serves from now on");
        }
        ModelsCommand::Rollback { change } => {
            println!("{} serves again", registry(root, &change)?.rollback(&change.by, &change.why)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The registry in `root`, which may be another than the configuration's.
fn registry(root: PathBuf, change: &ChangeArgs) -> Result<Registry> {
    Ok(Registry { root, first: Config::read(&change.config)?.model.version })
}

fn folders(root: &Path) -> Result<Vec<PathBuf>> {
    manifest::list(root).with_context(|| root.display().to_string())
}

fn list(root: &Path) -> Result<()> {
    for folder in folders(root)? {
        let model = Manifest::read(&folder)?;
        let accuracy = model.scorecard.map_or("-".into(), |card| format!("{:.4}", card.accuracy));
        println!(
            "{:<24} {:<8} {:>4} px  {} classes  accuracy {accuracy}  {}",
            model.version,
            model.serve,
            model.input.side,
            model.classes.len(),
            model.created
        );
    }
    Ok(())
}

/// Opens every file of `version`, or of all versions, as serving would.
fn verify(root: &Path, version: Option<String>) -> Result<ExitCode> {
    let folders = match version {
        Some(version) => vec![root.join(version)],
        None => folders(root)?,
    };
    let mut refused = false;
    let mut refuse = |why: &dyn std::fmt::Display| {
        println!("REFUSED  {why}");
        refused = true;
    };
    for folder in folders {
        let model = match Manifest::read(&folder) {
            Ok(model) => model,
            Err(e) => {
                refuse(&e);
                continue;
            }
        };
        for precision in model.files.into_keys() {
            match Student::open(&folder, Some(&precision), Device::Cpu, 1, 1) {
                Ok(student) => println!("ok       {} {precision}", student.card.label),
                Err(e) => refuse(&e),
            }
        }
    }
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measure_reference(folder: &Path, data: &Path, held_out: Option<&Path>, false_diverts: f64) -> Result<()> {
    ensure!(false_diverts > 0.0 && false_diverts < 1.0, "--false-diverts must lie between 0 and 1");
    let manifest = Manifest::read(folder)?;
    let load = |data: &Path| -> Result<Vec<LabeledPicture>> {
        let data = dataset::read(data)?;
        let mut classes = manifest.classes.clone();
        let truth = data.truth(&mut classes);
        let strange = &classes[manifest.classes.len()..];
        ensure!(strange.is_empty(), "the student does not know {}", strange.join(", "));
        Ok(data.load(manifest.input.side)?.into_iter().zip(truth).collect())
    };
    let held_out = held_out.map(load).transpose()?.unwrap_or_default();
    let reference = reference::write(folder, &load(data)?, &held_out, false_diverts)?;
    print!("{} centres, edge {:.4}", reference.centres.len(), reference.edge);
    match Manifest::read(folder)?.thresholds.unknown_from {
        Some(limit) => println!(", unknown from {limit:.4} edges"),
        None => println!(", no limit to the unknown: that takes two good pictures in --held-out"),
    }
    Ok(())
}

fn print_history(root: PathBuf) -> Result<()> {
    for entry in (Registry { root, first: String::new() }).history()? {
        println!("{}  {:<8} {:<24} by {}: {}", entry.at, entry.change.name(), entry.version, entry.by, entry.why);
    }
    Ok(())
}
