//! A teacher from outside: a model folder, a run that holds one, or an ONNX file from anywhere; what its student gains.
//!
//! Invariant: the teacher sees every picture once, plain, at its own input side, through ONNX Runtime.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use beltsight::{
    domain::hash::sha256,
    files::heartbeat,
    picture::dataset,
    student::{
        engine::{Classifier, Device, Engine},
        manifest::{MANIFEST, Manifest},
        scorecard::argmax,
    },
};
use rayon::prelude::*;
use serde::Serialize;
use tch::Tensor;

use crate::{network::model, pictures::data::Dataset, training::evaluate::Validation};

/// An opened teacher.
pub struct Teacher {
    name: String,
    bytes: u64,
    sha256: String,
    classifier: Classifier,
    manifest: Option<Manifest>,
}

/// The folders that the pictures of a run were read from.
pub struct PictureFolders<'a> {
    /// The labeled ones.
    pub labeled: &'a Path,
    /// The others, if there are any.
    pub unlabeled: Option<&'a PathBuf>,
}

/// A teacher's answers to the pictures of a run.
pub struct TeacherAnswers {
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
    /// What is wrong, naming the file.
    pub fn open(path: &Path, mean: &[f32], std: &[f32]) -> anyhow::Result<Self> {
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

    /// Its logits for every picture of `data`, read again from `folders` at its own input side. `seed` is that of the
    /// run's splits.
    ///
    /// # Errors
    /// When its classes are others; when pictures can't be read; ONNX Runtime's.
    pub fn answer(&mut self, data: &Dataset, folders: &PictureFolders, seed: u64) -> anyhow::Result<TeacherAnswers> {
        let classes = &data.classes;
        if let Some(manifest) = &self.manifest {
            ensure!(
                manifest.classes == *classes,
                "the teacher knows the classes {}, the data has {}",
                manifest.classes.join(", "),
                classes.join(", ")
            );
        }
        let doubt = self.doubt(data, seed);
        if let Some(doubt) = &doubt {
            eprintln!("note: {doubt}");
        }
        let side = self.classifier.side() as u32;
        let mut lists = vec![dataset::read(folders.labeled)?];
        if let Some(folder) = folders.unlabeled {
            lists.push(dataset::read_unlabeled(folder)?);
        }
        let began = Instant::now();
        let mut logits = Vec::new();
        for list in &lists {
            for first in (0..list.samples.len()).step_by(8) {
                heartbeat::beat();
                let chunk = first..list.samples.len().min(first + 8);
                let pictures = chunk.into_par_iter().map(|i| list.picture(i, side)).collect::<Result<Vec<_>, _>>()?;
                let rows = self.classifier.run(&pictures)?;
                ensure!(
                    rows.ncols() == classes.len(),
                    "the teacher gives {} logits, the data has {} classes",
                    rows.ncols(),
                    classes.len()
                );
                logits.extend(rows);
            }
        }
        let count = logits.len() / classes.len();
        println!("teacher {} labeled {count} pictures in {:.1} s", self.name, began.elapsed().as_secs_f64());
        let one = [lists[0].picture(0, side)?];
        let milliseconds = median_ms(|| self.classifier.run(&one).map(|_| ()))?;
        let logits = Tensor::from_slice(&logits).view([-1, classes.len() as i64]);
        Ok(TeacherAnswers {
            name: self.name.clone(),
            logits,
            sha256: self.sha256.clone(),
            bytes: self.bytes,
            milliseconds,
            doubt,
        })
    }

    /// Why its accuracy, and the student's, may be too good: held-out pictures that the teacher learned from are learned
    /// through it.
    fn doubt(&self, data: &Dataset, seed: u64) -> Option<String> {
        let why = match self.manifest.as_ref().map(|manifest| &manifest.lineage) {
            None => "says nothing of what it learned from",
            Some(lineage) if lineage.folds.is_some() => "learned from every picture after cross-validation",
            Some(lineage) if lineage.seed != seed || lineage.data_sha256 != data.sha256 => {
                "learned from other data or with another --seed"
            }
            Some(_) => return None,
        };
        Some(format!(
            "The teacher {} {why}: it may know pictures that are held out here, and the scorecard may flatter.",
            self.name
        ))
    }
}

/// What distilling bought.
#[derive(Clone, Debug, Serialize)]
pub struct DistillationGain {
    /// Teacher, then the student in float32, then in int8.
    pub rows: Vec<NetworkCost>,
    /// Why the accuracies may be too good.
    pub doubt: Option<String>,
}

/// Size, speed and accuracy of one network.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkCost {
    /// What it is.
    pub name: String,
    /// Its ONNX file.
    pub bytes: u64,
    /// Median time of a lone picture in ONNX Runtime on all cores.
    pub milliseconds: f64,
    /// Top-1 on the pictures held out; none for int8, whose answers are compared when it is written.
    pub accuracy: Option<f64>,
}

impl TeacherAnswers {
    /// The teacher compared with the student that was just written to `out/model`.
    ///
    /// # Errors
    /// ONNX Runtime's.
    pub fn gain(
        &self,
        student: &Manifest,
        out: &Path,
        data: &Dataset,
        held_out: &Validation,
    ) -> anyhow::Result<DistillationGain> {
        let rows = model::rows(&self.logits);
        let right = held_out.pictures.iter().filter(|p| {
            data.files.iter().position(|f| *f == p.file).is_some_and(|picture| argmax(&rows[picture]) == p.truth)
        });
        let accuracy = right.count() as f64 / held_out.pictures.len() as f64;
        let teacher = NetworkCost {
            name: format!("teacher {}", self.name),
            bytes: self.bytes,
            milliseconds: self.milliseconds,
            accuracy: Some(accuracy),
        };
        let mut table = vec![teacher];
        for (precision, file) in &student.files {
            let mut engine = Engine::open(&student.onnx(&out.join("model"), precision)?, Device::Cpu, 0)?;
            let picture = [data.pictures.get(0)?];
            table.push(NetworkCost {
                name: format!("student, {precision}"),
                bytes: file.bytes,
                milliseconds: median_ms(|| engine.run_all(&picture, 1).map(|_| ()))?,
                accuracy: (precision == "float32").then_some(held_out.pooled.accuracy),
            });
        }
        Ok(DistillationGain { rows: table, doubt: self.doubt.clone() })
    }
}

impl fmt::Display for DistillationGain {
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
