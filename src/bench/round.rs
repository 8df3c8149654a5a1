//! One round, as it is configured, on the items of the simulated belt: some answers of an expert, frames without labels,
//! and then the candidate beside the incumbent on fresh items of the same belt, whose truth is known.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use time::OffsetDateTime;

use super::{machine, record, stills};
use crate::{
    belt::{BeltConfig, Change, Species},
    domain::{AuditDraw, Source, Verdict, draw_uid, time::rfc3339_now},
    picture::dataset,
    rounds::{RoundFolder, RoundPlan, RoundSettings, gate::PromotionGateRuling},
    store::{Store, frame_key},
    student::{evaluate::evaluate, scorecard::Scorecard},
};

/// Items that the audit drew, and that the expert answered: the round judges by them.
const DRAWN: usize = 100;

/// What is measured.
#[derive(Clone, Debug)]
pub struct RoundBenchPlan {
    /// Folder for pictures, stores and rounds; pictures that are there from an earlier try are kept.
    pub out: PathBuf,
    /// The incumbent's model folder.
    pub model: PathBuf,
    /// Words for `beltsight train` instead of the default's.
    pub train: Option<Vec<String>>,
    /// Seed of the belt.
    pub seed: u64,
    /// Items that the expert answers, drawn by chance.
    pub answers: usize,
    /// Items without an answer.
    pub unlabeled: usize,
    /// Fresh items that both are measured on.
    pub fresh: usize,
    /// Another lamp, dirt on the lens.
    pub changed: bool,
}

/// What one round brought.
#[derive(Debug, Serialize)]
pub struct RoundFigures {
    seed: u64,
    train: Vec<String>,
    answers: usize,
    /// Answers about items that the audit drew.
    drawn: usize,
    unlabeled: usize,
    fresh: usize,
    changed: bool,
    /// Accuracy on the fresh items, incumbent and candidate.
    accuracy: [f64; 2],
    /// Share of the salmon among them that pass while at most 1 % of the others do.
    recall_at_1pct_false_accepts: [f64; 2],
    /// Recall of the rarest class.
    least_recall: [f64; 2],
    /// What the promotion gate says of the held-out answers.
    promote: bool,
    /// The whole round, from the store to its ruling.
    seconds: f64,
    date: String,
    machine: String,
}

/// Draws the items, fills a store, runs the round in a process of its own, and measures both students.
///
/// # Errors
/// When something can't be drawn, stored or trained.
pub async fn measure(plan: &RoundBenchPlan) -> Result<RoundFigures> {
    let out = std::path::absolute(&plan.out)?;
    let belt = belt(plan);
    let kind = if plan.changed { "changed" } else { "plain" };
    let [pool, fresh] = ["pool", "fresh"].map(|name| out.join(format!("{kind}-{}-{name}", plan.seed)));
    for (folder, hour, items) in [(&pool, 1, plan.answers + DRAWN + plan.unlabeled), (&fresh, 10, plan.fresh)] {
        if !folder.join(dataset::PHOTOS).is_file() {
            stills::write_one(folder, &belt, Duration::from_secs(hour * 3600), items)?;
        }
    }
    let folder = out.join(format!("store-{kind}-{}", plan.seed));
    let _ = fs::remove_dir_all(&folder); // an earlier try's
    fill(&folder, &pool, plan.answers).await?;
    let mut settings = RoundSettings::default();
    settings.train = plan.train.clone().unwrap_or(settings.train);
    let begun = RoundPlan {
        version: format!("round-{}", plan.seed),
        trigger: "bench".into(),
        labels: plan.answers,
        ..settings.plan(&folder, &plan.model)?
    };
    let round = RoundFolder::begin(&folder, &begun)?;

    let began = Instant::now();
    let run = Command::new(std::env::current_exe()?).arg("round").arg(&round.path).output()?;
    let seconds = began.elapsed().as_secs_f64();
    fs::write(round.path.join("round.log"), [&run.stdout[..], &run.stderr].concat())?;
    ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let ruling: PromotionGateRuling = round.read("ruling.json").context("the round left no ruling")?;
    let cards = [evaluate(&plan.model, None, &fresh)?, evaluate(&round.candidate(), None, &fresh)?];
    let of = |figure: fn(&Scorecard) -> f64| [figure(&cards[0]), figure(&cards[1])];
    Ok(RoundFigures {
        seed: plan.seed,
        train: begun.train,
        answers: plan.answers,
        drawn: DRAWN,
        unlabeled: plan.unlabeled,
        fresh: plan.fresh,
        changed: plan.changed,
        accuracy: of(|card| card.accuracy),
        recall_at_1pct_false_accepts: of(|card| card.recall_at_1pct_false_accepts),
        least_recall: of(|card| card.recall_per_class.iter().copied().fold(1.0, f64::min)),
        promote: ruling.promote,
        seconds,
        date: rfc3339_now(),
        machine: machine(),
    })
}

/// The demo's belt; changed, with an aged lamp, dirt on the lens and most of the other fish mackerel.
fn belt(plan: &RoundBenchPlan) -> BeltConfig {
    let others = vec![Species::Herring, Species::Mackerel, Species::Mackerel];
    let change = plan.changed.then_some(Change { after: 0.0, light: 0.65, warmth: 1.0, dirt: 30, others });
    BeltConfig { seed: plan.seed, change, ..BeltConfig::default() }
}

/// A store with the items of `pool`, of which the first are answered with their truth, and those behind them by the audit.
async fn fill(folder: &Path, pool: &Path, answers: usize) -> Result<()> {
    let store = Store::open(folder).await?;
    for (number, sample) in dataset::read(pool)?.samples.iter().enumerate() {
        let jpeg = fs::read(pool.join(&sample.file))?;
        let now = OffsetDateTime::now_utc();
        let key = frame_key(&jpeg, now);
        store.put_frame(&key, jpeg.into()).await?;
        let item = record::verdict(number as i64, None);
        let item = Verdict { uid: draw_uid(now), source: Source::Http, region: None, frame: Some(key), ..item };
        let draw = (answers..answers + DRAWN).contains(&number).then_some(AuditDraw { chance: 1.0, least: 1.0 });
        let ids = store.insert_drawn(&[], &[item], &[draw]).await?;
        if number < answers + DRAWN {
            store.add_label(ids[0], Some(&sample.class), "bench", now).await?;
        }
    }
    store.close().await;
    Ok(())
}
