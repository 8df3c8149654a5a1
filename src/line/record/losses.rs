//! What could not be recorded: counted in the metrics at once, and told to the record as a gap as soon as the store
//! takes it.
//!
//! Invariant: nothing that was lost is forgotten before a gap entry tells of it, and each gap is of one lot: the one that was
//! open when it was lost. Lots are opened in the store that takes gaps, so few of them wait side by side.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use time::OffsetDateTime;

use crate::{
    metrics::Metrics,
    store::{Event, Store},
};

/// Counts what could not be recorded; clones share the count.
#[derive(Clone)]
pub(super) struct RecordLosses {
    metrics: Metrics,
    /// What no gap entry tells of yet, by the lot that was open.
    untold: Arc<Mutex<BTreeMap<Option<i64>, LossCounts>>>,
}

#[derive(Clone, Copy)]
struct LossCounts {
    verdicts: u64,
    pictures: u64,
    events: u64,
    /// When the first and the last of them were lost.
    span: (OffsetDateTime, OffsetDateTime),
}

impl RecordLosses {
    /// Nothing is lost yet.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, untold: Arc::default() }
    }

    /// A verdict of `lot` was lost, and its picture too if it was to be kept.
    pub fn verdict(&self, lot: Option<i64>, with_picture: bool) {
        self.lose(lot, 1, u64::from(with_picture), 0);
    }

    /// A picture was lost; its verdict, of `lot`, was not.
    pub fn picture(&self, lot: Option<i64>) {
        self.lose(lot, 0, 1, 0);
    }

    /// An event was lost that happened in `lot`.
    pub fn event(&self, lot: Option<i64>) {
        self.lose(lot, 0, 0, 1);
    }

    fn lose(&self, lot: Option<i64>, verdicts: u64, pictures: u64, events: u64) {
        for (kind, n) in [("verdict", verdicts), ("frame", pictures), ("event", events)] {
            self.metrics.store.record_dropped.with_label_values(&[kind]).inc_by(n);
        }
        let now = OffsetDateTime::now_utc();
        self.add(lot, LossCounts { verdicts, pictures, events, span: (now, now) });
    }

    fn add(&self, lot: Option<i64>, more: LossCounts) {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner); // whole after every step
        let sum = |lost: &mut LossCounts| {
            lost.verdicts += more.verdicts;
            lost.pictures += more.pictures;
            lost.events += more.events;
            lost.span = (lost.span.0.min(more.span.0), lost.span.1.max(more.span.1));
        };
        untold.entry(lot).and_modify(sum).or_insert(more);
    }

    /// Records what could not be recorded; if that fails, it is tried again the next time.
    pub async fn tell(&self, store: &Store) {
        let untold = std::mem::take(&mut *self.untold.lock().unwrap_or_else(PoisonError::into_inner));
        for (lot, lost) in untold {
            let LossCounts { verdicts, pictures, events, span: (from, to) } = lost;
            let gap = Event::Gap { lot, verdicts, pictures, events, from: Some(from), to: Some(to) };
            if let Err(e) = store.append_of(gap, OffsetDateTime::now_utc(), lot).await {
                tracing::warn!("a gap of {verdicts} verdicts, {pictures} pictures, {events} events can't be told: {e}");
                self.add(lot, lost);
            }
        }
    }
}
