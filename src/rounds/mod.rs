//! Rounds: unlabeled frames and a few labels → a candidate, in a process of its own beside the line.
//!
//! A round lives in a folder, `<store>/rounds/<number>`:
//!
//! | file | written by | holds |
//! |---|---|---|
//! | `plan.json` | the service, first | everything the round depends on |
//! | `snapshot/` | its process | the data, frozen; `train/` and `held_out/` list its labeled pictures |
//! | `<version>-teacher/`, `<version>/` | `beltsight-learn` | its runs: checkpoints, metrics, report, `model/` |
//! | `ruling.json` | its process, last | the promotion gate's ruling on the candidate `<version>/model` |
//! | `heartbeat`, in it and in its runs | its process | a number that rises while it gets on |
//! | `outcome.json` | the service | how it ended |
//!
//! Beside the rounds lies `features/`, at most 6 GiB of what frozen trunks gave: the next round goes on with it.
//!
//! Invariant: a file or folder under its final name is whole, so a round that was killed goes on by being run again.

mod audit;
pub mod exam;
pub mod gate;
pub mod keeper;
pub mod learner;
pub mod near_duplicates;
mod probation;
pub mod run;
mod sides;
pub mod snapshot;
pub mod start;
mod window;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    domain::time::rfc3339_now,
    files,
    rounds::gate::{PromotionGateLimits, PromotionGateRuling},
};

/// Exit status of `beltsight round` when it can go on by being run again (EX_TEMPFAIL of sysexits.h).
pub const AGAIN: u8 = 75;

/// When rounds run and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoundSettings {
    /// Time between two rounds; 0 runs none by the clock.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// New labels that start a round; 0 never does.
    pub new_labels: usize,
    /// Mean novelty of the newest items that starts a round; 0 never does.
    pub drift: f32,
    /// Fewest labels a round needs.
    pub min_labels: usize,
    /// What `beltsight train` is told: method and options, without data and output. `--from incumbent` goes on from what
    /// serves when the round begins; where that can't be read back, both words are left out, and `distillation`, which
    /// needs it, becomes `pseudo-label --net small`.
    pub train: Vec<String>,
    /// What `beltsight distill` is told to make the serving student from the trained one; empty: the trained one serves.
    pub distill: Vec<String>,
    /// Labeled pictures that every round trains on in addition: a data set's folder.
    pub base: Option<PathBuf>,
    /// Labeled pictures that every candidate is examined on in addition; training never sees them.
    pub held_out: Option<PathBuf>,
    /// Largest share of the recorded items that the audit draws, see [`crate::line::record::RecordSettings::audit_per_day`];
    /// training never sees them.
    pub held_out_share: f64,
    /// Most unlabeled pictures in a round, drawn evenly over the days of which there are any.
    pub unlabeled: usize,
    /// Bytes of memory (data segment) that each of its processes may take.
    pub memory: u64,
    /// Cores that a round leaves to the line, where there are more. Idle priority alone does not keep it out of the way:
    /// a virtual machine whose cores are all busy is halted by its host for up to 27 ms at a time (measured), and a
    /// cgroup's quota is one for all that run in it.
    pub spare_cores: usize,
    /// Longest time a round may take; then it is ended.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// A round whose process does not get on for this long is ended and goes on in a new one.
    #[serde(with = "humantime_serde")]
    pub stall: Duration,
    /// Rounds that are over and keep their pictures, runs and candidates; of older ones the files that tell of them stay.
    pub keep: usize,
    /// Bytes that rounds which are over may take; the oldest give way first.
    pub keep_bytes: u64,
    /// How long a round waits after it endangered the line's deadline.
    #[serde(with = "humantime_serde")]
    pub pause: Duration,
    /// Whether a candidate that passed every check takes over by itself; otherwise it waits for a person.
    pub automatic: bool,
    /// How long a new student is watched: when it rejects too much, fails or misses a challenge test, the one before takes
    /// over again.
    #[serde(with = "humantime_serde")]
    pub probation: Duration,
    /// What a candidate must keep to.
    pub gate: PromotionGateLimits,
}

impl Default for RoundSettings {
    fn default() -> Self {
        let words = |text: &str| text.split(' ').map(String::from).collect();
        Self {
            every: Duration::ZERO,
            new_labels: 0,
            drift: 0.0,
            min_labels: 20,
            train: words("distillation --from incumbent"),
            distill: Vec::new(),
            base: None,
            held_out: None,
            held_out_share: 0.3,
            unlabeled: 5000,
            memory: 8 << 30,
            spare_cores: 1,
            timeout: Duration::from_secs(6 * 3600),
            stall: Duration::from_secs(1200),
            keep: 10,
            keep_bytes: 20 << 30,
            pause: Duration::from_secs(300),
            automatic: true,
            probation: Duration::from_secs(600),
            gate: PromotionGateLimits::default(),
        }
    }
}

impl RoundSettings {
    /// Whether every value lies in its range.
    ///
    /// # Errors
    /// Names the key that does not.
    pub fn check(&self) -> Result<(), String> {
        if !(0.05..=0.95).contains(&self.held_out_share) {
            return Err("rounds.held_out_share must lie between 0.05 and 0.95".into());
        }
        if self.keep == 0 {
            return Err("rounds.keep must be at least 1: the newest round always stays".into());
        }
        if self.train.is_empty() {
            return Err("rounds.train must name a method".into());
        }
        Ok(())
    }

    /// The plan of a first round on the store `store` by these settings, beside the student in `incumbent`; the paths become
    /// absolute. Whoever begins it says what else is so: number, version, trigger, labels and tests.
    ///
    /// # Errors
    /// The system's, where the working folder can't be told.
    pub fn plan(&self, store: &Path, incumbent: &Path) -> io::Result<RoundPlan> {
        let absolute = |path: &PathBuf| std::path::absolute(path);
        Ok(RoundPlan {
            number: 1,
            version: String::new(),
            trigger: String::new(),
            started: rfc3339_now(),
            labels: 0,
            store: std::path::absolute(store)?,
            incumbent: std::path::absolute(incumbent)?,
            train: self.train.clone(),
            distill: self.distill.clone(),
            base: self.base.as_ref().map(absolute).transpose()?,
            held_out: self.held_out.as_ref().map(absolute).transpose()?,
            held_out_share: self.held_out_share,
            unlabeled: self.unlabeled,
            memory: self.memory,
            gate: self.gate.clone(),
            tests_before: 0,
        })
    }
}

/// Everything a round depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundPlan {
    /// Counts from 1.
    pub number: u32,
    /// Its candidate's version name, unlike that of any other store's round; empty in plans of older programs.
    #[serde(default)]
    pub version: String,
    /// What started it: `schedule`, `labels`, `drift`, or a person's name.
    pub trigger: String,
    /// When (RFC 3339).
    pub started: String,
    /// Labeled items when it began.
    pub labels: usize,
    /// The store's folder.
    pub store: PathBuf,
    /// Model folder of the student that serves.
    pub incumbent: PathBuf,
    /// As in [`RoundSettings`].
    pub train: Vec<String>,
    /// As in [`RoundSettings`].
    pub distill: Vec<String>,
    /// As in [`RoundSettings`].
    pub base: Option<PathBuf>,
    /// As in [`RoundSettings`].
    pub held_out: Option<PathBuf>,
    /// As in [`RoundSettings`].
    pub held_out_share: f64,
    /// As in [`RoundSettings`].
    pub unlabeled: usize,
    /// As in [`RoundSettings`].
    pub memory: u64,
    /// As in [`RoundSettings`].
    pub gate: PromotionGateLimits,
    /// Candidates that the store's answers have judged before.
    #[serde(default)]
    pub tests_before: u32,
}

impl RoundPlan {
    /// The stages that the round goes through, in order; a person approves unless it is `automatic`.
    pub fn steps(&self, automatic: bool) -> Vec<RoundStage> {
        let wanted = |stage: &RoundStage| match stage {
            RoundStage::Distill => !self.distill.is_empty(),
            RoundStage::Approval => !automatic,
            RoundStage::Paused => false,
            _ => true,
        };
        RoundStage::ALL.into_iter().filter(wanted).collect()
    }
}

/// What a round does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Stage)]
pub enum RoundStage {
    /// Freezing the data.
    Snapshot,
    /// Training.
    Train,
    /// Distilling.
    Distill,
    /// Measuring the candidate and the incumbent on the held-out pictures.
    Examine,
    /// Scoring live items beside the incumbent.
    Shadow,
    /// Waiting for a person's approval.
    Approval,
    /// Waiting until the line has room again.
    Paused,
    /// It is over.
    Done,
}

impl RoundStage {
    /// All of them, in order.
    pub const ALL: [RoundStage; 8] = [
        RoundStage::Snapshot,
        RoundStage::Train,
        RoundStage::Distill,
        RoundStage::Examine,
        RoundStage::Shadow,
        RoundStage::Approval,
        RoundStage::Paused,
        RoundStage::Done,
    ];

    /// Snake-case name, as in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            RoundStage::Snapshot => "snapshot",
            RoundStage::Train => "train",
            RoundStage::Distill => "distill",
            RoundStage::Examine => "examine",
            RoundStage::Shadow => "shadow",
            RoundStage::Approval => "approval",
            RoundStage::Paused => "paused",
            RoundStage::Done => "done",
        }
    }
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = End)]
pub enum RoundEnd {
    /// The candidate serves.
    Promoted,
    /// The gate held it.
    Held,
    /// A person declined or ended it.
    Stopped,
    /// Something broke.
    Failed,
}

impl RoundEnd {
    /// Snake-case name, as in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            RoundEnd::Promoted => "promoted",
            RoundEnd::Held => "held",
            RoundEnd::Stopped => "stopped",
            RoundEnd::Failed => "failed",
        }
    }
}

/// How a round ended and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundOutcome {
    /// How.
    pub end: RoundEnd,
    /// Why, as a sentence.
    pub why: String,
    /// When (RFC 3339).
    pub at: String,
    /// The ruling with the shadow run, where it came to that.
    pub ruling: Option<PromotionGateRuling>,
}

/// A round's folder.
#[derive(Clone, Debug)]
pub struct RoundFolder {
    /// Its path.
    pub path: PathBuf,
    /// Its number.
    pub number: u32,
    /// The version name of its candidate.
    version: String,
}

impl RoundFolder {
    /// The folder of round `number` of the store in `store`; need not exist.
    pub fn new(store: &Path, number: u32) -> Self {
        Self::at(store.join("rounds").join(format!("{number:04}")), number)
    }

    /// The folder `path` of round `number`.
    pub fn at(path: PathBuf, number: u32) -> Self {
        let mut folder = Self { path, number, version: format!("round-{number:04}") };
        if let Some(plan) = folder.read::<RoundPlan>("plan.json").filter(|plan| !plan.version.is_empty()) {
            folder.version = plan.version;
        }
        folder
    }

    /// The folder of a new round, with its plan in it.
    ///
    /// # Errors
    /// The system's.
    pub fn begin(store: &Path, plan: &RoundPlan) -> io::Result<Self> {
        Self::new(store, plan.number).write("plan.json", plan)?;
        Ok(Self::new(store, plan.number))
    }

    /// All rounds of the store in `store`, the oldest first.
    ///
    /// # Errors
    /// The system's.
    pub fn all(store: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(store.join("rounds")) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut rounds: Vec<Self> = numbers.map(|number| Self::new(store, number)).collect();
        rounds.retain(|round| round.path.join("plan.json").is_file());
        rounds.sort_by_key(|round| round.number);
        Ok(rounds)
    }

    /// The version name of its candidate.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The candidate's model folder.
    pub fn candidate(&self) -> PathBuf {
        self.path.join(&self.version).join("model")
    }

    /// The run that trains the teacher, where there is one.
    pub fn teacher(&self) -> PathBuf {
        self.path.join(format!("{}-teacher", self.version))
    }

    /// What frozen trunks gave, for this round and those after it: a folder beside all rounds.
    pub fn features(&self) -> PathBuf {
        self.path.with_file_name("features")
    }

    /// A file of it as JSON; `None` when it is not there yet or can't be read.
    pub fn read<T: DeserializeOwned>(&self, file: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.path.join(file)).ok()?).ok()
    }

    /// Writes a file of it, whole or not at all.
    ///
    /// # Errors
    /// The system's.
    pub fn write<T: Serialize>(&self, file: &str, content: &T) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        files::write(&self.path.join(file), &serde_json::to_vec_pretty(content)?)
    }

    /// What its process does at present, by what it has finished, and how far that is: 0 to 1, where it can be told.
    pub fn stage(&self) -> (RoundStage, Option<f64>) {
        if self.path.join("outcome.json").is_file() {
            return (RoundStage::Done, None);
        }
        if self.path.join("ruling.json").is_file() {
            return (RoundStage::Shadow, None);
        }
        let Some(plan) = self.read::<RoundPlan>("plan.json") else { return (RoundStage::Snapshot, None) };
        if self.candidate().is_dir() {
            (RoundStage::Examine, None)
        } else if !self.path.join("held_out").is_dir() {
            (RoundStage::Snapshot, None)
        } else if plan.distill.is_empty() {
            (RoundStage::Train, steps(&self.path.join(&self.version)))
        } else if self.teacher().join("model").is_dir() {
            (RoundStage::Distill, steps(&self.path.join(&self.version)))
        } else {
            (RoundStage::Train, steps(&self.teacher()))
        }
    }
}

/// Share of its steps that a training in `folder` has logged; with cross-validation, of all its folds and the last student.
fn steps(folder: &Path) -> Option<f64> {
    let config: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("config.json")).ok()?).ok()?;
    let all = config["plan"]["steps"].as_f64()?;
    let text = fs::read_to_string(folder.join("metrics.jsonl")).ok()?;
    let lines: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let runs: BTreeSet<&str> = lines.iter().filter_map(|line| line["run"].as_str()).collect();
    let planned = config["folds"].as_f64().map_or(1.0, |folds| folds + 1.0);
    let of_run = (lines.last()?["step"].as_f64()? / all).clamp(0.0, 1.0);
    Some(((runs.len() as f64 - 1.0 + of_run) / planned).clamp(0.0, 1.0))
}
