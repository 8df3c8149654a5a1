//! Watches how much room the store's disk has: a full one costs verdicts.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{metrics::Metrics, store::Store};

/// How often it is looked at.
const TICK: Duration = Duration::from_secs(10);

/// Runs until `stop`.
pub async fn watch(store: Store, metrics: Metrics, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match store.free_bytes().await {
            Ok(free) => metrics.store.free_bytes.set(i64::try_from(free).unwrap_or(i64::MAX)),
            Err(e) => tracing::warn!("how full the store's disk is can't be told: {e}"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}
