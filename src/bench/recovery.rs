//! How long a dead box takes: its archive is restored in an empty folder, verified and served, with the guide's commands; and
//! what the archive costs the box while it writes on.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use time::OffsetDateTime;

use super::{machine, quantile, record::verdict, service};
use crate::{
    domain::Verdict,
    store::{DATABASE, Store, frame_key},
};

/// Verdicts in a transaction, as the recorder commits them when it is behind.
const BATCH: usize = 256;
/// One of so many verdicts has a picture of its own.
const PICTURED: usize = 10;
/// Bytes of a picture; they do not get smaller, as a JPEG's.
const PICTURE: usize = 20_000;
/// Between two verdicts of the box that writes on.
const EVERY: Duration = Duration::from_millis(5);

/// What is measured.
pub struct RecoveryPlan {
    /// Verdicts in the store.
    pub verdicts: usize,
    /// Of the pictures' bytes.
    pub seed: u64,
    /// The student that serves; its folder is archived too.
    pub model: PathBuf,
    /// Where the box and its heir are made.
    pub folder: PathBuf,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct RecoveryReport {
    /// Where and when.
    pub machine: String,
    /// See the plan.
    pub seed: u64,
    /// Verdicts in the store when the archive began.
    pub verdicts: usize,
    /// Pictures.
    pub pictures: usize,
    /// Bytes of the database.
    pub database_bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// `beltsight archive`, beside a writer.
    pub archive_s: f64,
    /// A verdict's commit, p50, p99 and worst, in milliseconds: before the archive.
    pub commit_ms: [f64; 3],
    /// … and while it was written.
    pub commit_beside_ms: [f64; 3],
    /// `beltsight restore`.
    pub restore_s: f64,
    /// `beltsight record verify`.
    pub verify_s: f64,
    /// From the start of `beltsight serve` to `/readyz`.
    pub ready_s: f64,
    /// The last three together: from the empty machine to the line that runs.
    pub recovery_s: f64,
}

/// Makes a box, archives and restores it.
///
/// # Errors
/// The system's, the store's, or when a command fails.
pub async fn run(plan: RecoveryPlan) -> Result<RecoveryReport> {
    let folder = tempfile::tempdir_in(&plan.folder)?;
    let (data, out, new) = (folder.path().join("data"), folder.path().join("box.tar.zst"), folder.path().join("new"));
    let store = Store::open(&data).await?;
    fill(&store, &plan).await?;
    let config = configured(folder.path(), &plan.model, &data, 0)?;
    let before = commits(&store, Duration::from_secs(5)).await?;
    let started = Instant::now();
    let mut archive = command(&["archive", "--with", "key", "--config"]).arg(&config).arg("--out").arg(&out).spawn()?;
    let mut beside = Vec::new();
    let done = loop {
        if let Some(done) = archive.try_wait()? {
            break done;
        }
        beside.extend(commits(&store, Duration::from_millis(100)).await?);
    };
    let archive_s = started.elapsed().as_secs_f64();
    ensure!(done.success(), "the archive failed");
    let database_bytes = fs::metadata(data.join(DATABASE))?.len();
    store.close().await;

    let restore_s = timed(command(&["restore"]).arg(&out).arg("--to").arg(&new)).await?;
    let data = new.join("data");
    let verify_s = timed(command(&["record", "verify", "--store"]).arg(&data)).await?;
    let port = service::free_port()?;
    let models = new.join("models").join(plan.model.file_name().context("no name")?);
    let config = configured(&new, &models, &data, port)?;
    let service = service::MeasuredService::start(&config, port)?;
    let ready_s = service.ready().await?.as_secs_f64();
    Ok(RecoveryReport {
        machine: machine(),
        seed: plan.seed,
        verdicts: plan.verdicts,
        pictures: plan.verdicts.div_ceil(PICTURED),
        database_bytes,
        archive_bytes: fs::metadata(&out)?.len(),
        archive_s,
        commit_ms: milliseconds(before),
        commit_beside_ms: milliseconds(beside),
        restore_s,
        verify_s,
        ready_s,
        recovery_s: restore_s + verify_s + ready_s,
    })
}

/// Verdicts, and a picture for every tenth.
async fn fill(store: &Store, plan: &RecoveryPlan) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let now = OffsetDateTime::now_utc();
    let mut written = 0;
    while written < plan.verdicts {
        let mut batch = Vec::new();
        for n in written..(written + BATCH).min(plan.verdicts) {
            let mut frame = None;
            if n % PICTURED == 0 {
                let mut picture = vec![0; PICTURE];
                random.fill(&mut picture[..]);
                let key = frame_key(&picture, now);
                store.put_frame(&key, picture.into()).await?;
                frame = Some(key);
            }
            batch.push(Verdict { frame, ..verdict(n as i64 + 1, None) });
        }
        written += batch.len();
        store.insert(&batch).await?;
    }
    Ok(())
}

/// Writes a verdict every few milliseconds for `span`; how long each commit took.
async fn commits(store: &Store, span: Duration) -> Result<Vec<Duration>> {
    let (begun, mut took) = (Instant::now(), Vec::new());
    while begun.elapsed() < span {
        let started = Instant::now();
        store.insert(&[Verdict { frame: None, ..verdict(1, None) }]).await?;
        took.push(started.elapsed());
        tokio::time::sleep(EVERY).await;
    }
    Ok(took)
}

/// Half of them, all but a hundredth, the longest.
fn milliseconds(mut took: Vec<Duration>) -> [f64; 3] {
    took.sort();
    [0.5, 0.99, 1.0].map(|share| quantile(&took, share).as_secs_f64() * 1000.0)
}

fn configured(folder: &Path, model: &Path, data: &Path, port: u16) -> Result<PathBuf> {
    let model = model.canonicalize()?;
    let (root, version) = (model.parent().context("no parent")?, model.file_name().context("no name")?);
    let text = format!(
        "[server]\nlisten = '127.0.0.1:{port}'\n[model]\nroot = '{}'\nversion = '{}'\ndevice = 'cpu'\n[store]\nfolder = '{}'\n",
        root.display(),
        version.to_string_lossy(),
        data.display(),
    );
    let config = folder.join("beltsight.toml");
    fs::write(&config, text)?;
    Ok(config)
}

fn command(arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap_or_default());
    command.args(arguments).stdout(std::process::Stdio::null()).kill_on_drop(true);
    command
}

/// How long a command takes that must succeed.
async fn timed(command: &mut tokio::process::Command) -> Result<f64> {
    let started = Instant::now();
    ensure!(command.status().await?.success(), "{command:?} failed");
    Ok(started.elapsed().as_secs_f64())
}
