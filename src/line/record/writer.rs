//! The recording task: takes verdicts and events from their queues and commits them.
//!
//! Invariant: a verdict is sent on only after its commit.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    QueuedEvent, QueuedVerdict, frames::keep_frames, losses::RecordLosses, preface::Preface, retry::StoreRetry,
};
use crate::{domain::Verdict, metrics::Metrics, store::Store};

/// Most verdicts in one transaction.
const BATCH: usize = 256;
/// How often a gap that goes on is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Writes verdicts in batches, each in one transaction; committed ones go to `recorded`. After `stop` it writes what waits
/// and ends.
pub(super) async fn write_verdicts(
    mut records: mpsc::Receiver<QueuedVerdict>,
    store: Store,
    losses: RecordLosses,
    metrics: Metrics,
    recorded: broadcast::Sender<Arc<Verdict>>,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut preface = Preface::new();
    let mut retry = StoreRetry::new(metrics.clone(), stop.clone());
    let mut ticks = interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            taken = records.recv_many(&mut batch, BATCH) => if taken == 0 { return },
            () = stop.cancelled(), if !records.is_closed() => records.close(), // no new ones; what waits is written
            _ = ticks.tick() => losses.tell(&store).await,
        }
        metrics.line.queue_depth.with_label_values(&["record"]).set(records.len() as i64);
        if batch.is_empty() {
            continue;
        }
        let events = preface.events_before(&mut batch);
        let (verdicts, draws, told) = keep_frames(batch.drain(..), &store, &losses, &metrics).await;
        let commit = || async {
            let timer = metrics.store.commit_seconds.start_timer();
            let outcome = store.insert_drawn(&events, &verdicts, &draws).await;
            timer.observe_duration();
            outcome
        };
        match retry.until_done(commit).await {
            Ok((ids, failures)) => {
                metrics.store.recorded.inc_by(ids.len() as u64);
                for ((verdict, id), committed) in verdicts.into_iter().zip(ids).zip(told) {
                    // Both fail only while nobody listens.
                    let _ = committed.send(id);
                    let _ = recorded.send(Arc::new(Verdict { id, ..verdict }));
                }
                if failures > 0 {
                    losses.tell(&store).await; // the store is back
                }
            }
            Err(e) => {
                tracing::error!("{} verdicts are lost: {e}", verdicts.len());
                verdicts.iter().for_each(|verdict| losses.verdict(verdict.lot, false)); // their pictures were kept
                preface.forget_model();
            }
        }
    }
}

/// Writes events one by one. After `stop` it writes what waits and ends.
pub(super) async fn write_events(
    mut events: mpsc::Receiver<QueuedEvent>,
    store: Store,
    losses: RecordLosses,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut retry = StoreRetry::new(metrics, stop.clone());
    loop {
        let QueuedEvent { time, lot, event } = tokio::select! {
            biased;
            event = events.recv() => match event { Some(event) => event, None => return },
            () = stop.cancelled(), if !events.is_closed() => {
                events.close();
                continue;
            }
        };
        if let Err(e) = retry.until_done(|| store.append_of(event.clone(), time, lot)).await {
            tracing::error!("an event could not be recorded: {e}: {event:?}");
            losses.event(event.happened_in().or(lot));
        }
    }
}
