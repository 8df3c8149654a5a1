//! `beltsight train`, `distill`, `compare` and `reproduce`: handed on to `beltsight-learn`, so that serving never loads
//! libtorch.

use std::{os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result};

use crate::rounds::learner;

/// Arguments of a command of `beltsight-learn`.
#[derive(clap::Args)]
pub struct LearnArgs {
    /// Handed on.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Replaces this process by `beltsight-learn <command>`. Returns only when that fails.
///
/// # Errors
/// When `beltsight-learn` is not built or can't be started.
pub fn run(command: &str, args: &LearnArgs) -> Result<ExitCode> {
    let mut learn = learner::command()?;
    let failed = learn.arg(command).args(&args.arguments).exec();
    Err(failed).with_context(|| learn.get_program().to_string_lossy().into_owned())
}
