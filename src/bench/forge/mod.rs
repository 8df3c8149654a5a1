//! Random forgeries of a record: each is found by verifying, or by a head that was left elsewhere, or it changes no answer.
//!
//! A cell is some forgeries with one seed, each of a fresh copy of the same store. A finished cell is one line of JSON, so
//! that an interrupted run goes on where it was.
//!
//! Invariant: what verifies and what answers is the product's own code; what forges is not what writes the record.

use std::{fs, io::Write as _, path::PathBuf, time::Instant};

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

mod answers;
mod made;

use answers::answers;
use made::Made;

use super::machine;
use crate::store::{
    PUBLIC,
    forgery::{FORGERIES, forge},
    verify, verify_anchor,
};

/// Forgeries of a cell.
const CELL: usize = 100;
/// Forgeries told in full.
const TOLD: usize = 10;

/// What is to be forged.
pub struct ForgePlan {
    /// The first cell's seed; each further one has the next.
    pub seed: u64,
    /// Forgeries in all.
    pub edits: usize,
    /// Lines of finished cells, read first and appended to.
    pub out: Option<PathBuf>,
}

/// How the forgeries of one way came out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgeTally {
    /// Found by `record verify`.
    pub verified: usize,
    /// Found by the head that was left elsewhere, and by nothing else.
    pub anchored: usize,
    /// Not found, and every answer is the same.
    pub harmless: usize,
    /// Not found, and an answer is another.
    pub missed: usize,
}

/// One finished cell.
#[derive(Debug, Serialize, Deserialize)]
pub struct ForgeCell {
    /// Its seed.
    pub seed: u64,
    /// Its forgeries.
    pub edits: usize,
    /// By way.
    pub ways: std::collections::BTreeMap<String, ForgeTally>,
    /// What was missed, and what differed.
    pub missed: Vec<String>,
    /// How long it took.
    pub seconds: f64,
    /// Where, and when.
    pub machine: String,
}

/// Runs the cells that are not in `out` yet, appends them there, and prints a table of all.
///
/// # Errors
/// When `out` can't be read or written, or a store can't be made.
pub async fn run(plan: &ForgePlan) -> Result<()> {
    let known = plan.out.as_ref().filter(|out| out.exists()).map(fs::read_to_string).transpose()?.unwrap_or_default();
    let mut cells: Vec<ForgeCell> = Vec::new();
    for line in known.lines() {
        cells.push(serde_json::from_str(line).context("a line of the cells that were finished before")?);
    }
    let made = Made::new().await?;
    for (n, from) in (0..plan.edits).step_by(CELL).enumerate() {
        let (seed, edits) = (plan.seed + n as u64, CELL.min(plan.edits - from));
        if cells.iter().any(|cell| cell.seed == seed && cell.edits == edits) {
            continue;
        }
        let cell = run_cell(&made, seed, edits, from).await?;
        if let Some(out) = &plan.out {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(out)?;
            writeln!(file, "{}", serde_json::to_string(&cell)?)?;
        }
        cells.push(cell);
    }
    print!("{}", table(&cells));
    Ok(())
}

/// `edits` forgeries, the first of which is the `from`th of all, so that cells go through columns and objects in turn.
async fn run_cell(made: &Made, seed: u64, edits: usize, from: usize) -> Result<ForgeCell> {
    let (started, mut random) = (Instant::now(), ChaCha8Rng::seed_from_u64(seed));
    let mut cell =
        ForgeCell { seed, edits, ways: Default::default(), missed: Vec::new(), seconds: 0.0, machine: machine() };
    let (mut done, mut n) = (0, from);
    while done < edits {
        let way = FORGERIES[n % FORGERIES.len()];
        let folder = made.copy(way.starts_with("log"))?;
        let what = forge(folder.path(), &mut random, n).await?;
        n += 1;
        let Some(what) = what else { continue }; // nothing changed, so it is none
        done += 1;
        let tally = cell.ways.entry(way.into()).or_default();
        let path = folder.path();
        // A database that can't be read any more is found, too.
        let by_itself = verify(path, Some(&path.join(PUBLIC)), None).await;
        if !by_itself.is_ok_and(|found| found.findings.is_empty()) {
            tally.verified += 1;
            continue;
        }
        let head = made.head.line();
        let anchored = verify_anchor(path, None, head.as_bytes(), None).await;
        if !anchored.is_ok_and(|found| found.findings.is_empty()) {
            tally.anchored += 1;
            continue;
        }
        let (now, before) = (answers(path).await, &made.answers);
        match before.iter().zip(&now).find(|(before, now)| before != now) {
            None if before.len() == now.len() => tally.harmless += 1,
            differs => {
                tally.missed += 1;
                if cell.missed.len() < TOLD {
                    cell.missed.push(format!("{way}: {what}: {}", told(differs)));
                }
            }
        }
    }
    cell.seconds = started.elapsed().as_secs_f64();
    Ok(cell)
}

/// The first place at which two answers part.
fn told(differs: Option<(&String, &String)>) -> String {
    let Some((before, now)) = differs else { return "an answer is missing".into() };
    let same = before.bytes().zip(now.bytes()).take_while(|(a, b)| a == b).count().saturating_sub(60);
    let part = |text: &str| text.chars().skip(same).take(160).collect::<String>();
    format!("`{}` is `{}`", part(before), part(now))
}

/// The cells by way, as Markdown.
fn table(cells: &[ForgeCell]) -> String {
    let mut text = String::from(
        "| way | forgeries | found by verify | by the anchor alone | harmless | missed |\n|---|---|---|---|---|---|\n",
    );
    let mut all = ForgeTally::default();
    let mut line = |way: &str, tally: &ForgeTally| {
        let ForgeTally { verified, anchored, harmless, missed } = tally;
        let sum = verified + anchored + harmless + missed;
        text += &format!("| {way} | {sum} | {verified} | {anchored} | {harmless} | {missed} |\n");
    };
    for way in FORGERIES {
        let own = cells.iter().filter_map(|cell| cell.ways.get(way));
        let own = own.fold(ForgeTally::default(), |sum, tally| sum.and(tally));
        line(way, &own);
        all = all.and(&own);
    }
    line("all", &all);
    for missed in cells.iter().flat_map(|cell| &cell.missed) {
        text += &format!("\nMISSED {missed}\n");
    }
    text
}

impl ForgeTally {
    fn and(self, other: &Self) -> Self {
        Self {
            verified: self.verified + other.verified,
            anchored: self.anchored + other.anchored,
            harmless: self.harmless + other.harmless,
            missed: self.missed + other.missed,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn forgeries_of_every_way_are_found_or_change_no_answer() {
        let made = Made::new().await.unwrap();
        let whole = made.copy(false).unwrap();
        assert_eq!(verify(whole.path(), None, None).await.unwrap().findings, []);
        assert_eq!(answers(whole.path()).await, made.answers, "the same store answers the same");
        let with_log = made.copy(true).unwrap();
        assert_eq!(answers(with_log.path()).await, made.answers, "and so it does with its log beside it");
        let cell = run_cell(&made, 20, 40, 0).await.unwrap();
        assert_eq!(cell.missed, [""; 0]);
        assert_eq!(cell.ways.len(), FORGERIES.len(), "{:?}", cell.ways);
        let verified: usize = cell.ways.values().map(|tally| tally.verified).sum();
        assert!(verified >= 15, "{:?}", cell.ways);
    }
}
