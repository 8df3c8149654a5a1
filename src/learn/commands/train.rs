//! `train` and `distill`: data → validation → student, start to finish.
//!
//! Invariant: temperature, thresholds and scorecard come from pictures that the scored network did not train on.

use std::{collections::BTreeSet, fs, time::Instant};

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
    commands::setup::{Trainable, TrainingOptions, TrainingSetup},
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
        model_folder::{self, HeldOut},
        plan::{PicturePools, TrainingPlan},
        start::picture_hash,
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
    /// Cross-validate over this many folds, then train on everything; 1 holds every fifth picture out instead [default:
    /// with few labels 5 where the trunk is frozen, else 3; otherwise 1].
    #[arg(long)]
    pub folds: Option<usize>,
    /// Use the labels of this many pictures per class only; the others count as unlabeled.
    #[arg(long)]
    pub labels: Option<usize>,
}

/// Fewer groups of a class than this are few labels: a fifth of them would be under ten pictures, too few to spare and to
/// judge by.
const FEW: usize = 50;
/// With more labeled pictures than this a fifth is held out all the same: every fold is one more training.
const MANY: usize = 5000;
/// Fewest pictures that calibrate a student where the one before learned the others.
const ENOUGH: usize = 10;

impl Splits {
    /// Folds of cross-validation; none: every fifth picture is held out, and never learned.
    ///
    /// With few labels ([`FEW`], [`MANY`]) every label is learned: temperature and thresholds are fitted to what the students
    /// of the folds say of the pictures that they did not see (cross-fitting, Platt 1999), and one more student learns
    /// all. Under a frozen trunk a fold trains a head on cached activations, which takes seconds; a whole network is trained
    /// anew in every fold, so there are three of them, and the run takes four times as long.
    ///
    /// # Errors
    /// When `--adapt` would let pictures that a fold holds out shape the trunk that all folds share.
    fn folds(&self, options: &TrainingOptions, setup: &TrainingSetup) -> anyhow::Result<Option<usize>> {
        let data = &setup.data;
        if let Some(folds) = self.folds {
            ensure!(
                !(options.adapt && folds > 1),
                "--adapt with --folds would let held-out pictures shape the trunk that all folds share"
            );
            return Ok((folds > 1).then_some(folds));
        }
        let few = data::fewest_groups(&data.labels, &data.groups) < FEW && data.files.len() <= MANY;
        let adapts_to_labeled = options.adapt && data.pictures.len() == data.files.len();
        let folds = if setup.trainable == Trainable::All { 3 } else { 5 };
        Ok((few && self.labels.is_none() && !adapts_to_labeled).then_some(folds))
    }
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
    let folds = splits.folds(options, &setup)?;
    let fold_of = data::folds(&setup.data.labels, &setup.data.groups, folds.unwrap_or(5), options.seed)
        .map_err(anyhow::Error::msg)?;
    let (first_training, first_validation) = data::split(&fold_of, 0);
    ensure!(
        !first_validation.is_empty(),
        "label two items of one class at least: thresholds need one that is held out"
    );
    // Of several folds every labeled picture is held out once.
    options.adapt(&mut setup, if folds.is_some() { &[] } else { &first_training })?;
    let accept = options.accepted(&setup)?;
    ensure!(
        !method.needs_unlabeled() || options.unlabeled.is_some() || splits.labels.is_some(),
        "{} learns from unlabeled pictures: give --unlabeled, or --labels to use only some of the labels",
        method.name()
    );
    let (labeled, _) = split_pool(&setup, splits, options.seed, &first_training)?;
    let plan = options.plan(&setup, method, labeled.len());
    let config = serde_json::json!({ "options": options, "splits": splits, "recipe": method, "plan": plan, "folds": folds,
        "accept": accept, "started_from": setup.started_from, "version": env!("CARGO_PKG_VERSION") });
    files::write(&options.out.join("config.json"), serde_json::to_string_pretty(&config)?.as_bytes())?;

    let folders = PictureFolders { labeled: &options.data, unlabeled: options.unlabeled.as_ref() };
    let teacher = teacher.map(|teacher| teacher.answer(&setup.data, &folders, options.seed)).transpose()?;
    let views = options.views(&setup, plan.cut, method.views())?;
    let labels = setup.data.known();
    let training =
        TrainingRun { options, splits, folds, method, setup: &setup, views, labels, teacher: teacher.as_ref(), began };
    let (student, validation, held_out) = training.run(&fold_of, &accept)?;
    training.write_results(&student, &validation, &held_out, &config)
}

/// Everything that is settled before the first step.
struct TrainingRun<'a> {
    options: &'a TrainingOptions,
    splits: &'a Splits,
    /// Folds of cross-validation; none where one share is held out.
    folds: Option<usize>,
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
    /// Labeled pictures that it learned from.
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
    /// Trains one student per fold, validates, writes `cv.json` and gives the final student: after several folds one more,
    /// which trained on everything. The pictures are those that the final student did not train on.
    fn run(&self, fold_of: &[usize], accept: &[String]) -> anyhow::Result<(TrainedStudent, Validation, Vec<HeldOut>)> {
        let (options, data) = (self.options, &self.setup.data);
        let folds = self.folds.unwrap_or(1);
        let mut held_out: Vec<HeldOutLogits> = Vec::new();
        let mut last = None;
        for fold in 0..folds {
            let (training, validation) = data::split(fold_of, fold);
            if validation.is_empty() {
                continue; // of few pictures not every fold has one
            }
            let name = if self.folds.is_some() { format!("fold {}", fold + 1) } else { "final".into() };
            let mut student = self.train(&name, &training, &validation)?;
            let logits = std::mem::take(&mut student.logits);
            let rows = validation.into_iter().zip(logits);
            held_out.extend(rows.map(|(picture, logits)| HeldOutLogits { picture, fold, logits }));
            last = Some(student);
        }
        let (held_out, unseen) = self.unseen(held_out, accept);
        let mut validation = validate(data, accept, &held_out, folds, self.began);
        if let Some(from) = self.setup.from.as_ref().filter(|_| !unseen) {
            validation.thresholds = stricter(&validation.thresholds, &from.thresholds);
        }
        files::write(&options.out.join("cv.json"), serde_json::to_string_pretty(&validation)?.as_bytes())?;
        if self.folds.is_some() {
            let all: Vec<usize> = (0..data.files.len()).collect();
            last = Some(self.train("final", &all, &[])?);
        }
        let FoldStudent { model, labeled, .. } = last.context("no fold was trained")?;
        let net = model.net.name.to_string();
        let before = self.setup.from.iter().flat_map(|from| from.learned.iter().flatten().cloned());
        let learned = before.chain(labeled.iter().map(|&i| picture_hash(&data.pictures[i]))).collect();
        let student = TrainedStudent {
            learned,
            model: model.on(tch::Device::Cpu), // what serves is checked against float32
            classes: data.classes.clone(),
            thresholds: validation.thresholds.clone(),
            lineage: Lineage {
                method: self.method.name().into(),
                net,
                data_sha256: data.sha256.clone(),
                labeled: labeled.len(),
                seed: options.seed,
                command: std::env::args().collect::<Vec<_>>().join(" "),
                teacher: self.teacher.map(|teacher| teacher.name.clone()),
                from: self.setup.from.as_ref().map(|from| from.version.clone()),
                folds: self.folds,
            },
            scorecard: validation.pooled.clone(),
        };
        let row = |row: &HeldOutLogits| HeldOut { picture: row.picture, truth: data.labels[row.picture] };
        let judges = self.folds.is_none() && unseen;
        Ok((student, validation, if judges { held_out.iter().map(row).collect() } else { Vec::new() }))
    }

    /// Those of `held_out` whose label the student that the training goes on from did not learn either: of the others it
    /// knows the answer. Where too few are left to calibrate by, all, and false.
    fn unseen(&self, held_out: Vec<HeldOutLogits>, accept: &[String]) -> (Vec<HeldOutLogits>, bool) {
        let (data, Some(from)) = (&self.setup.data, &self.setup.from) else { return (held_out, true) };
        if from.learned.is_none() {
            eprintln!("note: nobody noted what {} learned from: the scorecard may flatter.", from.version);
        }
        let (known, unseen): (Vec<_>, Vec<_>) =
            held_out.into_iter().partition(|row| from.learned(&data.pictures[row.picture]));
        let good = unseen.iter().filter(|row| accept.contains(&data.classes[data.labels[row.picture]])).count();
        if known.is_empty() || (unseen.len() >= ENOUGH && good > 0 && good < unseen.len()) {
            return (unseen, true);
        }
        eprintln!(
            "note: of the held-out pictures {} learned all but {}: the scorecard may flatter, and thresholds are no \
             milder than its own.",
            from.version,
            unseen.len()
        );
        (known.into_iter().chain(unseen).collect(), false)
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
            known: &setup.known,
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
        held_out: &[HeldOut],
        config: &Value,
    ) -> anyhow::Result<()> {
        let (out, data) = (&self.options.out, &self.setup.data);
        export::write_weights(student, out)?;
        let pictures: Vec<&[u8]> = data.pictures.iter().map(Vec::as_slice).collect();
        let version = out.file_name().map_or("student".into(), |name| name.to_string_lossy());
        let manifest = model_folder::write(student, &pictures, held_out, &version, out)?;
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

/// The thresholds of `fitted` that doubt more than those of `before`, and these otherwise.
fn stricter(fitted: &Thresholds, before: &Thresholds) -> Thresholds {
    let accept_from = fitted.accept_from.max(before.accept_from);
    let unsure_from = fitted.unsure_from.min(before.unsure_from);
    let temperature = fitted.temperature.max(before.temperature);
    Thresholds { accept: fitted.accept.clone(), accept_from, unsure_from, temperature }
}

/// Calibrates temperature and thresholds on the held-out logits, and scores them.
fn validate(data: &Dataset, accept: &[String], held_out: &[HeldOutLogits], folds: usize, began: Instant) -> Validation {
    let truth: Vec<usize> = held_out.iter().map(|row| data.labels[row.picture]).collect();
    let logits: Vec<Vec<f32>> = held_out.iter().map(|row| row.logits.clone()).collect();
    let temperature = evaluate::temperature(&logits, &truth);
    let probabilities = evaluate::softmax(&logits, temperature);
    let folds_held: BTreeSet<usize> = held_out.iter().map(|row| row.fold).collect();
    let measure = |fold: Option<usize>, table: &[Vec<f32>]| {
        let chosen = || held_out.iter().zip(table).filter(|(row, _)| fold.is_none_or(|fold| fold == row.fold));
        let rows: Vec<Vec<f32>> = chosen().map(|(_, probabilities)| probabilities.clone()).collect();
        let truth: Vec<usize> = chosen().map(|(row, _)| data.labels[row.picture]).collect();
        Scorecard::measure(&rows, &truth, &data.classes, accept)
    };
    Validation {
        folds,
        pooled: measure(None, &probabilities),
        per_fold: folds_held.into_iter().map(|fold| measure(Some(fold), &probabilities)).collect(),
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
