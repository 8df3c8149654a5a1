//! `beltsight record`: verifies the record, exports a lot.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

use crate::{
    export,
    store::{self, Store},
};

/// The record: verify it, export a lot.
#[derive(clap::Subcommand)]
pub enum RecordCommand {
    /// Check every entry, verdict and signature of a record; also beside a running service.
    Verify(VerifyArgs),
    /// Print a lot: every entry as CSV, or a page to print; also beside a running service.
    Export(ExportArgs),
}

/// What to verify, and against what.
#[derive(clap::Args)]
pub struct VerifyArgs {
    /// The store's folder.
    #[arg(long, default_value = "data")]
    store: PathBuf,
    /// The public key, kept elsewhere; absent: the store's own record.pub.
    #[arg(long)]
    public_key: Option<PathBuf>,
    /// An entry that it must still hold, `ENTRY:HASH`, from an exported lot or the log.
    #[arg(long)]
    kept: Option<store::KeptEntry>,
    /// The models' folder, to compare what is to serve with what the record says; absent: where the service had it.
    #[arg(long)]
    models: Option<PathBuf>,
    /// Heads that were left elsewhere (`[record.anchor]`), one a line; `-` reads them from standard input.
    #[arg(long)]
    anchor: Option<PathBuf>,
    /// The time-stamp authority's certificate (PEM), to verify the tokens among them.
    #[arg(long, requires = "anchor")]
    tsa_certificate: Option<PathBuf>,
    /// Compare every kept picture with the hash in its name too.
    #[arg(long)]
    pictures: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Which lot to export, and how.
#[derive(clap::Args)]
pub struct ExportArgs {
    /// The store's folder.
    #[arg(long, default_value = "data")]
    store: PathBuf,
    /// Name of the lot, the newest of that name, or its number.
    #[arg(long)]
    lot: String,
    /// Its form.
    #[arg(long)]
    format: LotFormat,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LotFormat {
    Csv,
    Html,
}

/// Runs the command; `verify` fails when it finds anything.
///
/// # Errors
/// The store's, or when there is no such lot.
pub fn run(command: RecordCommand) -> Result<ExitCode> {
    tokio::runtime::Runtime::new()?.block_on(async {
        match command {
            RecordCommand::Verify(args) => verify(&args).await,
            RecordCommand::Export(args) => export_lot(&args).await,
        }
    })
}

async fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let mut verification = store::verify(&args.store, args.public_key.as_deref(), args.kept.as_ref()).await?;
    if args.pictures {
        let (all, changed) = store::verify_pictures(&args.store)?;
        eprintln!("{all} pictures, {} changed", changed.len());
        verification.findings.extend(changed);
    }
    let (compared, unlike) = store::verify_serving(&args.store, args.models.as_deref()).await?;
    eprintln!("{compared}");
    verification.findings.extend(unlike);
    verification.findings.extend(anchored(args).await?);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&verification)?);
    } else {
        print!("{verification}");
    }
    Ok(if verification.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the heads that were left elsewhere show.
async fn anchored(args: &VerifyArgs) -> Result<Vec<store::Finding>> {
    let Some(path) = &args.anchor else { return Ok(Vec::new()) };
    let certificate = args.tsa_certificate.as_deref().map(store::anchor::stamp::certificate).transpose();
    let certificate = certificate.map_err(anyhow::Error::msg)?;
    let lines: Box<dyn BufRead> = match path.to_str() {
        Some("-") => Box::new(BufReader::new(std::io::stdin())),
        _ => Box::new(BufReader::new(File::open(path).with_context(|| path.display().to_string())?)),
    };
    let found = store::verify_anchor(&args.store, args.public_key.as_deref(), lines, certificate.as_deref()).await?;
    let store::AnchorVerification { heads, other_lines, tokens, last, findings } = found;
    eprintln!("{heads} heads were left elsewhere, the last is entry {last}; {tokens} time-stamp tokens hold");
    if other_lines > 0 {
        eprintln!("{other_lines} lines hold no head");
    }
    Ok(findings)
}

async fn export_lot(args: &ExportArgs) -> Result<ExitCode> {
    let store = Store::open_to_read(&args.store).await?;
    let lot = find_lot(&store, &args.lot, &args.store).await?;
    let mut out = std::io::stdout().lock();
    match args.format {
        LotFormat::Csv => {
            let mut csv = export::LotCsv::new(store, lot).await?;
            while let Some(piece) = csv.next().await? {
                out.write_all(&piece)?;
            }
        }
        LotFormat::Html => {
            let items = export::taken_off(&store, lot.lot).await?;
            let report = export::LotReport::read(&store, lot).await?;
            // Last, so that it covers what was read.
            let verified = store::verify_lot(&args.store, &report.lot).await?;
            out.write_all(export::page(&report, &items, &verified).as_bytes())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The newest lot of that name; if none has it, the lot of that number.
async fn find_lot(store: &Store, lot: &str, folder: &Path) -> Result<store::Lot> {
    let found = match store.lot_named(lot).await? {
        Some(named) => Some(named),
        None => store.lot(lot.parse().unwrap_or(0)).await?,
    };
    found.with_context(|| format!("there is no lot `{lot}` in {}", folder.display()))
}
