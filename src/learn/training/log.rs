//! `metrics.jsonl`: what a run tells of itself while it trains.

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
    #[serde(default)] // lines of before it was kept
    pub labeling: f64,
    /// How long all that took.
    #[serde(default)]
    pub seconds: f64,
}

/// Sums since the last line of the log.
#[derive(Default)]
pub struct Tally {
    steps: f64,
    /// Views that went through the network.
    pub shown: usize,
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

impl Tally {
    /// Counts one step; `labels` is the truth about `unlabeled` pictures, where it is known.
    pub fn add(&mut self, loss: &Loss, unlabeled: &[usize], labels: &[Option<usize>]) {
        self.steps += 1.0;
        self.loss += loss.total.double_value(&[]);
        for (name, value) in &loss.parts {
            *self.parts.entry(name.to_string()).or_default() += value.double_value(&[]);
        }
        let Some(claims) = &loss.claims else { return };
        self.unlabeled += unlabeled.len() as f64;
        let (kept, classes) = (to_host(&claims.kept).1, to_host(&claims.classes).1);
        for ((&picture, class), kept) in unlabeled.iter().zip(classes).zip(kept).filter(|(_, kept)| *kept > 0.0) {
            self.kept += f64::from(kept);
            if let Some(truth) = labels[picture] {
                self.checked += 1.0;
                self.right += f64::from(u8::from(class as usize == truth));
            }
        }
    }
}

/// The line that sums `tally` up, which `took` this long: at `step` of `run`, `pass` steps a line; `checked` is validation
/// loss and accuracy.
pub fn line(
    tally: Tally,
    took: Duration,
    (run, step, pass): (&str, usize, usize),
    lr: f64,
    checked: Option<(f64, f64)>,
) -> Metric {
    let seconds = took.as_secs_f64().max(1e-9);
    let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
    Metric {
        run: run.into(),
        epoch: step.div_ceil(pass),
        step,
        loss: tally.loss / tally.steps,
        parts: tally.parts.into_iter().map(|(name, sum)| (name, sum / tally.steps)).collect(),
        coverage: share(tally.kept, tally.unlabeled),
        precision: share(tally.right, tally.checked),
        lr,
        validation_loss: checked.map(|c| c.0),
        validation_accuracy: checked.map(|c| c.1),
        pictures_per_second: tally.shown as f64 / seconds,
        waiting: tally.waiting.as_secs_f64() / seconds,
        backward: tally.backward.as_secs_f64() / seconds,
        labeling: tally.labeling.as_secs_f64() / seconds,
        seconds,
    }
}

/// All lines of `metrics.jsonl`, but for a last one that a kill or a full disk has cut; none when there is no such file.
///
/// # Errors
/// The system's, or a line that is no metric.
pub fn metrics(out: &Path) -> io::Result<Vec<Metric>> {
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
pub fn note(out: &Path, metric: &Metric) -> io::Result<()> {
    let mut file = fs::File::options().create(true).append(true).open(out.join("metrics.jsonl"))?;
    io::Write::write_all(&mut file, format!("{}\n", serde_json::to_string(metric)?).as_bytes())
}

/// Takes out what `run` wrote after step `done`, because it is about to be written again.
///
/// # Errors
/// The system's, or a line that is no metric.
pub fn forget(out: &Path, run: &str, done: usize) -> io::Result<()> {
    let mut text = String::new();
    for metric in metrics(out)?.iter().filter(|m| m.run != run || m.step <= done) {
        text += &format!("{}\n", serde_json::to_string(metric)?);
    }
    fs::create_dir_all(out)?;
    files::write(&out.join("metrics.jsonl"), text.as_bytes())
}
