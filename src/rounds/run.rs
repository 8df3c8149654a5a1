//! The process of a round: snapshot → training → distilled student → exam → ruling, start to finish.
//!
//! Invariant: a step whose result is there is not done again, so a killed round goes on where it was; training goes on
//! from its checkpoint.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use super::{RoundFolder, RoundPlan};
use crate::{
    domain::hash::sha256,
    files::{FolderDraft, heartbeat},
    picture::dataset::{self, Dataset, Sample},
    rounds::{
        exam, gate, learner,
        snapshot::{self, SnapshotLimits, snapshot},
        start,
    },
    store::Store,
    student::manifest::Manifest,
};

/// Times that a label of the store is listed beside the data set that training always sees: thirty among eight hundred
/// would hardly count, so they are listed until both are about as many, but not so often that they are learned by heart.
const MOST_LISTED: usize = 16;

/// Runs what is left of the round in `folder` and leaves its ruling there.
///
/// # Errors
/// What kept a step from its result, with the step.
pub fn run(folder: &RoundFolder) -> Result<()> {
    let plan: RoundPlan =
        folder.read("plan.json").with_context(|| format!("{} holds no plan", folder.path.display()))?;
    if folder.path.join("ruling.json").is_file() {
        return Ok(());
    }
    heartbeat::begin(&folder.path);
    let incumbent = Manifest::read(&plan.incumbent)?;
    if !folder.path.join("held_out").is_dir() {
        freeze(folder, &plan)?;
    }
    let accept = incumbent.thresholds.accept.join(",");
    let candidate = folder.path.join(folder.version());
    if plan.distill.is_empty() {
        learn(folder, &plan, "train", &plan.train, &accept, &candidate)?;
    } else {
        let teacher = folder.teacher();
        learn(folder, &plan, "train", &plan.train, &accept, &teacher)?;
        let mut words = plan.distill.clone();
        words.extend(["--teacher".into(), teacher.to_string_lossy().into_owned()]);
        learn(folder, &plan, "distill", &words, &accept, &candidate)?;
    }
    let held_out = dataset::read(&folder.path.join("held_out"))?;
    let ([old, new], truth) = exam::sit([&plan.incumbent, &folder.candidate()], &held_out)?;
    let ruling = gate::rule(&old, &new, &truth, &plan.gate);
    folder.write("ruling.json", &ruling)?;
    println!("{}", serde_json::to_string_pretty(&ruling)?);
    Ok(())
}

/// Freezes the data: the snapshot, and the lists `train` and `held_out` of its labeled pictures.
fn freeze(folder: &RoundFolder, plan: &RoundPlan) -> Result<()> {
    let frozen = folder.path.join("snapshot");
    if !frozen.is_dir() {
        let limits = SnapshotLimits { labeled: 100_000, unlabeled: plan.unlabeled };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let store = Store::open_to_read(&plan.store).await?; // the service writes it
            let taken = snapshot(&store, &frozen, limits).await;
            store.close().await;
            taken
        })?;
    }
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for sample in absolute(&frozen, dataset::read(&frozen)?)? {
        let share = if held_out_draw(&sample.group) < plan.held_out_share { &mut held_out } else { &mut train };
        share.push(sample);
    }
    if let Some(root) = &plan.base {
        train = beside(train, absolute(root, dataset::read(root)?)?);
    }
    if let Some(root) = &plan.held_out {
        held_out.extend(absolute(root, dataset::read(root)?)?);
    }
    ensure!(!held_out.is_empty(), "no labeled item fell into the share of {} that is held out", plan.held_out_share);
    list(&folder.path, "train", &train)?;
    list(&folder.path, "held_out", &held_out)
}

/// `new` as often as [`MOST_LISTED`] says, and `base`.
fn beside(new: Vec<Sample>, base: Vec<Sample>) -> Vec<Sample> {
    let times = (base.len() / new.len().max(1)).clamp(1, MOST_LISTED);
    std::iter::repeat_n(new, times).flatten().chain(base).collect()
}

/// Where an item falls, 0 to 1, by the hash of its group: for one item always the same.
fn held_out_draw(group: &str) -> f64 {
    let hash = u32::from_str_radix(&sha256(group.as_bytes())[..8], 16).unwrap_or(0); // eight hex digits always parse
    f64::from(hash) / f64::from(u32::MAX)
}

fn absolute(root: &Path, data: Dataset) -> Result<Vec<Sample>> {
    let root = fs::canonicalize(root).with_context(|| root.display().to_string())?;
    let place = |sample: Sample| Sample { file: root.join(&sample.file).to_string_lossy().into_owned(), ..sample };
    Ok(data.samples.into_iter().map(place).collect())
}

/// Writes `folder/name/photos.csv`, whole or not at all.
fn list(folder: &Path, name: &str, samples: &[Sample]) -> Result<()> {
    let target = folder.join(name);
    let draft = FolderDraft::begin(&target)?;
    dataset::write(draft.path(), samples)?;
    // What is there is left by a run that was killed between the two lists.
    draft.replace().with_context(|| target.display().to_string())
}

/// Runs `beltsight-learn what words` until `out/model` is there.
fn learn(folder: &RoundFolder, plan: &RoundPlan, what: &str, words: &[String], accept: &str, out: &Path) -> Result<()> {
    if out.join("model").is_dir() {
        return Ok(());
    }
    let (words, why_not) = start::with_incumbent(words, &plan.incumbent);
    if let Some(why) = why_not {
        println!(
            "the round can't go on from {}: {why}; it begins with: {what} {}",
            plan.incumbent.display(),
            words.join(" ")
        );
    }
    let mut command = learner::command()?;
    command.arg(what).args(&words).arg("--data").arg(folder.path.join("train")).arg("--out").arg(out);
    command.args(["--accept", accept]);
    let unlabeled: PathBuf = folder.path.join("snapshot").join(snapshot::UNLABELED);
    if dataset::read_unlabeled(&unlabeled).is_ok() && words.first().is_none_or(|method| method != "supervised") {
        command.arg("--unlabeled").arg(unlabeled);
    }
    if out.join("config.json").is_file() {
        command.arg("--resume");
    }
    let status = capped(&command, plan.memory).status().with_context(|| format!("{command:?}"))?;
    match status.code() {
        Some(0) => Ok(()),
        None => Err(Killed(what.into()).into()), // by the system for want of memory, or by a person
        Some(_) => bail!("beltsight-learn {what} ended with {status}"),
    }
}

/// The learning program was killed; the round goes on when it is run again.
#[derive(Debug, thiserror::Error)]
#[error("beltsight-learn {0} was killed")]
pub struct Killed(String);

/// The CPUs that a round may use, as `taskset` lists them: of those that this process may use all but `spare`, one at
/// least.
///
/// # Errors
/// When the system does not name them.
pub fn cpus(spare: usize) -> io::Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = list.ok_or_else(|| io::Error::other("/proc/self/status names no CPUs"))?;
    let cores = thread::available_parallelism()?.get(); // also a cgroup's quota counts
    Ok(last_of(list.trim(), cores.saturating_sub(spare).max(1)))
}

/// The last `n` of a list like `0-3,8`. What a cgroup's quota grants may be fewer than the list names.
fn last_of(list: &str, n: usize) -> String {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    let all: Vec<String> = list.split(',').filter_map(range).flatten().map(|cpu| cpu.to_string()).collect();
    all[all.len().saturating_sub(n)..].join(",")
}

/// `command` with idle priority (SCHED_IDLE), with at most `memory` bytes of data segment, killed when its parent is:
/// through util-linux's own programs, so that no unsafe code runs between fork and exec.
pub fn capped(command: &Command, memory: u64) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "chrt", "--idle", "0", "prlimit"]).arg(format!("--data={memory}"));
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    // A backtrace takes memory: a learner that has none left would wait in it for ever, for a lock of its own.
    wrapped.env("RUST_BACKTRACE", "0");
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_gets_the_last_of_the_allowed_cpus() {
        let lists = [("0-1", 1), ("0-3,8,10-11", 4), ("5", 1), ("0-3", 9)].map(|(list, n)| last_of(list, n));
        assert_eq!(lists, ["1", "3,8,10,11", "5", "0,1,2,3"]);
        assert!(cpus(usize::MAX).is_ok_and(|one| one.parse::<usize>().is_ok()), "one is always left to it");
    }

    #[test]
    fn few_new_labels_count_about_as_much_as_many_old_ones() {
        let samples =
            |n: usize, class: &str| vec![Sample { file: "f".into(), class: class.into(), group: "g".into() }; n];
        let listed = |new, base| {
            let all = beside(samples(new, "new"), samples(base, "old"));
            [all.iter().filter(|s| s.class == "new").count(), all.iter().filter(|s| s.class == "old").count()]
        };
        assert_eq!(listed(30, 100), [90, 100]);
        assert_eq!(listed(100, 30), [100, 30], "never fewer than they are");
        assert_eq!(listed(10, 1000), [160, 1000], "not so often that they are learned by heart");
        assert_eq!(listed(0, 50), [0, 50]);
    }
}
