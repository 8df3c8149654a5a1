//! The inference worker: one thread owns the ONNX session, items reach it through bounded queues.
//!
//! Items are grouped into micro-batches: whatever waits is taken at once, belt items first, and the worker never waits
//! for more to come. A batch is cut so that its expected time fits before the earliest deadline in it; belt and HTTP
//! items are never mixed, and while the belt runs HTTP batches stay short ([`Settings::http_batch_time`]), because a
//! belt item that arrives meanwhile has to wait for the rest.
//!
//! Invariant: nothing here waits for disk, network or learning; each queue has a fixed capacity and refuses when full.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::sync::oneshot;

use crate::{
    domain::{Card, Fault, Scored, Scores, Source, Timings, ms},
    engine::{Engine, EngineError, softmax, stack},
    line::priority,
    metrics::Metrics,
};

/// How the worker behaves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Most items in one batch.
    pub max_batch: usize,
    /// Most expected time of an HTTP batch while the belt runs (an item came within the last [`BELT_RUNS`]).
    #[serde(with = "humantime_serde")]
    pub http_batch_time: Duration,
    /// Places for belt items; when full the item gets [`Fault::Overloaded`], so it is rejected.
    pub belt_queue: usize,
    /// Places for HTTP items; when full the request is answered 429.
    pub http_queue: usize,
    /// Runs a blank batch when nothing came for this long, so that caches and clocks stay warm; zero never does.
    #[serde(with = "humantime_serde")]
    pub keep_warm: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_batch: 8,
            http_batch_time: Duration::from_millis(8),
            belt_queue: 64,
            http_queue: 64,
            keep_warm: Duration::ZERO,
        }
    }
}

/// The belt counts as running for this long after its last item.
const BELT_RUNS: Duration = Duration::from_secs(10);

/// One loaded, verified and warmed-up student.
pub struct Student {
    /// The open session.
    pub engine: Engine,
    /// Classes and thresholds.
    pub card: Arc<Card>,
}

struct Job {
    pixels: Vec<u8>,
    queued: Instant,
    deadline: Instant,
    source: Source,
    reply: oneshot::Sender<Scored>,
}

#[derive(Default)]
struct Waiting {
    belt: VecDeque<Job>,
    http: VecDeque<Job>,
    last_belt: Option<Instant>,
    swap: Option<Box<Student>>,
    stopped: bool,
}

struct Shared {
    settings: Settings,
    metrics: Metrics,
    waiting: Mutex<Waiting>,
    work: Condvar,
    card: Mutex<Arc<Card>>,
    provider: Mutex<&'static str>,
}

/// A handle to the worker; clones share it.
#[derive(Clone)]
pub struct Infer(Arc<Shared>);

impl Infer {
    /// Starts the worker thread on a warmed-up student.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn start(
        student: Student,
        settings: Settings,
        metrics: Metrics,
    ) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let shared = Arc::new(Shared {
            card: Mutex::new(student.card.clone()),
            provider: Mutex::new(student.engine.provider()),
            settings,
            metrics,
            waiting: Mutex::default(),
            work: Condvar::new(),
        });
        announce(&shared.metrics, &student);
        let worker = shared.clone();
        let thread = thread::Builder::new().name("infer".into()).spawn(move || work(&worker, student))?;
        Ok((Self(shared), thread))
    }

    /// The serving model's classes, thresholds and input side.
    pub fn card(&self) -> Arc<Card> {
        lock(&self.0.card).clone()
    }

    /// The execution provider that runs: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        *lock(&self.0.provider)
    }

    /// Queues one picture of `side * side * 3` RGB bytes (see [`Infer::card`]); the answer comes through the receiver.
    /// Never blocks.
    ///
    /// # Errors
    /// [`Fault::Overloaded`] when the queue of `source` is full, [`Fault::Stopping`] during shutdown.
    pub fn submit(
        &self,
        pixels: Vec<u8>,
        source: Source,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Scored>, Fault> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = lock(&self.0.waiting);
        if waiting.stopped {
            return Err(Fault::Stopping);
        }
        let (queue, capacity) = match source {
            Source::Belt => (&mut waiting.belt, self.0.settings.belt_queue),
            Source::Http => (&mut waiting.http, self.0.settings.http_queue),
        };
        if queue.len() >= capacity {
            return Err(Fault::Overloaded);
        }
        let queued = Instant::now();
        queue.push_back(Job { pixels, queued, deadline, source, reply });
        self.0.metrics.queue_depth.with_label_values(&[source.name()]).set(queue.len() as i64);
        if source == Source::Belt {
            waiting.last_belt = Some(queued);
        }
        drop(waiting);
        self.0.work.notify_one();
        Ok(answer)
    }

    /// Hands over a warmed-up student; it serves from the next batch on.
    pub fn exchange(&self, student: Student) {
        lock(&self.0.waiting).swap = Some(Box::new(student));
        self.0.work.notify_one();
    }

    /// Stops the worker after the current batch; whatever waits is answered with [`Fault::Stopping`].
    pub fn stop(&self) {
        lock(&self.0.waiting).stopped = true;
        self.0.work.notify_all();
    }
}

/// Runs blank batches of every size that will be asked for, so that the first item is as fast as the others.
///
/// # Errors
/// ONNX Runtime's.
pub fn warm_up(engine: &mut Engine, max_batch: usize) -> Result<(), EngineError> {
    let blank = vec![128; engine.side() * engine.side() * 3];
    for batch in [1, max_batch.max(1), 1] {
        engine.run(stack(&vec![blank.clone(); batch], engine.side())?.view())?;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn announce(metrics: &Metrics, student: &Student) {
    let card = &student.card;
    metrics.model_info.reset();
    metrics.model_info.with_label_values(&[&card.version, &card.precision, student.engine.provider()]).set(1);
}

fn work(shared: &Shared, mut student: Student) {
    priority::set(priority::BELT);
    // Seconds per item, learnt from the batches that ran.
    let mut cost = 0.005;
    loop {
        let mut waiting = lock(&shared.waiting);
        while waiting.belt.is_empty() && waiting.http.is_empty() && waiting.swap.is_none() && !waiting.stopped {
            let keep_warm = shared.settings.keep_warm;
            if keep_warm.is_zero() {
                waiting = shared.work.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (guard, idle) = shared.work.wait_timeout(waiting, keep_warm).unwrap_or_else(PoisonError::into_inner);
            waiting = guard;
            if idle.timed_out() && waiting.belt.is_empty() && waiting.http.is_empty() {
                drop(waiting);
                if let Err(e) = warm_up(&mut student.engine, 1) {
                    tracing::warn!("keep-warm run failed: {e}");
                }
                waiting = lock(&shared.waiting);
            }
        }
        if let Some(next) = waiting.swap.take() {
            announce(&shared.metrics, &next);
            *lock(&shared.card) = next.card.clone();
            *lock(&shared.provider) = next.engine.provider();
            student = *next;
        }
        if waiting.stopped {
            let left: Vec<Job> =
                waiting.belt.drain(..).collect::<Vec<_>>().into_iter().chain(waiting.http.drain(..)).collect();
            drop(waiting);
            for job in left {
                refuse(job, Fault::Stopping);
            }
            return;
        }
        let batch = take_batch(&mut waiting, &shared.settings, cost, Instant::now());
        for (name, depth) in [("belt", waiting.belt.len()), ("http", waiting.http.len())] {
            shared.metrics.queue_depth.with_label_values(&[name]).set(depth as i64);
        }
        drop(waiting);
        run(&mut student, batch, &mut cost, &shared.metrics);
    }
}

/// Takes what waits, belt first, cut so that the batch's expected time keeps the earliest deadline in it.
fn take_batch(waiting: &mut Waiting, settings: &Settings, cost: f64, now: Instant) -> Vec<Job> {
    let mut batch: Vec<Job> = Vec::new();
    let mut budget = f64::INFINITY;
    let belt_runs = waiting.last_belt.is_some_and(|last| now.saturating_duration_since(last) < BELT_RUNS);
    while batch.len() < settings.max_batch.max(1) {
        let Some(job) = waiting.belt.front().or(waiting.http.front()) else { break };
        let left = job.deadline.saturating_duration_since(now).as_secs_f64();
        budget = budget.min(if left > 0.0 { left } else { f64::INFINITY }); // an expired one is answered without running
        if batch.first().is_some_and(|first| first.source != job.source) {
            break;
        }
        if job.source == Source::Http && belt_runs {
            budget = budget.min(settings.http_batch_time.as_secs_f64());
        }
        if !batch.is_empty() && (batch.len() + 1) as f64 * cost > budget {
            break;
        }
        let next = waiting.belt.pop_front().or_else(|| waiting.http.pop_front());
        batch.extend(next);
    }
    batch
}

fn refuse(job: Job, fault: Fault) {
    let timings = Timings { queue_ms: ms(job.queued.elapsed()), ..Timings::default() };
    // The asker may have gone; then nobody needs the answer.
    let _ = job.reply.send(Scored { scores: Err(fault), model: None, timings });
}

fn run(student: &mut Student, batch: Vec<Job>, cost: &mut f64, metrics: &Metrics) {
    let started = Instant::now();
    let bytes = student.engine.side() * student.engine.side() * 3;
    let mut jobs = Vec::with_capacity(batch.len());
    for job in batch {
        if job.reply.is_closed() {
            continue; // the asker has gone
        } else if job.deadline <= started {
            refuse(job, Fault::Timeout);
        } else if job.pixels.len() != bytes {
            // The picture was cut for a student of another input side that served a moment ago.
            refuse(job, Fault::Inference("the model changed while the item waited".into()));
        } else {
            jobs.push(job);
        }
    }
    if jobs.is_empty() {
        return;
    }
    let pictures: Vec<Vec<u8>> = jobs.iter_mut().map(|job| std::mem::take(&mut job.pixels)).collect();
    let outputs = stack(&pictures, student.engine.side()).and_then(|batch| student.engine.run(batch.view()));
    let elapsed = started.elapsed();
    metrics.batch_size.observe(jobs.len() as f64);
    *cost = 0.9 * *cost + 0.1 * elapsed.as_secs_f64() / jobs.len() as f64;
    if let Err(e) = &outputs {
        tracing::error!("a batch of {} failed: {e}", jobs.len());
    }
    for (i, job) in jobs.into_iter().enumerate() {
        let scores = match &outputs {
            Ok(out) => Ok(Scores {
                probabilities: softmax(&out.logits.row(i).to_vec(), student.card.thresholds.temperature),
                embedding: out.embedding.row(i).to_vec(),
            }),
            Err(e) => Err(Fault::Inference(e.to_string())),
        };
        let queued = started.saturating_duration_since(job.queued);
        for (stage, time) in [("queue", queued), ("infer", elapsed)] {
            metrics.stage_seconds.with_label_values(&[job.source.name(), stage]).observe(time.as_secs_f64());
        }
        let timings = Timings { queue_ms: ms(queued), infer_ms: ms(elapsed), ..Timings::default() };
        let _ = job.reply.send(Scored { scores, model: Some(student.card.clone()), timings });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(source: Source, left: Duration, now: Instant) -> Job {
        Job { pixels: vec![], queued: now, deadline: now + left, source, reply: oneshot::channel().0 }
    }

    fn sources(batch: &[Job]) -> Vec<Source> {
        batch.iter().map(|j| j.source).collect()
    }

    #[test]
    fn the_belt_goes_before_http() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        waiting.http.extend((0..3).map(|_| job(Source::Http, Duration::from_secs(1), now)));
        waiting.belt.push_back(job(Source::Belt, Duration::from_secs(1), now));
        let batch = take_batch(&mut waiting, &Settings { max_batch: 2, ..Settings::default() }, 0.001, now);
        assert_eq!(sources(&batch), [Source::Belt], "and is not mixed with it");
        assert_eq!(waiting.http.len(), 3);
    }

    #[test]
    fn a_batch_is_cut_to_keep_the_earliest_deadline() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        waiting.belt.extend((0..8).map(|_| job(Source::Belt, Duration::from_millis(35), now)));
        assert_eq!(take_batch(&mut waiting, &Settings::default(), 0.010, now).len(), 3);
        assert_eq!(waiting.belt.len(), 5);
    }

    #[test]
    fn http_batches_stay_short_while_the_belt_runs() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        waiting.http.extend((0..16).map(|_| job(Source::Http, Duration::from_secs(5), now)));
        let settings = Settings { http_batch_time: Duration::from_millis(10), ..Settings::default() };
        assert_eq!(take_batch(&mut waiting, &settings, 0.004, now).len(), 8, "no belt, no need to hurry");
        waiting.last_belt = Some(now);
        assert_eq!(take_batch(&mut waiting, &settings, 0.004, now).len(), 2);
        assert_eq!(take_batch(&mut waiting, &settings, 1.0, now).len(), 1, "at least one always runs");
    }
}
