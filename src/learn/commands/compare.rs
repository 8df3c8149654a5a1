//! `compare`: learning methods over numbers of labels, over seeds, on one fixed validation share.
//!
//! Invariant: nothing of the validation share is trained on, labeled or not; results are written after every cell, so
//! that a stopped comparison goes on where it was.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use anyhow::{Context, ensure};
use beltsight::{
    domain::time::rfc3339_now,
    files,
    picture::corrupt::{CORRUPTIONS, corrupt},
    student::scorecard::{Scorecard, argmax},
};
use clap::{Args, Parser};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    commands::setup::{Options, Setup, Trainable},
    methods::distillation::Softness,
    network::{
        device,
        model::{Model, rows},
    },
    pages::comparison,
    pictures::{
        augment::generator,
        data::{self, Dataset},
        views::{View, through_trunk},
    },
    training::{
        evaluate,
        fit::{Ground, Pools, Recipe},
        generations::answers,
        interrupt, log,
        trainer::{Plan, TrainError},
    },
};

/// Options of `compare`.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Command {
    /// Numbers of labels per class; `all` uses every label of the training share.
    #[arg(long, value_delimiter = ',', default_value = "4,10,40")]
    labels: Vec<Labels>,
    /// Methods, each with options of its own if wanted, as in "supervised,fixmatch --threshold 0.9".
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "supervised,pseudo-label,thresholded-pseudo-label,noisy-student,fixmatch"
    )]
    methods: Vec<String>,
    /// Seeds 1 to this one; a seed chooses the labeled pictures, the order and dropout. Views and initial weights are the
    /// same for all of them.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Distil every student of the first seeds, this many, into --student.
    #[arg(long, default_value_t = 0)]
    distill: u64,
    /// The network that would serve.
    #[arg(long, default_value = "small")]
    student: String,
    /// Side of its input in pixels.
    #[arg(long, default_value_t = 64)]
    student_input: usize,
    /// Steps of distillation.
    #[arg(long, default_value_t = 600)]
    student_steps: usize,
    #[command(flatten)]
    softness: Softness,
    #[command(flatten)]
    options: Options,
}

/// How many labels per class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// This many.
    Each(usize),
    /// Every one.
    All,
}

impl std::str::FromStr for Labels {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(Labels::All),
            (_, Ok(n)) if n > 0 => Ok(Labels::Each(n)),
            _ => Err(format!("`{text}` is neither a number of labels nor `all`")),
        }
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Labels::Each(n) => write!(f, "{n}"),
            Labels::All => f.write_str("all"),
        }
    }
}

/// `results.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// When the last cell was finished (RFC 3339).
    pub date: String,
    /// Processor and cores.
    pub machine: String,
    /// The command.
    pub command: String,
    /// Hash of the data snapshot.
    pub data_sha256: String,
    /// Pictures to train on and to check with.
    pub pictures: (usize, usize),
    /// Classes.
    pub classes: Vec<String>,
    /// The network, its input side, what is trained.
    pub network: String,
    /// Settings of every method that ran.
    pub methods: Vec<Recipe>,
    /// All other settings that a cell depends on.
    #[serde(default)]
    pub setting: serde_json::Value,
    /// Seconds for views and trunk, shared by all cells.
    pub preparing_seconds: f64,
    /// One per method, number of labels and seed.
    pub cells: Vec<Cell>,
}

/// One student.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cell {
    /// The method as it was written.
    pub method: String,
    /// Labels per class.
    pub labels: Labels,
    /// The seed.
    pub seed: u64,
    /// On the validation share.
    pub score: Score,
    /// Training time.
    pub seconds: f64,
    /// Pseudo-labels used, as a share of those made, over the run.
    pub coverage: Vec<f64>,
    /// Share of the used ones that was right, over the run; `None` where none was used.
    pub precision: Vec<Option<f64>>,
    /// The small student distilled from it.
    pub distilled: Option<Distilled>,
}

/// A distilled student.
#[derive(Debug, Serialize, Deserialize)]
pub struct Distilled {
    /// On the validation share.
    pub score: Score,
    /// Training time.
    pub seconds: f64,
}

/// How good a student is on the validation share.
#[derive(Debug, Serialize, Deserialize)]
pub struct Score {
    /// Top-1.
    pub accuracy: f64,
    /// Accepted classes against the rest, where accepted classes are known.
    pub auc: Option<f64>,
    /// Error per corruption at strengths 1 to 5.
    pub corrupted: BTreeMap<String, [f64; 5]>,
}

impl Score {
    /// Mean error over all corruptions and strengths.
    pub fn mean_corruption_error(&self) -> f64 {
        let all: Vec<f64> = self.corrupted.values().flatten().copied().collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    }
}

impl Command {
    /// What a cell depends on besides method, number of labels, seed and data.
    fn setting(&self) -> serde_json::Value {
        let mut setting = serde_json::json!(self);
        for key in ["labels", "methods", "seeds", "distill"] {
            setting.as_object_mut().map(|all| all.remove(key));
        }
        for key in ["data", "out", "threads", "device"] {
            setting["options"].as_object_mut().map(|all| all.remove(key));
        }
        setting
    }
}

/// A method spelled as on the command line.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Spelled {
    #[command(subcommand)]
    recipe: Recipe,
}

/// Runs the command.
///
/// # Errors
/// In words.
pub fn run(command: &Command) -> anyhow::Result<()> {
    let options = &command.options;
    let mut recipes = Vec::new();
    for text in &command.methods {
        let spelled =
            Spelled::try_parse_from(text.split_whitespace()).with_context(|| format!("--methods, `{text}`"))?;
        recipes.push(spelled.recipe);
    }
    let began = Instant::now();
    let mut setup = options.open()?;
    ensure!(options.unlabeled.is_none(), "compare takes its unlabeled pictures from --data, whose truth it can check");
    fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let file = options.out.join("results.json");
    let fold_of = data::folds(&setup.data.labels, &setup.data.groups, 5, options.seed).map_err(anyhow::Error::msg)?;
    let (training, validation) = data::split(&fold_of, 0);
    let data = &setup.data;
    let earlier: Option<Results> = match options.resume && file.is_file() {
        true => Some(serde_json::from_slice(&fs::read(&file)?)?),
        false => None,
    };
    let network = format!("{} at {}, {:?} trained", setup.start.net.name, setup.start.net.input, setup.trainable);
    let setting = command.setting();
    if let Some(earlier) = &earlier {
        let file = file.display();
        ensure!(earlier.data_sha256 == data.sha256, "{file} is of other data");
        // Results of before settings were kept have none.
        let same = earlier.setting.is_null() || earlier.setting == setting;
        ensure!(same && earlier.network == network, "{file} was made with other settings: use another --out");
    }
    let missing = |each: &Labels, seed: u64, text: &String, cells: &[Cell]| {
        let done = |c: &Cell| c.distilled.is_some() || seed > command.distill;
        !cells.iter().any(|c| c.method == *text && c.labels == *each && c.seed == seed && done(c))
    };
    let all = command.labels.iter().flat_map(|each| (1..=command.seeds).map(move |seed| (each, seed)));
    if let Some(earlier) = &earlier
        && !all.clone().any(|(each, seed)| command.methods.iter().any(|text| missing(each, seed, text, &earlier.cells)))
    {
        return finish(earlier, options, began); // the page anew, of what was recorded where it was measured
    }
    let (date, cells) = earlier.map_or_else(Default::default, |earlier| (earlier.date, earlier.cells));
    let mut results = Results {
        date,
        machine: machine(setup.start.device()),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        data_sha256: data.sha256.clone(),
        pictures: (training.len(), validation.len()),
        classes: data.classes.clone(),
        network,
        methods: recipes.clone(),
        setting,
        preparing_seconds: 0.0,
        cells,
    };
    options.adapt(&mut setup, &training)?;
    let data = &setup.data;
    let plan = options.plan(&setup, &recipes[0], training.len());
    let mut kinds: Vec<View> = recipes.iter().flat_map(|recipe| recipe.views()).copied().collect();
    kinds.sort_unstable();
    kinds.dedup();
    let views = options.views(&setup, plan.cut, &kinds)?;
    let exam = Exam::new(data, &validation, &setup.start, plan.cut, options)?;
    let school = (command.distill > 0).then(|| School::open(command, &validation)).transpose()?;
    results.preparing_seconds = began.elapsed().as_secs_f64();

    let labels = data.known();
    for (&each, seed) in all {
        let (labeled, unlabeled) = match each {
            Labels::All => (training.clone(), training.clone()),
            Labels::Each(n) => {
                let (chosen, _) =
                    data::few(&data.labels, &data.groups, &training, n, seed).map_err(anyhow::Error::msg)?;
                (chosen, training.clone())
            }
        };
        for (recipe, text) in recipes.iter().zip(&command.methods) {
            if !missing(&each, seed, text, &results.cells) {
                continue;
            }
            let began = Instant::now();
            let name = format!("{} {each} {seed}", text.replace(' ', "_"));
            let plan = Plan { seed, ..options.plan(&setup, recipe, labeled.len()) };
            let ground = Ground {
                views: &views,
                labels: &labels,
                classes: data.classes.len(),
                start: &setup.start,
                plan,
                label_smoothing: options.label_smoothing,
                teacher: None,
                out: &options.out,
                resume: options.resume,
            };
            let student =
                ground.fit(&name, recipe, &Pools { labeled: &labeled, unlabeled: &unlabeled, validation: &[] })?;
            let seconds = began.elapsed().as_secs_f64();
            let logits = ground.logits(&student, &validation);
            let score = exam.score(&student, &logits)?;
            let distilled = match &school {
                Some(school) if seed <= command.distill => {
                    let everyone: Vec<usize> = (0..data.pictures.len()).collect();
                    let teacher = answers(&student, &ground, &everyone)?;
                    let pools = Pools { labeled: &labeled, unlabeled: &unlabeled, validation: &[] };
                    Some(school.distil(command, (&name, seed), &teacher, &pools, &validation)?)
                }
                _ => None,
            };
            let of_run: Vec<log::Metric> = log::metrics(&options.out)?
                .into_iter()
                .filter(|m| m.run.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
                .collect();
            println!(
                "{each:>4} labels, seed {seed}, {text:<28} accuracy {:.4}, corrupted error {:.4}, {seconds:.0} s{}",
                score.accuracy,
                score.mean_corruption_error(),
                distilled
                    .as_ref()
                    .map_or(String::new(), |d: &Distilled| format!("; distilled {:.4}", d.score.accuracy))
            );
            let used = || of_run.iter().filter(|m| m.coverage.is_some());
            results.cells.retain(|c| (&c.method, c.labels, c.seed) != (text, each, seed)); // one without its distilled
            results.cells.push(Cell {
                method: text.clone(),
                labels: each,
                seed,
                score,
                seconds,
                coverage: used().filter_map(|m| m.coverage).collect(),
                precision: used().map(|m| m.precision).collect(),
                distilled,
            });
            results.date = rfc3339_now();
            files::write(&file, serde_json::to_string_pretty(&results)?.as_bytes())?;
            if interrupt::requested() {
                return Err(TrainError::Stopped(file).into());
            }
        }
    }
    finish(&results, options, began)
}

/// Writes the page and prints the table.
fn finish(results: &Results, options: &Options, began: Instant) -> anyhow::Result<()> {
    let page = comparison::render(results)?;
    files::write(&options.out.join("comparison.html"), page.as_bytes())?;
    println!("{}", comparison::table(results));
    println!("{} in {:.0} s", options.out.join("comparison.html").display(), began.elapsed().as_secs_f64());
    Ok(())
}

/// The validation share, plain and damaged.
struct Exam {
    classes: Vec<String>,
    truth: Vec<usize>,
    accept: Vec<String>,
    cut: usize,
    /// Per corruption and strength what the trained part takes.
    damaged: Vec<(&'static str, usize, Damaged)>,
}

enum Damaged {
    Pictures(Vec<Vec<u8>>),
    Activations(Tensor),
}

impl Exam {
    fn new(data: &Dataset, validation: &[usize], start: &Model, cut: usize, options: &Options) -> anyhow::Result<Self> {
        let mut damaged = Vec::new();
        let side = start.net.input;
        for corruption in CORRUPTIONS {
            for strength in 1..=5 {
                let pictures: Vec<Vec<u8>> = validation
                    .par_iter()
                    .map(|&i| {
                        let mut rng = generator(corruption as u64, 0, i as u64);
                        corrupt(&data.pictures[i], side, corruption, strength, &mut rng)
                    })
                    .collect::<Result<_, _>>()?;
                let seen = if cut == 0 {
                    Damaged::Pictures(pictures)
                } else {
                    match through_trunk(start, cut, &pictures, |_| !interrupt::requested())? {
                        Some(activations) => Damaged::Activations(activations),
                        None => return Err(TrainError::Stopped(options.out.clone()).into()),
                    }
                };
                damaged.push((corruption.name(), strength, seen));
            }
        }
        let truth = validation.iter().map(|&i| data.labels[i]).collect();
        let accept = if options.accept.is_empty() { data.accept.clone() } else { options.accept.clone() };
        Ok(Self { classes: data.classes.clone(), truth, accept, cut, damaged })
    }

    fn score(&self, student: &Model, logits: &[Vec<f32>]) -> anyhow::Result<Score> {
        let accept = &self.accept;
        let card = Scorecard::measure(&evaluate::softmax(logits, 1.0), &self.truth, &self.classes, accept);
        let mut corrupted: BTreeMap<String, [f64; 5]> = BTreeMap::new();
        for (name, strength, seen) in &self.damaged {
            let logits = match seen {
                Damaged::Activations(x) => no_grad(|| student.forward(x, self.cut, None).1),
                Damaged::Pictures(pictures) => {
                    let blocks = student.net.blocks.len();
                    let embedding =
                        through_trunk(student, blocks, pictures, |_| true)?.context("it was not stopped")?;
                    no_grad(|| student.head(&embedding, None))
                }
            };
            let wrong = rows(&logits).iter().zip(&self.truth).filter(|(row, t)| argmax(row) != **t).count();
            let errors = corrupted.entry(name.to_string()).or_default();
            errors[strength - 1] = wrong as f64 / self.truth.len() as f64;
        }
        Ok(Score { accuracy: card.accuracy, auc: (!accept.is_empty()).then_some(card.auc), corrupted })
    }
}

/// Where small students learn from the others: pictures at their own input side.
struct School {
    options: Options,
    setup: Setup,
    exam: Exam,
}

impl School {
    fn open(command: &Command, validation: &[usize]) -> anyhow::Result<Self> {
        let options = Options {
            net: command.student.clone(),
            input: Some(command.student_input),
            weights: None,
            trainable: Some(Trainable::All),
            adapt: false,
            steps: Some(command.student_steps),
            epochs: None,
            lr: None,
            weight_decay: None,
            ..command.options.clone()
        };
        let setup = options.read()?;
        let exam = Exam::new(&setup.data, validation, &setup.start, 0, &options)?;
        Ok(Self { options, setup, exam })
    }

    fn distil(
        &self,
        command: &Command,
        (name, seed): (&str, u64),
        teacher: &Tensor,
        pools: &Pools,
        validation: &[usize],
    ) -> anyhow::Result<Distilled> {
        let began = Instant::now();
        let recipe = Recipe::Distillation(command.softness);
        let plan = Plan { seed, ..self.options.plan(&self.setup, &recipe, pools.labeled.len()) };
        let views = self.options.views(&self.setup, 0, &[])?;
        let labels = self.setup.data.known();
        let ground = Ground {
            views: &views,
            labels: &labels,
            classes: self.setup.data.classes.len(),
            start: &self.setup.start,
            plan,
            label_smoothing: 0.0,
            teacher: Some(teacher),
            out: &command.options.out,
            resume: command.options.resume,
        };
        let student = ground.fit(&format!("distilled {name}"), &recipe, pools)?;
        let seconds = began.elapsed().as_secs_f64();
        let logits = rows(&answers(&student, &ground, validation)?.to_kind(Kind::Float));
        Ok(Distilled { score: self.exam.score(&student, &logits)?, seconds })
    }
}

/// Processor, cores and GPU, for the record.
pub fn machine(device: Device) -> String {
    let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).and_then(|l| l.split(':').nth(1));
    let cores = beltsight::student::engine::cores();
    let gpu = match device {
        Device::Cuda(number) => device::gpu(number),
        _ => "no GPU used".into(),
    };
    format!("{}, {cores} cores, {gpu}", model.unwrap_or("unknown processor").trim())
}
