//! Removes what is older than it has to be kept, or more, every hour, says what it holds back, and tells when it was done last.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    store::{Clock, HeldBack, Retention, RetentionState, Store},
};

/// How often what is too old is looked for.
const TICK: Duration = Duration::from_secs(3600);

/// Runs until `stop`, also when everything is kept for ever: then it is done at once. Why something stays whose time is over
/// goes to `held`.
pub async fn retain(
    store: Store,
    rules: Retention,
    clock: Arc<Clock>,
    held: watch::Sender<Vec<String>>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut state = None;
    let done = || metrics.store.retention_last.set(OffsetDateTime::now_utc().unix_timestamp());
    done(); // one that fails from the start on is overdue from the start on
    while !stop.is_cancelled() {
        match pass(&store, &rules, &clock, &mut state).await {
            Ok(()) => done(),
            Err(e) => {
                metrics.store.errors.inc();
                tracing::error!("retention: {e}");
            }
        }
        if let Some(state) = &state {
            for why in HeldBack::ALL {
                let told = state.held.get(&why).map_or(0, Vec::len);
                metrics.store.retention_held.with_label_values(&[why.name()]).set(told as i64);
            }
            let words: Vec<String> = state.held.values().flatten().cloned().collect();
            words.iter().for_each(|why| tracing::warn!("retention holds back: {why}"));
            held.send_replace(words);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn pass(
    store: &Store,
    rules: &Retention,
    clock: &Clock,
    state: &mut Option<RetentionState>,
) -> Result<(), crate::store::StoreError> {
    if *rules == Retention::default() {
        return Ok(());
    }
    let state = match state {
        Some(state) => state,
        none => none.insert(RetentionState::starting(store).await?),
    };
    let removed = store.retain(rules, OffsetDateTime::now_utc(), clock.vouched_for(), state).await?;
    tracing::info!("retention: {removed:?}");
    Ok(())
}
