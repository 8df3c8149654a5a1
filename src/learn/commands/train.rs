//! `train` and `distill`: data → validation → student, start to finish.
//!
//! Invariant: temperature, thresholds and scorecard come from pictures that the scored network did not train on.

use std::{fs, time::Instant};

use anyhow::{Context, ensure};
use beltsight::{
    domain::Thresholds,
    files::{self, heartbeat},
    student::{manifest::Lineage, scorecard::Scorecard},
};
use clap::{ArgMatches, Args, FromArgMatches, Subcommand, error::ErrorKind};
use serde::Serialize;
use serde_json::Value;

use crate::{
    commands::setup::{TrainingOptions, TrainingSetup},
    network::model::Model,
    pages::report,
    pictures::{
        data::{self, Dataset},
        views::ViewSource,
    },
    training::{
        evaluate::{self, Prediction, Validation},
        export::{self, TrainedStudent},
        fit::FitContext,
        log,
        method_plan::MethodPlan,
        model_folder::{self, Labeled, LabeledPictures},
        plan::{PicturePools, TrainingPlan},
        teacher::{PictureFolders, Teacher, TeacherAnswers},
    },
};

/// `train <method>`: a method with its own settings, and the options that all of them share.
pub struct TrainCommand {
    method: MethodPlan,
    shared: SharedArgs,
}

#[derive(Args)]
struct SharedArgs {
    #[command(flatten)]
    options: TrainingOptions,
    #[command(flatten)]
    splits: Splits,
}

/// How the labeled pictures are divided.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Splits {
    /// Cross-validate over this many folds, then train on everything [default: hold every fifth picture out].
    #[arg(long)]
    pub folds: Option<usize>,
    /// Use the labels of this many pictures per class only; the others count as unlabeled.
    #[arg(long)]
    pub labels: Option<usize>,
}

impl Subcommand for TrainCommand {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        MethodPlan::augment_subcommands(command).mut_subcommands(|method| {
            let about = method.get_about().cloned().unwrap_or_default(); // or the options' own would take its place
            SharedArgs::augment_args(method).about(about)
        })
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        MethodPlan::has_subcommand(name)
    }
}

impl FromArgMatches for TrainCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let (_, of_method) = matches.subcommand().ok_or_else(|| clap::Error::new(ErrorKind::MissingSubcommand))?;
        let method = MethodPlan::from_arg_matches(matches)?;
        Ok(Self { method, shared: SharedArgs::from_arg_matches(of_method)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl TrainCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`run`].
    pub fn run(&self) -> anyhow::Result<()> {
        run(&self.shared.options, &self.shared.splits, &self.method, None)
    }
}

/// Makes a student by `method` and leaves config, metrics, checkpoints, report, weights and model folder behind.
///
/// # Errors
/// What is wrong, for the user; [`crate::training::TrainError::Stopped`] inside when the user asked to stop.
pub fn run(
    options: &TrainingOptions,
    splits: &Splits,
    method: &MethodPlan,
    teacher: Option<&mut Teacher>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut setup = options.open()?;
    fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    heartbeat::begin(&options.out);
    let fold_of = data::folds(&setup.data.labels, &setup.data.groups, splits.folds.unwrap_or(5), options.seed)
        .map_err(anyhow::Error::msg)?;
    ensure!(
        !(options.adapt && splits.folds.is_some()),
        "--adapt with --folds would let held-out pictures shape the trunk that all folds share"
    );
    let (first_training, _) = data::split(&fold_of, 0);
    options.adapt(&mut setup, &first_training)?;
    let accept = options.accepted(&setup.data)?;
    ensure!(
        !method.uses_unlabeled() || options.unlabeled.is_some() || splits.labels.is_some() || teacher.is_some(),
        "{} learns from unlabeled pictures: give --unlabeled, or --labels to use only some of the labels",
        method.name()
    );
    let (labeled, _) = split_pool(&setup, splits, options.seed, &first_training)?;
    let plan = options.plan(&setup, method, labeled.len());
    let config = serde_json::json!({ "options": options, "splits": splits, "recipe": method, "plan": plan,
        "accept": accept, "started_from": setup.started_from, "version": env!("CARGO_PKG_VERSION") });
    files::write(&options.out.join("config.json"), serde_json::to_string_pretty(&config)?.as_bytes())?;

    let folders = PictureFolders { labeled: &options.data, unlabeled: options.unlabeled.as_ref() };
    let teacher = teacher.map(|teacher| teacher.answer(&setup.data, &folders, options.seed)).transpose()?;
    let views = options.views(&setup, plan.cut, method.views())?;
    let labels = setup.data.known();
    let training =
        TrainingRun { options, splits, method, setup: &setup, views, labels, teacher: teacher.as_ref(), began };
    let (student, validation, labeled) = training.run(&fold_of, &accept)?;
    training.write_results(&student, &validation, &labeled, &config)
}

/// Everything that is settled before the first step.
struct TrainingRun<'a> {
    options: &'a TrainingOptions,
    splits: &'a Splits,
    method: &'a MethodPlan,
    setup: &'a TrainingSetup,
    views: ViewSource<'a>,
    labels: Vec<Option<usize>>,
    teacher: Option<&'a TeacherAnswers>,
    began: Instant,
}

/// A student of one split.
struct FoldStudent {
    model: Model,
    /// The labeled pictures that it learned from.
    labeled: Vec<usize>,
    /// Its logits of the validation pictures.
    logits: Vec<Vec<f32>>,
}

/// What the student that did not train on a picture says of it.
struct HeldOutLogits {
    picture: usize,
    fold: usize,
    logits: Vec<f32>,
}

impl TrainingRun<'_> {
    /// Trains one student per fold, validates, writes `cv.json` and gives the final student: with `--folds` one more, which
    /// trained on everything.
    fn run(
        &self,
        fold_of: &[usize],
        accept: &[String],
    ) -> anyhow::Result<(TrainedStudent, Validation, LabeledPictures)> {
        let (options, data) = (self.options, &self.setup.data);
        let folds = self.splits.folds.unwrap_or(1);
        let mut held_out: Vec<HeldOutLogits> = Vec::new();
        let mut last = None;
        for fold in 0..folds {
            let (training, validation) = data::split(fold_of, fold);
            let name = if self.splits.folds.is_some() { format!("fold {}", fold + 1) } else { "final".into() };
            let mut student = self.train(&name, &training, &validation)?;
            let logits = std::mem::take(&mut student.logits);
            let rows = validation.into_iter().zip(logits);
            held_out.extend(rows.map(|(picture, logits)| HeldOutLogits { picture, fold, logits }));
            last = Some(student);
        }
        let validation = validate(data, accept, &held_out, folds, self.began);
        files::write(&options.out.join("cv.json"), serde_json::to_string_pretty(&validation)?.as_bytes())?;
        if self.splits.folds.is_some() {
            let all: Vec<usize> = (0..data.files.len()).collect();
            last = Some(self.train("final", &all, &[])?);
        }
        let FoldStudent { model, labeled: learned, .. } = last.context("no fold was trained")?;
        let net = model.net.name.to_string();
        let student = TrainedStudent {
            model: model.on(tch::Device::Cpu), // what serves is checked against float32
            classes: data.classes.clone(),
            thresholds: validation.thresholds.clone(),
            lineage: Lineage {
                method: self.method.name().into(),
                net,
                data_sha256: data.sha256.clone(),
                labeled: learned.len(),
                seed: options.seed,
                command: std::env::args().collect::<Vec<_>>().join(" "),
                teacher: self.teacher.map(|teacher| teacher.name.clone()),
                folds: self.splits.folds,
            },
            scorecard: validation.pooled.clone(),
            false_diverts: options.false_diverts,
        };
        let of = |picture: usize| Labeled { picture, truth: data.labels[picture] };
        let held_out = held_out.iter().filter(|_| self.splits.folds.is_none()).map(|row| of(row.picture)).collect();
        let labeled = LabeledPictures { learned: learned.into_iter().map(of).collect(), held_out };
        Ok((student, validation, labeled))
    }

    /// Trains the student `name` on the pictures `training` and asks it about those of `validation`.
    fn train(&self, name: &str, training: &[usize], validation: &[usize]) -> anyhow::Result<FoldStudent> {
        let (options, setup) = (self.options, self.setup);
        let (labeled, unlabeled) = split_pool(setup, self.splits, options.seed, training)?;
        let context = FitContext {
            views: &self.views,
            labels: &self.labels,
            classes: setup.data.classes.len(),
            start: &setup.start,
            plan: self.plan(labeled.len()),
            label_smoothing: options.label_smoothing,
            teacher: self.teacher.map(|teacher| &teacher.logits),
            out: &options.out,
            resume: options.resume,
        };
        let pools = PicturePools { labeled: &labeled, unlabeled: &unlabeled, validation };
        let model = self.method.fit(&context, name, &pools)?;
        let logits = context.logits(&model, validation);
        Ok(FoldStudent { model, labeled, logits })
    }

    /// The trainer's settings: passes are counted over what is labeled, and another teacher makes another run.
    fn plan(&self, labeled: usize) -> TrainingPlan {
        let mut plan = self.options.plan(self.setup, self.method, labeled);
        plan.identity.extend(self.teacher.iter().map(|teacher| teacher.sha256.as_str()));
        plan
    }

    /// Writes weights, model folder and report, and prints the figures.
    fn write_results(
        &self,
        student: &TrainedStudent,
        validation: &Validation,
        labeled: &LabeledPictures,
        config: &Value,
    ) -> anyhow::Result<()> {
        let (out, data) = (&self.options.out, &self.setup.data);
        export::write_weights(student, out)?;
        let pictures: Vec<&[u8]> = data.pictures.iter().map(Vec::as_slice).collect();
        let version = out.file_name().map_or("student".into(), |name| name.to_string_lossy());
        let manifest = model_folder::write(student, &pictures, labeled, &version, out)?;
        let gain = self.teacher.map(|teacher| teacher.gain(&manifest, out, data, validation)).transpose()?;
        let page = report::render(student, validation, data, &log::read(out)?, config, gain.as_ref())?;
        files::write(&out.join("report.html"), page.as_bytes())?;
        println!("\n{}", validation.pooled);
        let Thresholds { accept, accept_from, temperature, .. } = &student.thresholds;
        println!("accepts {} from {accept_from:.3}, temperature {temperature:.3}", accept.join(", "));
        if let Some(gain) = gain {
            println!("{gain}");
        }
        println!("{} and model/ in {:.0} s", out.join("report.html").display(), self.began.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Labeled and unlabeled pictures of a training share: all the labels, or a few per class.
fn split_pool(
    setup: &TrainingSetup,
    splits: &Splits,
    seed: u64,
    training: &[usize],
) -> anyhow::Result<(Vec<usize>, Vec<usize>)> {
    let data = &setup.data;
    let others = data.files.len()..data.pictures.len();
    let (labeled, rest) = match splits.labels {
        Some(each) => data::few(&data.labels, &data.groups, training, each, seed).map_err(anyhow::Error::msg)?,
        None => (training.to_vec(), Vec::new()),
    };
    // A labeled picture teaches without its label too: the papers' unlabeled sets hold the labeled ones.
    let unlabeled = labeled.iter().copied().chain(rest).chain(others).collect();
    Ok((labeled, unlabeled))
}

/// Calibrates temperature and thresholds on the held-out logits, and scores them.
fn validate(data: &Dataset, accept: &[String], held_out: &[HeldOutLogits], folds: usize, began: Instant) -> Validation {
    let truth: Vec<usize> = held_out.iter().map(|row| data.labels[row.picture]).collect();
    let logits: Vec<Vec<f32>> = held_out.iter().map(|row| row.logits.clone()).collect();
    let temperature = evaluate::temperature(&logits, &truth);
    let probabilities = evaluate::softmax(&logits, temperature);
    let measure = |fold: Option<usize>, table: &[Vec<f32>]| {
        let chosen = || held_out.iter().zip(table).filter(|(row, _)| fold.is_none_or(|fold| fold == row.fold));
        let rows: Vec<Vec<f32>> = chosen().map(|(_, probabilities)| probabilities.clone()).collect();
        let truth: Vec<usize> = chosen().map(|(row, _)| data.labels[row.picture]).collect();
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
            .map(|(row, probabilities)| Prediction {
                file: data.files[row.picture].clone(),
                truth: data.labels[row.picture],
                fold: row.fold,
                probabilities,
            })
            .collect(),
    }
}
