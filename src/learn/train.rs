//! `train supervised`: data → cross-validation → student, start to finish.
//!
//! Invariant: temperature, thresholds and scorecard come from pictures that the scored network did not train on.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, bail, ensure};
use beltsight::{domain::Thresholds, model::Lineage, nets as architectures, scorecard::Scorecard};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    augment::Weak,
    data::{self, Dataset},
    evaluate::{self, Prediction, Validation},
    export, interrupt,
    methods::supervised::Supervised,
    model_folder,
    nets::Model,
    report,
    trainer::{self, Desk, Material, Plan, TrainError},
    views::Views,
    weights,
};

/// Largest cache of a frozen trunk's outputs in bytes.
const LARGEST_CACHE: usize = 4 << 30;

/// Which part of the network is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Trainable {
    /// The linear classifier on standardised embeddings.
    Head,
    /// The last blocks and the classifier.
    Last(usize),
    /// Everything.
    All,
}

impl std::str::FromStr for Trainable {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("last:").and_then(|n| n.parse().ok())) {
            ("head", _) => Ok(Trainable::Head),
            ("all", _) => Ok(Trainable::All),
            (_, Some(n)) if n > 0 => Ok(Trainable::Last(n)),
            _ => Err("use head, last:<blocks> or all".into()),
        }
    }
}

/// Options of `train supervised`.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Options {
    /// Folder with photos.csv or index.csv, or one folder of pictures per class.
    #[arg(long)]
    pub data: PathBuf,
    /// Folder for the run: config, metrics, checkpoints, report, weights.
    #[arg(long)]
    pub out: PathBuf,
    /// efficientnet_lite0 or small.
    #[arg(long, default_value = "efficientnet_lite0")]
    pub net: String,
    /// Side of the square input in pixels [default: the network's own, 224 or 64].
    #[arg(long)]
    pub input: Option<usize>,
    /// Weights to start from [default: .vendor/weights/<net>.safetensors where there is one].
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// head, last:<blocks> or all [default: head on pretrained weights, all otherwise].
    #[arg(long)]
    pub trainable: Option<Trainable>,
    /// Passes over the pictures [default: 60 for the head, 15 for pretrained blocks, 60 from scratch].
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Pictures per step.
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Peak learning rate [default: 0.01 for pretrained weights, 0.05 from scratch].
    #[arg(long)]
    pub lr: Option<f64>,
    /// Weight decay on kernels [default: 0.1 for the head, 0.0005 otherwise].
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Share of every target that is spread over all classes.
    #[arg(long, default_value_t = 0.0)]
    pub label_smoothing: f64,
    /// Views per picture that are cached when the trunk is frozen.
    #[arg(long, default_value_t = 4)]
    pub views: usize,
    /// Seed of splits, order, views and dropout.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Cross-validate over this many folds, then train on everything [default: hold every fifth picture out].
    #[arg(long)]
    pub folds: Option<usize>,
    /// Classes that may pass [default: those that the table marks with salmonid = 1].
    #[arg(long, value_delimiter = ',')]
    pub accept: Vec<String>,
    /// Threads of libtorch and of picture reading [default: all cores].
    #[arg(long)]
    pub threads: Option<usize>,
    /// Go on from the checkpoints in the output folder.
    #[arg(long)]
    #[serde(skip)]
    pub resume: bool,
}

/// Runs the command.
///
/// # Errors
/// In words; [`TrainError::Stopped`] inside when the user asked to stop.
pub fn supervised(options: &Options) -> anyhow::Result<()> {
    let began = Instant::now();
    let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    tch::set_num_threads(threads as i32);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;

    let net = architectures::by_name(&options.net, options.input)
        .with_context(|| format!("network `{}` is unknown: use one of {:?}", options.net, architectures::NAMES))?;
    ensure!(net.input >= 32, "--input must be at least 32 pixels");
    ensure!(options.batch > 1 && options.views > 0, "--batch must be at least 2 and --views at least 1");
    let data = data::read(&options.data, net.input as u32)?;
    let accept = accepted(options, &data)?;
    println!("{} pictures of {} classes, data {}", data.files.len(), data.classes.len(), &data.sha256[..12]);

    let start = options.weights.clone().or_else(|| weights::pretrained(&options.net));
    let model = match &start {
        Some(path) => Model::pretrained(&net, data.classes.len(), &weights::read(path)?.0)
            .map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?,
        None => Model::random(&net, data.classes.len(), options.seed),
    };
    let trainable = options.trainable.unwrap_or(if start.is_some() { Trainable::Head } else { Trainable::All });
    if start.is_none() && trainable != Trainable::All {
        bail!(
            "no pretrained weights of {} were found, so freezing its trunk would freeze noise: \
             run deploy/convert_weights.py, give --weights, or use --trainable all",
            net.name
        );
    }
    let plan = plan(options, trainable, &model, start.is_some(), &data);
    fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let started_from = start.as_ref().map_or("random weights".into(), |path| path.display().to_string());
    let config = serde_json::json!({ "options": options, "plan": plan, "threads": threads, "accept": accept,
        "started_from": started_from, "version": env!("CARGO_PKG_VERSION") });
    weights::write_atomically(&options.out.join("config.json"), serde_json::to_string_pretty(&config)?.as_bytes())?;

    let views = views(options, &plan, &model, &data)?;
    let run = Run { options, plan: &plan, views: &views, data: &data, trunk: &model };
    let fold_of = data::folds(&data.labels, &data.groups, options.folds.unwrap_or(5), options.seed)
        .map_err(anyhow::Error::msg)?;
    let mut held_out: Vec<(usize, usize, Vec<f32>)> = Vec::new(); // picture, fold, logits
    let mut last = None;
    for fold in 0..options.folds.unwrap_or(1) {
        let (training, validation) = data::split(&fold_of, fold);
        let name = if options.folds.is_some() { format!("fold {}", fold + 1) } else { "final".into() };
        let student = run.fit(&name, &training, &validation)?;
        let logits = trainer::logits(&student, plan.cut, &views, &validation);
        held_out.extend(validation.iter().zip(logits).map(|(&picture, row)| (picture, fold, row)));
        last = Some((student, training.len()));
    }
    let validation = judge(&data, &accept, &held_out, options.folds.unwrap_or(1), began);
    weights::write_atomically(&options.out.join("cv.json"), serde_json::to_string_pretty(&validation)?.as_bytes())?;
    if options.folds.is_some() {
        let all: Vec<usize> = (0..data.files.len()).collect();
        last = Some((run.fit("final", &all, &[])?, all.len()));
    }
    let (model, labeled) = last.context("no fold was trained")?;

    let student = export::Student {
        model,
        classes: data.classes.clone(),
        thresholds: validation.thresholds.clone(),
        lineage: Lineage {
            method: "supervised".into(),
            net: net.name.into(),
            data_sha256: data.sha256.clone(),
            labeled,
            seed: options.seed,
            command: std::env::args().collect::<Vec<_>>().join(" "),
            teacher: None,
        },
        scorecard: validation.pooled.clone(),
    };
    let sample: Vec<&[u8]> =
        data.pictures.iter().step_by(data.pictures.len().div_ceil(16)).map(Vec::as_slice).collect();
    export::write_weights(&student, &sample, &options.out)?;
    let pictures: Vec<&[u8]> = data.pictures.iter().map(Vec::as_slice).collect();
    let version = options.out.file_name().map_or("student".into(), |name| name.to_string_lossy());
    model_folder::write(&student, &pictures, &version, &options.out)?;
    let page = report::render(&student, &validation, &data, &trainer::metrics(&options.out)?, &config)?;
    weights::write_atomically(&options.out.join("report.html"), page.as_bytes())?;
    println!("\n{}", validation.pooled);
    let Thresholds { accept_from, temperature, .. } = student.thresholds;
    println!("accepts {} from {accept_from:.3}, temperature {temperature:.3}", accept.join(", "));
    println!("{} and model/ in {:.0} s", options.out.join("report.html").display(), began.elapsed().as_secs_f64());
    Ok(())
}

/// What every fold shares.
struct Run<'a> {
    options: &'a Options,
    plan: &'a Plan,
    views: &'a Views<'a>,
    data: &'a Dataset,
    trunk: &'a Model,
}

impl Run<'_> {
    fn fit(&self, name: &str, training: &[usize], validation: &[usize]) -> Result<Model, TrainError> {
        let labels: Vec<usize> = training.iter().map(|&i| self.data.labels[i]).collect();
        let method = Supervised::balanced(self.options.label_smoothing, &labels, self.data.classes.len());
        let scaled = self.views.standardised(training);
        let views = scaled.as_ref().map_or(self.views, |(views, _)| views);
        let material = Material { views, labels: &self.data.labels, training, validation };
        let stop = |_: usize| interrupt::requested();
        let desk = Desk { run: name, out: &self.options.out, resume: self.options.resume, stop: &stop };
        let params = self.trunk.params.iter().map(|(name, value)| (name.clone(), value.shallow_clone())).collect();
        let start = Model { net: self.trunk.net.clone(), params };
        let mut model = trainer::train(start, self.plan, &material, |l, t| method.loss(l, t), &desk)?;
        if let Some((_, scale)) = &scaled {
            scale.fold_into(&mut model);
        }
        Ok(model)
    }
}

fn accepted(options: &Options, data: &Dataset) -> anyhow::Result<Vec<String>> {
    if let Some(unknown) = options.accept.iter().find(|class| !data.classes.contains(class)) {
        bail!("--accept names {unknown}; the classes are {}", data.classes.join(", "));
    }
    let accept = if options.accept.is_empty() { data.accept.clone() } else { options.accept.clone() };
    ensure!(!accept.is_empty(), "say which classes may pass: --accept with some of {}", data.classes.join(", "));
    ensure!(accept.len() < data.classes.len(), "all classes are accepted: there would be nothing to reject");
    Ok(accept)
}

fn plan(options: &Options, trainable: Trainable, model: &Model, pretrained: bool, data: &Dataset) -> Plan {
    let blocks = model.net.blocks.len();
    let (cut, epochs, lr, weight_decay) = match (trainable, pretrained) {
        (Trainable::Head, _) => (blocks, 60, 0.01, 0.1),
        (Trainable::Last(n), _) => (blocks.saturating_sub(n), 15, 0.01, 5e-4),
        (Trainable::All, true) => (0, 15, 0.01, 5e-4),
        (Trainable::All, false) => (0, 60, 0.05, 5e-4),
    };
    Plan {
        cut,
        epochs: options.epochs.unwrap_or(epochs),
        batch: options.batch,
        lr: options.lr.unwrap_or(lr),
        weight_decay: options.weight_decay.unwrap_or(weight_decay),
        ema: 0.999,
        seed: options.seed,
        data_sha256: data.sha256.clone(),
    }
}

fn views<'a>(options: &Options, plan: &Plan, model: &Model, data: &'a Dataset) -> anyhow::Result<Views<'a>> {
    let side = model.net.input;
    let weak = if side >= 96 { Weak::PHOTO } else { Weak::FLIP_AND_SHIFT };
    if plan.cut == 0 {
        return Ok(Views::Fresh { pictures: &data.pictures, side, weak, seed: options.seed });
    }
    let one = tch::no_grad(|| model.blocks(&crate::nets::to_batch(&[&data.pictures[0]], side), 0..plan.cut, false));
    let bytes = one.numel() * 4 * data.pictures.len() * (options.views + 1);
    ensure!(
        bytes <= LARGEST_CACHE,
        "the frozen trunk's outputs would take {:.1} GB of memory: use fewer --views, --trainable head or all",
        bytes as f64 / 1e9
    );
    let bar = ProgressBar::new((data.pictures.len() * (options.views + 1)) as u64).with_prefix("trunk");
    if let Ok(style) = ProgressStyle::with_template("{prefix:>8} {wide_bar} {pos}/{len} views, {eta} left, {per_sec}") {
        bar.set_style(style);
    }
    let tick = |n: usize| {
        bar.inc(n as u64);
        !interrupt::requested()
    };
    let views = Views::cached(model, plan.cut, &data.pictures, (weak, options.views, options.seed), tick);
    bar.finish();
    Ok(views.ok_or_else(|| TrainError::Stopped(options.out.clone()))?)
}

fn judge(
    data: &Dataset,
    accept: &[String],
    held_out: &[(usize, usize, Vec<f32>)],
    folds: usize,
    began: Instant,
) -> Validation {
    let truth: Vec<usize> = held_out.iter().map(|(picture, ..)| data.labels[*picture]).collect();
    let logits: Vec<Vec<f32>> = held_out.iter().map(|(.., row)| row.clone()).collect();
    let temperature = evaluate::temperature(&logits, &truth);
    let probabilities = evaluate::softmax(&logits, temperature);
    let measure = |fold: Option<usize>, table: &[Vec<f32>]| {
        let chosen = || held_out.iter().zip(table).filter(|((_, f, _), _)| fold.is_none_or(|fold| fold == *f));
        let rows: Vec<Vec<f32>> = chosen().map(|(_, row)| row.clone()).collect();
        let truth: Vec<usize> = chosen().map(|((picture, ..), _)| data.labels[*picture]).collect();
        Scorecard::measure(&rows, &truth, &data.classes, accept)
    };
    Validation {
        folds,
        pooled: measure(None, &probabilities),
        per_fold: (0..folds).map(|fold| measure(Some(fold), &probabilities)).collect(),
        calibration_error_at_temperature_1: measure(None, &evaluate::softmax(&logits, 1.0)).calibration_error,
        thresholds: evaluate::thresholds(&probabilities, &truth, &data.classes, accept, temperature),
        seconds: began.elapsed().as_secs_f64(),
        pictures: held_out
            .iter()
            .zip(probabilities)
            .map(|((picture, fold, _), probabilities)| Prediction {
                file: data.files[*picture].clone(),
                truth: data.labels[*picture],
                fold: *fold,
                probabilities,
            })
            .collect(),
    }
}
