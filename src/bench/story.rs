//! The whole story on the simulated belt: a student serves, the scene changes, a few labels and many unlabeled frames
//! become a better student beside the running line.
//!
//! The service is a process of its own, as in a factory; this program is its client, its expert (an oracle that knows the
//! truth) and its measuring stick.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{
    expert::{Expert, order},
    machine, quantile,
    service::{MeasuredService, ON_CPU},
    stolen,
};
use crate::{
    belt::{BeltConfig, Change, Species},
    bench::stills,
    domain::{Action, Verdict, ms},
    picture::dataset::{self, Sample},
    rounds::learner,
    student::evaluate::evaluate,
};

/// Labels that the oracle gives before a round.
const BATCH: usize = 30;
/// Rounds, each after a batch.
const ROUNDS: usize = 2;
/// Items per minute on the belt, and its speed in pixels per second.
const BELT: (f64, f64) = (100.0, 560.0);

/// How the story is told.
#[derive(Clone, Debug)]
pub struct StoryPlan {
    /// Folder for everything it makes.
    pub out: PathBuf,
    /// What `beltsight train` is told in the rounds.
    pub train: Vec<String>,
    /// What `beltsight distill` is told in the rounds; empty: what was trained serves.
    pub distill: Vec<String>,
    /// Whether labels are asked for by usefulness; otherwise by chance.
    pub useful: bool,
    /// Seed of pictures and belt.
    pub seed: u64,
    /// How long the belt is watched in each phase.
    pub phase: Duration,
}

/// What happened.
#[derive(Debug, Serialize)]
pub struct Story {
    /// Where it was measured.
    pub machine: String,
    /// What the rounds were told.
    pub train: Vec<String>,
    /// What the distillation was told.
    pub distill: Vec<String>,
    /// `useful` or `random`.
    pub order: String,
    /// Seed.
    pub seed: u64,
    /// True accuracy on the belt, phase by phase.
    pub phases: Vec<StoryPhase>,
    /// How each round ended, and why.
    pub rounds: Vec<Value>,
    /// Accuracy on 500 stills of the changed scene: the first student, the last one, one trained on
    /// the labels of all 1,600 pictures, clean and changed.
    pub stills: [f64; 3],
    /// Requests beside the belt, and how many of them failed.
    pub requests: [usize; 2],
    /// Items that passed whole, and verdicts about them.
    pub items: [usize; 2],
    /// Capture to verdict, p99 over all phases without a round, and over all rounds.
    pub p99_ms: [f64; 2],
}

/// One span of the story.
#[derive(Debug, Serialize)]
pub struct StoryPhase {
    /// What it is.
    pub name: String,
    /// Labels given so far.
    pub labels: usize,
    /// The student that judged its last item.
    pub model: String,
    /// Items judged.
    pub items: usize,
    /// Share of them whose class was right.
    pub accuracy: f64,
    /// Share of the foreign fish that would have passed.
    pub false_accepts: f64,
    /// Capture to verdict, p50 and p99.
    pub p50_ms: f64,
    /// p99.
    pub p99_ms: f64,
    /// Milliseconds that the machine's host kept from its cores meanwhile.
    pub stolen_ms: f64,
}

fn scene(seed: u64, change: Option<Change>) -> BeltConfig {
    let others = vec![Species::Herring];
    BeltConfig {
        seed,
        items_per_minute: BELT.0,
        speed: BELT.1,
        empty_share: 0.0,
        others,
        change,
        ..BeltConfig::default()
    }
}

/// A lamp that has aged to two thirds of its light and turned yellow, dirt on the lens, and among the herring twice as
/// many mackerel, which the first student never saw.
fn change(after: f64) -> Change {
    let others = vec![Species::Herring, Species::Mackerel, Species::Mackerel];
    Change { after, light: 0.65, warmth: 1.0, dirt: 30, others }
}

/// Where stills come from.
enum StillsSource {
    /// Many clean belts.
    Many,
    /// The story's own belt after the change, from an hour that the story does not reach.
    Own(u64),
}

/// Draws stills and lists them in two classes.
fn stills(out: &Path, seed: u64, items: usize, from: &StillsSource) -> Result<()> {
    // Slower than the story's belt: these need no deadline, and fewer pictures are drawn between two items.
    let slow = |belt: BeltConfig| BeltConfig { speed: 240.0, items_per_minute: 40.0, ..belt };
    match from {
        StillsSource::Many => stills::write_of(out, seed * 100 + 11, items, &slow(scene(0, None)))?,
        StillsSource::Own(hour) => {
            let start = Duration::from_secs(hour * 3600);
            stills::write_one(out, &slow(scene(seed, Some(change(0.0)))), start, items)?;
        }
    }
    let mut table = csv::Reader::from_path(out.join(dataset::PHOTOS))?;
    let mut rows = Vec::new();
    for row in table.records() {
        let row = row?;
        let class = if &row[1] == "salmon" { "salmon" } else { "other" };
        rows.push([&row[0], class, &row[2], &row[3]].map(String::from));
    }
    Ok(dataset::write_table(out, ["file", "class", "salmonid", "split_group"], rows)?)
}

/// Lists the pictures of several data sets as one.
fn join(parts: &[&Path], to: &Path) -> Result<()> {
    let mut joined = Vec::new();
    for root in parts {
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        for sample in dataset::read(root)?.samples {
            let file = root.join(&sample.file).to_string_lossy().into_owned();
            joined.push(Sample { file, group: format!("{name} {}", sample.group), ..sample });
        }
    }
    Ok(dataset::write(to, &joined)?)
}

fn train(data: &Path, out: &Path, seed: u64) -> Result<()> {
    if out.join("model").is_dir() {
        return Ok(());
    }
    let mut command = learner::command()?;
    command.args(["train", "supervised", "--net", "small", "--epochs", "40", "--seed", &seed.to_string()]);
    command.args(["--accept", "salmon"]); // a joined list marks no good class
    let done = command.arg("--data").arg(data).arg("--out").arg(out).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Draws the pictures of the clean scene, of the changed one and of the examination; trains the first student, and the
/// one that has all labels. What is there from an earlier try is kept.
fn prepare(out: &Path, seed: u64) -> Result<()> {
    let [base, changed, exam] = ["base", "changed", "exam"].map(|name| out.join(name));
    for (folder, items, from) in [
        (&base, 800, StillsSource::Many),
        (&changed, 800, StillsSource::Own(100)),
        (&exam, 500, StillsSource::Own(200)),
    ] {
        if !folder.join(dataset::PHOTOS).is_file() {
            println!("drawing {}", folder.display());
            stills(folder, seed, items, &from)?;
        }
    }
    println!("training the first student, and the one that has all labels");
    let everything = out.join("everything");
    join(&[&base, &changed], &everything)?;
    train(&base, &out.join("first"), seed)?;
    train(&everything, &out.join("all"), seed)
}

/// Tells the story.
///
/// # Errors
/// When a part of it can't run.
pub async fn tell(plan: StoryPlan) -> Result<Story> {
    let out = std::path::absolute(&plan.out)?;
    fs::create_dir_all(&out)?;
    prepare(&out, plan.seed)?;
    let root = out.join("models");
    let _ = fs::remove_dir_all(&root);
    super::copy_model(&out.join("first/model"), &root.join("first"))?;
    let first = plan.phase.as_secs_f64();
    let belt = scene(plan.seed, Some(change(first)));
    let rounds = json!({
        "min_labels": 10, "train": plan.train, "distill": plan.distill, "base": out.join("base"), "probation": "30s",
        // The audit draws half of the items: of few labels half judge, half teach.
        "held_out_share": 0.5,
        // Of 60 labels 30 are held out: one picture is a fifteenth of a class, and two may be chance.
        "gate": { "shadow_items": 100, "shadow_disagreement": 0.5, "class_loss": 0.15 },
    });
    let config = json!({
        "camera": [{ "name": "belt", "source": "simulated", "belt": belt }],
        "record": { "keep_share": 1.0, "keep_per_hour": 100000, "audit_per_day": 100_000_000 },
        "rounds": rounds,
    });
    let service = MeasuredService::with_config(&root.join("first"), ON_CPU, &toml::to_string(&config)?)?;
    service.ready().await?;
    let requests = SideRequests::start(&service);
    let mut watch = StoryWatch {
        expert: Expert::new(service, plan.useful),
        phases: Vec::new(),
        span: plan.phase,
        times: Default::default(),
    };

    let began = OffsetDateTime::now_utc();
    watch.phase("clean").await?;
    tokio::time::sleep(Duration::from_secs(3)).await; // until the first changed fish has passed
    watch.phase("changed").await?;
    let mut ended = Vec::new();
    for number in 1..=ROUNDS {
        // The expert knows the belt's items, not what came over HTTP.
        watch.expert.label(BATCH, |item| Some(class(item.truth.as_deref()?).into())).await?;
        let round = watch.round(number).await?;
        println!("{}", serde_json::to_string_pretty(&round)?);
        ended.push(round);
        watch.phase(&format!("after round {number}")).await?;
    }
    let requests = requests.stop().await?;
    let items = watch.items(&belt, began).await?;
    let last = root.join(watch.expert.serving().await?);
    drop(watch.expert);
    let accuracy = |folder: &Path| Ok::<_, anyhow::Error>(evaluate(folder, None, &out.join("exam"))?.accuracy);
    let story = Story {
        machine: machine(),
        train: plan.train.clone(),
        distill: plan.distill.clone(),
        order: order(plan.useful).into(),
        seed: plan.seed,
        phases: watch.phases,
        p99_ms: watch.times.map(p99),
        rounds: ended,
        stills: [accuracy(&root.join("first"))?, accuracy(&last)?, accuracy(&out.join("all/model"))?],
        requests,
        items,
    };
    println!("{}", serde_json::to_string_pretty(&story)?);
    Ok(story)
}

/// The class that a species has here.
fn class(species: &str) -> &'static str {
    if species == Species::Salmon.name() { "salmon" } else { "other" }
}

/// The expert with a measuring stick.
struct StoryWatch {
    expert: Expert,
    phases: Vec<StoryPhase>,
    span: Duration,
    /// Capture to verdict of every item judged while no round ran, and while one did.
    times: [Vec<Duration>; 2],
}

fn p99(mut times: Vec<Duration>) -> f64 {
    times.sort();
    ms(quantile(&times, 0.99))
}

impl StoryWatch {
    /// Watches the belt for a while.
    async fn phase(&mut self, name: &str) -> Result<()> {
        let start = (OffsetDateTime::now_utc(), stolen()?);
        tokio::time::sleep(self.span).await;
        self.measure(name, start, false).await
    }

    /// Measures what passed since `start`: then, and what had been stolen until then.
    async fn measure(&mut self, name: &str, start: (OffsetDateTime, Duration), round: bool) -> Result<()> {
        let stolen = stolen()?.saturating_sub(start.1);
        let verdicts = self.expert.service.verdicts_since(start.0).await?;
        let known: Vec<(&Verdict, &str)> =
            verdicts.iter().filter_map(|v| Some((v, class(v.truth.as_deref()?)))).collect();
        let share = |of: usize, all: usize| of as f64 / all.max(1) as f64;
        let right = known.iter().filter(|(v, truth)| v.decision.class.as_deref() == Some(truth)).count();
        let foreign: Vec<_> = known.iter().filter(|(_, truth)| *truth == "other").collect();
        let passed = foreign.iter().filter(|(v, _)| v.decision.action == Action::Accept).count();
        let mut times: Vec<Duration> =
            verdicts.iter().filter_map(|v| Duration::try_from_secs_f64(v.timings.total_ms / 1e3).ok()).collect();
        times.sort();
        self.times[usize::from(round)].extend(&times);
        let phase = StoryPhase {
            name: name.into(),
            labels: self.expert.labels,
            model: verdicts.first().map(|v| v.model.clone()).unwrap_or_default(),
            items: known.len(),
            accuracy: share(right, known.len()),
            false_accepts: share(passed, foreign.len()),
            p50_ms: ms(quantile(&times, 0.5)),
            p99_ms: ms(quantile(&times, 0.99)),
            stolen_ms: ms(stolen),
        };
        println!("{}", serde_json::to_string(&phase)?);
        self.phases.push(phase);
        Ok(())
    }

    /// Runs a round to its end, measuring the belt beside it.
    async fn round(&mut self, number: usize) -> Result<Value> {
        let start = (OffsetDateTime::now_utc(), stolen()?);
        let round = self.expert.round("story").await?;
        self.measure(&format!("while round {number} ran"), start, true).await?;
        Ok(round)
    }

    /// Items that came whole into the picture since `start`, and verdicts about them.
    async fn items(&self, belt: &BeltConfig, start: OffsetDateTime) -> Result<[usize; 2]> {
        let verdicts = self.expert.service.verdicts_since(start).await?;
        let (Some(newest), Some(oldest)) = (verdicts.first(), verdicts.last()) else { return Ok([0, 0]) };
        let seconds = (newest.time - oldest.time).as_seconds_f64();
        // No place on this belt is empty: one item a pitch.
        let passed = (seconds * belt.items_per_minute / 60.0).round() as usize + 1;
        Ok([passed, verdicts.len()])
    }
}

/// Requests beside the belt, four per second: what the live page and a program that follows the verdicts ask for. Pictures
/// to judge would be kept and asked about in the labeling queue.
struct SideRequests {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<[usize; 2]>,
}

impl SideRequests {
    fn start(service: &MeasuredService) -> Self {
        let urls = ["/live.jpg", "/verdicts?limit=20", "/readyz", "/metrics"].map(|path| service.at(path));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let client = reqwest::Client::new();
            tokio::time::sleep(Duration::from_secs(2)).await; // before the first frame there is no picture
            let (mut asked, mut failed) = (0, 0);
            for url in urls.iter().cycle() {
                if stopped.is_cancelled() {
                    break;
                }
                asked += 1;
                failed += usize::from(!client.get(url).send().await.is_ok_and(|a| a.status().is_success()));
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            [asked, failed]
        });
        Self { stop, task }
    }

    async fn stop(self) -> Result<[usize; 2]> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}
