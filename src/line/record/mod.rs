//! Hands verdicts and frames to the store without ever making the line wait.
//!
//! | file | what |
//! |---|---|
//! | here | the handle: what is queued, and what finds no place |
//! | `sample` | whose pictures are kept |
//! | `draw` | which items the audit draws |
//! | `writer` | the task: batches, transactions, events |
//! | `preface` | what the record says before a batch: clock, model, thresholds, faults |
//! | `faults` | when a camera's judging degrades and recovers |
//! | `frames` | encoding and writing of kept pictures |
//! | `retry` | how long one bears with a store that fails |
//! | `losses` | what could not be recorded, counted and told as a gap |
//!
//! Invariant: [`Recorder::record`] never blocks and never fails the item; when the queue or the memory for waiting
//! pictures is full, the record is dropped and counted. A store that fails is tried again until it works or the service
//! stops, so a short trouble costs nothing and a long one what finds no place in the queue. The stream of recorded
//! verdicts starts only after the commit, so nobody is shown a verdict that the store does not have. What could not be
//! recorded is itself recorded, as a gap, and the model with its thresholds stands in the record before the first verdict
//! by it.

mod draw;
mod faults;
mod frames;
mod losses;
mod preface;
mod retry;
pub mod sample;
mod writer;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore, broadcast,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use self::{
    draw::AuditSampler,
    frames::kib,
    losses::RecordLosses,
    sample::{KeepReason, Quotas},
    writer::{write_events, write_verdicts},
};
use crate::{
    domain::{AuditDraw, Card, Raw, Source, Verdict},
    metrics::Metrics,
    store::{AnchorSettings, Event, Store},
};

/// What is kept, and how much may wait.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordSettings {
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
    /// Most frames per hour of accepted items that are kept for each of the three reasons.
    pub keep_per_hour: u32,
    /// Items that the audit draws a day, for people to answer about: what they say judges students and never trains. 0: none,
    /// and no student takes over by itself.
    pub audit_per_day: u32,
    /// Where the record's head is left outside this machine.
    pub anchor: AnchorSettings,
}

impl Default for RecordSettings {
    fn default() -> Self {
        Self {
            queue: 1024,
            frame_bytes: 256 << 20,
            keep_share: 0.05,
            keep_margin: 0.2,
            keep_novelty: 1.0,
            keep_per_hour: 600,
            audit_per_day: 100,
            anchor: AnchorSettings::default(),
        }
    }
}

impl RecordSettings {
    /// Whether every value lies in its range.
    ///
    /// # Errors
    /// Names the key that does not.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.keep_share) {
            return Err("record.keep_share must lie between 0 and 1".into());
        }
        if self.keep_margin.is_nan() || self.keep_novelty.is_nan() {
            return Err("record.keep_margin and record.keep_novelty must be numbers".into());
        }
        if self.queue == 0 {
            return Err("record.queue must be at least 1".into());
        }
        self.anchor.check()
    }
}

/// This part of the places, a quarter, is kept for the belt, so that HTTP load does not cost its records.
const BELT_SHARE: usize = 4;
/// Events that may wait for the store; they are rare.
const EVENTS: usize = 256;

/// A verdict that waits for the store.
struct QueuedVerdict {
    verdict: Verdict,
    card: Option<Arc<Card>>,
    /// How it was drawn for the audit, if it was.
    draw: Option<AuditDraw>,
    /// The picture to keep, with its place in memory.
    frame: Option<(Raw, OwnedSemaphorePermit)>,
    /// Is told the id that the store gave.
    committed: oneshot::Sender<i64>,
}

/// What has become of a verdict that is to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// It is in the store.
    Recorded,
    /// It waits for the store.
    Queued,
    /// It found no place, or the store failed: the record has a gap.
    Dropped,
}

/// A verdict on its way into the store.
#[derive(Debug)]
pub struct RecordTicket(oneshot::Receiver<i64>);

impl RecordTicket {
    /// How far it is, and the id that the store gave it. Never waits.
    pub fn state(mut self) -> (RecordState, Option<i64>) {
        match self.0.try_recv() {
            Ok(id) => (RecordState::Recorded, Some(id)),
            Err(oneshot::error::TryRecvError::Empty) => (RecordState::Queued, None),
            Err(oneshot::error::TryRecvError::Closed) => (RecordState::Dropped, None),
        }
    }
}

/// An event that waits for the store.
struct QueuedEvent {
    /// When it happened.
    time: OffsetDateTime,
    /// The lot that was open then.
    lot: Option<i64>,
    event: Event,
}

/// A handle to the recording task; clones share it.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<QueuedVerdict>,
    events: mpsc::Sender<QueuedEvent>,
    memory: Arc<Semaphore>,
    settings: RecordSettings,
    quotas: Arc<Mutex<Quotas>>,
    sampler: Arc<Mutex<AuditSampler>>,
    store: Store,
    losses: RecordLosses,
    metrics: Metrics,
}

impl Recorder {
    /// Starts the task; the audit draws at most the share `most_drawn` of the items. After `stop` is cancelled it writes what waits and ends; await the handle before the store is
    /// closed. Committed verdicts, with their ids, go to `recorded`.
    pub fn start(
        store: Store,
        settings: &RecordSettings,
        most_drawn: f64,
        metrics: Metrics,
        recorded: broadcast::Sender<Arc<Verdict>>,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (queue, records) = mpsc::channel(settings.queue.max(1));
        let memory = Arc::new(Semaphore::new((settings.frame_bytes >> 10).min(Semaphore::MAX_PERMITS)));
        let losses = RecordLosses::new(metrics.clone());
        let (events, happened) = mpsc::channel(EVENTS);
        let task = tokio::spawn({
            let (store, losses, metrics) = (store.clone(), losses.clone(), metrics.clone());
            async move {
                let (of_verdicts, of_events) = (losses.clone(), losses.clone());
                tokio::join!(
                    write_verdicts(records, store.clone(), of_verdicts, metrics.clone(), recorded, stop.clone()),
                    write_events(happened, store.clone(), of_events, metrics, stop),
                );
                losses.tell(&store).await;
            }
        });
        let quotas = Arc::new(Mutex::new(Quotas::new(settings.keep_per_hour, Instant::now())));
        let sampler = Arc::new(Mutex::new(AuditSampler::new(settings.audit_per_day, most_drawn)));
        (Self { queue, events, memory, settings: settings.clone(), quotas, sampler, store, losses, metrics }, task)
    }

    /// Queues an event for the record; it happened now, in the lot that is open now, unless it says another one. Never
    /// blocks; one that finds no place is logged and counted.
    pub fn event(&self, event: Event) {
        let (time, lot) = (OffsetDateTime::now_utc(), self.store.open_lot());
        if let Err(full) = self.events.try_send(QueuedEvent { time, lot, event }) {
            tracing::error!("an event could not be recorded: {full}");
            let (TrySendError::Full(lost) | TrySendError::Closed(lost)) = full;
            self.losses.event(lost.event.happened_in().or(lot));
        }
    }

    /// The verdict, as one of the lot that is open now.
    pub fn in_lot(&self, verdict: Verdict) -> Verdict {
        Verdict { lot: self.store.open_lot(), ..verdict }
    }

    /// Queues one verdict, with the model that judged it and, if it is one to keep, the frame it was judged in. Never
    /// blocks.
    pub fn record(&self, verdict: Verdict, card: Option<Arc<Card>>, frame: Option<Raw>) -> RecordTicket {
        let lot = verdict.lot;
        let now = Instant::now();
        let draw = self.sampler.lock().unwrap_or_else(PoisonError::into_inner).draw(&verdict, now, rand::random());
        let wanted = sample::reason_to_keep(&verdict, &self.settings, rand::random());
        let wanted = if draw.is_some() { Some(KeepReason::Audit) } else { wanted };
        let keep = wanted.filter(|reason| {
            frame.is_some() && self.quotas.lock().unwrap_or_else(PoisonError::into_inner).take(*reason, now)
        });
        let frame = frame.zip(keep).and_then(|(raw, reason)| {
            self.metrics.store.kept.with_label_values(&[reason.name()]).inc();
            let room = self.memory.clone().try_acquire_many_owned(kib(&raw));
            if room.is_err() {
                self.losses.picture(lot);
            }
            Some((raw, room.ok()?))
        });
        let reserved = if verdict.source == Source::Http { self.queue.max_capacity() / BELT_SHARE } else { 0 };
        let (committed, ticket) = oneshot::channel();
        let queued = QueuedVerdict { verdict, card, draw, frame, committed };
        if self.queue.capacity() <= reserved {
            self.losses.verdict(lot, queued.frame.is_some());
        } else if let Err(full) = self.queue.try_send(queued) {
            self.losses.verdict(lot, full.into_inner().frame.is_some());
        }
        self.metrics
            .line
            .queue_depth
            .with_label_values(&["record"])
            .set((self.queue.max_capacity() - self.queue.capacity()) as i64);
        RecordTicket(ticket)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        domain::{Action, Picture, Thresholds, testing::verdict},
        export::LotReport,
        picture::pixels,
        store::Page,
    };

    async fn recorder(
        settings: RecordSettings,
    ) -> (tempfile::TempDir, Store, Recorder, JoinHandle<()>, CancellationToken) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let stop = CancellationToken::new();
        let (recorder, task) = Recorder::start(
            store.clone(),
            &settings,
            0.5,
            Metrics::new().unwrap(),
            broadcast::channel(16).0,
            stop.clone(),
        );
        (folder, store, recorder, task, stop)
    }

    fn picture(shade: u8) -> Option<Raw> {
        Some(Raw::Rgb(Arc::new(Picture::filled(64, 48, [shade; 3]))))
    }

    #[tokio::test]
    async fn stopping_writes_what_waits_and_rejects_keep_their_frame() {
        let (_folder, store, recorder, task, stop) =
            recorder(RecordSettings { keep_share: 0.0, ..RecordSettings::default() }).await;
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
        assert_eq!(recorder.metrics.store.recorded.get(), 3);
        recorder.record(verdict(Action::Accept), None, None);
        assert_eq!(recorder.metrics.store.record_dropped.with_label_values(&["verdict"]).get(), 1, "after the stop");
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_and_does_not_wait() {
        // The test's runtime has one thread, so the task can't run before the first await.
        let (_folder, store, recorder, task, stop) =
            recorder(RecordSettings { queue: 4, frame_bytes: 10 << 10, ..RecordSettings::default() }).await;
        for shade in 0..10 {
            recorder.record(Verdict { source: Source::Belt, ..verdict(Action::Reject) }, None, picture(shade));
        }
        let dropped = |kind: &str| recorder.metrics.store.record_dropped.with_label_values(&[kind]).get();
        assert_eq!((dropped("verdict"), dropped("frame")), (6, 9), "4 places, memory for one frame of 9 KiB");
        stop.cancel();
        task.await.unwrap();
        assert_eq!(store.counts().await.unwrap().reject, 4);
    }

    #[tokio::test]
    async fn a_ticket_says_queued_then_recorded_and_dropped_where_nothing_will_be() {
        let (_folder, store, recorder, task, stop) =
            recorder(RecordSettings { queue: 4, ..RecordSettings::default() }).await;
        let mut tickets: Vec<_> = (0..5).map(|_| recorder.record(verdict(Action::Reject), None, None)).collect();
        let states = |tickets: Vec<RecordTicket>| tickets.into_iter().map(RecordTicket::state).collect::<Vec<_>>();
        let late = tickets.split_off(2);
        let (queued, dropped) = ((RecordState::Queued, None), (RecordState::Dropped, None));
        assert_eq!(states(late), [queued, dropped, dropped], "HTTP has 3 places of 4");
        stop.cancel();
        task.await.unwrap();
        let recorded = |id| (RecordState::Recorded, Some(id));
        assert_eq!(states(tickets), [recorded(1), recorded(2)]);
        assert_eq!(recorder.record(verdict(Action::Reject), None, None).state(), dropped);
        assert_eq!(store.counts().await.unwrap().verdicts, 3);
    }

    #[tokio::test]
    async fn http_load_leaves_a_quarter_of_the_queue_to_the_belt() {
        let (_folder, store, recorder, task, stop) =
            recorder(RecordSettings { queue: 8, ..RecordSettings::default() }).await;
        for _ in 0..20 {
            recorder.record(verdict(Action::Reject), None, None);
        }
        for _ in 0..2 {
            recorder.record(Verdict { source: Source::Belt, ..verdict(Action::Reject) }, None, None);
        }
        assert_eq!(recorder.metrics.store.record_dropped.with_label_values(&["verdict"]).get(), 14);
        stop.cancel();
        task.await.unwrap();
        let belt = Page { limit: 10, source: Some(Source::Belt), ..Page::default() };
        assert_eq!((store.counts().await.unwrap().verdicts, store.verdicts(belt).await.unwrap().len()), (8, 2));
    }

    #[tokio::test]
    async fn a_store_that_stays_broken_costs_the_record_not_the_line() {
        let (_folder, store, recorder, task, stop) = recorder(RecordSettings::default()).await;
        store.close().await;
        recorder.record(verdict(Action::Reject), None, None);
        stop.cancel();
        task.await.unwrap();
        assert_eq!(recorder.metrics.store.errors.get(), 4);
        assert_eq!(recorder.metrics.store.record_dropped.with_label_values(&["verdict"]).get(), 1);
    }

    #[tokio::test]
    async fn what_is_lost_in_a_lot_counts_for_it_although_the_next_one_is_open_when_it_is_told() {
        let (_folder, store, recorder, task, stop) =
            recorder(RecordSettings { queue: 4, ..RecordSettings::default() }).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await; // the next gap is told in ten seconds
        let first = store.begin_lot("A", "").await.unwrap();
        for _ in 0..10 {
            recorder.record(recorder.in_lot(Verdict { source: Source::Belt, ..verdict(Action::Reject) }), None, None);
        }
        let second = store.begin_lot("B", "").await.unwrap();
        stop.cancel();
        task.await.unwrap();
        let mut lost = Vec::new();
        for lot in [first, second] {
            let lot = store.lot(lot).await.unwrap().unwrap();
            lost.push(LotReport::read(&store, lot).await.unwrap().not_recorded);
        }
        assert_eq!(lost, [6, 0]);
    }

    #[tokio::test]
    async fn an_event_that_waited_for_the_store_has_the_time_and_the_lot_of_its_happening() {
        let (_folder, store, recorder, task, stop) = recorder(RecordSettings::default()).await;
        let first = store.begin_lot("A", "").await.unwrap();
        recorder.event(Event::CameraLost { camera: "belt".into(), why: "unplugged".into() });
        let before = OffsetDateTime::now_utc();
        // The test's runtime has one thread, and nothing was awaited: the event still waits.
        std::thread::sleep(std::time::Duration::from_millis(200));
        stop.cancel();
        task.await.unwrap();
        let lost = store.events(&["camera_lost"], None).await.unwrap();
        assert!(lost[0].time <= before, "{} is when it was written", lost[0].time);
        assert_eq!(store.events(&["camera_lost"], Some(first)).await.unwrap(), lost);
    }

    #[tokio::test]
    async fn the_record_tells_which_thresholds_decided_and_what_it_lacks() {
        let (_folder, store, recorder, task, stop) =
            recorder(RecordSettings { queue: 8, ..RecordSettings::default() }).await;
        let card = |accept_from| {
            let thresholds = Thresholds {
                accept: vec!["salmon".into()],
                accept_from,
                unsure_from: 0.2,
                temperature: 1.0,
                unknown_from: None,
            };
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
