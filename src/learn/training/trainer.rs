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

use beltsight::student::scorecard::argmax;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use crate::{
    methods::{Loss, Method, Seen},
    network::{
        model::{Model, Noise, from_host, rows, to_host},
        weights::{self, Weights, WeightsError},
    },
    pictures::{
        augment::generator,
        views::{Views, to_tensor},
    },
    training::{
        feed::{Feed, Order, Shown},
        log::{self, Tally},
        optim::{Ema, Flat, Schedule, Sgd},
    },
};

const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The settings of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The first block that is trained; all blocks of the network for the head alone.
    pub cut: usize,
    /// Steps in all.
    pub steps: usize,
    /// Steps between two lines of the log; the warm-up lasts as long, but at most a tenth of the run.
    pub pass: usize,
    /// Labeled pictures per step.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// How it falls.
    pub schedule: Schedule,
    /// λ on kernels.
    pub weight_decay: f64,
    /// d of the moving average.
    pub ema: f64,
    /// Dropout before the classifier.
    pub dropout: f64,
    /// Chance that the last residual block takes part; 1 without stochastic depth.
    pub survival: f64,
    /// Seed of order, dropout and views.
    pub seed: u64,
    /// What else the run depends on: the method and its settings, the hash of the data snapshot.
    pub identity: String,
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

/// Pictures as the trained part sees them, who trains and who checks.
pub struct Material<'a> {
    /// Inputs.
    pub views: &'a Views<'a>,
    /// Class per picture, where it is known. Of unlabeled pictures it serves the log alone.
    pub labels: &'a [Option<usize>],
    /// Pictures to train on with their labels.
    pub labeled: &'a [usize],
    /// Pictures to train on without; may repeat some, may be empty.
    pub unlabeled: &'a [usize],
    /// Labeled pictures to check with at every line of the log; may be empty.
    pub validation: &'a [usize],
}

/// Names of the weights that are trained and, after them, of the BatchNorm buffers that move along.
fn moving(model: &Model, cut: usize) -> (Vec<String>, Vec<String>) {
    let live: Vec<String> =
        model.net.blocks[cut..].iter().flat_map(|block| block.names()).map(|name| format!("{name}.")).collect();
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
    method: &dyn Method,
    desk: &Desk,
) -> Result<Model, TrainError> {
    let (trained, buffers) = moving(&model, plan.cut);
    // Copies: the trunk may be shared with other runs.
    let (mut weights, buffers) = (Flat::copy(&model.params, &trained), Flat::copy(&model.params, &buffers));
    weights.parts = weights.parts.into_iter().map(|(name, part)| (name, part.set_requires_grad(true))).collect();
    for (name, part) in weights.parts.iter().chain(&buffers.parts) {
        model.params.insert(name.clone(), part.shallow_clone());
    }
    let mut sgd = Sgd::new(&weights, plan.weight_decay);
    let mut ema = Ema::new(&weights, &buffers, plan.ema);
    let checkpoint = desk.out.join("checkpoints").join(format!("{}.safetensors", desk.run.replace(' ', "-")));
    let identity = identity(plan, material, &model);
    let mut done = 0;
    if desk.resume && checkpoint.is_file() {
        done = load(&checkpoint, &identity, &model, &sgd, &ema)?;
    }
    log::forget(desk.out, desk.run, done)?;

    let wanted = method.wanted();
    let order = |pool, batch, stream| Order { pool, batch, seed: plan.seed, stream };
    let feed = Feed {
        wanted,
        labeled: order(material.labeled, plan.batch, u64::MAX),
        unlabeled: order(material.unlabeled, plan.batch * wanted.ratio, u64::MAX - 2),
        camera: match material.views {
            Views::Fresh(camera) => Some(*camera),
            Views::Cached(_) => None,
        },
    };
    let (first, total) = (done, plan.steps);
    let bar = bar(desk.run, total, done);
    let labeling = if done == 0 { method.labeling() } else { Duration::ZERO };
    let (mut saved, mut began, mut tally) = (Instant::now(), Instant::now() - labeling, Tally::default());
    tally.labeling = labeling;
    std::thread::scope(|scope| {
        let (ahead, shown) = std::sync::mpsc::sync_channel(2);
        scope.spawn(move || (first..total).map(|step| feed.show(step)).try_for_each(|next| ahead.send(next)));
        while done < total {
            let waited = Instant::now();
            let Ok(shown) = shown.recv() else { break }; // only when drawing panicked; the scope passes that on
            tally.waiting += waited.elapsed();
            let loss = look(&model, plan, material, method, &shown, done, &mut tally.labeling);
            let backward = Instant::now();
            let gradient = weights.gradient(&loss.total);
            tally.backward += backward.elapsed();
            let lr = plan.schedule.at(done, total, plan.pass.min(total / 10), plan.lr);
            sgd.step(&mut weights, &gradient, lr);
            ema.update(&weights, &buffers, done);
            let unlabeled: Vec<usize> = shown.unlabeled.iter().map(|p| p.picture).collect();
            tally.add(&loss, &unlabeled, material.labels);
            tally.shown += shown.labeled.len() + unlabeled.len() * wanted.unlabeled.len();
            let value = loss.total.double_value(&[]); // a GPU is waited for here, once a step
            if !value.is_finite() {
                return Err(TrainError::Diverged { step: done, loss: value });
            }
            done += 1;
            bar.set_position(done as u64);
            if done % plan.pass == 0 || done == total {
                let checked = check(&averaged(&model, &ema), plan.cut, material);
                let metric =
                    log::line(std::mem::take(&mut tally), began.elapsed(), (desk.run, done, plan.pass), lr, checked);
                bar.set_message(format!("loss {:.3}, {:.0} views/s", metric.loss, metric.pictures_per_second));
                log::note(desk.out, &metric)?;
                began = Instant::now();
            }
            let stop = done < total && (desk.stop)(done);
            if stop || done == total || saved.elapsed() > SAVE_EVERY {
                save(&checkpoint, &identity, &model, &sgd, &ema, done)?;
                saved = Instant::now();
            }
            if stop {
                bar.abandon();
                return Err(TrainError::Stopped(checkpoint.clone()));
            }
        }
        Ok(())
    })?;
    bar.finish();
    Ok(averaged(&model, &ema))
}

/// One pass of everything shown through the network, and the method's loss: BatchNorm sees labeled and unlabeled views
/// together. `labeling` grows by the time that guesses took.
fn look(
    model: &Model,
    plan: &Plan,
    material: &Material,
    method: &dyn Method,
    shown: &Shown,
    step: usize,
    labeling: &mut Duration,
) -> Loss {
    let wanted = method.wanted();
    let batch = match (&shown.drawn, material.views) {
        (Some(drawn), Views::Fresh(camera)) => to_tensor(drawn, camera.side),
        _ => {
            let labeled = material.views.batch(wanted.labeled, &shown.labeled);
            let rest = wanted.unlabeled.iter().map(|&view| material.views.batch(view, &shown.unlabeled));
            let parts: Vec<Tensor> = std::iter::once(labeled).chain(rest).collect();
            Tensor::cat(&parts, 0)
        }
    };
    let mut noise =
        Noise { rng: generator(plan.seed, step as u64, u64::MAX - 1), dropout: plan.dropout, survival: plan.survival };
    let (_, logits) = model.forward(&batch, plan.cut, Some(&mut noise));
    let labeled: Vec<usize> = shown.labeled.iter().map(|p| p.picture).collect();
    let unlabeled: Vec<usize> = shown.unlabeled.iter().map(|p| p.picture).collect();
    let (head, each) = (labeled.len() as i64, unlabeled.len() as i64);
    let guesses = wanted.guesses.then(|| {
        let began = Instant::now();
        let first = batch.narrow(0, head, each);
        let guesses = no_grad(|| model.forward(&first, plan.cut, None).1);
        *labeling += began.elapsed();
        guesses
    });
    let views = (0..wanted.unlabeled.len() as i64).map(|view| logits.narrow(0, head + view * each, each)).collect();
    method.loss(&Seen {
        step,
        steps: plan.steps,
        targets: targets(material.labels, &labeled).to_device(model.device()),
        labeled: &labeled,
        logits: logits.narrow(0, 0, head),
        unlabeled: &unlabeled,
        guesses,
        views,
    })
}

/// Logits `[indices, classes]` of unchanged pictures.
pub fn logits(model: &Model, cut: usize, views: &Views, indices: &[usize]) -> Vec<Vec<f32>> {
    let chunk = if model.device().is_cuda() { 512 } else { 64 };
    indices.chunks(chunk).flat_map(|chunk| rows(&no_grad(|| model.forward(&views.plain(chunk), cut, None).1))).collect()
}

/// Classes of labeled pictures, int64 `[n]`.
///
/// # Panics
/// When one has no label: the caller mixed up the pools.
fn targets(labels: &[Option<usize>], indices: &[usize]) -> Tensor {
    let class = |&i: &usize| labels[i].map(|class| class as i64);
    let classes: Option<Vec<i64>> = indices.iter().map(class).collect();
    #[allow(clippy::expect_used)] // training with a made-up class would be worse than stopping
    Tensor::from_slice(&classes.expect("every labeled picture has a class"))
}

fn averaged(model: &Model, ema: &Ema) -> Model {
    let mut model = model.shallow_clone();
    model.params.extend(ema.moving().map(|(n, v)| (n.clone(), v.shallow_clone())));
    model
}

/// Loss and accuracy on the validation pictures; none without any.
fn check(model: &Model, cut: usize, material: &Material) -> Option<(f64, f64)> {
    let indices = material.validation;
    if indices.is_empty() {
        return None;
    }
    let table = logits(model, cut, material.views, indices);
    let right = table.iter().zip(indices).filter(|(row, i)| Some(argmax(row)) == material.labels[**i]).count();
    let flat = Tensor::from_slice(&table.concat()).view([indices.len() as i64, -1]);
    let loss = flat.cross_entropy_for_logits(&targets(material.labels, indices)).double_value(&[]);
    Some((loss, right as f64 / indices.len() as f64))
}

fn bar(run: &str, total: usize, done: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>8} {wide_bar} {pos}/{len} steps, {eta} left, {msg}");
    let bar = ProgressBar::new(total as u64).with_prefix(run.to_string()).with_position(done as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// What a checkpoint must agree with: the plan, the network, and the pictures trained on.
fn identity(plan: &Plan, material: &Material, start: &Model) -> String {
    serde_json::json!([plan, start.net.name, start.net.input, material.labeled, material.unlabeled]).to_string()
}

fn save(path: &Path, identity: &str, model: &Model, sgd: &Sgd, ema: &Ema, done: usize) -> Result<(), TrainError> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let mut state = Weights::new();
    for (name, average) in ema.moving() {
        state.insert(format!("weight:{name}"), to_host(&model.params[name]));
        state.insert(format!("average:{name}"), to_host(average));
    }
    for (name, v) in &sgd.momentum.parts {
        state.insert(format!("momentum:{name}"), to_host(v));
    }
    let metadata = [("step".into(), done.to_string()), ("run".into(), identity.to_string())];
    Ok(weights::write(path, &state, HashMap::from(metadata))?)
}

fn load(path: &Path, identity: &str, model: &Model, sgd: &Sgd, ema: &Ema) -> Result<usize, TrainError> {
    let (state, metadata) = weights::read(path)?;
    let other = || TrainError::OtherRun(path.into());
    if metadata.get("run").map(String::as_str) != Some(identity) {
        return Err(other());
    }
    let put = |prefix: &str, name: &str, into: &Tensor| {
        let value = from_host(state.get(&format!("{prefix}:{name}")).ok_or_else(other)?);
        no_grad(|| into.shallow_clone().copy_(&value));
        Ok::<(), TrainError>(())
    };
    for (name, average) in ema.moving() {
        put("weight", name, &model.params[name])?;
        put("average", name, average)?;
    }
    for (name, v) in &sgd.momentum.parts {
        put("momentum", name, v)?;
    }
    metadata.get("step").and_then(|s| s.parse().ok()).ok_or_else(other)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use beltsight::network;

    use super::*;
    use crate::{
        methods::fixmatch::FixMatch,
        pictures::{augment::Weak, views::Camera},
    };

    #[test]
    fn a_resumed_run_ends_with_the_weights_of_an_unbroken_one() {
        let net = network::by_name("small", Some(32)).unwrap();
        let pictures: Vec<Vec<u8>> =
            (0..12).map(|p| (0..32 * 32 * 3).map(|i| (i * (p % 2 * 6 + 7) % 256) as u8).collect()).collect();
        let labels: Vec<Option<usize>> = (0..12).map(|p| Some(p % 2)).collect();
        let views = Views::Fresh(Camera { pictures: &pictures, side: 32, weak: Weak::PHOTO, seed: 4 });
        let all: Vec<usize> = (0..12).collect();
        let (labeled, unlabeled, validation) = (&all[..3], &all[3..10], &all[10..]);
        let material = Material { views: &views, labels: &labels, labeled, unlabeled, validation };
        let plan = Plan {
            cut: 0,
            steps: 6,
            pass: 2,
            batch: 4,
            lr: 0.1,
            schedule: Schedule::HalfCosine,
            weight_decay: 1e-3,
            ema: 0.9,
            dropout: 0.2,
            survival: 0.8,
            seed: 4,
            identity: String::new(),
        };
        let method = FixMatch { threshold: 0.5, lambda: 1.0, mu: 2, align: false };
        let run = |out: &Path, resume: bool, stop: &dyn Fn(usize) -> bool| {
            let desk = Desk { run: "final", out, resume, stop };
            train(Model::random(&net, 2, 8), &plan, &material, &method, &desk)
        };
        let (unbroken, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let wanted = run(unbroken.path(), false, &|_| false).unwrap();
        assert!(matches!(run(broken.path(), false, &|done| done == 3), Err(TrainError::Stopped(_))));
        let found = run(broken.path(), true, &|_| false).unwrap();
        assert_eq!(wanted.weights(), found.weights());
        assert_ne!(wanted.weights(), Model::random(&net, 2, 8).weights());
        let steps: Vec<usize> = log::metrics(broken.path()).unwrap().iter().map(|m| m.step).collect();
        assert_eq!(steps, [2, 4, 6]); // no epoch twice
        let other = Plan { lr: 0.2, ..plan.clone() };
        let desk = Desk { run: "final", out: broken.path(), resume: true, stop: &|_| false };
        let refused = train(Model::random(&net, 2, 8), &other, &material, &method, &desk);
        assert!(matches!(refused, Err(TrainError::OtherRun(_))));
    }

    #[test]
    fn a_frozen_block_does_not_move_and_its_statistics_neither() {
        let net = network::by_name("small", Some(32)).unwrap();
        let model = Model::random(&net, 2, 8);
        let (trained, buffers) = moving(&model, net.blocks.len() - 1);
        assert_eq!(trained, ["head.bias", "head.weight", "top.bn.bias", "top.bn.weight", "top.weight"]);
        assert_eq!(buffers, ["top.bn.running_mean", "top.bn.running_var"]);
    }
}
