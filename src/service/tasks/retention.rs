//! Removes what is older than it has to be kept, every hour.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    store::{Retention, Store},
};

/// How often what is too old is looked for.
const TICK: Duration = Duration::from_secs(3600);

/// Runs until `stop`; returns at once when everything is kept for ever.
pub async fn retain(store: Store, rules: Retention, metrics: Metrics, stop: CancellationToken) {
    while rules != Retention::default() {
        match store.retain(&rules, OffsetDateTime::now_utc()).await {
            Ok(removed) => tracing::info!("retention: {removed:?}"),
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
