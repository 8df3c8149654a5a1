//! `train` and `distill`: data → validation → student, start to finish.
//!
//! Invariant: temperature, thresholds and scorecard come from pictures that the scored network did not train on.

use std::{fs, time::Instant};

use anyhow::{Context, ensure};
use beltsight::{
    domain::Thresholds,
    files,
    student::{manifest::Lineage, scorecard::Scorecard},
};
use clap::Args;
use serde::Serialize;

use crate::{
    commands::{
        distill::Teacher,
        setup::{Options, Setup},
    },
    pages::report,
    pictures::data::{self, Dataset},
    training::{
        evaluate::{self, Prediction, Validation},
        export,
        fit::{Ground, Pools, Recipe},
        log, model_folder,
    },
};

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

/// Makes a student by `recipe` and leaves config, metrics, checkpoints, report, weights and model folder behind.
///
/// # Errors
/// In words; [`crate::training::trainer::TrainError::Stopped`] inside when the user asked to stop.
pub fn run(options: &Options, splits: &Splits, recipe: &Recipe, teacher: Option<&mut Teacher>) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut setup = options.open()?;
    let fold_of = data::folds(&setup.data.labels, &setup.data.groups, splits.folds.unwrap_or(5), options.seed)
        .map_err(anyhow::Error::msg)?;
    ensure!(
        !(options.adapt && splits.folds.is_some()),
        "--adapt with --folds would let held-out pictures shape the trunk that all folds share"
    );
    options.adapt(&mut setup, &data::split(&fold_of, 0).0)?;
    let data = &setup.data;
    let accept = options.accepted(data)?;
    ensure!(
        *recipe == Recipe::Supervised || options.unlabeled.is_some() || splits.labels.is_some() || teacher.is_some(),
        "{} learns from unlabeled pictures: give --unlabeled, or --labels to use only some of the labels",
        recipe.name()
    );
    let (labeled, _) = pools(&setup, splits, options.seed, &data::split(&fold_of, 0).0)?;
    let plan = options.plan(&setup, recipe, labeled.len());
    fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let config = serde_json::json!({ "options": options, "splits": splits, "recipe": recipe, "plan": plan,
        "accept": accept, "started_from": setup.started_from, "version": env!("CARGO_PKG_VERSION") });
    files::write(&options.out.join("config.json"), serde_json::to_string_pretty(&config)?.as_bytes())?;

    let taught = teacher.map(|teacher| teacher.teach(options, &setup)).transpose()?;
    let plan_for = |labeled: usize| {
        let mut plan = options.plan(&setup, recipe, labeled); // passes are counted over what is labeled
        plan.identity.extend(taught.iter().map(|teacher| teacher.sha256.as_str()));
        plan
    };
    let views = options.views(&setup, plan.cut, recipe.views())?;
    let labels = data.known();
    let mut ground = Ground {
        views: &views,
        labels: &labels,
        classes: data.classes.len(),
        start: &setup.start,
        plan,
        label_smoothing: options.label_smoothing,
        teacher: taught.as_ref().map(|t| &t.logits),
        out: &options.out,
        resume: options.resume,
    };
    let mut held_out: Vec<(usize, usize, Vec<f32>)> = Vec::new(); // picture, fold, logits
    let mut last = None;
    for fold in 0..splits.folds.unwrap_or(1) {
        let (training, validation) = data::split(&fold_of, fold);
        let name = if splits.folds.is_some() { format!("fold {}", fold + 1) } else { "final".into() };
        let (labeled, unlabeled) = pools(&setup, splits, options.seed, &training)?;
        let pools = Pools { labeled: &labeled, unlabeled: &unlabeled, validation: &validation };
        ground.plan = plan_for(labeled.len());
        let student = ground.fit(&name, recipe, &pools)?;
        let logits = ground.logits(&student, &validation);
        held_out.extend(validation.iter().zip(logits).map(|(&picture, row)| (picture, fold, row)));
        last = Some((student, labeled.len()));
    }
    let validation = judge(data, &accept, &held_out, splits.folds.unwrap_or(1), began);
    files::write(&options.out.join("cv.json"), serde_json::to_string_pretty(&validation)?.as_bytes())?;
    if splits.folds.is_some() {
        let all: Vec<usize> = (0..data.files.len()).collect();
        let (labeled, unlabeled) = pools(&setup, splits, options.seed, &all)?;
        let pools = Pools { labeled: &labeled, unlabeled: &unlabeled, validation: &[] };
        ground.plan = plan_for(labeled.len());
        last = Some((ground.fit("final", recipe, &pools)?, labeled.len()));
    }
    let (model, labeled) = last.context("no fold was trained")?;

    let net = model.net.name.to_string();
    let student = export::Student {
        model: model.on(tch::Device::Cpu), // what serves is checked against float32
        classes: data.classes.clone(),
        thresholds: validation.thresholds.clone(),
        lineage: Lineage {
            method: recipe.name().into(),
            net,
            data_sha256: data.sha256.clone(),
            labeled,
            seed: options.seed,
            command: std::env::args().collect::<Vec<_>>().join(" "),
            teacher: taught.as_ref().map(|t| t.name.clone()),
            folds: splits.folds,
        },
        scorecard: validation.pooled.clone(),
    };
    let sample: Vec<&[u8]> =
        data.pictures.iter().step_by(data.pictures.len().div_ceil(16)).map(Vec::as_slice).collect();
    export::write_weights(&student, &sample, &options.out)?;
    let pictures: Vec<&[u8]> = data.pictures.iter().map(Vec::as_slice).collect();
    let version = options.out.file_name().map_or("student".into(), |name| name.to_string_lossy());
    let manifest = model_folder::write(&student, &pictures, &version, &options.out)?;
    let gain = taught.map(|t| t.against(&manifest, &options.out, data, &validation)).transpose()?;
    let metrics = log::metrics(&options.out)?;
    let page = report::render(&student, &validation, data, &metrics, &config, gain.as_ref())?;
    files::write(&options.out.join("report.html"), page.as_bytes())?;
    println!("\n{}", validation.pooled);
    let Thresholds { accept_from, temperature, .. } = student.thresholds;
    println!("accepts {} from {accept_from:.3}, temperature {temperature:.3}", accept.join(", "));
    if let Some(gain) = gain {
        println!("{gain}");
    }
    println!("{} and model/ in {:.0} s", options.out.join("report.html").display(), began.elapsed().as_secs_f64());
    Ok(())
}

/// Labeled and unlabeled pictures of a training share: all the labels, or a few per class.
fn pools(setup: &Setup, splits: &Splits, seed: u64, training: &[usize]) -> anyhow::Result<(Vec<usize>, Vec<usize>)> {
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
