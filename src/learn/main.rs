//! The learning program. A run reads: `train` (the command) → `setup` → `fit` (a recipe) → `trainer` (with a loss from
//! `methods`) → `evaluate` → `report` and `export`.
//!
//! | module | what lives there |
//! |---|---|
//! | [`commands`] | `train`, `distill`, `compare`, `reproduce`, start to finish; the set-up that they share |
//! | [`methods`] | one method per file: what it sees, and its loss |
//! | [`training`] | one student by a recipe; the loop, SGD, checkpoints, resume; what a finished run leaves behind |
//! | [`pictures`] | labeled and unlabeled sets, weak and strong views, cached outputs of a frozen trunk |
//! | [`network`] | libtorch runs `beltsight::network`; safetensors; the device |
//! | [`pages`] | reports, comparisons and contact sheets |

mod commands;
mod methods;
mod network;
mod pages;
mod pictures;
mod training;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::{
    commands::{
        compare, distill, reproduce,
        setup::Options,
        train::{self, Splits},
    },
    methods::{
        fixmatch::FixMatch,
        pseudo_label::{PseudoLabel, ThresholdedPseudoLabel},
    },
    training::{fit::Recipe, generations::Rounds, interrupt, trainer},
};

/// Trains students for beltsight.
#[derive(Parser)]
#[command(name = "beltsight-learn", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a student.
    #[command(subcommand)]
    Train(Train),
    /// Teach a small student what a teacher knows (Hinton et al. 2015).
    Distill(Box<distill::Command>),
    /// Compare methods over numbers of labels and seeds.
    Compare(Box<compare::Command>),
    /// Repeat a published experiment on MNIST.
    Reproduce(reproduce::Command),
}

#[derive(Subcommand)]
enum Train {
    /// From labeled pictures alone.
    Supervised(Box<Run>),
    /// Its own guesses as labels, with a slowly rising weight (Lee 2013).
    PseudoLabel(Box<With<PseudoLabel>>),
    /// Its own guesses as labels where it is sure of them.
    ThresholdedPseudoLabel(Box<With<ThresholdedPseudoLabel>>),
    /// Rounds of a teacher that labels and a larger, noised student (Xie et al. 2020).
    NoisyStudent(Box<With<Rounds>>),
    /// What a weak view makes it sure of is the label of a strong view (Sohn et al. 2020).
    #[command(name = "fixmatch")]
    FixMatch(Box<With<FixMatch>>),
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    splits: Splits,
}

#[derive(Args)]
struct With<Settings: Args> {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    run: Run,
}

fn run(command: Command) -> anyhow::Result<()> {
    let (recipe, run) = match command {
        Command::Distill(command) => return distill::run(&command),
        Command::Compare(command) => return compare::run(&command),
        Command::Reproduce(command) => return reproduce::run(&command),
        Command::Train(Train::Supervised(run)) => (Recipe::Supervised, *run),
        Command::Train(Train::PseudoLabel(with)) => (Recipe::PseudoLabel(with.settings), with.run),
        Command::Train(Train::ThresholdedPseudoLabel(with)) => {
            (Recipe::ThresholdedPseudoLabel(with.settings), with.run)
        }
        Command::Train(Train::NoisyStudent(with)) => (Recipe::NoisyStudent(with.settings), with.run),
        Command::Train(Train::FixMatch(with)) => (Recipe::FixMatch(with.settings), with.run),
    };
    train::run(&run.options, &run.splits, &recipe, None)
}

/// Keeps the memory of freed tensors for the next ones: by default glibc gives every large one back to the kernel, which
/// then clears its pages anew at every operation. Measured on `small` at 64², one thread: 362 instead of 252 views a
/// second.
#[allow(unsafe_code)] // a call that takes integers only
fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}

fn main() -> ExitCode {
    keep_freed_memory();
    let cli = Cli::parse();
    interrupt::listen();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("beltsight-learn: {error:#}");
            if error.downcast_ref::<trainer::TrainError>().is_some_and(|e| matches!(e, trainer::TrainError::Stopped(_)))
            {
                return ExitCode::from(130); // as a shell reports a program ended by Ctrl-C
            }
            ExitCode::FAILURE
        }
    }
}
