//! The closed loop on real photos: a student that saw a few labels per class serves, photos stream in without labels, an
//! expert answers what the queue asks, rounds run, and what was promoted is measured on photos that nobody else saw.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    expert::{Expert, order},
    machine,
    service::{MeasuredService, ON_CPU},
};
use crate::{
    picture::dataset::{self, Sample},
    rounds::learner,
    store::frame_key,
    student::evaluate::evaluate,
};

/// Every so many groups of pictures one is kept for the examination.
const EXAM: usize = 4;
/// Bytes of a frame's key before the hash of its content: the day and a dash.
const DAY: usize = 9;
/// Between two pictures of the stream.
const PAUSE: Duration = Duration::from_millis(100);

/// How the loop is run.
#[derive(Clone, Debug)]
pub struct PhotosPlan {
    /// Data set.
    pub data: PathBuf,
    /// Folder for everything it makes.
    pub out: PathBuf,
    /// What `beltsight train` is told for the first student, which learns from the labels at the start.
    pub first: Vec<String>,
    /// What it is told in the rounds.
    pub train: Vec<String>,
    /// What `beltsight distill` is told in the rounds; empty: what was trained serves.
    pub distill: Vec<String>,
    /// The class that may pass.
    pub accept: String,
    /// Labels per class at the start.
    pub start: usize,
    /// Labels that the expert gives before each round.
    pub batch: usize,
    /// Rounds.
    pub rounds: usize,
    /// Whether labels are asked for by usefulness; otherwise by chance.
    pub useful: bool,
    /// Seed of the labels at the start and of the stream's order.
    pub seed: u64,
}

/// What happened.
#[derive(Debug, Serialize)]
pub struct PhotosReport {
    /// Where it was measured.
    pub machine: String,
    /// Data set.
    pub data: String,
    /// What the rounds were told.
    pub train: Vec<String>,
    /// What the distillation was told.
    pub distill: Vec<String>,
    /// `useful` or `random`.
    pub order: &'static str,
    /// Seed.
    pub seed: u64,
    /// Pictures: labeled at the start, in the stream, in the examination.
    pub pictures: [usize; 3],
    /// The student that serves: at the start and after each round.
    pub steps: Vec<ServingStudent>,
    /// How each round ended, and why.
    pub rounds: Vec<Value>,
    /// Pictures of the stream sent, and those that got no verdict.
    pub requests: [usize; 2],
}

/// The student that serves at one moment.
#[derive(Debug, Serialize)]
pub struct ServingStudent {
    /// Labels so far, those of the start included.
    pub labels: usize,
    /// Its version.
    pub model: String,
    /// Share of the examination's pictures whose class it names.
    pub accuracy: f64,
    /// Accepted class against the rest.
    pub auc: f64,
}

/// The three parts of a data set: labels at the start, stream, examination. No group is in two of them.
struct PhotoSplit {
    start: Vec<Sample>,
    stream: Vec<Sample>,
    exam: Vec<Sample>,
}

fn split(plan: &PhotosPlan) -> Result<PhotoSplit> {
    let root = fs::canonicalize(&plan.data).with_context(|| plan.data.display().to_string())?;
    let mut samples = dataset::read(&root)?.samples;
    for sample in &mut samples {
        sample.file = root.join(&sample.file).to_string_lossy().into_owned();
    }
    samples.shuffle(&mut ChaCha8Rng::seed_from_u64(plan.seed));
    // Class by class, so that each has its share in every part.
    let mut classes = BTreeMap::<String, Vec<Sample>>::new();
    for sample in samples {
        classes.entry(sample.class.clone()).or_default().push(sample);
    }
    let (mut start, mut stream, mut exam) = (Vec::new(), Vec::new(), Vec::new());
    for (class, samples) in classes {
        let mut groups: Vec<_> = samples.iter().map(|s| &s.group).collect::<BTreeSet<_>>().into_iter().collect();
        groups.shuffle(&mut ChaCha8Rng::seed_from_u64(plan.seed));
        let examined: BTreeSet<_> = groups.iter().step_by(EXAM).map(|group| group.to_string()).collect();
        let (seen, rest): (Vec<_>, Vec<_>) = samples.into_iter().partition(|s| examined.contains(&s.group));
        exam.extend(seen);
        // What shares a group with a label of the start may not come back in the stream as something new.
        let mut first = BTreeSet::new();
        for sample in rest {
            if first.len() < plan.start && first.insert(sample.group.clone()) {
                start.push(sample);
            } else if !first.contains(&sample.group) {
                stream.push(sample);
            }
        }
        ensure!(first.len() == plan.start, "{class} has too few groups of pictures");
    }
    stream.shuffle(&mut ChaCha8Rng::seed_from_u64(plan.seed));
    Ok(PhotoSplit { start, stream, exam })
}

/// Runs the loop.
///
/// # Errors
/// When a part of it can't run.
pub async fn run(plan: PhotosPlan) -> Result<PhotosReport> {
    let out = std::path::absolute(&plan.out)?;
    let photos = split(&plan)?;
    let [start, exam] = ["start", "exam"].map(|name| out.join(name));
    dataset::write(&start, &photos.start)?;
    dataset::write(&exam, &photos.exam)?;
    if !out.join("first/model").is_dir() {
        let mut command = learner::command()?;
        command.arg("train").args(&plan.first).args(["--accept", &plan.accept, "--seed", &plan.seed.to_string()]);
        let done = command.arg("--data").arg(&start).arg("--out").arg(out.join("first")).output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let root = out.join("models");
    let _ = fs::remove_dir_all(&root);
    super::copy_model(&out.join("first/model"), &root.join("first"))?;
    let config = json!({
        "record": { "keep_share": 1.0, "keep_per_hour": 100000, "audit_per_day": 100_000_000 },
        "rounds": {
            "min_labels": 1, "train": plan.train, "distill": plan.distill, "base": start, "probation": "1s",
            // The audit draws half of the items: of few labels half judge, half teach.
            "held_out_share": 0.5,
            "gate": { "shadow_items": 100, "shadow_disagreement": 1.0 },
        },
    });
    let service = MeasuredService::with_config(&root.join("first"), ON_CPU, &toml::to_string(&config)?)?;
    service.ready().await?;
    let pictures = read(&photos.stream)?;
    let known: BTreeMap<_, _> = pictures
        .iter()
        .zip(&photos.stream)
        .map(|(jpeg, sample)| (frame_key(jpeg, OffsetDateTime::UNIX_EPOCH)[DAY..].to_string(), sample.class.clone()))
        .collect();
    let stream = PhotoStream::start(service.url.clone(), pictures);
    let mut expert = Expert::new(service, plan.useful);
    let labeled = photos.start.len();
    let (mut steps, mut rounds) = (vec![examine(&root, &expert, &exam, labeled).await?], Vec::new());
    tokio::time::sleep(PAUSE * photos.stream.len() as u32).await; // until every picture has come once
    for _ in 0..plan.rounds {
        expert.label(plan.batch, |item| known.get(item.frame.as_ref()?.get(DAY..)?).cloned()).await?;
        let round = expert.round("bench").await?;
        println!("{}", serde_json::to_string_pretty(&round)?);
        rounds.push(round);
        steps.push(examine(&root, &expert, &exam, labeled).await?);
    }
    let report = PhotosReport {
        machine: machine(),
        data: plan.data.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        train: plan.train,
        distill: plan.distill,
        order: order(plan.useful),
        seed: plan.seed,
        pictures: [labeled, photos.stream.len(), photos.exam.len()],
        steps,
        rounds,
        requests: stream.stop().await?,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(report)
}

async fn examine(root: &Path, expert: &Expert, exam: &Path, start: usize) -> Result<ServingStudent> {
    let model = expert.serving().await?;
    let card = evaluate(&root.join(&model), None, exam)?;
    let student = ServingStudent { labels: start + expert.labels, model, accuracy: card.accuracy, auc: card.auc };
    println!("{}", serde_json::to_string(&student)?);
    Ok(student)
}

fn read(samples: &[Sample]) -> Result<Vec<Bytes>> {
    let jpeg = |sample: &Sample| Ok(fs::read(&sample.file).with_context(|| sample.file.clone())?.into());
    samples.iter().map(jpeg).collect()
}

/// The pictures sent one after the other, over and over.
struct PhotoStream {
    stop: CancellationToken,
    task: JoinHandle<[usize; 2]>,
}

impl PhotoStream {
    fn start(url: String, pictures: Vec<Bytes>) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let client = reqwest::Client::new();
            let (mut sent, mut failed) = (0, 0);
            for jpeg in pictures.iter().cycle().take_while(|_| !stopped.is_cancelled()) {
                let answer = client.post(&url).body(jpeg.clone()).send().await;
                sent += 1;
                failed += usize::from(!answer.is_ok_and(|answer| answer.status().is_success()));
                tokio::time::sleep(PAUSE).await;
            }
            [sent, failed]
        });
        Self { stop, task }
    }

    /// Pictures sent, and those that got no verdict.
    async fn stop(self) -> Result<[usize; 2]> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}
