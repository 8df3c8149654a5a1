//! `beltsight tokens`: makes, lists and revokes access tokens.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use time::OffsetDateTime;

use super::DEFAULT_CONFIG;
use crate::{
    config::Config,
    tokens::{self, Role},
};

/// Who may use the service over HTTP.
#[derive(clap::Args)]
pub struct TokensArgs {
    #[command(subcommand)]
    command: TokensCommand,
    /// Configuration file, for where the tokens are.
    #[arg(long, default_value = DEFAULT_CONFIG, global = true)]
    config: PathBuf,
}

#[derive(clap::Subcommand)]
enum TokensCommand {
    /// Make a token and print it: the only time that it can be seen.
    Add {
        /// Who holds it: letters, digits, dots, dashes, underscores.
        #[arg(long)]
        name: String,
        /// `viewer`, `labeler`, `operator` or `admin`.
        #[arg(long)]
        role: Role,
        /// Days until it expires; absent: never.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
    },
    /// One line per token.
    List,
    /// Forget a token; the running service refuses it within two seconds.
    Revoke {
        /// Its name.
        name: String,
    },
}

/// Runs the command on the configuration's file of tokens.
///
/// # Errors
/// When the file can't be read or written, or a name is taken or unknown.
pub fn run(args: TokensArgs) -> Result<ExitCode> {
    let path = Config::read(&args.config)?.tokens();
    match args.command {
        TokensCommand::Add { name, role, days } => add(&path, &name, role, days)?,
        TokensCommand::List => list(&path)?,
        TokensCommand::Revoke { name } => revoke(&path, &name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn add(path: &Path, name: &str, role: Role, days: Option<u32>) -> Result<()> {
    let expires = days.map(|days| OffsetDateTime::now_utc() + time::Duration::days(days.into()));
    println!("{}", tokens::add(path, name, role, expires)?);
    eprintln!("{name} is {role} now. The token above can't be shown again; {} holds its hash.", path.display());
    Ok(())
}

fn list(path: &Path) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    let day = |at: OffsetDateTime| at.date().to_string();
    for entry in tokens::list(path)? {
        let expires = entry.expires.map_or("never expires".into(), |at| {
            format!("{} {}", if at <= now { "EXPIRED" } else { "expires" }, day(at))
        });
        println!("{:<24} {:<9} made {}  {expires}", entry.name, entry.role, day(entry.created));
    }
    Ok(())
}

fn revoke(path: &Path, name: &str) -> Result<()> {
    let left = tokens::revoke(path, name)?;
    eprintln!("{name} is revoked.");
    if left == 0 {
        eprintln!("No token is left: after a restart the service serves everybody on this machine, and nobody beyond.");
    }
    Ok(())
}
