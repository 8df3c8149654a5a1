//! Removes what is older than it has to be kept, every hour, and tells when it was done last.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    store::{Retention, Store},
};

/// How often what is too old is looked for.
const TICK: Duration = Duration::from_secs(3600);

/// Runs until `stop`, also when everything is kept for ever: then it is done at once.
pub async fn retain(store: Store, rules: Retention, metrics: Metrics, stop: CancellationToken) {
    let done = || metrics.store.retention_last.set(OffsetDateTime::now_utc().unix_timestamp());
    done(); // one that fails from the start on is overdue from the start on
    while !stop.is_cancelled() {
        match store.retain(&rules, OffsetDateTime::now_utc()).await {
            Ok(removed) => {
                done();
                if rules != Retention::default() {
                    tracing::info!("retention: {removed:?}");
                }
            }
            Err(e) => {
                metrics.store.errors.inc();
                tracing::error!("retention: {e}");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}
