//! What a box loses when it is killed: nothing that it had acknowledged.
//!
//! The real program is ended by SIGKILL at a random moment of one kind of work: judging a belt, an archive, retention, a
//! restoring, a migration. Then the record is verified whole, and all is looked for that had been acknowledged: verdicts that the
//! stream showed, labels and lots that were answered. Each cell is a line of JSON, so that an interrupted run goes on where it was.

mod acknowledged;
mod trials;

use std::{fs, io::Write as _, path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::machine;
use trials::Trial;

/// What is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KillKind {
    /// The service beside a belt, with clients that label and open lots.
    Work,
    /// `beltsight archive` beside the service.
    Archive,
    /// The service while it removes pictures.
    Retention,
    /// `beltsight restore`.
    Restore,
    /// The first opening of an earlier version's store.
    Migration,
}

impl KillKind {
    const ALL: [Self; 5] = [Self::Work, Self::Archive, Self::Retention, Self::Restore, Self::Migration];

    fn name(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Archive => "archive",
            Self::Retention => "retention",
            Self::Restore => "restore",
            Self::Migration => "migration",
        }
    }
}

/// What is to be tried.
pub struct KillsPlan {
    /// Of the moments.
    pub seed: u64,
    /// Kills of each kind.
    pub kills: u32,
    /// Only kinds whose name contains this; empty: all.
    pub only: String,
    /// The student that serves.
    pub model: PathBuf,
    /// Lines of finished cells, read first and appended to.
    pub out: Option<PathBuf>,
}

/// One finished cell.
#[derive(Debug, Serialize, Deserialize)]
struct KillsCell {
    kind: KillKind,
    seed: u64,
    kills: u32,
    /// Kills that found the program still at it.
    midway: u32,
    /// Acknowledged, and looked for after each kill.
    verdicts: usize,
    labels: usize,
    lots: usize,
    /// Of these, not found, or found changed; pictures that are offered and not there.
    lost: usize,
    /// Findings of the verifications after each kill.
    findings: usize,
    seconds: f64,
    machine: String,
}

/// Runs the cells that are not in `out` yet, appends them there, and prints a table of all.
///
/// # Errors
/// When anything was lost, a service can't be started or asked, or a file can't be read or written.
pub async fn run(plan: &KillsPlan) -> Result<()> {
    let known = plan.out.as_ref().filter(|out| out.exists()).map(fs::read_to_string).transpose()?.unwrap_or_default();
    let lines = known.lines().map(serde_json::from_str).collect::<Result<Vec<KillsCell>, _>>();
    let mut cells = lines.context("a line of the cells that were finished before")?;
    for kind in KillKind::ALL.into_iter().filter(|kind| kind.name().contains(&plan.only)) {
        if cells.iter().any(|cell| (cell.kind, cell.seed, cell.kills) == (kind, plan.seed, plan.kills)) {
            continue;
        }
        let started = Instant::now();
        let mut trial = Trial::new(plan, kind)?;
        trial.run(kind).await.with_context(|| format!("kills during {}", kind.name()))?;
        let all = trial.acknowledged();
        let cell = KillsCell {
            kind,
            seed: plan.seed,
            kills: plan.kills,
            midway: trial.midway,
            verdicts: all.verdicts.len(),
            labels: all.labels.len(),
            lots: all.lots.len(),
            lost: trial.lost,
            findings: trial.findings,
            seconds: started.elapsed().as_secs_f64(),
            machine: machine(),
        };
        if let Some(out) = &plan.out {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(out)?;
            writeln!(file, "{}", serde_json::to_string(&cell)?)?;
        }
        cells.push(cell);
    }
    print!("{}", table(&cells));
    let harmed = cells.iter().filter(|cell| cell.lost + cell.findings > 0).count();
    ensure!(harmed == 0, "{harmed} of {} cells lost something or broke a record", cells.len());
    Ok(())
}

/// The cells, as Markdown.
fn table(cells: &[KillsCell]) -> String {
    let mut text = String::from(
        "| killed during | seed | kills | … at it | verdicts | labels | lots | lost | findings | s |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for cell in cells {
        let KillsCell { kind, seed, kills, midway, verdicts, labels, lots, lost, findings, seconds, .. } = cell;
        let kind = kind.name();
        text += &format!(
            "| {kind} | {seed} | {kills} | {midway} | {verdicts} | {labels} | {lots} | {lost} | {findings} | {seconds:.0} |\n"
        );
    }
    text
}
