//! `beltsight serve`: runs the inspection service.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use super::DEFAULT_CONFIG;
use crate::{config::Config, service};

/// Run the inspection service.
#[derive(clap::Args)]
pub struct ServeArgs {
    /// Configuration file; every key stands in deploy/beltsight.toml.
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// Whatever keeps the service from starting.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    service::serve(Config::read(&args.config)?)?;
    Ok(ExitCode::SUCCESS)
}
