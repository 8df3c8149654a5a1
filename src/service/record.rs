//! The record while the service runs: opened with an entry that it started, written to, closed with one that it stopped.

use std::sync::Arc;

use anyhow::Result;
use time::OffsetDateTime;
use tokio::{sync::broadcast, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::tasks::anchor::Anchors;
use crate::{
    config::Config,
    domain::Verdict,
    line::record::Recorder,
    metrics::Metrics,
    store::{Event, Store, StoreError},
};

/// The open store and the task that writes to it.
pub(super) struct OpenRecord {
    pub store: Store,
    /// Ends the writer after it wrote what waits: a token of its own, for recording outlives the line, so that the last
    /// verdicts are written too.
    pub stop_writer: CancellationToken,
    pub writer: JoinHandle<()>,
    /// Set where the service before did not stop in order, or nobody knows: its last sign, if there is one.
    pub crashed: Option<Option<OffsetDateTime>>,
}

impl OpenRecord {
    /// Opens the store and starts the writer; what it committed goes to `recorded` too.
    ///
    /// # Errors
    /// When the store can't be opened.
    pub(super) async fn start(
        config: &Config,
        metrics: &Metrics,
        recorded: broadcast::Sender<Arc<Verdict>>,
    ) -> Result<(Self, Recorder)> {
        let store = Store::open(&config.store.folder).await?;
        let crashed = append_start(&store).await.unwrap_or_else(|e| {
            // The line goes on without a store, so it starts without one too; what is lost is counted.
            metrics.store.record_dropped.with_label_values(&["event"]).inc();
            tracing::error!("the start could not be recorded: {e}");
            Some(None)
        });
        log_head(&store).await;
        let stop_writer = CancellationToken::new();
        let (recorder, writer) = Recorder::start(
            store.clone(),
            &config.record,
            config.rounds.held_out_share,
            metrics.clone(),
            recorded,
            stop_writer.clone(),
        );
        Ok((Self { store, stop_writer, writer, crashed }, recorder))
    }
}

/// Records the start; the last sign of the service before, where that did not stop in order.
async fn append_start(store: &Store) -> Result<Option<Option<OffsetDateTime>>, StoreError> {
    let started = store.starting(env!("CARGO_PKG_VERSION")).await?;
    let crashed = match &started {
        Event::Started { after_stop: false, down_since, .. } => Some(*down_since),
        _ => None,
    };
    store.append(started).await?;
    Ok(crashed)
}

/// Closes the store, whose writer has ended.
pub(super) async fn close(store: Store, anchors: Anchors) {
    if let Err(e) = store.append(Event::Stopped).await {
        tracing::error!("the end could not be recorded: {e}");
    }
    log_head(&store).await;
    anchors.last(&store).await;
    store.close().await;
}

/// Logs where the record ends, for `beltsight record verify --kept`.
async fn log_head(store: &Store) {
    match store.head().await {
        Ok((entry, hash)) => tracing::info!("the record ends at {entry}:{hash}"),
        Err(e) => tracing::error!("{e}"),
    }
}
