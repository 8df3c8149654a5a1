//! How fast the record is written and verified, and how long each query on it takes as it grows.

mod fill;
mod pages;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

pub use self::fill::verdict;
use super::machine;
use crate::{
    domain::Verdict,
    store::{Store, verify},
};

/// Verdicts in a transaction, as the recorder commits them when it is behind.
const BATCH: usize = 256;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct RecordReport {
    /// Where.
    pub machine: String,
    /// Verdicts written in batches of 256.
    pub verdicts: usize,
    /// … per second.
    pub written_per_second: f64,
    /// Verdicts per second when each is a transaction of its own.
    pub single_per_second: f64,
    /// Entries verified.
    pub entries: i64,
    /// Entries verified per second, the verdicts they hold included; three times.
    pub verified_per_second: [f64; 3],
}

/// Writes `verdicts` verdicts into a new store and verifies its record.
///
/// # Errors
/// The store's.
pub async fn run(verdicts: usize) -> Result<RecordReport> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path()).await?;
    let batch: Vec<Verdict> = (1..=BATCH).map(|i| verdict(i as i64, Some(2))).collect();
    let started = Instant::now();
    let mut written = 0;
    while written < verdicts {
        let n = BATCH.min(verdicts - written);
        store.insert(&batch[..n]).await?;
        written += n;
    }
    let written_per_second = verdicts as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    let singles = 2000;
    for _ in 0..singles {
        store.insert(&batch[..1]).await?;
    }
    let single_per_second = f64::from(singles) / started.elapsed().as_secs_f64();
    store.close().await;
    let mut verified_per_second = [0.0; 3];
    let mut entries = 0;
    for rate in &mut verified_per_second {
        let started = Instant::now();
        let found = verify(folder.path(), None, None).await?;
        ensure!(found.findings.is_empty(), "{:?}", found.findings);
        entries = found.entries;
        *rate = entries as f64 / started.elapsed().as_secs_f64();
    }
    Ok(RecordReport {
        machine: machine(),
        verdicts,
        written_per_second,
        single_per_second,
        entries,
        verified_per_second,
    })
}

/// What is to be measured on a store that is kept.
pub struct ScalePlan {
    /// The store's folder; it is made, or filled further.
    pub store: PathBuf,
    /// Verdicts in it.
    pub verdicts: i64,
    /// Queries whose name contains this; empty: all.
    pub only: String,
    /// Also verify the record.
    pub verify: bool,
    /// Each figure is appended here, one line of JSON.
    pub out: Option<PathBuf>,
}

/// How the record was verified.
#[derive(Debug, Serialize)]
pub struct VerifyTime {
    /// `verify`.
    pub query: &'static str,
    /// Verdicts in the store.
    pub verdicts: i64,
    /// Entries verified.
    pub entries: i64,
    /// Seconds it took.
    pub seconds: f64,
    /// Entries per second.
    pub per_second: f64,
    /// Highest resident memory meanwhile, in MiB.
    pub memory_mib: f64,
    /// Where.
    pub machine: String,
}

/// Fills a store, times every query on it, and verifies it.
///
/// # Errors
/// The store's; a record that is not whole; `out` can't be written.
pub async fn scale(plan: &ScalePlan) -> Result<()> {
    let store = fill::fill(&plan.store, plan.verdicts).await?;
    let (folder, verdicts) = (plan.store.as_path(), plan.verdicts);
    let mut pages = pages::Pages { store: &store, folder, verdicts, only: &plan.only, times: Vec::new() };
    let done = pages.run().await;
    for time in &pages.times {
        keep(plan, time)?;
    }
    done?;
    store.close().await;
    if plan.verify {
        keep(plan, &verify_time(folder, verdicts).await?)?;
    }
    Ok(())
}

async fn verify_time(folder: &Path, verdicts: i64) -> Result<VerifyTime> {
    fs::write("/proc/self/clear_refs", "5").context("the highest memory can't be forgotten")?;
    let started = Instant::now();
    let found = verify(folder, None, None).await?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(found.findings.is_empty(), "{:?}", found.findings);
    let entries = found.entries;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    let memory_mib = peak.unwrap_or(f64::NAN) / 1024.0;
    let per_second = entries as f64 / seconds;
    Ok(VerifyTime { query: "verify", verdicts, entries, seconds, per_second, memory_mib, machine: machine() })
}

fn keep(plan: &ScalePlan, figure: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(figure)?;
    if let Some(out) = &plan.out {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(out)?;
        writeln!(file, "{line}")?;
    }
    Ok(())
}
