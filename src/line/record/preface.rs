//! What the record must say before a batch of verdicts, so that whoever reads on knows how they came about: that the
//! clock was set, which model with which thresholds decided, that a camera's items got no scores.

use std::{sync::Arc, time::Instant};

use time::OffsetDateTime;

use super::{QueuedVerdict, faults::FaultStreaks};
use crate::{
    domain::{Card, hash::sha256},
    store::Event,
};

/// The wall clock may leave the monotonic one by so much, as clocks that are kept right do, before it counts as set.
const CLOCK_SET: f64 = 2.0;

/// What the record has said so far that the next batch may change.
pub(super) struct Preface {
    clock: WallClock,
    model: RecordedModel,
    streaks: FaultStreaks,
}

impl Preface {
    /// Nothing is said yet.
    pub fn new() -> Self {
        Self { clock: WallClock::now(), model: RecordedModel::default(), streaks: FaultStreaks::default() }
    }

    /// The events that go before `batch`; also names the thresholds in its verdicts.
    pub fn events_before(&mut self, batch: &mut [QueuedVerdict]) -> Vec<Event> {
        let mut events = Vec::from_iter(self.clock.set());
        for QueuedVerdict { verdict, card, .. } in batch {
            if let Some(card) = card {
                verdict.thresholds = self.model.thresholds(card, &mut events);
            }
            events.extend(self.streaks.count(verdict));
        }
        events
    }

    /// The batch was lost, and the model's entry perhaps with it: the next batch tells of the model again.
    pub fn forget_model(&mut self) {
        self.model = RecordedModel::default();
    }
}

/// The wall clock beside the one that nobody sets.
struct WallClock {
    wall: OffsetDateTime,
    monotonic: Instant,
}

impl WallClock {
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

/// The model and the hash of its thresholds that the record tells of last.
#[derive(Default)]
struct RecordedModel(Option<(Arc<Card>, String)>);

impl RecordedModel {
    /// The name of the card's thresholds; when the card is another one than the last, an event tells of it.
    fn thresholds(&mut self, card: &Arc<Card>, events: &mut Vec<Event>) -> String {
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
