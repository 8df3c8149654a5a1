//! The learning program. A run reads: `train` (the command) → `setup` → `method_plan` → `fit` → `trainer` (with a loss from
//! `methods`) → `evaluate` → `export` and `report`.
//!
//! | module | what lives there |
//! |---|---|
//! | [`commands`] | `train`, `distill`, `compare`, `reproduce`, start to finish; the set-up that they share |
//! | [`methods`] | one method per file: the views that it asks for, and its loss |
//! | [`training`] | the table of methods; the loop, SGD, checkpoints, resume; what a finished run leaves behind |
//! | [`pictures`] | labeled and unlabeled sets, weak and strong views, cached outputs of a frozen trunk |
//! | [`network`] | libtorch runs `beltsight::network`; safetensors; the device |
//! | [`pages`] | reports, comparisons and contact sheets |
//! | [`random`] | the one source of chance |

mod commands;
mod methods;
mod network;
mod pages;
mod pictures;
mod random;
mod training;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    commands::{
        compare::{self, CompareCommand},
        distill::{self, DistillCommand},
        reproduce::{self, ReproduceCommand},
        train::TrainCommand,
    },
    training::{TrainError, interrupt},
};

/// Trains students for beltsight.
#[derive(Parser)]
#[command(name = "beltsight-learn", version)]
struct Cli {
    #[command(subcommand)]
    command: LearnCommand,
}

#[derive(Subcommand)]
enum LearnCommand {
    /// Train a student.
    #[command(subcommand)]
    Train(Box<TrainCommand>),
    /// Teach a small student what a teacher knows (Hinton et al. 2015).
    Distill(Box<DistillCommand>),
    /// Compare methods over numbers of labels and seeds.
    Compare(Box<CompareCommand>),
    /// Repeat a published experiment on MNIST.
    Reproduce(ReproduceCommand),
}

fn run(command: LearnCommand) -> anyhow::Result<()> {
    match command {
        LearnCommand::Train(command) => command.run(),
        LearnCommand::Distill(command) => distill::run(&command),
        LearnCommand::Compare(command) => compare::run(&command),
        LearnCommand::Reproduce(command) => reproduce::run(&command),
    }
}

/// Keeps the memory of freed tensors for the next ones: by default glibc gives every large one back to the kernel, which
/// then clears its pages again at every operation. Measured on `small` at 64², one thread: 362 instead of 252 views per
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
            if let Some(TrainError::Stopped(_)) = error.downcast_ref() {
                return ExitCode::from(130); // as a shell reports a program ended by Ctrl-C
            }
            ExitCode::FAILURE
        }
    }
}
