//! The inference workers: each runs one batch at a time in a session of its own; items reach them through bounded
//! queues.
//!
//! A student is open several times. One session gives all threads to one batch, which is fastest for an item that comes
//! alone. The others, the lanes, have one thread each: side by side they do more pictures per second than the first,
//! because no operator waits for its slowest part, so they run whatever comes while others wait or run. A GPU has two:
//! one for a lone item and one for batches, see [`Engine::padded`](crate::student::engine::Engine::padded).
//!
//! Items are grouped into micro-batches: whatever waits is taken at once, belt items first, and no worker waits for
//! more to come. What waits is shared among the sessions that are free. A batch is cut so that its expected time fits
//! before the earliest deadline in it; belt and HTTP items are never mixed, and while the belt runs HTTP batches stay
//! short ([`InferSettings::http_batch_time`]), because a belt item that arrives meanwhile may have to wait for the rest.
//!
//! `queue` says what waits and how a batch is cut, `sessions` which session takes it, `worker` runs it.
//!
//! Invariant: nothing here waits for disk, network or learning; each queue has a fixed capacity and refuses when full;
//! an item is scored by one session, and its card is the one that the session was opened with.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::sync::oneshot;

use crate::{
    domain::{Card, Fault, Scored, Scores, Source},
    metrics::Metrics,
    student::open::{Student, known_picture},
};

mod queue;
mod sessions;
mod worker;

use queue::{Job, JobQueues};
use sessions::SessionPool;

/// How the workers behave.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InferSettings {
    /// Most items in one batch.
    pub max_batch: usize,
    /// Most expected time of an HTTP batch while the belt runs (an item came within the last ten seconds).
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

impl Default for InferSettings {
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

impl InferSettings {
    /// Whether every value lies in its range.
    ///
    /// # Errors
    /// Names the key that does not.
    pub fn check(&self) -> Result<(), String> {
        for (key, value) in [
            ("infer.max_batch", self.max_batch),
            ("infer.belt_queue", self.belt_queue),
            ("infer.http_queue", self.http_queue),
        ] {
            if value == 0 {
                return Err(format!("{key} must be at least 1"));
            }
        }
        Ok(())
    }
}

/// A look at an item as the serving student saw and scored it.
pub struct ScoredLook {
    /// `side * side * 3` RGB bytes.
    pub pixels: Vec<u8>,
    /// Its scores.
    pub scores: Scores,
    /// The student that gave them.
    pub card: Arc<Card>,
}

/// A picture on its way to the worker whose answer is known.
pub struct Probe {
    /// Gets the worker's answer.
    pub answer: oneshot::Receiver<Scored>,
    /// What the student said at its warm-up: a probability for each class.
    pub known: Arc<[f32]>,
    /// The student that said so.
    pub card: Arc<Card>,
}

/// What the lock guards.
struct State {
    queues: JobQueues,
    sessions: SessionPool,
}

struct Shared {
    settings: InferSettings,
    metrics: Metrics,
    state: Mutex<State>,
    work: Condvar,
    /// Gets every scored item, where a shadow run wants them.
    tap: Mutex<Option<SyncSender<ScoredLook>>>,
}

/// A handle to the workers; clones share it.
#[derive(Clone)]
pub struct Infer(Arc<Shared>);

impl Infer {
    /// Starts the worker threads, one for each session that may run beside others, on a warmed-up student.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn start(
        student: Student,
        settings: InferSettings,
        metrics: Metrics,
    ) -> std::io::Result<(Self, Vec<thread::JoinHandle<()>>)> {
        show(&metrics, &student);
        let workers = student.lanes.len().max(1);
        let state = Mutex::new(State { queues: JobQueues::default(), sessions: SessionPool::new(student, 0) });
        let infer = Self(Arc::new(Shared { settings, metrics, state, work: Condvar::new(), tap: Mutex::new(None) }));
        let mut threads = Vec::new();
        for n in 0..workers {
            let shared = infer.0.clone();
            match thread::Builder::new().name(format!("infer-{n}")).spawn(move || worker::work(&shared)) {
                Ok(thread) => threads.push(thread),
                Err(e) => {
                    infer.stop(); // those that were started end too
                    return Err(e);
                }
            }
        }
        Ok((infer, threads))
    }

    /// The serving model's classes, thresholds and input side.
    pub fn card(&self) -> Arc<Card> {
        lock(&self.0.state).sessions.card.clone()
    }

    /// The execution provider that runs: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        lock(&self.0.state).sessions.provider
    }

    /// Whether a belt item came a short while ago.
    pub fn belt_runs(&self) -> bool {
        lock(&self.0.state).queues.belt_runs(Instant::now())
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
        self.push(Job { pixels, queued: Instant::now(), deadline, source, probe: false, reply })?;
        Ok(answer)
    }

    /// Queues a picture whose answer is known, as a belt item that is none: it makes no belt run and is counted nowhere.
    /// Never blocks.
    ///
    /// # Errors
    /// As [`Infer::submit`].
    pub fn probe(&self, deadline: Instant) -> Result<Probe, Fault> {
        let (reply, answer) = oneshot::channel();
        let (known, card) = {
            let state = lock(&self.0.state);
            (state.sessions.known.clone(), state.sessions.card.clone())
        };
        let pixels = known_picture(card.side as usize);
        self.push(Job { pixels, queued: Instant::now(), deadline, source: Source::Belt, probe: true, reply })?;
        Ok(Probe { answer, known, card })
    }

    fn push(&self, job: Job) -> Result<(), Fault> {
        let source = job.source;
        let mut state = lock(&self.0.state);
        let depth = state.queues.push(job, &self.0.settings)?;
        self.0.metrics.line.queue_depth.with_label_values(&[source.name()]).set(depth as i64);
        drop(state);
        self.0.work.notify_one();
        Ok(())
    }

    /// Hands over a warmed-up student: every batch that starts from now on is its, and what runs is finished by the
    /// one before.
    pub fn exchange(&self, student: Student) {
        show(&self.0.metrics, &student);
        let mut state = lock(&self.0.state);
        let next = SessionPool::new(student, state.sessions.busy());
        let before = std::mem::replace(&mut state.sessions, next);
        drop(state);
        self.0.work.notify_all();
        drop(before); // closing sessions takes a while, so not under the lock
    }

    /// Sends every item that is scored from now on to `looks` too, as long as there is room in it; `None` ends that.
    pub fn tap(&self, looks: Option<SyncSender<ScoredLook>>) {
        *lock(&self.0.tap) = looks;
    }

    /// Stops the workers after their current batch; whatever waits is answered with [`Fault::Stopping`].
    pub fn stop(&self) {
        lock(&self.0.state).queues.stop();
        self.0.work.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows in the metrics which student serves and what its reference pictures look like.
fn show(metrics: &Metrics, student: &Student) {
    let card = &student.card;
    metrics.student.info.reset();
    metrics.student.info.with_label_values(&[&card.version, &card.precision, student.engine.provider()]).set(1);
    let reference = card.reference.as_deref();
    for (of, spread) in [
        ("brightness", reference.and_then(|reference| reference.brightness)),
        ("sharpness", reference.and_then(|reference| reference.sharpness)),
    ] {
        let (mean, deviation) = spread.map_or((f32::NAN, f32::NAN), |s| (s.mean, s.deviation));
        metrics.student.reference_mean.with_label_values(&[of]).set(mean.into());
        metrics.student.reference_deviation.with_label_values(&[of]).set(deviation.into());
    }
}
