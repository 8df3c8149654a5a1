//! `beltsight bench round`.

use std::{fs, io::Write, path::PathBuf};

use anyhow::Result;

use super::words;
use crate::bench::round::{RoundBenchPlan, measure};

/// Arguments of `bench round`.
#[derive(clap::Args)]
pub struct RoundBenchArgs {
    /// Folder for everything it makes; one line of figures a seed is added to `rounds.jsonl` there.
    #[arg(long)]
    out: PathBuf,
    /// The incumbent's model folder.
    #[arg(long)]
    model: PathBuf,
    /// What `beltsight train` is told, in one string [default: the settings' own].
    #[arg(long)]
    train: Option<String>,
    /// Seeds of the belt.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Items that an expert answers.
    #[arg(long, default_value_t = 40)]
    answers: usize,
    /// Items without an answer.
    #[arg(long, default_value_t = 600)]
    unlabeled: usize,
    /// Fresh items that incumbent and candidate are measured on.
    #[arg(long, default_value_t = 2000)]
    fresh: usize,
    /// With an aged lamp, dirt on the lens and other fish than before.
    #[arg(long)]
    changed: bool,
}

impl RoundBenchArgs {
    pub(super) async fn run(self) -> Result<()> {
        for seed in self.seeds {
            let plan = RoundBenchPlan {
                out: self.out.clone(),
                model: self.model.clone(),
                train: self.train.as_deref().map(words),
                seed,
                answers: self.answers,
                unlabeled: self.unlabeled,
                fresh: self.fresh,
                changed: self.changed,
            };
            let line = serde_json::to_string(&measure(&plan).await?)?;
            println!("{line}");
            let mut lines = fs::File::options().create(true).append(true).open(self.out.join("rounds.jsonl"))?;
            lines.write_all(format!("{line}\n").as_bytes())?;
        }
        Ok(())
    }
}
