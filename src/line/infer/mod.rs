//! The inference workers: each runs one batch at a time in a session of its own; items reach them through bounded
//! queues.
//!
//! A student is open several times. One session gives all threads to one batch, which is fastest for an item that comes
//! alone. The others have one thread each: side by side they do more pictures a second than the first, because no
//! operator waits for its slowest part, so they run whatever comes while others wait or run. A GPU has two: one for a lone
//! item and one for batches, see [`Engine::padded`].
//!
//! Items are grouped into micro-batches: whatever waits is taken at once, belt items first, and no worker waits for
//! more to come. What waits is shared among the sessions that are free. A batch is cut so that its expected time fits
//! before the earliest deadline in it; belt and HTTP items are never mixed, and while the belt runs HTTP batches stay
//! short ([`Settings::http_batch_time`]), because a belt item that arrives meanwhile may have to wait for the rest.
//!
//! Invariant: nothing here waits for disk, network or learning; each queue has a fixed capacity and refuses when full;
//! an item is scored by one session, and its card is the one that the session was opened with.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::sync::oneshot;

use crate::{
    domain::{Card, Fault, Scored, Scores, Source, Timings, ms},
    line::priority,
    metrics::Metrics,
    student::{
        engine::{Engine, softmax, stack},
        open::{Student, warm_up},
    },
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

/// Most items in a batch of a one-thread session on the CPU: two at once cost such a session 4 % less than one by one, more save
/// no more and wait for each other.
const LANE_BATCH: usize = 2;

/// The belt counts as running for this long after its last item.
const BELT_RUNS: Duration = Duration::from_secs(10);

/// An item as the serving student saw and scored it.
pub struct ScoredLook {
    /// `side * side * 3` RGB bytes.
    pub pixels: Vec<u8>,
    /// Its scores.
    pub scores: Scores,
    /// The student that gave them.
    pub card: Arc<Card>,
}

struct Job {
    pixels: Vec<u8>,
    queued: Instant,
    deadline: Instant,
    source: Source,
    reply: oneshot::Sender<Scored>,
}

/// A session that can run a batch.
struct Seat {
    engine: Engine,
    card: Arc<Card>,
    /// Seconds per item, learnt from the batches that ran here.
    cost: f64,
    lane: bool,
    /// Most items that it runs at once.
    most: usize,
}

/// The sessions of the serving student.
struct Seats {
    card: Arc<Card>,
    provider: &'static str,
    wide: Option<Seat>,
    lanes: Vec<Seat>,
    /// How many lanes there are, free or not.
    all_lanes: usize,
    /// Batches that run now, those of a student that served before included.
    busy: usize,
    last_run: Instant,
}

impl Seats {
    fn new(student: Student, busy: usize) -> Self {
        let Student { engine, lanes, card } = student;
        let seat = |engine: Engine, lane| {
            let most = if lane { engine.pads_to().unwrap_or(LANE_BATCH) } else { usize::MAX };
            Seat { engine, card: card.clone(), cost: 0.005, lane, most }
        };
        Self {
            provider: engine.provider(),
            wide: Some(seat(engine, false)),
            all_lanes: lanes.len(),
            lanes: lanes.into_iter().map(|engine| seat(engine, true)).collect(),
            card: card.clone(),
            busy,
            last_run: Instant::now(),
        }
    }

    /// A free session for `waiting` items, if there is one.
    fn take(&mut self, waiting: usize) -> Option<Seat> {
        let seat = if alone(waiting, self.busy, self.all_lanes) { self.wide.take() } else { self.lanes.pop() };
        self.busy += usize::from(seat.is_some());
        seat
    }

    /// Takes a session back; returns it when its student serves no more.
    fn put(&mut self, seat: Seat) -> Option<Seat> {
        self.busy -= 1;
        self.last_run = Instant::now();
        if !Arc::ptr_eq(&seat.card, &self.card) {
            return Some(seat);
        }
        if seat.lane {
            self.lanes.push(seat)
        } else {
            self.wide = Some(seat)
        }
        None
    }
}

/// Whether the session with all threads is to run: always where it is the only one, otherwise for an item that is alone
/// in the service.
fn alone(waiting: usize, busy: usize, lanes: usize) -> bool {
    lanes == 0 || (waiting <= 1 && busy == 0)
}

#[derive(Default)]
struct Waiting {
    belt: VecDeque<Job>,
    http: VecDeque<Job>,
    last_belt: Option<Instant>,
    stopped: bool,
}

impl Waiting {
    fn belt_runs(&self, now: Instant) -> bool {
        self.last_belt.is_some_and(|last| now.saturating_duration_since(last) < BELT_RUNS)
    }
}

struct Inside {
    waiting: Waiting,
    seats: Seats,
}

struct Shared {
    settings: Settings,
    metrics: Metrics,
    inside: Mutex<Inside>,
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
        settings: Settings,
        metrics: Metrics,
    ) -> std::io::Result<(Self, Vec<thread::JoinHandle<()>>)> {
        announce(&metrics, &student);
        let workers = student.lanes.len().max(1);
        let inside = Mutex::new(Inside { waiting: Waiting::default(), seats: Seats::new(student, 0) });
        let infer = Self(Arc::new(Shared { settings, metrics, inside, work: Condvar::new(), tap: Mutex::new(None) }));
        let mut threads = Vec::new();
        for n in 0..workers {
            let shared = infer.0.clone();
            match thread::Builder::new().name(format!("infer-{n}")).spawn(move || work(&shared)) {
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
        lock(&self.0.inside).seats.card.clone()
    }

    /// The execution provider that runs: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        lock(&self.0.inside).seats.provider
    }

    /// Whether a belt item came a short while ago.
    pub fn belt_runs(&self) -> bool {
        lock(&self.0.inside).waiting.belt_runs(Instant::now())
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
        let mut inside = lock(&self.0.inside);
        let waiting = &mut inside.waiting;
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
        drop(inside);
        self.0.work.notify_one();
        Ok(answer)
    }

    /// Hands over a warmed-up student: every batch that starts from now on is its, and what runs is finished by the
    /// one before.
    pub fn exchange(&self, student: Student) {
        announce(&self.0.metrics, &student);
        let mut inside = lock(&self.0.inside);
        let next = Seats::new(student, inside.seats.busy);
        let before = std::mem::replace(&mut inside.seats, next);
        drop(inside);
        self.0.work.notify_all();
        drop(before); // closing sessions takes a while, so not under the lock
    }

    /// Sends every item that is scored from now on to `looks` too, as long as there is room in it; `None` ends that.
    pub fn tap(&self, looks: Option<SyncSender<ScoredLook>>) {
        *lock(&self.0.tap) = looks;
    }

    /// Stops the workers after their current batch; whatever waits is answered with [`Fault::Stopping`].
    pub fn stop(&self) {
        lock(&self.0.inside).waiting.stopped = true;
        self.0.work.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn announce(metrics: &Metrics, student: &Student) {
    let card = &student.card;
    metrics.model_info.reset();
    metrics.model_info.with_label_values(&[&card.version, &card.precision, student.engine.provider()]).set(1);
    let reference = card.reference.as_deref();
    for (of, spread) in [
        ("brightness", reference.and_then(|reference| reference.brightness)),
        ("sharpness", reference.and_then(|reference| reference.sharpness)),
    ] {
        let (mean, deviation) = spread.map_or((f32::NAN, f32::NAN), |s| (s.mean, s.deviation));
        metrics.reference_mean.with_label_values(&[of]).set(mean.into());
        metrics.reference_deviation.with_label_values(&[of]).set(deviation.into());
    }
}

fn work(shared: &Shared) {
    priority::set(priority::BELT);
    while let Some((mut seat, batch, belt_runs)) = next(shared) {
        // While the belt runs, an item may have to wait for an HTTP batch, so that goes first too; otherwise it would
        // only take the cores from the threads that feed it.
        if !belt_runs {
            priority::set(priority::NORMAL);
        }
        let tap = lock(&shared.tap).clone();
        run(&mut seat, batch, &shared.metrics, tap.as_ref());
        let retired = lock(&shared.inside).seats.put(seat);
        drop(retired);
        if !belt_runs {
            priority::set(priority::BELT);
        }
    }
}

/// Waits for something to do and a session to do it in, and says whether the belt runs; `None` when the workers are to
/// end.
fn next(shared: &Shared) -> Option<(Seat, Vec<Job>, bool)> {
    let keep_warm = shared.settings.keep_warm;
    let mut inside = lock(&shared.inside);
    loop {
        let Inside { waiting, seats } = &mut *inside;
        if waiting.stopped {
            let left: Vec<Job> = waiting.belt.drain(..).chain(waiting.http.drain(..)).collect();
            drop(inside);
            for job in left {
                refuse(job, Fault::Stopping);
            }
            return None;
        }
        let items = waiting.belt.len() + waiting.http.len();
        if items > 0
            && let Some(seat) = seats.take(items)
        {
            let share = if seat.lane { items.div_ceil(seats.lanes.len() + 1) } else { items };
            let most = share.min(seat.most).min(shared.settings.max_batch);
            let now = Instant::now();
            let batch = take_batch(waiting, most, &shared.settings, seat.cost, now);
            for (name, depth) in [("belt", waiting.belt.len()), ("http", waiting.http.len())] {
                shared.metrics.queue_depth.with_label_values(&[name]).set(depth as i64);
            }
            let belt_runs = waiting.belt_runs(now);
            return Some((seat, batch, belt_runs));
        }
        if keep_warm.is_zero() {
            inside = shared.work.wait(inside).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let idle = seats.busy == 0 && seats.last_run.elapsed() >= keep_warm;
        if let Some(mut seat) = if idle { seats.take(0) } else { None } {
            drop(inside);
            if let Err(e) = warm_up(&mut seat.engine, 1) {
                tracing::warn!("keep-warm run failed: {e}");
            }
            inside = lock(&shared.inside);
            let retired = inside.seats.put(seat);
            drop(retired);
            continue;
        }
        inside = shared.work.wait_timeout(inside, keep_warm).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Takes at most `most` of what waits (one at least), belt first, cut so that the batch's expected time keeps the
/// earliest deadline in it.
fn take_batch(waiting: &mut Waiting, most: usize, settings: &Settings, cost: f64, now: Instant) -> Vec<Job> {
    let mut batch: Vec<Job> = Vec::new();
    let mut budget = f64::INFINITY;
    let belt_runs = waiting.belt_runs(now);
    while batch.len() < most.max(1) {
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

fn run(seat: &mut Seat, batch: Vec<Job>, metrics: &Metrics, tap: Option<&SyncSender<ScoredLook>>) {
    let started = Instant::now();
    let bytes = seat.engine.side() * seat.engine.side() * 3;
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
    let outputs = stack(&pictures, seat.engine.side()).and_then(|batch| seat.engine.run(batch.view()));
    let elapsed = started.elapsed();
    metrics.batch_size.observe(jobs.len() as f64);
    seat.cost = 0.9 * seat.cost + 0.1 * elapsed.as_secs_f64() / jobs.len() as f64;
    if let Err(e) = &outputs {
        tracing::error!("a batch of {} failed: {e}", jobs.len());
    }
    for (i, (job, pixels)) in jobs.into_iter().zip(pictures).enumerate() {
        let scores = match &outputs {
            Ok(out) => Ok(Scores {
                probabilities: softmax(&out.logits.row(i).to_vec(), seat.card.thresholds.temperature),
                embedding: out.embedding.row(i).to_vec(),
            }),
            Err(e) => Err(Fault::Inference(e.to_string())),
        };
        let queued = started.saturating_duration_since(job.queued);
        for (stage, time) in [("queue", queued), ("infer", elapsed)] {
            metrics.stage_seconds.with_label_values(&[job.source.name(), stage]).observe(time.as_secs_f64());
        }
        let timings = Timings { queue_ms: ms(queued), infer_ms: ms(elapsed), ..Timings::default() };
        let look = match (&scores, tap) {
            (Ok(scores), Some(tap)) => {
                Some((tap, ScoredLook { pixels, scores: scores.clone(), card: seat.card.clone() }))
            }
            _ => None,
        };
        let _ = job.reply.send(Scored { scores, model: Some(seat.card.clone()), timings });
        if let Some((tap, look)) = look {
            let _ = tap.try_send(look); // full: the candidate is slower than the belt, it misses this one
        }
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
        let batch = take_batch(&mut waiting, 2, &Settings::default(), 0.001, now);
        assert_eq!(sources(&batch), [Source::Belt], "and is not mixed with it");
        assert_eq!(waiting.http.len(), 3);
    }

    #[test]
    fn all_threads_go_to_an_item_that_is_alone_and_to_no_other() {
        assert!(alone(1, 0, 2));
        for (waiting, busy) in [(2, 0), (1, 1), (8, 2)] {
            assert!(!alone(waiting, busy, 2), "{waiting} waiting, {busy} running");
            assert!(alone(waiting, busy, 0), "with one thread there is one session");
        }
    }

    #[test]
    fn a_batch_is_cut_to_keep_the_earliest_deadline() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        waiting.belt.extend((0..8).map(|_| job(Source::Belt, Duration::from_millis(35), now)));
        assert_eq!(take_batch(&mut waiting, 8, &Settings::default(), 0.010, now).len(), 3);
        assert_eq!(waiting.belt.len(), 5);
    }

    #[test]
    fn http_batches_stay_short_while_the_belt_runs() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        waiting.http.extend((0..16).map(|_| job(Source::Http, Duration::from_secs(5), now)));
        let settings = Settings { http_batch_time: Duration::from_millis(10), ..Settings::default() };
        assert_eq!(take_batch(&mut waiting, 8, &settings, 0.004, now).len(), 8, "no belt, no need to hurry");
        waiting.last_belt = Some(now);
        assert_eq!(take_batch(&mut waiting, 8, &settings, 0.004, now).len(), 2);
        assert_eq!(take_batch(&mut waiting, 8, &settings, 1.0, now).len(), 1, "at least one always runs");
    }
}
