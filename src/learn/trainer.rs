//! batch → loss → backward → step → average; checkpoints, resume, progress.
//!
//! Invariant: everything random is drawn from (seed, step), and a checkpoint holds every tensor that moves: a resumed
//! run ends with the same weights as an unbroken one.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use crate::{
    augment::generator,
    nets::{Model, from_host, rows, to_host},
    optim::{Ema, Sgd, learning_rate},
    views::Views,
    weights::{self, Weights, WeightsError},
};

const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The settings of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The first block that is trained; all blocks of the network for the head alone.
    pub cut: usize,
    /// Passes over the pictures.
    pub epochs: usize,
    /// Pictures per step; the rest of a pass that fills no batch is left out (it is another one each time).
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// λ on kernels.
    pub weight_decay: f64,
    /// d of the moving average.
    pub ema: f64,
    /// Seed of order, dropout and views.
    pub seed: u64,
    /// Hash of the data snapshot.
    pub data_sha256: String,
}

/// Why a run ended without a student.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Asked to stop; the checkpoint is written.
    #[error("stopped; `--resume` goes on from {0}")]
    Stopped(PathBuf),
    /// The loss is no number.
    #[error("the loss became {loss} at step {step}: use a smaller `--lr`")]
    Diverged {
        /// The step.
        step: usize,
        /// What it became.
        loss: f64,
    },
    /// The checkpoint is of another run.
    #[error("{0} was made with other settings or data: start without `--resume`, or in another folder")]
    OtherRun(PathBuf),
    /// Checkpoint trouble.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The run's log can't be written.
    #[error("metrics.jsonl: {0}")]
    Log(#[from] io::Error),
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Metric {
    /// Which run: `fold 1`, …, `final`.
    pub run: String,
    /// Passes done.
    pub epoch: usize,
    /// Steps done.
    pub step: usize,
    /// Mean training loss of the pass.
    pub loss: f64,
    /// Learning rate of its last step.
    pub lr: f64,
    /// Validation: loss of the averaged weights.
    pub validation_loss: Option<f64>,
    /// Validation: accuracy of the averaged weights.
    pub validation_accuracy: Option<f64>,
    /// Training pictures per second.
    pub pictures_per_second: f64,
}

/// Where a run keeps its state and tells of itself.
pub struct Desk<'a> {
    /// Its name in `metrics.jsonl`.
    pub run: &'a str,
    /// The output folder.
    pub out: &'a Path,
    /// Go on from the checkpoint if there is one.
    pub resume: bool,
    /// Asked after every step with the number of steps done; true stops the run.
    pub stop: &'a dyn Fn(usize) -> bool,
}

/// Pictures as the trained part sees them, and who trains and who checks.
pub struct Material<'a> {
    /// Inputs.
    pub views: &'a Views<'a>,
    /// Class per picture.
    pub labels: &'a [usize],
    /// Pictures to train on.
    pub training: &'a [usize],
    /// Pictures to check with after every pass; may be empty.
    pub validation: &'a [usize],
}

/// Names of the weights that are trained and, after them, of the BatchNorm buffers that move along.
fn moving(model: &Model, cut: usize) -> (Vec<String>, Vec<String>) {
    let live: Vec<String> =
        model.net.blocks[cut..].iter().flat_map(|block| &block.convs).map(|conv| format!("{}.", conv.name)).collect();
    let names = model.params.keys().filter(|n| n.starts_with("head.") || live.iter().any(|l| n.starts_with(l)));
    names.cloned().partition(|name| !name.contains(".bn.running_"))
}

/// Trains `model` from block `plan.cut` on and gives it back with its averaged weights.
///
/// # Errors
/// See [`TrainError`].
pub fn train(
    mut model: Model,
    plan: &Plan,
    material: &Material,
    loss: impl Fn(&Tensor, &Tensor) -> Tensor,
    desk: &Desk,
) -> Result<Model, TrainError> {
    let (trained, buffers) = moving(&model, plan.cut);
    for name in trained.iter().chain(&buffers) {
        let own = model.params[name].detach().copy(); // the trunk may be shared with other runs
        let own = if trained.contains(name) { own.set_requires_grad(true) } else { own };
        model.params.insert(name.clone(), own);
    }
    let mut sgd = Sgd::new(&model.params, &trained, plan.weight_decay);
    let all: Vec<String> = trained.iter().chain(&buffers).cloned().collect();
    let mut ema = Ema::new(&model.params, &all, plan.ema);
    let checkpoint = desk.out.join("checkpoints").join(format!("{}.safetensors", desk.run.replace(' ', "-")));
    let mut done = 0;
    if desk.resume && checkpoint.is_file() {
        done = load(&checkpoint, plan, material.training, &mut model, &mut sgd, &mut ema)?;
    }
    forget(desk, done)?;

    let per_epoch = (material.training.len() / plan.batch).max(1);
    let total = per_epoch * plan.epochs;
    let bar = bar(desk.run, total, done);
    let (mut saved, mut epoch_began, mut losses) = (Instant::now(), Instant::now(), Vec::new());
    while done < total {
        let (epoch, place) = (done / per_epoch, done % per_epoch);
        let mut order = material.training.to_vec();
        order.shuffle(&mut generator(plan.seed, epoch as u64, u64::MAX));
        let batch = order.chunks(plan.batch).nth(place).unwrap_or(&order);
        let targets = targets(material.labels, batch);
        let mut dropout = generator(plan.seed, done as u64, u64::MAX - 1);
        let (_, logits) = model.forward(&material.views.batch(epoch, batch), plan.cut, Some(&mut dropout));
        let value = loss(&logits, &targets);
        value.backward();
        let lr = learning_rate(done, total, per_epoch.min(total / 10), plan.lr);
        sgd.step(&mut model.params, lr);
        ema.update(&model.params, done);
        let value = value.double_value(&[]);
        if !value.is_finite() {
            return Err(TrainError::Diverged { step: done, loss: value });
        }
        losses.push(value);
        done += 1;
        bar.set_position(done as u64);
        if done % per_epoch == 0 {
            let seconds = epoch_began.elapsed().as_secs_f64();
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            let pictures_per_second = (losses.len() * batch.len()) as f64 / seconds;
            bar.set_message(format!("loss {mean:.3}, {pictures_per_second:.0} pictures/s"));
            let (validation_loss, validation_accuracy) = check(&averaged(&model, &ema), plan.cut, material, &loss);
            let run = desk.run.into();
            let metric = Metric {
                run,
                epoch: epoch + 1,
                step: done,
                loss: mean,
                lr,
                validation_loss,
                validation_accuracy,
                pictures_per_second,
            };
            note(desk.out, &metric)?;
            (losses, epoch_began) = (Vec::new(), Instant::now());
        }
        let stop = done < total && (desk.stop)(done);
        if stop || done == total || saved.elapsed() > SAVE_EVERY {
            save(&checkpoint, plan, material.training, &model, &sgd, &ema, done)?;
            saved = Instant::now();
        }
        if stop {
            bar.abandon();
            return Err(TrainError::Stopped(checkpoint));
        }
    }
    bar.finish();
    Ok(averaged(&model, &ema))
}

/// Logits `[indices, classes]` of unchanged pictures.
pub fn logits(model: &Model, cut: usize, views: &Views, indices: &[usize]) -> Vec<Vec<f32>> {
    indices.chunks(64).flat_map(|chunk| rows(&no_grad(|| model.forward(&views.plain(chunk), cut, None).1))).collect()
}

fn targets(labels: &[usize], indices: &[usize]) -> Tensor {
    Tensor::from_slice(&indices.iter().map(|&i| labels[i] as i64).collect::<Vec<_>>())
}

fn averaged(model: &Model, ema: &Ema) -> Model {
    let mut params: crate::nets::Params = model.params.iter().map(|(n, v)| (n.clone(), v.shallow_clone())).collect();
    params.extend(ema.average.iter().map(|(n, v)| (n.clone(), v.shallow_clone())));
    Model { net: model.net.clone(), params }
}

fn check(
    model: &Model,
    cut: usize,
    material: &Material,
    loss: impl Fn(&Tensor, &Tensor) -> Tensor,
) -> (Option<f64>, Option<f64>) {
    let indices = material.validation;
    if indices.is_empty() {
        return (None, None);
    }
    let table = logits(model, cut, material.views, indices);
    let right = table.iter().zip(indices).filter(|(row, i)| beltsight::scorecard::argmax(row) == material.labels[**i]);
    let accuracy = right.count() as f64 / indices.len() as f64;
    let flat = Tensor::from_slice(&table.concat()).view([indices.len() as i64, -1]);
    (Some(loss(&flat, &targets(material.labels, indices)).double_value(&[])), Some(accuracy))
}

fn bar(run: &str, total: usize, done: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>8} {wide_bar} {pos}/{len} steps, {eta} left, {msg}");
    let bar = ProgressBar::new(total as u64).with_prefix(run.to_string()).with_position(done as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// What a checkpoint must agree with: the plan and the pictures trained on.
fn identity(plan: &Plan, training: &[usize]) -> String {
    serde_json::json!([plan, training]).to_string()
}

fn save(
    path: &Path,
    plan: &Plan,
    training: &[usize],
    model: &Model,
    sgd: &Sgd,
    ema: &Ema,
    done: usize,
) -> Result<(), TrainError> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let mut state = Weights::new();
    for name in ema.average.keys() {
        state.insert(format!("weight:{name}"), to_host(&model.params[name]));
        state.insert(format!("average:{name}"), to_host(&ema.average[name]));
    }
    for (name, v) in &sgd.momentum {
        state.insert(format!("momentum:{name}"), to_host(v));
    }
    let metadata = [("step".into(), done.to_string()), ("run".into(), identity(plan, training))];
    Ok(weights::write(path, &state, HashMap::from(metadata))?)
}

fn load(
    path: &Path,
    plan: &Plan,
    training: &[usize],
    model: &mut Model,
    sgd: &mut Sgd,
    ema: &mut Ema,
) -> Result<usize, TrainError> {
    let (state, metadata) = weights::read(path)?;
    let other = || TrainError::OtherRun(path.into());
    if metadata.get("run") != Some(&identity(plan, training)) {
        return Err(other());
    }
    let put = |prefix: &str, params: &mut crate::nets::Params, names: Vec<String>| {
        for name in names {
            let value = from_host(state.get(&format!("{prefix}:{name}")).ok_or_else(other)?);
            no_grad(|| params.get_mut(&name).map(|p| p.copy_(&value)));
        }
        Ok::<(), TrainError>(())
    };
    let moving: Vec<String> = ema.average.keys().cloned().collect();
    put("weight", &mut model.params, moving.clone())?;
    put("average", &mut ema.average, moving)?;
    let trained = sgd.momentum.keys().cloned().collect();
    put("momentum", &mut sgd.momentum, trained)?;
    metadata.get("step").and_then(|s| s.parse().ok()).ok_or_else(other)
}

/// All lines of `metrics.jsonl`; none when there is no such file.
///
/// # Errors
/// The system's, or a line that is no metric.
pub fn metrics(out: &Path) -> io::Result<Vec<Metric>> {
    match fs::read_to_string(out.join("metrics.jsonl")) {
        Ok(text) => text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn note(out: &Path, metric: &Metric) -> io::Result<()> {
    let mut file = fs::File::options().create(true).append(true).open(out.join("metrics.jsonl"))?;
    io::Write::write_all(&mut file, format!("{}\n", serde_json::to_string(metric)?).as_bytes())
}

/// Takes out what the run wrote after its checkpoint, because it is about to be written again.
fn forget(desk: &Desk, done: usize) -> io::Result<()> {
    let mut text = String::new();
    for metric in metrics(desk.out)?.iter().filter(|m| m.run != desk.run || m.step <= done) {
        text += &format!("{}\n", serde_json::to_string(metric)?);
    }
    fs::create_dir_all(desk.out)?;
    weights::write_atomically(&desk.out.join("metrics.jsonl"), text.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use beltsight::nets;

    use super::*;
    use crate::{augment::Weak, methods::supervised::Supervised};

    #[test]
    fn a_resumed_run_ends_with_the_weights_of_an_unbroken_one() {
        let net = nets::by_name("small", Some(32)).unwrap();
        let pictures: Vec<Vec<u8>> =
            (0..12).map(|p| (0..32 * 32 * 3).map(|i| (i * (p % 2 * 6 + 7) % 256) as u8).collect()).collect();
        let labels: Vec<usize> = (0..12).map(|p| p % 2).collect();
        let views = Views::Fresh { pictures: &pictures, side: 32, weak: Weak::PHOTO, seed: 4 };
        let all: Vec<usize> = (0..12).collect();
        let material = Material { views: &views, labels: &labels, training: &all[..10], validation: &all[10..] };
        let plan = Plan {
            cut: 0,
            epochs: 3,
            batch: 4,
            lr: 0.1,
            weight_decay: 1e-3,
            ema: 0.9,
            seed: 4,
            data_sha256: String::new(),
        };
        let method = Supervised::balanced(0.1, &labels, 2);
        let run = |out: &Path, resume: bool, stop: &dyn Fn(usize) -> bool| {
            let desk = Desk { run: "final", out, resume, stop };
            train(Model::random(&net, 2, 8), &plan, &material, |l, t| method.loss(l, t), &desk)
        };
        let (unbroken, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let wanted = run(unbroken.path(), false, &|_| false).unwrap();
        assert!(matches!(run(broken.path(), false, &|done| done == 3), Err(TrainError::Stopped(_))));
        let found = run(broken.path(), true, &|_| false).unwrap();
        assert_eq!(wanted.weights(), found.weights());
        assert_ne!(wanted.weights(), Model::random(&net, 2, 8).weights());
        let steps: Vec<usize> = metrics(broken.path()).unwrap().iter().map(|m| m.step).collect();
        assert_eq!(steps, [2, 4, 6]); // no epoch twice
        let other = Plan { lr: 0.2, ..plan.clone() };
        let desk = Desk { run: "final", out: broken.path(), resume: true, stop: &|_| false };
        let refused = train(Model::random(&net, 2, 8), &other, &material, |l, t| method.loss(l, t), &desk);
        assert!(matches!(refused, Err(TrainError::OtherRun(_))));
    }

    #[test]
    fn a_frozen_block_does_not_move_and_its_statistics_neither() {
        let net = nets::by_name("small", Some(32)).unwrap();
        let model = Model::random(&net, 2, 8);
        let (trained, buffers) = moving(&model, net.blocks.len() - 1);
        assert_eq!(trained, ["head.bias", "head.weight", "top.bn.bias", "top.bn.weight", "top.weight"]);
        assert_eq!(buffers, ["top.bn.running_mean", "top.bn.running_var"]);
    }
}
