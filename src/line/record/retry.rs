//! A store that fails is tried again until it works or the service stops, so a short trouble costs nothing.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{metrics::Metrics, store::StoreError};

/// What failed is tried again after these pauses, then after the last one again and again; while the service stops,
/// only so often.
const PAUSES: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1)];
/// One failure in so many is logged once the first few were.
const LOG_EVERY: u32 = 60;

/// Tries again what the store refuses, and knows how often in a row it did.
pub(super) struct StoreRetry {
    metrics: Metrics,
    stop: CancellationToken,
    /// Failures since the store last worked.
    failures: u32,
}

impl StoreRetry {
    /// Nothing has failed yet.
    pub fn new(metrics: Metrics, stop: CancellationToken) -> Self {
        Self { metrics, stop, failures: 0 }
    }

    /// Does `what` until it succeeds, and says how often it failed before. Gives up what can never succeed, and, once
    /// the service stops, what has failed often enough.
    pub async fn until_done<T, F: Future<Output = Result<T, StoreError>>>(
        &mut self,
        what: impl Fn() -> F,
    ) -> Result<(T, u32), StoreError> {
        loop {
            let error = match what().await {
                Ok(done) => return Ok((done, std::mem::take(&mut self.failures))),
                Err(e) => e,
            };
            self.metrics.store.errors.inc();
            self.failures += 1;
            let often = self.failures as usize > PAUSES.len();
            if !error.may_pass() || often && self.stop.is_cancelled() {
                return Err(error);
            }
            if !often || self.failures.is_multiple_of(LOG_EVERY) {
                tracing::warn!("{error}; trying again");
            }
            let pause = PAUSES[(self.failures as usize).min(PAUSES.len()) - 1];
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled(), if often => {}
            }
        }
    }
}
