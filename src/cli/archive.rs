//! `beltsight archive`: the whole box as one file.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use super::DEFAULT_CONFIG;
use crate::{
    archive::{self, ArchivePlan},
    config::Config,
    line::priority,
};

/// Write record, labels, pictures, students, tokens and configuration into one file; also beside the running service.
#[derive(clap::Args)]
pub struct ArchiveArgs {
    /// Configuration file: where store, students and tokens are.
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// The file to write, `box.tar.zst`; it must not exist. Best on another disk.
    #[arg(long)]
    out: PathBuf,
    /// What else to put into it.
    #[arg(long, value_delimiter = ',')]
    with: Vec<Secret>,
    /// What to leave out.
    #[arg(long, value_delimiter = ',')]
    without: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Secret {
    /// The key that signs the record: whoever has it can go on with the record, and could rewrite it.
    Key,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The kept pictures.
    Pictures,
    /// The students and which of them serves.
    Models,
    /// The hashes of the access tokens.
    Tokens,
}

/// Writes the archive and reads it back; fails when the record in it is not whole.
///
/// # Errors
/// Whatever keeps it from being written; then there is no file.
pub fn run(args: ArchiveArgs) -> Result<ExitCode> {
    priority::set(priority::LOW); // before the threads are made, which inherit it: the belt goes first
    let config = Config::read(&args.config)?;
    let has = |part| !args.without.contains(&part);
    let plan = ArchivePlan {
        tokens: (config.tokens(), has(Part::Tokens)),
        models: has(Part::Models).then_some(config.model.root),
        pictures: has(Part::Pictures),
        key: args.with.contains(&Secret::Key),
        store: config.store.folder,
        config: args.config,
        out: args.out.clone(),
    };
    let report = tokio::runtime::Runtime::new()?.block_on(archive::archive(plan))?;
    println!("{}: {} bytes, SHA-256 {}", args.out.display(), report.size, report.sha256);
    println!("{} files, {} bytes, read back and compared", report.files, report.bytes);
    if report.gone > 0 {
        println!("{} files were removed while it was written, as retention removes pictures", report.gone);
    }
    print!("{}", report.verification);
    if !report.head.key {
        println!(
            "The key that signs the record is not in it: keep record.key elsewhere too, or a restored box can't go on \
             with its record."
        );
    }
    Ok(if report.verification.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
