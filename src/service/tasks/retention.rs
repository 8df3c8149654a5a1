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
            () = clock.news() => {} // what waited for it can go
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::{Action, Verdict, testing::verdict};

    #[tokio::test]
    async fn what_waits_for_the_clock_goes_as_soon_as_an_admin_confirms_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let time = OffsetDateTime::now_utc() - Duration::from_secs(90 * 86_400);
        store.insert(&[Verdict { time, ..verdict(Action::Accept) }]).await.unwrap();
        let rules = Retention { verdicts: Duration::from_secs(86_400), ..Retention::default() };
        let (clock, stop) = (Arc::new(Clock::asking(|| false)), CancellationToken::new());
        let (told, mut held) = watch::channel(Vec::new());
        let metrics = Metrics::new().unwrap();
        let retaining = tokio::spawn(retain(store.clone(), rules, clock.clone(), told, metrics, stop.clone()));
        let soon = Duration::from_secs(20);
        let waits = async |held: &mut watch::Receiver<Vec<String>>, for_it: bool| {
            let told = held.wait_for(|why| why.iter().any(|why| why.contains("vouches")) == for_it);
            tokio::time::timeout(soon, told).await.unwrap().map(drop).unwrap();
        };
        waits(&mut held, true).await;
        store.confirm_clock(&clock, "Ada").await.unwrap();
        waits(&mut held, false).await;
        stop.cancel();
        retaining.await.unwrap();
    }
}
