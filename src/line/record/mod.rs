//! Hands verdicts and frames to the store without ever making the line wait.
//!
//! Invariant: [`Recorder::record`] never blocks and never fails the item; when the queue or the memory for waiting
//! pictures is full, the record is dropped and counted. A store that fails is tried again until it works or the service
//! stops, so a short trouble costs nothing and a long one what finds no place in the queue. The stream of recorded
//! verdicts starts only after the commit, so nobody is shown a verdict that the store does not have. What could not be
//! recorded is itself recorded, as a gap, and the model with its thresholds stands in the record before the first verdict
//! by it.

pub mod sample;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc},
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Card, Raw, Source, Verdict, hash::sha256},
    line::{outage::Faults, record::sample::Quotas},
    metrics::Metrics,
    picture::pixels,
    store::{Event, Store, StoreError, frame_key},
};

/// What is kept, and how much may wait.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Verdicts that may wait for the store; when full, new ones are dropped and counted. A quarter is the belt's.
    pub queue: usize,
    /// Bytes of pictures that may wait for the store; when full, verdicts are kept without their frame.
    pub frame_bytes: usize,
    /// Frames of rejected and diverted items are always kept; of the accepted ones this share, 0 to 1, and those that
    /// the next two rules name.
    pub keep_share: f64,
    /// Accepted items whose two best probabilities lie closer than this.
    pub keep_margin: f32,
    /// Accepted items of a larger novelty than this; 1 is the edge of what the student was trained on.
    pub keep_novelty: f32,
    /// Most frames an hour of accepted items that are kept for each of the three reasons.
    pub keep_per_hour: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue: 1024,
            frame_bytes: 256 << 20,
            keep_share: 0.05,
            keep_margin: 0.2,
            keep_novelty: 1.0,
            keep_per_hour: 600,
        }
    }
}

/// This part of the places, a quarter, is kept for the belt, so that HTTP load does not cost its records.
const BELT_SHARE: usize = 4;
/// Most verdicts in one transaction.
const BATCH: usize = 256;
/// What failed is tried again after these pauses, then after the last one again and again; while the service stops,
/// only so often.
const PAUSES: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1)];
/// One failure in so many is logged once the first few were.
const LOG_EVERY: u32 = 60;
/// How often a gap that goes on is told.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// The wall clock may leave the monotonic one by so much, as clocks that are kept right do, before it counts as set.
const CLOCK_SET: f64 = 2.0;
/// JPEG quality of kept frames that did not arrive as JPEG.
const QUALITY: i32 = 90;

/// Events that may wait for the store; they are rare.
const EVENTS: usize = 256;

struct Record {
    verdict: Verdict,
    card: Option<Arc<Card>>,
    frame: Option<(Raw, OwnedSemaphorePermit)>,
}

/// A handle to the recording task; clones share it.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
    events: mpsc::Sender<Event>,
    memory: Arc<Semaphore>,
    settings: Settings,
    quotas: Arc<Mutex<Quotas>>,
    store: Store,
    tally: Tally,
}

/// Counts what could not be recorded.
#[derive(Clone)]
struct Tally {
    metrics: Metrics,
    /// What no gap entry tells of yet.
    lost: Arc<Mutex<Lost>>,
}

#[derive(Clone, Copy, Default)]
struct Lost {
    verdicts: u64,
    pictures: u64,
    events: u64,
    /// When the first and the last of them were lost.
    span: Option<(OffsetDateTime, OffsetDateTime)>,
}

impl Tally {
    fn lose(&self, verdicts: u64, pictures: u64, events: u64) {
        for (kind, n) in [("verdict", verdicts), ("frame", pictures), ("event", events)] {
            self.metrics.record_dropped.with_label_values(&[kind]).inc_by(n);
        }
        let now = OffsetDateTime::now_utc();
        self.keep(Lost { verdicts, pictures, events, span: Some((now, now)) });
    }

    fn keep(&self, more: Lost) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner); // whole after every step
        let span = match (lost.span, more.span) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        *lost = Lost {
            verdicts: lost.verdicts + more.verdicts,
            pictures: lost.pictures + more.pictures,
            events: lost.events + more.events,
            span,
        };
    }

    /// What is lost and not told, if anything is; from now on it counts as told.
    fn take(&self) -> Option<Lost> {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        lost.span.map(|_| lost)
    }
}

impl Recorder {
    /// Starts the task. After `stop` is cancelled it writes what waits and ends; await the handle before the store is
    /// closed. Committed verdicts, with their ids, go to `recorded`.
    pub fn start(
        store: Store,
        settings: &Settings,
        metrics: Metrics,
        recorded: broadcast::Sender<Arc<Verdict>>,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (queue, records) = mpsc::channel(settings.queue.max(1));
        let memory = Arc::new(Semaphore::new((settings.frame_bytes >> 10).min(Semaphore::MAX_PERMITS)));
        let tally = Tally { metrics, lost: Arc::default() };
        let (events, happened) = mpsc::channel(EVENTS);
        let (verdict_store, event_store, store_at_end, counts) =
            (store.clone(), store.clone(), store.clone(), tally.clone());
        let task = tokio::spawn(async move {
            let verdicts = write(records, verdict_store, counts.clone(), recorded, stop.clone());
            tokio::join!(verdicts, write_events(happened, event_store, counts.clone(), stop));
            tell_gap(&store_at_end, &counts).await;
        });
        let quotas = Arc::new(Mutex::new(Quotas::new(settings.keep_per_hour, Instant::now())));
        (Self { queue, events, memory, settings: settings.clone(), quotas, store, tally }, task)
    }

    /// Queues an event for the record. Never blocks; one that finds no place is logged and counted.
    pub fn event(&self, event: Event) {
        if let Err(full) = self.events.try_send(event) {
            tracing::error!("an event could not be recorded: {full}");
            self.tally.lose(0, 0, 1);
        }
    }

    /// Queues one verdict, with the model that judged it and, if it is one to keep, the frame it was judged in. It
    /// belongs to the lot that is open now. Never blocks.
    pub fn record(&self, verdict: Verdict, card: Option<Arc<Card>>, frame: Option<Raw>) {
        let verdict = Verdict { lot: self.store.open_lot(), ..verdict };
        let keep = sample::why(&verdict, &self.settings, rand::random()).filter(|why| {
            frame.is_some() && self.quotas.lock().unwrap_or_else(PoisonError::into_inner).take(*why, Instant::now())
        });
        let frame = frame.zip(keep).and_then(|(raw, why)| {
            self.tally.metrics.kept.with_label_values(&[why.name()]).inc();
            let room = self.memory.clone().try_acquire_many_owned(kib(&raw));
            if room.is_err() {
                self.tally.lose(0, 1, 0);
            }
            Some((raw, room.ok()?))
        });
        let reserved = if verdict.source == Source::Http { self.queue.max_capacity() / BELT_SHARE } else { 0 };
        let record = Record { verdict, card, frame };
        if self.queue.capacity() <= reserved {
            self.tally.lose(1, u64::from(record.frame.is_some()), 0);
        } else if let Err(full) = self.queue.try_send(record) {
            self.tally.lose(1, u64::from(full.into_inner().frame.is_some()), 0);
        }
        self.tally
            .metrics
            .queue_depth
            .with_label_values(&["record"])
            .set((self.queue.max_capacity() - self.queue.capacity()) as i64);
    }
}

fn kib(raw: &Raw) -> u32 {
    let bytes = match raw {
        Raw::Jpeg(jpeg) => jpeg.len(),
        Raw::Rgb(picture) => picture.rgb.len(),
    };
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX) + 1
}

async fn write(
    mut records: mpsc::Receiver<Record>,
    store: Store,
    tally: Tally,
    recorded: broadcast::Sender<Arc<Verdict>>,
    stop: CancellationToken,
) {
    let metrics = &tally.metrics;
    let mut batch = Vec::with_capacity(BATCH);
    let (mut known, mut faults, mut clock) = (Known::default(), Faults::default(), Clock::now());
    let mut trouble = Trouble::new(tally.clone(), stop.clone());
    let mut ticks = tokio::time::interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            taken = records.recv_many(&mut batch, BATCH) => if taken == 0 { return },
            () = stop.cancelled(), if !records.is_closed() => records.close(), // no new ones; what waits is written
            _ = ticks.tick() => tell_gap(&store, &tally).await,
        }
        metrics.queue_depth.with_label_values(&["record"]).set(records.len() as i64);
        if batch.is_empty() {
            continue;
        }
        let mut events = Vec::from_iter(clock.set());
        for Record { verdict, card, .. } in &mut batch {
            if let Some(card) = card {
                verdict.thresholds = known.look(card, &mut events);
            }
            events.extend(faults.count(verdict));
        }
        let verdicts = keep_frames(batch.drain(..), &store, &tally).await;
        let commit = || async {
            let timer = metrics.store_seconds.start_timer();
            let outcome = store.insert_after(&events, &verdicts).await;
            timer.observe_duration();
            outcome
        };
        match trouble.until_done(commit).await {
            Ok((ids, failures)) => {
                metrics.recorded.inc_by(ids.len() as u64);
                for (verdict, id) in verdicts.into_iter().zip(ids) {
                    // Fails only while nobody listens.
                    let _ = recorded.send(Arc::new(Verdict { id, ..verdict }));
                }
                if failures > 0 {
                    tell_gap(&store, &tally).await; // the store is back
                }
            }
            Err(e) => {
                tracing::error!("{} verdicts are lost: {e}", verdicts.len());
                tally.lose(verdicts.len() as u64, 0, 0);
                known = Known::default(); // the model's entry may be lost too
            }
        }
    }
}

/// Records what could not be recorded; tried again the next time.
async fn tell_gap(store: &Store, tally: &Tally) {
    let Some(lost) = tally.take() else { return };
    let Lost { verdicts, pictures, events, span } = lost;
    let (from, to) = span.unzip();
    if let Err(e) = store.append(Event::Gap { verdicts, pictures, events, from, to }).await {
        tracing::warn!("a gap of {verdicts} verdicts, {pictures} pictures, {events} events can't be told: {e}");
        tally.keep(lost);
    }
}

/// A store that fails, and how long one bears with it.
struct Trouble {
    tally: Tally,
    stop: CancellationToken,
    /// Failures since it last worked.
    failures: u32,
}

impl Trouble {
    fn new(tally: Tally, stop: CancellationToken) -> Self {
        Self { tally, stop, failures: 0 }
    }

    /// Does `what` until it succeeds, and says how often it failed before. Gives up what can never succeed, and, once
    /// the service stops, what has failed often enough.
    async fn until_done<T, F: Future<Output = Result<T, StoreError>>>(
        &mut self,
        what: impl Fn() -> F,
    ) -> Result<(T, u32), StoreError> {
        loop {
            let error = match what().await {
                Ok(done) => return Ok((done, std::mem::take(&mut self.failures))),
                Err(e) => e,
            };
            self.tally.metrics.store_errors.inc();
            self.failures += 1;
            let often = self.failures as usize > PAUSES.len();
            if !error.may_pass() || often && self.stop.is_cancelled() {
                return Err(error);
            }
            if !often || self.failures.is_multiple_of(LOG_EVERY) {
                tracing::warn!("{error}; trying again");
            }
            let pause = PAUSES[(self.failures as usize).min(PAUSES.len()) - 1];
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled(), if often => {}
            }
        }
    }
}

/// The wall clock beside the one that nobody sets.
struct Clock {
    wall: OffsetDateTime,
    monotonic: Instant,
}

impl Clock {
    fn now() -> Self {
        Self { wall: OffsetDateTime::now_utc(), monotonic: Instant::now() }
    }

    /// Whether the wall clock was set since the last look.
    fn set(&mut self) -> Option<Event> {
        let before = std::mem::replace(self, Self::now());
        let passed = (self.monotonic - before.monotonic).as_secs_f64();
        let seconds = (self.wall - before.wall).as_seconds_f64() - passed;
        (seconds.abs() > CLOCK_SET).then_some(Event::ClockSet { seconds })
    }
}

async fn write_events(mut events: mpsc::Receiver<Event>, store: Store, tally: Tally, stop: CancellationToken) {
    let mut trouble = Trouble::new(tally.clone(), stop.clone());
    loop {
        let event = tokio::select! {
            biased;
            event = events.recv() => match event { Some(event) => event, None => return },
            () = stop.cancelled(), if !events.is_closed() => {
                events.close();
                continue;
            }
        };
        if let Err(e) = trouble.until_done(|| store.append(event.clone())).await {
            tracing::error!("an event could not be recorded: {e}: {event:?}");
            tally.lose(0, 0, 1);
        }
    }
}

/// The model and thresholds that the record tells of last.
#[derive(Default)]
struct Known(Option<(Arc<Card>, String)>);

impl Known {
    /// The name of the card's thresholds; when the card is another one than the last, an event tells of it.
    fn look(&mut self, card: &Arc<Card>, events: &mut Vec<Event>) -> String {
        if let Some((last, hash)) = &self.0
            && Arc::ptr_eq(last, card)
        {
            return hash.clone();
        }
        let thresholds = card.thresholds.clone();
        let mut hash = sha256(&serde_json::to_vec(&thresholds).unwrap_or_default());
        hash.truncate(12);
        events.push(Event::Model {
            model: card.label.clone(),
            sha256: card.sha256.clone(),
            thresholds_hash: hash.clone(),
            thresholds,
        });
        self.0 = Some((card.clone(), hash.clone()));
        hash
    }
}

/// Writes the batch's frames, each once, and names them in the verdicts.
async fn keep_frames(batch: impl Iterator<Item = Record>, store: &Store, tally: &Tally) -> Vec<Verdict> {
    let mut written = HashSet::new();
    let mut verdicts = Vec::new();
    for Record { mut verdict, frame, .. } in batch {
        if let Some((raw, _room)) = frame {
            match keep_frame(raw, &verdict, store, &mut written).await {
                Ok(key) => verdict.frame = Some(key),
                Err(why) => {
                    tracing::warn!("a frame was not kept: {why}");
                    tally.metrics.store_errors.inc();
                    tally.lose(0, 1, 0);
                }
            }
        }
        verdicts.push(verdict);
    }
    verdicts
}

async fn keep_frame(
    raw: Raw,
    verdict: &Verdict,
    store: &Store,
    written: &mut HashSet<String>,
) -> Result<String, String> {
    let time = verdict.time;
    let encode = move || {
        let jpeg = match raw {
            Raw::Jpeg(jpeg) => jpeg,
            Raw::Rgb(picture) => Bytes::from(pixels::encode_jpeg(&picture, QUALITY).map_err(|e| e.to_string())?),
        };
        Ok::<_, String>((frame_key(&jpeg, time), jpeg))
    };
    let (key, jpeg) = spawn_blocking(encode).await.map_err(|e| e.to_string())??;
    if written.insert(key.clone())
        && let Err(e) = store.put_frame(&key, jpeg).await
    {
        written.remove(&key);
        return Err(e.to_string());
    }
    Ok(key)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        domain::{Action, Picture, Thresholds, testing::verdict},
        store::Page,
    };

    async fn recorder(settings: Settings) -> (tempfile::TempDir, Store, Recorder, JoinHandle<()>, CancellationToken) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let stop = CancellationToken::new();
        let (recorder, task) =
            Recorder::start(store.clone(), &settings, Metrics::new().unwrap(), broadcast::channel(16).0, stop.clone());
        (folder, store, recorder, task, stop)
    }

    fn picture(shade: u8) -> Option<Raw> {
        Some(Raw::Rgb(Arc::new(Picture::filled(64, 48, [shade; 3]))))
    }

    #[tokio::test]
    async fn stopping_writes_what_waits_and_rejects_keep_their_frame() {
        let (_folder, store, recorder, task, stop) =
            recorder(Settings { keep_share: 0.0, ..Settings::default() }).await;
        for action in [Action::Reject, Action::Divert, Action::Accept] {
            recorder.record(verdict(action), None, picture(40));
        }
        stop.cancel();
        task.await.unwrap();
        let found = store.verdicts(Page { limit: 10, ..Page::default() }).await.unwrap();
        let keys: Vec<_> = found.iter().rev().map(|v| v.frame.clone()).collect();
        assert!(keys[0].is_some() && keys[0] == keys[1], "two items of one frame share a file: {keys:?}");
        assert_eq!(keys[2], None, "an accepted one is not kept at share 0");
        let jpeg = store.frame(keys[0].as_deref().unwrap()).await.unwrap().unwrap();
        assert_eq!(pixels::decode(&jpeg, pixels::PixelLimits::default()).unwrap().width, 64);
        assert_eq!(recorder.tally.metrics.recorded.get(), 3);
        recorder.record(verdict(Action::Accept), None, None);
        assert_eq!(recorder.tally.metrics.record_dropped.with_label_values(&["verdict"]).get(), 1, "after the stop");
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_and_does_not_wait() {
        // The test's runtime has one thread, so the task can't run before the first await.
        let (_folder, store, recorder, task, stop) =
            recorder(Settings { queue: 4, frame_bytes: 10 << 10, ..Settings::default() }).await;
        for shade in 0..10 {
            recorder.record(Verdict { source: Source::Belt, ..verdict(Action::Reject) }, None, picture(shade));
        }
        let dropped = |kind: &str| recorder.tally.metrics.record_dropped.with_label_values(&[kind]).get();
        assert_eq!((dropped("verdict"), dropped("frame")), (6, 9), "4 places, memory for one frame of 9 KiB");
        stop.cancel();
        task.await.unwrap();
        assert_eq!(store.counts().await.unwrap().reject, 4);
    }

    #[tokio::test]
    async fn http_load_leaves_a_quarter_of_the_queue_to_the_belt() {
        let (_folder, store, recorder, task, stop) = recorder(Settings { queue: 8, ..Settings::default() }).await;
        for _ in 0..20 {
            recorder.record(verdict(Action::Reject), None, None);
        }
        for _ in 0..2 {
            recorder.record(Verdict { source: Source::Belt, ..verdict(Action::Reject) }, None, None);
        }
        assert_eq!(recorder.tally.metrics.record_dropped.with_label_values(&["verdict"]).get(), 14);
        stop.cancel();
        task.await.unwrap();
        let belt = Page { limit: 10, source: Some(Source::Belt), ..Page::default() };
        assert_eq!((store.counts().await.unwrap().verdicts, store.verdicts(belt).await.unwrap().len()), (8, 2));
    }

    #[tokio::test]
    async fn a_store_that_stays_broken_costs_the_record_not_the_line() {
        let (_folder, store, recorder, task, stop) = recorder(Settings::default()).await;
        store.close().await;
        recorder.record(verdict(Action::Reject), None, None);
        stop.cancel();
        task.await.unwrap();
        assert_eq!(recorder.tally.metrics.store_errors.get(), 4);
        assert_eq!(recorder.tally.metrics.record_dropped.with_label_values(&["verdict"]).get(), 1);
    }

    #[tokio::test]
    async fn the_record_tells_which_thresholds_decided_and_what_it_lacks() {
        let (_folder, store, recorder, task, stop) = recorder(Settings { queue: 8, ..Settings::default() }).await;
        let card = |accept_from| {
            let thresholds =
                Thresholds { accept: vec!["salmon".into()], accept_from, unsure_from: 0.2, temperature: 1.0 };
            Arc::new(Card {
                label: "test@0".into(),
                sha256: String::new(),
                version: "test".into(),
                precision: "float32".into(),
                classes: vec!["salmon".into()],
                side: 8,
                thresholds,
                reference: None,
            })
        };
        let (strict, lax) = (card(0.9), card(0.5));
        for card in [&strict, &strict, &lax] {
            recorder.record(verdict(Action::Accept), Some(card.clone()), None);
        }
        for _ in 0..7 {
            recorder.record(verdict(Action::Reject), None, None); // HTTP has 6 places of 8
        }
        stop.cancel();
        task.await.unwrap();
        let found = store.verdicts(Page { limit: 10, ..Page::default() }).await.unwrap();
        let names: Vec<_> = found.iter().rev().map(|v| v.thresholds.as_str()).collect();
        let events = store.events(&["model", "gap"], None).await.unwrap();
        let told: Vec<_> = events
            .iter()
            .map(|entry| match &entry.event {
                Event::Model { thresholds_hash, thresholds, .. } => (thresholds_hash.as_str(), thresholds.accept_from),
                Event::Gap { verdicts, from: Some(_), .. } => ("gap", *verdicts as f32),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told.len(), 3);
        assert_eq!((told[0].1, told[1].1, told[2]), (0.9, 0.5, ("gap", 4.0)));
        assert_eq!(names, [told[0].0, told[0].0, told[1].0, "", "", ""]);
    }
}
