//! `distill`: any teacher → the small student that serves (Hinton et al. 2015, arXiv:1503.02531).
//!
//! The teacher is a model folder, a run that holds one, or an ONNX file from anywhere. It sees every picture once, plain,
//! at its own input side, through ONNX Runtime.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use beltsight::{
    domain::hash::sha256,
    picture::dataset,
    student::{
        engine::{Classifier, Device, Engine},
        manifest::{MANIFEST, Manifest},
        scorecard::argmax,
    },
};
use clap::Args;
use serde::Serialize;
use tch::Tensor;

use crate::{
    commands::{
        setup::{Options, Setup},
        train::{self, Splits},
    },
    methods::distillation::Softness,
    pictures::data::Dataset,
    training::{evaluate::Validation, fit::Recipe},
};

/// Options of `distill`.
#[derive(Args)]
pub struct Command {
    /// A model folder, a run's folder, or an ONNX file that gives one logit per class (in alphabetical order of the
    /// classes).
    #[arg(long)]
    teacher: PathBuf,
    /// Mean per colour that an ONNX file with float input wants, of values scaled to 0–1.
    #[arg(long, value_delimiter = ',', default_values_t = [0.485f32, 0.456, 0.406])]
    teacher_mean: Vec<f32>,
    /// Deviation per colour that an ONNX file with float input wants.
    #[arg(long, value_delimiter = ',', default_values_t = [0.229f32, 0.224, 0.225])]
    teacher_std: Vec<f32>,
    #[command(flatten)]
    softness: Softness,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    splits: Splits,
}

/// Runs the command.
///
/// # Errors
/// In words.
pub fn run(command: &Command) -> anyhow::Result<()> {
    let mut teacher = Teacher::open(&command.teacher, &command.teacher_mean, &command.teacher_std)?;
    let recipe = Recipe::Distillation(command.softness);
    train::run(&command.options, &command.splits, &recipe, Some(&mut teacher))
}

/// An opened teacher.
pub struct Teacher {
    name: String,
    bytes: u64,
    sha256: String,
    classifier: Classifier,
    manifest: Option<Manifest>,
}

/// A teacher's answers to the pictures of a run.
pub struct Taught {
    /// The teacher's version or file name.
    pub name: String,
    /// Logits `[pictures, classes]` of every plain picture.
    pub logits: Tensor,
    /// Hash of its ONNX file.
    pub sha256: String,
    bytes: u64,
    milliseconds: f64,
    /// Why its accuracy, and the student's, may be too good here.
    doubt: Option<String>,
}

impl Teacher {
    /// Opens a model folder (float32 where it has it), a run's folder, or an ONNX file.
    ///
    /// # Errors
    /// In words, naming the file.
    fn open(path: &Path, mean: &[f32], std: &[f32]) -> anyhow::Result<Self> {
        let folder = [path.to_path_buf(), path.join("model")].into_iter().find(|f| f.join(MANIFEST).is_file());
        let (name, onnx, manifest) = match folder {
            Some(folder) => {
                let manifest = Manifest::read(&folder)?;
                let precision =
                    if manifest.files.contains_key("float32") { "float32" } else { manifest.serve.as_str() };
                (manifest.version.clone(), manifest.onnx(&folder, precision)?, Some(manifest))
            }
            None if path.is_file() => (path.display().to_string(), std::fs::read(path)?, None),
            None => bail!("{} is neither a model folder, a run nor an ONNX file", path.display()),
        };
        let three =
            |values: &[f32]| <[f32; 3]>::try_from(values).map_err(|_| anyhow::anyhow!("three values, one per colour"));
        let mean = three(mean).context("--teacher-mean")?;
        let classifier = Classifier::open(&onnx, mean, three(std).context("--teacher-std")?)
            .with_context(|| path.display().to_string())?;
        Ok(Self { name, bytes: onnx.len() as u64, sha256: sha256(&onnx), classifier, manifest })
    }

    /// Its logits for every picture of `setup`, read again at its own input side.
    ///
    /// # Errors
    /// When its classes are others; when pictures can't be read; ONNX Runtime's.
    pub fn teach(&mut self, options: &Options, setup: &Setup) -> anyhow::Result<Taught> {
        let classes = &setup.data.classes;
        if let Some(manifest) = &self.manifest {
            ensure!(
                manifest.classes == *classes,
                "the teacher knows the classes {}, the data has {}",
                manifest.classes.join(", "),
                classes.join(", ")
            );
        }
        // Held-out pictures that the teacher learned from are learned through it.
        let lineage = self.manifest.as_ref().map(|manifest| &manifest.lineage);
        let doubt = match lineage {
            None => Some("says nothing of what it learned from"),
            Some(lineage) if lineage.folds.is_some() => Some("learned from every picture after cross-validation"),
            Some(lineage) if lineage.seed != options.seed || lineage.data_sha256 != setup.data.sha256 => {
                Some("learned from other data or with another --seed")
            }
            Some(_) => None,
        };
        let doubt = doubt.map(|what| {
            let name = &self.name;
            format!(
                "The teacher {name} {what}: it may know pictures that are held out here, and the scorecard may flatter."
            )
        });
        if let Some(doubt) = &doubt {
            eprintln!("note: {doubt}");
        }
        let side = self.classifier.side() as u32;
        let mut pictures = dataset::read(&options.data)?.load(side)?;
        if let Some(folder) = &options.unlabeled {
            pictures.extend(dataset::read_unlabeled(folder)?.load(side)?);
        }
        let began = Instant::now();
        let mut logits = Vec::new();
        for chunk in pictures.chunks(8) {
            let rows = self.classifier.run(chunk)?;
            ensure!(
                rows.ncols() == classes.len(),
                "the teacher gives {} logits, the data has {} classes",
                rows.ncols(),
                classes.len()
            );
            logits.extend(rows);
        }
        println!("teacher {} labeled {} pictures in {:.1} s", self.name, pictures.len(), began.elapsed().as_secs_f64());
        let milliseconds = median_ms(|| self.classifier.run(&pictures[..1]).map(|_| ()))?;
        let logits = Tensor::from_slice(&logits).view([-1, classes.len() as i64]);
        Ok(Taught {
            name: self.name.clone(),
            logits,
            sha256: self.sha256.clone(),
            bytes: self.bytes,
            milliseconds,
            doubt,
        })
    }
}

/// What distilling bought.
#[derive(Clone, Debug, Serialize)]
pub struct Gain {
    /// Teacher, then the student in float32, then in int8.
    pub rows: Vec<Row>,
    /// Why the accuracies may be too good.
    pub doubt: Option<String>,
}

/// Size, speed and accuracy of one network.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Its ONNX file.
    pub bytes: u64,
    /// Median time of a lone picture in ONNX Runtime on all cores.
    pub milliseconds: f64,
    /// Top-1 on the pictures held out; none for int8, whose answers are compared when it is written.
    pub accuracy: Option<f64>,
}

impl Taught {
    /// The teacher beside the student that was just written to `out/model`.
    ///
    /// # Errors
    /// ONNX Runtime's.
    pub fn against(
        &self,
        student: &Manifest,
        out: &Path,
        data: &Dataset,
        held_out: &Validation,
    ) -> anyhow::Result<Gain> {
        let rows = crate::network::model::rows(&self.logits);
        let right = held_out.pictures.iter().filter(|p| {
            data.files.iter().position(|f| *f == p.file).is_some_and(|picture| argmax(&rows[picture]) == p.truth)
        });
        let accuracy = right.count() as f64 / held_out.pictures.len() as f64;
        let teacher = Row {
            name: format!("teacher {}", self.name),
            bytes: self.bytes,
            milliseconds: self.milliseconds,
            accuracy: Some(accuracy),
        };
        let mut table = vec![teacher];
        for (precision, file) in &student.files {
            let mut engine = Engine::open(&student.onnx(&out.join("model"), precision)?, Device::Cpu, 0)?;
            let picture = std::slice::from_ref(&data.pictures[0]);
            table.push(Row {
                name: format!("student, {precision}"),
                bytes: file.bytes,
                milliseconds: median_ms(|| engine.run_all(picture, 1).map(|_| ()))?,
                accuracy: (precision == "float32").then_some(held_out.pooled.accuracy),
            });
        }
        Ok(Gain { rows: table, doubt: self.doubt.clone() })
    }
}

impl fmt::Display for Gain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let accuracy = row.accuracy.map_or(String::new(), |a| format!("{a:.4}"));
            writeln!(f, "{:<40} {:>10} bytes {:>8.2} ms {accuracy:>8}", row.name, row.bytes, row.milliseconds)?;
        }
        Ok(())
    }
}

fn median_ms<E>(mut once: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let mut times = Vec::new();
    for _ in 0..21 {
        let began = Instant::now();
        once()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
