//! What could not be recorded: counted in the metrics at once, and told to the record as a gap as soon as the store
//! takes it.
//!
//! Invariant: nothing that was lost is forgotten before a gap entry tells of it.

use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;

use crate::{
    metrics::Metrics,
    store::{Event, Store},
};

/// Counts what could not be recorded; clones share the count.
#[derive(Clone)]
pub(super) struct RecordLosses {
    metrics: Metrics,
    /// What no gap entry tells of yet.
    untold: Arc<Mutex<LossCounts>>,
}

#[derive(Clone, Copy, Default)]
struct LossCounts {
    verdicts: u64,
    pictures: u64,
    events: u64,
    /// When the first and the last of them were lost.
    span: Option<(OffsetDateTime, OffsetDateTime)>,
}

impl RecordLosses {
    /// Nothing is lost yet.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, untold: Arc::default() }
    }

    /// A verdict was lost, and its picture too if it was to be kept.
    pub fn verdict(&self, with_picture: bool) {
        self.lose(1, u64::from(with_picture), 0);
    }

    /// So many verdicts were lost; their pictures were kept.
    pub fn verdicts(&self, count: usize) {
        self.lose(count as u64, 0, 0);
    }

    /// A picture was lost; its verdict was not.
    pub fn picture(&self) {
        self.lose(0, 1, 0);
    }

    /// An event was lost.
    pub fn event(&self) {
        self.lose(0, 0, 1);
    }

    fn lose(&self, verdicts: u64, pictures: u64, events: u64) {
        for (kind, n) in [("verdict", verdicts), ("frame", pictures), ("event", events)] {
            self.metrics.store.record_dropped.with_label_values(&[kind]).inc_by(n);
        }
        let now = OffsetDateTime::now_utc();
        self.add(LossCounts { verdicts, pictures, events, span: Some((now, now)) });
    }

    fn add(&self, more: LossCounts) {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner); // whole after every step
        let span = match (untold.span, more.span) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        *untold = LossCounts {
            verdicts: untold.verdicts + more.verdicts,
            pictures: untold.pictures + more.pictures,
            events: untold.events + more.events,
            span,
        };
    }

    /// What is lost and not told, if anything is; from now on it counts as told.
    fn take(&self) -> Option<LossCounts> {
        let untold = std::mem::take(&mut *self.untold.lock().unwrap_or_else(PoisonError::into_inner));
        untold.span.map(|_| untold)
    }

    /// Records what could not be recorded; if that fails, it is tried again the next time.
    pub async fn tell(&self, store: &Store) {
        let Some(lost) = self.take() else { return };
        let LossCounts { verdicts, pictures, events, span } = lost;
        let (from, to) = span.unzip();
        if let Err(e) = store.append(Event::Gap { verdicts, pictures, events, from, to }).await {
            tracing::warn!("a gap of {verdicts} verdicts, {pictures} pictures, {events} events can't be told: {e}");
            self.add(lost);
        }
    }
}
