//! Rounds on very many frames: how long each takes, snapshot included, and how much memory.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use time::OffsetDateTime;

use super::{machine, record::verdict};
use crate::{
    domain::{AuditDraw, Picture, Region, Verdict},
    picture::pixels,
    rounds::{RoundFolder, RoundPlan, RoundSettings},
    store::{Store, frame_key},
    student::manifest::Manifest,
};

/// Verdicts in a transaction.
const BATCH: usize = 256;
/// Labeled items that train.
const LABELED: usize = 80;
/// Labeled items: as many again judge.
const ANSWERED: usize = 2 * LABELED;
/// Days over which the frames were taken.
const DAYS: usize = 7;
/// Where the item lies in its frame.
const ITEM: Region = Region { x: 8, y: 8, width: 80, height: 80 };
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(100);

/// What is measured.
pub struct FramesPlan {
    /// Frames in the store, each a picture of its own.
    pub frames: usize,
    /// Rounds on them, one after the other.
    pub rounds: u32,
    /// What `beltsight train` is told.
    pub train: Vec<String>,
    /// Seed of the frames.
    pub seed: u64,
    /// The student that serves.
    pub model: PathBuf,
    /// Where the store is made.
    pub folder: PathBuf,
    /// Each round is appended here, one line of JSON.
    pub out: Option<PathBuf>,
}

/// One round.
#[derive(Debug, Serialize)]
struct FramesReport {
    frames: usize,
    /// Counts from 1.
    round: u32,
    /// From start to ruling.
    seconds: f64,
    /// Until the data is frozen.
    snapshot_s: f64,
    /// Highest resident memory of its processes together, pages of files included.
    resident_mib: u64,
    /// The part of it that belongs to no file.
    anonymous_mib: u64,
    /// Bytes of the features that are kept for the next round.
    features_mib: u64,
    train: String,
    seed: u64,
    machine: String,
}

/// Makes a store and runs the rounds.
///
/// # Errors
/// The system's, the store's, or when a round fails.
pub async fn run(plan: FramesPlan) -> Result<()> {
    let folder = tempfile::tempdir_in(&plan.folder)?;
    let data = std::path::absolute(folder.path().join("data"))?;
    let store = Store::open(&data).await?;
    fill(&store, &plan, &Manifest::read(&plan.model)?.classes).await?;
    store.close().await;
    let settings = RoundSettings { train: plan.train.clone(), unlabeled: plan.frames, ..RoundSettings::default() };
    for number in 1..=plan.rounds {
        let (trigger, begun) = ("bench".into(), settings.plan(&data, &plan.model)?);
        let round = RoundFolder::begin(&data, &RoundPlan { number, trigger, labels: LABELED, ..begun })?;
        let report = measured(&round, &plan)?;
        let line = serde_json::to_string(&report)?;
        println!("{line}");
        if let Some(out) = &plan.out {
            writeln!(fs::File::options().create(true).append(true).open(out)?, "{line}")?;
        }
    }
    Ok(())
}

/// Frames of seeded blocks, over some days; the first ones are labeled, and every second of these was drawn by the audit.
async fn fill(store: &Store, plan: &FramesPlan, classes: &[String]) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut batch: Vec<Verdict> = Vec::new();
    let mut labeled = Vec::new();
    for n in 0..plan.frames {
        let wall = OffsetDateTime::UNIX_EPOCH + Duration::from_secs((86_400 * DAYS * n / plan.frames) as u64);
        let jpeg = pixels::encode_jpeg(&picture(&mut random, n % classes.len()), 90)?;
        let key = frame_key(&jpeg, wall);
        store.put_frame(&key, jpeg.into()).await?;
        batch.push(Verdict { frame: Some(key), region: Some(ITEM), lot: None, ..verdict(n as i64, None) });
        if batch.len() == BATCH || n + 1 == plan.frames {
            let drawn =
                |number| (number < ANSWERED && number % 2 == 1).then_some(AuditDraw { chance: 1.0, least: 1.0 });
            let draws: Vec<_> = (n + 1 - batch.len()..=n).map(drawn).collect();
            let ids = store.insert_drawn(&[], &batch, &draws).await?;
            labeled.extend(ids.into_iter().take(ANSWERED - ANSWERED.min(labeled.len())));
            batch.clear();
        }
    }
    for (n, id) in labeled.into_iter().enumerate() {
        store.add_label(id, Some(&classes[n % classes.len()]), "bench", OffsetDateTime::now_utc()).await?;
    }
    Ok(())
}

/// 12 × 12 blocks of eight pixels, of a shade and a colour by its class.
fn picture(random: &mut ChaCha8Rng, class: usize) -> Picture {
    let mut picture = Picture::filled(96, 96, [0; 3]);
    let blocks: Vec<u8> = (0..144).map(|_| random.random_range(0..160)).collect();
    for (i, pixel) in picture.rgb.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let shade = blocks[i / 96 / 8 * 12 + i % 96 / 8];
        *pixel = [shade; 3];
        pixel[class % 3] += 60;
    }
    picture
}

/// Runs a round as the service does, with the memory of its processes watched.
fn measured(round: &RoundFolder, plan: &FramesPlan) -> Result<FramesReport> {
    let began = Instant::now();
    let mut child = Command::new(std::env::current_exe()?).arg("round").arg(&round.path).spawn()?;
    let (mut resident, mut anonymous, mut snapshot_s) = (0, 0, None);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let (all, own) = memory_of(child.id());
        (resident, anonymous) = (resident.max(all), anonymous.max(own));
        if snapshot_s.is_none() && round.path.join("held_out").is_dir() {
            snapshot_s = Some(began.elapsed().as_secs_f64());
        }
        std::thread::sleep(LOOK);
    };
    ensure!(status.success(), "the round ended with {status}");
    let features = fs::read_dir(round.features()).into_iter().flatten().flatten();
    Ok(FramesReport {
        frames: plan.frames,
        round: round.number,
        seconds: began.elapsed().as_secs_f64(),
        snapshot_s: snapshot_s.context("the round was over before anybody looked")?,
        resident_mib: resident >> 10,
        anonymous_mib: anonymous >> 10,
        features_mib: features.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum::<u64>() >> 20,
        train: plan.train.join(" "),
        seed: plan.seed,
        machine: machine(),
    })
}

/// Resident memory of a process and its children, in KiB: all of it, and the part that belongs to no file.
fn memory_of(pid: u32) -> (u64, u64) {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = read("status");
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
        line.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let own = (value("VmRSS:"), value("RssAnon:"));
    let below = read(&format!("task/{pid}/children"));
    let below = below.split_whitespace().filter_map(|pid| pid.parse().ok()).map(memory_of);
    below.fold(own, |all, more| (all.0 + more.0, all.1 + more.1))
}
