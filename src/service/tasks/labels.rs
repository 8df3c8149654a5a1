//! Counts labels: the gauges of what waits for a label and of how far people agree.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{metrics::Metrics, store::Store};

/// How often labels are counted.
const TICK: Duration = Duration::from_secs(10);

/// Runs until `stop`.
pub async fn count(store: Store, metrics: Metrics, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match (store.unlabeled().await, store.agreement().await) {
            (Ok(waiting), Ok(agreement)) => {
                metrics.store.label_queue.set(waiting as i64);
                metrics.store.label_kappa.set(agreement.kappa.unwrap_or(f64::NAN));
            }
            (Err(e), _) | (_, Err(e)) => tracing::warn!("labels can't be counted: {e}"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}
