//! The process of a round: snapshot → training → distilled student → exam → ruling, start to finish.
//!
//! Invariant: a step whose result is there is not done again, so a killed round goes on where it was; training goes on
//! from its checkpoint.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use super::{RoundFolder, RoundPlan};
use crate::{
    files::{FolderDraft, heartbeat},
    picture::dataset::{self, Dataset, Sample},
    rounds::{
        audit, exam, gate, learner,
        snapshot::{self, SnapshotLimits, snapshot},
        start,
    },
    store::Store,
    student::manifest::Manifest,
};

/// Times that a label of the store is listed beside the data set that training always sees: thirty among eight hundred
/// would hardly count, so they are listed until both are about as many, but not so often that they are learned by heart.
const MOST_LISTED: usize = 16;
/// Beside the audit's pictures, how much each counts.
const WEIGHTS: &str = "weights.json";

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
    let weights = weights(folder, &held_out);
    let ([old, new], truth) = exam::sit([&plan.incumbent, &folder.candidate()], &held_out, weights)?;
    let ruling = gate::within(gate::rule(&old, &new, &truth, &plan.gate), plan.tests_before, &plan.gate);
    folder.write("ruling.json", &ruling)?;
    println!("{}", serde_json::to_string_pretty(&ruling)?);
    Ok(())
}

/// Freezes the data: the snapshot, the audit's answers, and the lists `train` and `held_out` of its labeled pictures.
fn freeze(folder: &RoundFolder, plan: &RoundPlan) -> Result<()> {
    let frozen = folder.path.join("snapshot");
    let answered = folder.path.join("audit");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open_to_read(&plan.store).await?; // the service writes it
        let taken = freeze_store(&store, plan, &frozen, &answered).await;
        store.close().await;
        taken
    })?;
    let mut train = absolute(&frozen, dataset::read(&frozen)?.samples)?;
    if let Some(root) = &plan.base {
        train = beside(train, absolute(root, dataset::read(root)?.samples)?);
    }
    let mut held_out = Vec::new();
    if answered.join(dataset::PHOTOS).is_file() {
        held_out = absolute(&answered, dataset::read(&answered)?.samples)?;
    }
    if let Some(root) = &plan.held_out {
        held_out.extend(absolute(root, dataset::read(root)?.samples)?);
    }
    ensure!(!held_out.is_empty(), "{NOTHING_TO_JUDGE_BY}");
    list(&folder.path, "train", &train)?;
    list(&folder.path, "held_out", &held_out)
}

/// Why a round without held-out pictures ends.
const NOTHING_TO_JUDGE_BY: &str = "nothing judges the candidate: nobody has answered yet about an item that the audit drew \
    (record.audit_per_day), and rounds.held_out names no pictures";

/// Freezes what is not frozen yet: what trains, and what judges.
async fn freeze_store(store: &Store, plan: &RoundPlan, frozen: &Path, answered: &Path) -> Result<()> {
    if !frozen.is_dir() {
        snapshot(store, frozen, SnapshotLimits { labeled: 100_000, unlabeled: plan.unlabeled }).await?;
    }
    if !answered.is_dir() {
        let draft = FolderDraft::begin(answered)?;
        let (samples, weights) = audit::freeze(store, draft.path()).await?;
        if !samples.is_empty() {
            dataset::write(draft.path(), &samples)?;
        }
        fs::write(draft.path().join(WEIGHTS), serde_json::to_vec(&weights)?)?;
        draft.publish()?;
    }
    Ok(())
}

/// How much each of `held_out` counts: as the audit drew it, and 1 where it is not the audit's.
fn weights(folder: &RoundFolder, held_out: &Dataset) -> Vec<f64> {
    let root = fs::canonicalize(folder.path.join("audit")).unwrap_or_default();
    let drawn: BTreeMap<String, f64> = folder.read(&format!("audit/{WEIGHTS}")).unwrap_or_default();
    let own = |file: &str| Path::new(file).strip_prefix(&root).ok().and_then(|file| drawn.get(file.to_str()?).copied());
    held_out.samples.iter().map(|sample| own(&sample.file).unwrap_or(1.0)).collect()
}

/// `new` as often as [`MOST_LISTED`] says, and `base`.
fn beside(new: Vec<Sample>, base: Vec<Sample>) -> Vec<Sample> {
    let times = (base.len() / new.len().max(1)).clamp(1, MOST_LISTED);
    std::iter::repeat_n(new, times).flatten().chain(base).collect()
}

fn absolute(root: &Path, samples: Vec<Sample>) -> Result<Vec<Sample>> {
    let root = fs::canonicalize(root).with_context(|| root.display().to_string())?;
    let place = |sample: Sample| Sample { file: root.join(&sample.file).to_string_lossy().into_owned(), ..sample };
    Ok(samples.into_iter().map(place).collect())
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
    command.args(["--accept", accept]).arg("--features").arg(folder.features());
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
#[allow(clippy::unwrap_used)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::{
        domain::{Action, AuditDraw, Picture, Verdict, testing::verdict},
        picture::pixels,
        rounds::RoundSettings,
        store::frame_key,
    };

    /// A store of `items` items that somebody labeled in turn, of which every third was drawn.
    async fn labeled(folder: &Path, items: usize) {
        let store = Store::open(folder).await.unwrap();
        let (mut verdicts, mut draws) = (Vec::new(), Vec::new());
        for n in 0..items {
            let mut picture = Picture::filled(64, 64, [0; 3]);
            for (at, value) in picture.rgb.iter_mut().enumerate() {
                *value = ((at / 96 * (n + 3) + n * 31) % 251) as u8;
            }
            let jpeg = pixels::encode_jpeg(&picture, 95).unwrap();
            let key = frame_key(&jpeg, OffsetDateTime::UNIX_EPOCH);
            store.put_frame(&key, jpeg.into()).await.unwrap();
            verdicts.push(Verdict { frame: Some(key), ..verdict(Action::Reject) });
            draws.push((n % 3 == 0).then_some(AuditDraw { chance: 0.3, least: 0.1 }));
        }
        let ids = store.insert_drawn(&[], &verdicts, &draws).await.unwrap();
        for id in ids {
            let class = [None, Some("cod"), Some("bass")][id as usize % 7 % 3];
            store.add_label(id, class, "anna", OffsetDateTime::UNIX_EPOCH).await.unwrap();
        }
        store.close().await;
    }

    #[test]
    fn only_what_the_audit_drew_judges_and_it_never_trains() {
        let root = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(labeled(&root.path().join("store"), 30));
        drop(runtime);
        let settings = RoundSettings { unlabeled: 10, ..RoundSettings::default() };
        let plan = settings.plan(&root.path().join("store"), Path::new("/models/a")).unwrap();
        let folder = RoundFolder::begin(&plan.store, &plan).unwrap();
        freeze(&folder, &plan).unwrap();
        let listed = |name: &str| dataset::read(&folder.path.join(name)).unwrap();
        let ids = |data: &Dataset| -> Vec<usize> {
            let id = |s: &Sample| Path::new(&s.file).file_stem().unwrap().to_str().unwrap().parse().unwrap();
            data.samples.iter().map(id).collect()
        };
        let held_out = listed("held_out");
        assert_eq!(ids(&held_out), (1..=30).step_by(3).collect::<Vec<_>>());
        assert!(ids(&listed("train")).iter().all(|id| id % 3 != 1));
        assert!(
            held_out.samples.iter().any(|sample| sample.class == audit::UNSETTLED),
            "what nobody can tell counts too"
        );
        let weights = weights(&folder, &held_out);
        assert!(weights.iter().all(|weight| (weight - 1.0 / 3.0).abs() < 1e-9), "{weights:?}");
    }

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
