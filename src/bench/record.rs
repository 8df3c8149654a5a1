//! How fast the record is written and verified.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use time::OffsetDateTime;

use super::machine;
use crate::{
    domain::{Action, ClassScore, Decision, Reason, Region, Source, Timings, Verdict, draw_uid},
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
    let batch: Vec<Verdict> = (0..BATCH).map(|i| verdict(i as u64)).collect();
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

/// A verdict of usual size.
fn verdict(track: u64) -> Verdict {
    let score = |class: &str, probability| ClassScore { class: class.into(), probability };
    let time = OffsetDateTime::now_utc();
    Verdict {
        uid: draw_uid(time),
        id: 0,
        time,
        source: Source::Belt,
        camera: "belt".into(),
        track,
        region: Some(Region { x: 211, y: 87, width: 231, height: 94 }),
        decision: Decision {
            action: Action::Reject,
            reason: Reason::WrongClass,
            class: Some("trout".into()),
            accept_probability: 0.031_25,
        },
        scores: vec![score("trout", 0.91), score("salmon", 0.03), score("cod", 0.03), score("bass", 0.03)],
        model: "belt-small@0123456789ab".into(),
        thresholds: "0123456789ab".into(),
        lot: Some(2),
        fault: None,
        timings: Timings { decode_ms: 1.5, locate_ms: 0.12, queue_ms: 0.21, infer_ms: 7.1, total_ms: 8.8 },
        frame: Some("20261125-0123456789abcdef01234567".into()),
        truth: None,
        novelty: None,
        optics: None,
    }
}
