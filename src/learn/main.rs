//! The learning program. A run reads: `train` (the command) → `data` → `views` → `trainer` (with a loss from `methods`)
//! → `evaluate` → `report` and `export`.
//!
//! | module | what lives there |
//! |---|---|
//! | [`train`] | the command `train supervised`, start to finish |
//! | [`data`] | labeled pictures and splits that keep groups whole |
//! | [`augment`], [`views`] | weak views; cached outputs of a frozen trunk |
//! | [`nets`], [`weights`] | libtorch runs `beltsight::nets`; safetensors |
//! | [`methods`] | one pure loss per file |
//! | [`optim`], [`trainer`] | SGD, schedule, moving average; the loop, checkpoints, resume |
//! | [`evaluate`] | temperature and thresholds from out-of-fold logits |
//! | [`export`], [`model_folder`], [`report`] | what a run leaves behind: weights, what serves, pages |

mod augment;
mod data;
mod evaluate;
mod export;
mod interrupt;
mod methods;
mod model_folder;
mod nets;
mod optim;
mod report;
mod train;
mod trainer;
mod views;
mod weights;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Train(Method),
}

#[derive(Subcommand)]
enum Method {
    /// From labeled pictures alone.
    Supervised(Box<train::Options>),
}

fn main() -> ExitCode {
    let Command::Train(Method::Supervised(options)) = Cli::parse().command;
    interrupt::listen();
    match train::supervised(&options) {
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
