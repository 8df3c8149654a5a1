//! The loop: batch → loss → backward → step → average; log lines, checkpoints, progress.
//!
//! Invariant: everything random is drawn from (seed, step), and a checkpoint holds every tensor that moves: a resumed
//! run ends with the same weights as an unbroken one.

use std::{
    sync::mpsc::sync_channel,
    time::{Duration, Instant},
};

use beltsight::{files::heartbeat, student::scorecard::argmax};
use indicatif::{ProgressBar, ProgressStyle};
use tch::{Tensor, no_grad};

use crate::{
    methods::{Loss, Method, StepOutputs, ViewRequest, balance::Balance},
    network::model::{Model, Noise, rows},
    pictures::views::{ViewSource, to_tensor},
    random::generator,
    training::{
        TrainError,
        feed::{Batch, BatchFeed, PoolSampler},
        log::{self, StepStatistics},
        plan::{RunContext, TrainingData, TrainingPlan},
        state::{Checkpoint, TrainingState},
    },
};

const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Trains `model` from block `plan.cut` on and gives it back with its averaged weights.
///
/// # Errors
/// See [`TrainError`].
pub fn train(
    model: Model,
    plan: &TrainingPlan,
    data: &TrainingData,
    method: &dyn Method,
    run: &RunContext,
) -> Result<Model, TrainError> {
    let checkpoint = Checkpoint::of(run, plan, data, &model);
    let mut state = TrainingState::new(model, plan);
    if run.resume {
        state.resume(&checkpoint)?;
    }
    log::truncate_after(run.out, run.name, state.steps_done)?;

    let feed = batch_feed(plan, data, method.view_request());
    let balance = balance(data, &state.model);
    let bar = progress_bar(run.name, plan.steps, state.steps_done);
    let labeling = if state.steps_done == 0 { method.labeling() } else { Duration::ZERO };
    let mut statistics = StepStatistics::default();
    statistics.labeling = labeling;
    let (mut saved, mut line_began) = (Instant::now(), Instant::now() - labeling);
    std::thread::scope(|scope| {
        let (drawn, batches) = sync_channel(2);
        let steps_left = state.steps_done..plan.steps;
        scope.spawn(move || steps_left.map(|step| feed.batch(step)).try_for_each(|batch| drawn.send(batch)));
        while state.steps_done < plan.steps {
            let waiting_began = Instant::now();
            let Ok(batch) = batches.recv() else { break }; // only when drawing panicked; the scope passes that on
            let batch = batch?;
            statistics.waiting += waiting_began.elapsed();
            let lr = take_step(&mut state, plan, data, (method, &balance), &batch, &mut statistics)?;
            let done = state.steps_done;
            bar.set_position(done as u64);
            heartbeat::beat();
            if done.is_multiple_of(plan.pass) || done == plan.steps {
                let validation = validate(&state.averaged(), plan.cut, data);
                let step_statistics = std::mem::take(&mut statistics);
                let metric =
                    step_statistics.into_metric(line_began.elapsed(), (run.name, done, plan.pass), lr, validation);
                bar.set_message(format!("loss {:.3}, {:.0} views/s", metric.loss, metric.pictures_per_second));
                log::append(run.out, &metric)?;
                line_began = Instant::now();
            }
            let stop = done < plan.steps && (run.stop)(done);
            if stop || done == plan.steps || saved.elapsed() > SAVE_EVERY {
                state.save(&checkpoint)?;
                saved = Instant::now();
            }
            if stop {
                bar.abandon();
                return Err(TrainError::Stopped(checkpoint.path().into()));
            }
        }
        Ok(())
    })?;
    bar.finish();
    Ok(state.averaged())
}

/// What draws the pictures of every step: labeled and unlabeled ones from streams of their own.
fn batch_feed<'a>(plan: &TrainingPlan, data: &TrainingData<'a>, request: ViewRequest) -> BatchFeed<'a> {
    let sampler = |pool, batch, stream| PoolSampler { pool, batch, seed: plan.seed, stream };
    BatchFeed {
        request,
        labeled: sampler(data.pools.labeled, plan.batch, u64::MAX),
        unlabeled: sampler(data.pools.unlabeled, plan.batch * request.ratio, u64::MAX - 2),
        augmenter: match data.views {
            ViewSource::Fresh(augmenter) => Some(*augmenter),
            ViewSource::Cached(_) => None,
        },
    }
}

/// How frequent the classes are among the labels of the run.
fn balance(data: &TrainingData, model: &Model) -> Balance {
    let labels = data.pools.labeled.iter().filter_map(|&picture| data.labels[picture]);
    Balance::of_labels(labels, model.params["head.bias"].numel())
}

/// Loss → gradient → step, counted in `statistics`; returns the step's learning rate.
fn take_step(
    state: &mut TrainingState,
    plan: &TrainingPlan,
    data: &TrainingData,
    (method, balance): (&dyn Method, &Balance),
    batch: &Batch,
    statistics: &mut StepStatistics,
) -> Result<f64, TrainError> {
    let step = state.steps_done;
    let loss = loss_of_batch(&state.model, plan, data, (method, balance), (step, batch), &mut statistics.labeling);
    let backward_began = Instant::now();
    let gradient = state.gradient(&loss.total);
    statistics.backward += backward_began.elapsed();
    let lr = plan.schedule.at(step, plan.steps, plan.pass.min(plan.steps / 10), plan.lr);
    state.descend(&gradient, lr);
    let unlabeled: Vec<usize> = batch.unlabeled.iter().map(|showing| showing.picture).collect();
    statistics.add(&loss, &unlabeled, data.labels);
    statistics.views += batch.labeled.len() + unlabeled.len() * method.view_request().unlabeled.len();
    let value = loss.total.double_value(&[]); // waits for the GPU, once per step
    if value.is_finite() { Ok(lr) } else { Err(TrainError::Diverged { step, loss: value }) }
}

/// One pass of the whole batch through the network, and the method's loss: BatchNorm sees labeled and unlabeled views
/// together. `labeling` grows by the time that logits in evaluation mode took.
fn loss_of_batch(
    model: &Model,
    plan: &TrainingPlan,
    data: &TrainingData,
    (method, balance): (&dyn Method, &Balance),
    (step, batch): (usize, &Batch),
    labeling: &mut Duration,
) -> Loss {
    let request = method.view_request();
    let inputs = match (&batch.fresh_views, data.views) {
        (Some(views), ViewSource::Fresh(augmenter)) => to_tensor(views, augmenter.pictures.side()),
        _ => {
            let labeled = data.views.batch(request.labeled, &batch.labeled);
            let unlabeled = request.unlabeled.iter().map(|&view| data.views.batch(view, &batch.unlabeled));
            let parts: Vec<Tensor> = std::iter::once(labeled).chain(unlabeled).collect();
            Tensor::cat(&parts, 0)
        }
    };
    let mut noise =
        Noise { rng: generator(plan.seed, step as u64, u64::MAX - 1), dropout: plan.dropout, survival: plan.survival };
    let (_, logits) = model.forward(&inputs, plan.cut, Some(&mut noise));
    let labeled: Vec<usize> = batch.labeled.iter().map(|showing| showing.picture).collect();
    let unlabeled: Vec<usize> = batch.unlabeled.iter().map(|showing| showing.picture).collect();
    let (labeled_rows, view_rows) = (labeled.len() as i64, unlabeled.len() as i64);
    let eval_logits = request.eval_logits.then(|| {
        let began = Instant::now();
        let first_view = inputs.narrow(0, labeled_rows, view_rows);
        let eval_logits = no_grad(|| model.forward(&first_view, plan.cut, None).1);
        *labeling += began.elapsed();
        eval_logits
    });
    let rows_of_view = |view: i64| logits.narrow(0, labeled_rows + view * view_rows, view_rows);
    method.loss(&StepOutputs {
        step,
        steps: plan.steps,
        targets: targets(data.labels, &labeled).to_device(model.device()),
        labeled: &labeled,
        balance,
        labeled_logits: logits.narrow(0, 0, labeled_rows),
        unlabeled: &unlabeled,
        eval_logits,
        unlabeled_logits: (0..request.unlabeled.len() as i64).map(rows_of_view).collect(),
    })
}

/// Logits `[indices, classes]` of unchanged pictures.
pub fn logits(model: &Model, cut: usize, views: &ViewSource, indices: &[usize]) -> Vec<Vec<f32>> {
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

/// Loss and accuracy on the validation pictures; none without any.
fn validate(model: &Model, cut: usize, data: &TrainingData) -> Option<(f64, f64)> {
    let indices = data.pools.validation;
    if indices.is_empty() {
        return None;
    }
    let table = logits(model, cut, data.views, indices);
    let right = table.iter().zip(indices).filter(|(row, i)| Some(argmax(row)) == data.labels[**i]).count();
    let flat = Tensor::from_slice(&table.concat()).view([indices.len() as i64, -1]);
    let loss = flat.cross_entropy_for_logits(&targets(data.labels, indices)).double_value(&[]);
    Some((loss, right as f64 / indices.len() as f64))
}

fn progress_bar(run: &str, total: usize, done: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>8} {wide_bar} {pos}/{len} steps, {eta} left, {msg}");
    let bar = ProgressBar::new(total as u64).with_prefix(run.to_string()).with_position(done as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use beltsight::network;

    use super::*;
    use crate::{
        methods::fixmatch::FixMatch,
        pictures::{augment::WeakAugmentation, picture_set::PictureSet, views::Augmenter},
        training::{optim::Schedule, plan::PicturePools},
    };

    #[test]
    fn a_resumed_run_ends_with_the_weights_of_an_unbroken_one() {
        let net = network::by_name("small", Some(32)).unwrap();
        let pictures: Vec<Vec<u8>> =
            (0..12).map(|p| (0..32 * 32 * 3).map(|i| (i * (p % 2 * 6 + 7) % 256) as u8).collect()).collect();
        let labels: Vec<Option<usize>> = (0..12).map(|p| Some(p % 2)).collect();
        let pictures = PictureSet::of(&pictures, 32);
        let views = ViewSource::Fresh(Augmenter { pictures: &pictures, weak: WeakAugmentation::PHOTO, seed: 4 });
        let all: Vec<usize> = (0..12).collect();
        let pools = PicturePools { labeled: &all[..3], unlabeled: &all[3..10], validation: &all[10..] };
        let data = TrainingData { views: &views, labels: &labels, pools };
        let plan = TrainingPlan {
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
            let context = RunContext { name: "final", out, resume, stop };
            train(Model::random(&net, 2, 8), &plan, &data, &method, &context)
        };
        let (unbroken, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let wanted = run(unbroken.path(), false, &|_| false).unwrap();
        assert!(matches!(run(broken.path(), false, &|done| done == 3), Err(TrainError::Stopped(_))));
        let found = run(broken.path(), true, &|_| false).unwrap();
        assert_eq!(wanted.weights(), found.weights());
        assert_ne!(wanted.weights(), Model::random(&net, 2, 8).weights());
        let steps: Vec<usize> = log::read(broken.path()).unwrap().iter().map(|m| m.step).collect();
        assert_eq!(steps, [2, 4, 6]); // no epoch twice
        let other = TrainingPlan { lr: 0.2, ..plan.clone() };
        let context = RunContext { name: "final", out: broken.path(), resume: true, stop: &|_| false };
        let refused = train(Model::random(&net, 2, 8), &other, &data, &method, &context);
        assert!(matches!(refused, Err(TrainError::OtherRun(_))));
    }
}
