//! `reproduce`: the experiments of the papers, on MNIST (train set only: 10,000 digits of it are held out).
//!
//! Invariant: the held-out digits are neither trained on nor used to choose anything in a run.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use beltsight::{
    domain::time::rfc3339_now,
    files,
    network::{Net, digits},
    student::scorecard::argmax,
};
use clap::{Args, Subcommand};
use rand::seq::SliceRandom;
use serde::Serialize;
use tch::{Kind, Tensor};

use crate::{
    methods::{
        Method,
        distillation::{Distillation, DistillationSettings},
        pseudo_label::PseudoLabel,
        supervised::Supervised,
    },
    network::{device, model::Model},
    pictures::{
        data,
        views::{View, ViewSource},
    },
    random::generator,
    training::{
        comparison::mean_sd,
        interrupt,
        optim::Schedule,
        plan::{PicturePools, RunContext, TrainingData, TrainingPlan},
        trainer,
    },
};

/// Pixels per digit.
const PIXELS: usize = 28 * 28;
/// Digits held out to report on.
const HELD_OUT: usize = 10_000;
/// Digits held out to choose the bias of the digit that a student never saw.
const FOR_BIAS: usize = 5_000;

/// Options of `reproduce`.
#[derive(Args)]
pub struct ReproduceCommand {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// Pseudo-Label against dropout alone with few labels (Lee 2013, table 1).
    Lee2013(ExperimentSettings),
    /// A small net alone, distilled, and distilled without one digit (Hinton et al. 2015, §3).
    Hinton2015(ExperimentSettings),
}

#[derive(Args, Serialize)]
struct ExperimentSettings {
    /// Folder with train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz.
    #[arg(long)]
    data: PathBuf,
    /// Folder for the result and the runs.
    #[arg(long)]
    out: PathBuf,
    /// Steps of each training.
    #[arg(long, default_value_t = 1500)]
    steps: usize,
    /// Steps of Hinton's teacher, which dropout and moved digits make slow to learn [default: as the others].
    #[arg(long)]
    teacher_steps: Option<usize>,
    /// Units per hidden layer: Lee's net, or Hinton's teacher [default: 5000 or 1200].
    #[arg(long)]
    units: Option<usize>,
    /// Numbers of labels in all (Lee 2013).
    #[arg(long, value_delimiter = ',', default_values_t = [100, 600, 1000, 3000])]
    labels: Vec<usize>,
    /// Seeds 1 to this one.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Threads [default: all cores].
    #[arg(long)]
    threads: Option<usize>,
    /// Go on from the checkpoints in the output folder.
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
}

/// Runs the command.
///
/// # Errors
/// What is wrong, for the user.
pub fn run(command: &ReproduceCommand) -> anyhow::Result<()> {
    let (Experiment::Lee2013(setting) | Experiment::Hinton2015(setting)) = &command.experiment;
    if let Some(threads) = setting.threads {
        tch::set_num_threads(threads as i32);
    }
    fs::create_dir_all(&setting.out).with_context(|| setting.out.display().to_string())?;
    let mnist = Mnist::read(&setting.data)?;
    let (name, result) = match command.experiment {
        Experiment::Lee2013(_) => ("lee2013.json", lee(setting, &mnist)?),
        Experiment::Hinton2015(_) => ("hinton2015.json", hinton(setting, &mnist)?),
    };
    let whole = serde_json::json!({
        "date": rfc3339_now(),
        "machine": device::machine(tch::Device::Cpu), "command": std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        "setting": setting, "result": result,
    });
    let file = setting.out.join(name);
    files::write(&file, serde_json::to_string_pretty(&whole)?.as_bytes())?;
    println!("{}", file.display());
    Ok(())
}

/// The training digits of MNIST.
struct Mnist {
    /// Gray levels 0 to 1, `[n, 1, 28, 28]`.
    digits: Tensor,
    labels: Vec<usize>,
    /// To report on.
    held_out: Vec<usize>,
    /// To train on.
    training: Vec<usize>,
}

impl Mnist {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let images = unpack(&folder.join("train-images-idx3-ubyte.gz"), 16)?;
        let labels: Vec<usize> =
            unpack(&folder.join("train-labels-idx1-ubyte.gz"), 8)?.into_iter().map(usize::from).collect();
        ensure!(images.len() == labels.len() * PIXELS, "{}: images and labels do not match", folder.display());
        ensure!(labels.len() > HELD_OUT + FOR_BIAS, "{}: too few digits", folder.display());
        let digits = Tensor::from_slice(&images).to_kind(Kind::Float).view([-1, 1, 28, 28]) / 255.0;
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.shuffle(&mut generator(2013, 0, 0)); // one split for all seeds
        let training = order.split_off(HELD_OUT);
        Ok(Self { digits, labels, held_out: order, training })
    }

    /// Every digit in all 25 places up to two pixels each way from its own, `[25 n, 1, 28, 28]`; in half precision, for
    /// they take 2.4 GB.
    fn jittered(&self) -> Tensor {
        let padded = self.digits.constant_pad_nd([2, 2, 2, 2]).to_kind(Kind::Half);
        let places = (0..5).flat_map(|down| (0..5).map(move |right| (down, right)));
        let moved: Vec<Tensor> = places.map(|(down, right)| padded.narrow(2, down, 28).narrow(3, right, 28)).collect();
        Tensor::stack(&moved, 1).flatten(0, 1)
    }
}

/// A gzipped IDX file without its header.
fn unpack(path: &Path, header: usize) -> anyhow::Result<Vec<u8>> {
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
    ensure!(bytes.len() > header, "{}: it holds no data", path.display());
    bytes.drain(..header);
    Ok(bytes)
}

/// One training on digits: everything that the experiments vary.
struct DigitTraining<'a> {
    name: String,
    net: &'a Net,
    steps: usize,
    views: &'a ViewSource<'a>,
    labeled: &'a [usize],
    unlabeled: &'a [usize],
    batch: usize,
    lr: f64,
    seed: u64,
}

impl DigitTraining<'_> {
    fn run(&self, setting: &ExperimentSettings, mnist: &Mnist, method: &dyn Method) -> anyhow::Result<Model> {
        let plan = TrainingPlan {
            cut: 1, // block 0 makes digits gray; these are
            steps: self.steps,
            pass: (self.steps / 10).max(1),
            batch: self.batch,
            lr: self.lr,
            schedule: Schedule::HalfCosine,
            weight_decay: 0.0,
            ema: 0.0, // the papers take the last weights
            dropout: self.net.dropout,
            survival: 1.0,
            seed: self.seed,
            identity: self.name.clone(),
        };
        let labels: Vec<Option<usize>> = mnist.labels.iter().map(|&class| Some(class)).collect();
        let pools = PicturePools { labeled: self.labeled, unlabeled: self.unlabeled, validation: &[] };
        let data = TrainingData { views: self.views, labels: &labels, pools };
        let stop = |_: usize| interrupt::requested();
        let run = RunContext { name: &self.name, out: &setting.out, resume: setting.resume, stop: &stop };
        Ok(trainer::train(Model::random(self.net, 10, self.seed), &plan, &data, method, &run)?)
    }
}

/// Digits of `which` that `model`, with `bias` added to the class `tuned`, gets wrong.
fn misclassified(logits: &[Vec<f32>], mnist: &Mnist, which: &[usize], bias: Option<(usize, f32)>) -> Vec<usize> {
    let predicted = |row: &Vec<f32>| {
        let mut row = row.clone();
        if let Some((class, bias)) = bias {
            row[class] += bias;
        }
        argmax(&row)
    };
    logits.iter().zip(which).filter(|(row, i)| predicted(row) != mnist.labels[**i]).map(|(_, &i)| i).collect()
}

fn logits(model: &Model, views: &ViewSource, which: &[usize]) -> Vec<Vec<f32>> {
    which.chunks(1000).flat_map(|chunk| trainer::logits(model, 1, views, chunk)).collect()
}

/// Error in percent on the held-out digits for dropout alone and with Pseudo-Label.
fn lee(setting: &ExperimentSettings, mnist: &Mnist) -> anyhow::Result<serde_json::Value> {
    let net = digits(&[setting.units.unwrap_or(5000)], 0.5);
    let views = ViewSource::precomputed(mnist.digits.shallow_clone(), mnist.digits.shallow_clone(), 1);
    let groups: Vec<usize> = (0..mnist.labels.len()).collect();
    let mut table = Vec::new();
    for &count in &setting.labels {
        let (mut alone, mut with) = (Vec::new(), Vec::new());
        for seed in 1..=setting.seeds {
            let (labeled, unlabeled) = data::few(&mnist.labels, &groups, &mnist.training, count.div_ceil(10), seed)
                .map_err(anyhow::Error::msg)?;
            let dropout = Supervised { smoothing: 0.0, view: View::Weak };
            let pseudo = PseudoLabel { alpha: 3.0, ramp_begins: 0.1, ramp_ends: 0.6, mu: 8 };
            let methods: [(&str, &dyn Method, &mut Vec<f64>); 2] =
                [("dropout", &dropout, &mut alone), ("pseudo-label", &pseudo, &mut with)];
            for (name, method, errors) in methods {
                let lesson = DigitTraining {
                    name: format!("{name} {count} {seed}"),
                    net: &net,
                    steps: setting.steps,
                    views: &views,
                    labeled: &labeled,
                    unlabeled: &unlabeled,
                    batch: 32,
                    lr: 0.05,
                    seed,
                };
                let model = lesson.run(setting, mnist, method)?;
                let missed = misclassified(&logits(&model, &views, &mnist.held_out), mnist, &mnist.held_out, None);
                let error = 100.0 * missed.len() as f64 / mnist.held_out.len() as f64;
                println!("{count:>5} labels, seed {seed}, {name:<13} error {error:.2} %");
                errors.push(error);
            }
        }
        let gains: Vec<f64> = alone.iter().zip(&with).map(|(a, w)| a - w).collect();
        let ((a, a_sd), (w, w_sd), (gain, gain_sd)) = (mean_sd(&alone), mean_sd(&with), mean_sd(&gains));
        println!(
            "{count:>5} labels: dropout {a:.2} ± {a_sd:.2}, Pseudo-Label {w:.2} ± {w_sd:.2}, gain {gain:.2} ± {gain_sd:.2}"
        );
        table.push(serde_json::json!({ "labels": count, "dropout_error_percent": alone,
            "pseudo_label_error_percent": with, "gain_mean": gain, "gain_sd": gain_sd }));
    }
    Ok(table.into())
}

/// Errors on the held-out digits of teacher, small net, distilled net, and one distilled without threes.
fn hinton(setting: &ExperimentSettings, mnist: &Mnist) -> anyhow::Result<serde_json::Value> {
    const MISSING: usize = 3;
    /// The paper gives none. With 0.5 the teacher was still wrong on 0.8 % of its own training digits after 170 passes,
    /// and a student learns those mistakes too.
    const TEACHER_DROPOUT: f64 = 0.2;
    let units = setting.units.unwrap_or(1200);
    let (large, small) = (digits(&[units, units], TEACHER_DROPOUT), digits(&[units * 2 / 3, units * 2 / 3], 0.0));
    let plain = ViewSource::precomputed(mnist.digits.shallow_clone(), mnist.digits.shallow_clone(), 1);
    let jittered = ViewSource::precomputed(mnist.digits.shallow_clone(), mnist.jittered(), 25);
    let (for_bias, training) = mnist.training.split_at(FOR_BIAS);
    let without: Vec<usize> = training.iter().copied().filter(|&i| mnist.labels[i] != MISSING).collect();
    let settings = DistillationSettings { temperature: 20.0, soft: 0.9, mu: 0 };
    let mut runs = Vec::new();
    for seed in 1..=setting.seeds {
        let lesson = |name: &str, net, views, labeled, lr| DigitTraining {
            name: format!("{name} {seed}"),
            net,
            steps: setting.steps,
            views,
            labeled,
            unlabeled: &[],
            batch: 128,
            lr,
            seed,
        };
        let labels = Supervised { smoothing: 0.0, view: View::Weak };
        let teacher = DigitTraining {
            steps: setting.teacher_steps.unwrap_or(setting.steps),
            ..lesson("teacher", &large, &jittered, training, 0.1)
        };
        let teacher = teacher.run(setting, mnist, &labels)?;
        let alone = lesson("alone", &small, &plain, training, 0.1).run(setting, mnist, &labels)?;
        let everyone: Vec<usize> = (0..mnist.labels.len()).collect();
        let answers = Tensor::from_slice(&logits(&teacher, &plain, &everyone).concat()).view([-1, 10]);
        let digits: Vec<usize> = (0..10).collect();
        let distillation = Distillation::new(answers, &digits, settings);
        let distilled = lesson("distilled", &small, &plain, training, 0.1).run(setting, mnist, &distillation)?;
        let blind = lesson("without-3", &small, &plain, &without, 0.1).run(setting, mnist, &distillation)?;

        let misses =
            |model: &Model, bias| misclassified(&logits(model, &plain, &mnist.held_out), mnist, &mnist.held_out, bias);
        let choosing = logits(&blind, &plain, for_bias);
        let bias = (0..=40)
            .map(|tenth| tenth as f32 * 0.25)
            .min_by_key(|&b| misclassified(&choosing, mnist, for_bias, Some((MISSING, b))).len())
            .unwrap_or(0.0);
        let (before, after) = (misses(&blind, None), misses(&blind, Some((MISSING, bias))));
        let threes = |missed: &[usize]| missed.iter().filter(|&&i| mnist.labels[i] == MISSING).count();
        let run = serde_json::json!({ "seed": seed, "teacher": misses(&teacher, None).len(),
            "small_alone": misses(&alone, None).len(), "distilled": misses(&distilled, None).len(),
            "without_threes": before.len(), "of_which_threes": threes(&before), "bias_of_3": bias,
            "with_bias": after.len(), "of_which_threes_with_bias": threes(&after) });
        println!("{run}");
        runs.push(run);
    }
    let threes = mnist.held_out.iter().filter(|&&i| mnist.labels[i] == MISSING).count();
    Ok(serde_json::json!({ "held_out": HELD_OUT, "threes_held_out": threes, "errors": runs }))
}
