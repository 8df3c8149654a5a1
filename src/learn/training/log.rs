//! `metrics.jsonl`: the log of a run, one line per pass.

use std::{collections::BTreeMap, fs, io, path::Path, time::Duration};

use beltsight::files;
use serde::{Deserialize, Serialize};

use crate::{methods::Loss, network::model::to_host};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Metric {
    /// Which run: `fold 1`, …, `final`.
    pub run: String,
    /// Lines of this run so far; for supervised learning the passes over the pictures.
    pub epoch: usize,
    /// Steps done.
    pub step: usize,
    /// Mean training loss since the line before.
    pub loss: f64,
    /// What it is made of.
    pub parts: BTreeMap<String, f64>,
    /// Share of the unlabeled pictures whose pseudo-labels were used.
    pub coverage: Option<f64>,
    /// Share of the used pseudo-labels that were right, where the truth is known.
    pub precision: Option<f64>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Validation: loss of the averaged weights.
    pub validation_loss: Option<f64>,
    /// Validation: accuracy of the averaged weights.
    pub validation_accuracy: Option<f64>,
    /// Views per second that went forward and back.
    pub pictures_per_second: f64,
    /// Share of the time spent waiting for views.
    pub waiting: f64,
    /// Share of the time spent in the backward pass.
    pub backward: f64,
    /// Share of the time spent making pseudo-labels; a teacher's, made before the first step, belong to the first line.
    #[serde(default)] // older lines lack it
    pub labeling: f64,
    /// How long all that took.
    #[serde(default)]
    pub seconds: f64,
}

/// Sums since the last line of the log.
#[derive(Default)]
pub struct StepStatistics {
    steps: f64,
    /// Views that went through the network.
    pub views: usize,
    loss: f64,
    parts: BTreeMap<String, f64>,
    unlabeled: f64,
    kept: f64,
    checked: f64,
    right: f64,
    /// Time spent waiting for views.
    pub waiting: Duration,
    /// Time spent in backward passes.
    pub backward: Duration,
    /// Time spent making pseudo-labels.
    pub labeling: Duration,
}

impl StepStatistics {
    /// Counts one step; `labels` is the truth about `unlabeled` pictures, where it is known.
    pub fn add(&mut self, loss: &Loss, unlabeled: &[usize], labels: &[Option<usize>]) {
        self.steps += 1.0;
        self.loss += loss.total.double_value(&[]);
        for (name, value) in &loss.parts {
            *self.parts.entry(name.to_string()).or_default() += value.double_value(&[]);
        }
        let Some(targets) = &loss.pseudo_targets else { return };
        self.unlabeled += unlabeled.len() as f64;
        let (kept, classes) = (to_host(&targets.kept).1, to_host(&targets.classes).1);
        for ((&picture, class), kept) in unlabeled.iter().zip(classes).zip(kept).filter(|(_, kept)| *kept > 0.0) {
            self.kept += f64::from(kept);
            if let Some(truth) = labels[picture] {
                self.checked += 1.0;
                self.right += f64::from(u8::from(class as usize == truth));
            }
        }
    }

    /// The log's line about these steps, which took `took`: `step` of `run` is reached, `pass` steps make a line;
    /// `validation` is loss and accuracy.
    pub fn into_metric(
        self,
        took: Duration,
        (run, step, pass): (&str, usize, usize),
        lr: f64,
        validation: Option<(f64, f64)>,
    ) -> Metric {
        let seconds = took.as_secs_f64().max(1e-9);
        let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        Metric {
            run: run.into(),
            epoch: step.div_ceil(pass),
            step,
            loss: self.loss / self.steps,
            parts: self.parts.into_iter().map(|(name, sum)| (name, sum / self.steps)).collect(),
            coverage: share(self.kept, self.unlabeled),
            precision: share(self.right, self.checked),
            lr,
            validation_loss: validation.map(|(loss, _)| loss),
            validation_accuracy: validation.map(|(_, accuracy)| accuracy),
            pictures_per_second: self.views as f64 / seconds,
            waiting: self.waiting.as_secs_f64() / seconds,
            backward: self.backward.as_secs_f64() / seconds,
            labeling: self.labeling.as_secs_f64() / seconds,
            seconds,
        }
    }
}

/// All lines of `metrics.jsonl` except a last one that a kill or a full disk cut short; none when the file is missing.
///
/// # Errors
/// The system's, or a line that is not a metric.
pub fn read(out: &Path) -> io::Result<Vec<Metric>> {
    match fs::read_to_string(out.join("metrics.jsonl")) {
        Ok(text) => {
            let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            whole.map(|line| Ok(serde_json::from_str(line)?)).collect()
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Adds a line.
///
/// # Errors
/// The system's.
pub fn append(out: &Path, metric: &Metric) -> io::Result<()> {
    let mut file = fs::File::options().create(true).append(true).open(out.join("metrics.jsonl"))?;
    io::Write::write_all(&mut file, format!("{}\n", serde_json::to_string(metric)?).as_bytes())
}

/// Removes what `run` wrote after step `done`, because it is about to be written again.
///
/// # Errors
/// The system's, or a line that is not a metric.
pub fn truncate_after(out: &Path, run: &str, done: usize) -> io::Result<()> {
    let mut text = String::new();
    for metric in read(out)?.iter().filter(|m| m.run != run || m.step <= done) {
        text += &format!("{}\n", serde_json::to_string(metric)?);
    }
    fs::create_dir_all(out)?;
    files::write(&out.join("metrics.jsonl"), text.as_bytes())
}
