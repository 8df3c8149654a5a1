//! batch → loss → backward → step → average; checkpoints, resume, progress.
//!
//! Invariant: everything random is drawn from (seed, step), and a checkpoint holds every tensor that moves: a resumed
//! run ends with the same weights as an unbroken one.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use beltsight::scorecard::argmax;
use indicatif::{ProgressBar, ProgressStyle};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use crate::{
    augment::generator,
    methods::{Loss, Method, Seen, Wanted},
    nets::{Model, Noise, from_host, rows, to_host},
    optim::{Ema, Schedule, Sgd},
    views::{Camera, Pick, Views, to_tensor},
    weights::{self, Weights, WeightsError},
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

/// Steps that show every one of `labeled` pictures once; the rest that fills no batch is left out (it is another one each
/// time).
pub fn steps_per_pass(labeled: usize, batch: usize) -> usize {
    (labeled / batch).max(1)
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

/// Endless shuffled passes over a pool, cut into batches; a function of (seed, step).
struct Order<'a> {
    pool: &'a [usize],
    batch: usize,
    seed: u64,
    stream: u64,
}

impl Order<'_> {
    /// The batch of a step: of a pool smaller than a batch several passes go into it.
    fn picks(&self, step: usize) -> Vec<Pick> {
        if self.pool.is_empty() || self.batch == 0 {
            return Vec::new();
        }
        let per_pass = steps_per_pass(self.pool.len(), self.batch);
        let passes = self.batch.div_ceil(self.pool.len());
        let (first, place) = if passes > 1 { (step * passes, 0) } else { (step / per_pass, step % per_pass) };
        let mut picks = Vec::with_capacity(passes * self.pool.len());
        for pass in first..first + passes {
            let mut order = self.pool.to_vec();
            order.shuffle(&mut generator(self.seed, pass as u64, self.stream));
            picks.extend(order.into_iter().map(|picture| Pick { picture, pass }));
        }
        picks.into_iter().skip(place * self.batch).take(self.batch).collect()
    }
}

/// What a step shows.
struct Shown {
    labeled: Vec<Pick>,
    unlabeled: Vec<Pick>,
    /// Fresh views in the order in which they go through the network; none where they are cached.
    drawn: Option<Vec<Vec<u8>>>,
}

/// Draws the steps ahead of the loop, on a thread of its own.
struct Feed<'a> {
    wanted: Wanted,
    labeled: Order<'a>,
    unlabeled: Order<'a>,
    camera: Option<Camera<'a>>,
}

impl Feed<'_> {
    fn show(&self, step: usize) -> Shown {
        let (labeled, unlabeled) = (self.labeled.picks(step), self.unlabeled.picks(step));
        let drawn = self.camera.map(|camera| {
            let mut all = camera.draw_all(self.wanted.labeled, &labeled);
            for &view in self.wanted.unlabeled {
                all.extend(camera.draw_all(view, &unlabeled));
            }
            all
        });
        Shown { labeled, unlabeled, drawn }
    }
}

/// Sums since the last line of the log.
#[derive(Default)]
struct Tally {
    steps: f64,
    shown: usize,
    loss: f64,
    parts: BTreeMap<String, f64>,
    unlabeled: f64,
    kept: f64,
    checked: f64,
    right: f64,
    waiting: Duration,
    backward: Duration,
}

impl Tally {
    fn add(&mut self, loss: &Loss, unlabeled: &[usize], labels: &[Option<usize>]) {
        self.steps += 1.0;
        self.loss += loss.total.double_value(&[]);
        for (name, value) in &loss.parts {
            *self.parts.entry(name.to_string()).or_default() += value.double_value(&[]);
        }
        let Some(claims) = &loss.claims else { return };
        self.unlabeled += unlabeled.len() as f64;
        let (kept, classes) = (to_host(&claims.kept).1, to_host(&claims.classes).1);
        for ((&picture, class), _) in unlabeled.iter().zip(classes).zip(kept).filter(|(_, kept)| *kept > 0.0) {
            self.kept += 1.0;
            if let Some(truth) = labels[picture] {
                self.checked += 1.0;
                self.right += f64::from(u8::from(class as usize == truth));
            }
        }
    }
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
    method: &dyn Method,
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
        done = load(&checkpoint, plan, material, &mut model, &mut sgd, &mut ema)?;
    }
    forget(desk, done)?;

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
    let (mut saved, mut began, mut tally) = (Instant::now(), Instant::now(), Tally::default());
    std::thread::scope(|scope| {
        let (ahead, shown) = std::sync::mpsc::sync_channel(2);
        scope.spawn(move || (first..total).map(|step| feed.show(step)).try_for_each(|next| ahead.send(next)));
        while done < total {
            let waited = Instant::now();
            let Ok(shown) = shown.recv() else { break }; // only when drawing panicked; the scope passes that on
            tally.waiting += waited.elapsed();
            let loss = look(&model, plan, material, method, &shown, done);
            let backward = Instant::now();
            loss.total.backward();
            tally.backward += backward.elapsed();
            let lr = plan.schedule.at(done, total, plan.pass.min(total / 10), plan.lr);
            sgd.step(&mut model.params, lr);
            ema.update(&model.params, done);
            let unlabeled: Vec<usize> = shown.unlabeled.iter().map(|p| p.picture).collect();
            tally.add(&loss, &unlabeled, material.labels);
            tally.shown += shown.labeled.len() + unlabeled.len() * wanted.unlabeled.len();
            let value = loss.total.double_value(&[]);
            if !value.is_finite() {
                return Err(TrainError::Diverged { step: done, loss: value });
            }
            done += 1;
            bar.set_position(done as u64);
            if done % plan.pass == 0 || done == total {
                let checked = check(&averaged(&model, &ema), plan.cut, material);
                let metric =
                    line(std::mem::take(&mut tally), began.elapsed(), (desk.run, done, plan.pass), lr, checked);
                bar.set_message(format!("loss {:.3}, {:.0} views/s", metric.loss, metric.pictures_per_second));
                note(desk.out, &metric)?;
                began = Instant::now();
            }
            let stop = done < total && (desk.stop)(done);
            if stop || done == total || saved.elapsed() > SAVE_EVERY {
                save(&checkpoint, plan, material, &model, &sgd, &ema, done)?;
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
/// together.
fn look(model: &Model, plan: &Plan, material: &Material, method: &dyn Method, shown: &Shown, step: usize) -> Loss {
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
        let first = batch.narrow(0, head, each);
        no_grad(|| model.forward(&first, plan.cut, None).1)
    });
    let views = (0..wanted.unlabeled.len() as i64).map(|view| logits.narrow(0, head + view * each, each)).collect();
    method.loss(&Seen {
        step,
        steps: plan.steps,
        targets: targets(material.labels, &labeled),
        labeled: &labeled,
        logits: logits.narrow(0, 0, head),
        unlabeled: &unlabeled,
        guesses,
        views,
    })
}

/// Logits `[indices, classes]` of unchanged pictures.
pub fn logits(model: &Model, cut: usize, views: &Views, indices: &[usize]) -> Vec<Vec<f32>> {
    indices.chunks(64).flat_map(|chunk| rows(&no_grad(|| model.forward(&views.plain(chunk), cut, None).1))).collect()
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
    model.params.extend(ema.average.iter().map(|(n, v)| (n.clone(), v.shallow_clone())));
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

fn line(
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
    }
}

fn bar(run: &str, total: usize, done: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>8} {wide_bar} {pos}/{len} steps, {eta} left, {msg}");
    let bar = ProgressBar::new(total as u64).with_prefix(run.to_string()).with_position(done as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// What a checkpoint must agree with: the plan and the pictures trained on.
fn identity(plan: &Plan, material: &Material) -> String {
    serde_json::json!([plan, material.labeled, material.unlabeled]).to_string()
}

fn save(
    path: &Path,
    plan: &Plan,
    material: &Material,
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
    let metadata = [("step".into(), done.to_string()), ("run".into(), identity(plan, material))];
    Ok(weights::write(path, &state, HashMap::from(metadata))?)
}

fn load(
    path: &Path,
    plan: &Plan,
    material: &Material,
    model: &mut Model,
    sgd: &mut Sgd,
    ema: &mut Ema,
) -> Result<usize, TrainError> {
    let (state, metadata) = weights::read(path)?;
    let other = || TrainError::OtherRun(path.into());
    if metadata.get("run") != Some(&identity(plan, material)) {
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
    use crate::{augment::Weak, methods::fixmatch::FixMatch};

    #[test]
    fn a_resumed_run_ends_with_the_weights_of_an_unbroken_one() {
        let net = nets::by_name("small", Some(32)).unwrap();
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
        let method = FixMatch { threshold: 0.5, lambda: 1.0, mu: 2 };
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
        let steps: Vec<usize> = metrics(broken.path()).unwrap().iter().map(|m| m.step).collect();
        assert_eq!(steps, [2, 4, 6]); // no epoch twice
        let other = Plan { lr: 0.2, ..plan.clone() };
        let desk = Desk { run: "final", out: broken.path(), resume: true, stop: &|_| false };
        let refused = train(Model::random(&net, 2, 8), &other, &material, &method, &desk);
        assert!(matches!(refused, Err(TrainError::OtherRun(_))));
    }

    #[test]
    fn every_picture_comes_once_a_pass_and_a_small_pool_fills_the_batch_evenly() {
        let pool: Vec<usize> = (0..10).collect();
        let order = Order { pool: &pool, batch: 5, seed: 1, stream: 0 };
        let mut seen: Vec<usize> = [2, 3].map(|step| order.picks(step)).concat().iter().map(|p| p.picture).collect();
        seen.sort_unstable();
        assert_eq!(seen, pool);
        assert!(order.picks(2).iter().all(|p| p.pass == 1));
        let few = Order { pool: &pool[..4], batch: 8, ..order }.picks(3);
        assert_eq!(few.iter().map(|p| p.pass).collect::<Vec<_>>(), [6, 6, 6, 6, 7, 7, 7, 7]);
        assert!((0..4).all(|picture| few.iter().filter(|p| p.picture == picture).count() == 2));
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
