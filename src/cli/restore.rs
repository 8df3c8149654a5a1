//! `beltsight restore`: a box out of its archive.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{
    archive::{self, RestoreReport},
    domain::time::rfc3339,
    store::SECRET,
};

/// Put what an archive holds into an empty folder, and verify it.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// The archive.
    archive: PathBuf,
    /// The folder: it must be empty or not exist.
    #[arg(long)]
    to: PathBuf,
}

/// Restores and says how to go on; fails when the record in the archive is not whole.
///
/// # Errors
/// When the archive is not whole, or can't be written there; then the folder is as it was.
pub fn run(args: &RestoreArgs) -> Result<ExitCode> {
    let report = tokio::runtime::Runtime::new()?.block_on(archive::restore(&args.archive, &args.to))?;
    let RestoreReport { head, files, bytes, verification } = &report;
    let to = |path: &str| args.to.join(path).display().to_string();
    println!(
        "{files} files, {bytes} bytes, as they were archived at {} by beltsight {}",
        rfc3339(head.made),
        head.version
    );
    print!("{verification}");
    println!("The store was {} and is {} now.", head.store.display(), to("data"));
    match &head.models {
        Some(models) => println!("The students were in {} and are in {} now.", models.display(), to("models")),
        None => println!("The students are not in it: copy their folder from elsewhere."),
    }
    match &head.tokens {
        Some(tokens) if tokens.starts_with(&head.store) => {}
        Some(tokens) => println!("The tokens were {} and are {} now.", tokens.display(), to("tokens.toml")),
        None => println!("Access tokens are not in it: make new ones with `beltsight tokens add`."),
    }
    if !head.pictures {
        println!("The pictures are not in it: verdicts and labels are, without them.");
    }
    println!("Not in it: certificates and password files that the configuration {} names.", to("beltsight.toml"));
    if !head.key {
        println!(
            "The key that signs the record is not in it. Before the service starts, put it to {} (mode 0600). Without it \
             the record can be read and verified, but not continued: then keep this folder, and start with an empty store.",
            args.to.join("data").join(SECRET).display()
        );
    }
    Ok(if verification.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
