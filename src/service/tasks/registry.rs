//! Follows the registry, so that `beltsight models promote` and `rollback` reach a running service, and the record.
//!
//! Invariant: only an entry that came after the service started loads a student, and each is tried once. What is to serve is
//! compared with the record's newest row about it at the start, at every look, and once more at the stop.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use crate::{
    line::swap::Swapper,
    metrics::Metrics,
    store::{ServingChange, Store},
    student::{registry::Registry, to_serve::ToServe},
};

/// How often the registry of what serves is looked at.
const TICK: Duration = Duration::from_millis(200);

/// Tells the record what is to serve.
pub struct ServingNotes {
    registry: Registry,
    store: Store,
    metrics: Metrics,
    /// What the record was told last.
    told: Option<ToServe>,
    /// Why it could not be told the last time.
    failed: String,
}

impl ServingNotes {
    /// Compares what is to serve with what the record says, before anything else does.
    pub async fn start(registry: Registry, store: Store, metrics: Metrics) -> Self {
        let mut notes = Self { registry, store, metrics, told: None, failed: String::new() };
        notes.note(true).await;
        notes
    }

    /// Adds what changed; what fails is tried again at the next look and said once.
    async fn note(&mut self, start: bool) {
        match self.compare(start).await {
            Ok(()) => self.failed.clear(),
            Err(e) => {
                let why = format!("{e:#}");
                if why != self.failed {
                    tracing::error!("what is to serve can't be recorded: {why}");
                    self.metrics.store.errors.inc();
                }
                self.failed = why;
            }
        }
    }

    async fn compare(&mut self, start: bool) -> Result<()> {
        let registry = self.registry.clone();
        let now = tokio::task::spawn_blocking(move || ToServe::read(&registry)).await??;
        if self.told.as_ref() == Some(&now) {
            return Ok(());
        }
        for ServingChange { change, who, why, before, version, .. } in self.store.note_serving(&now, start).await? {
            if change == "edited" {
                self.metrics.student.edits.inc();
                tracing::error!("{why}; the record said {before}, now {version} is to serve");
            } else if start && change != "first" {
                tracing::warn!("while the service was down, {who} had {version} serve instead of {before}: {why}");
            }
        }
        self.told = Some(now);
        Ok(())
    }
}

/// Runs until `stop`.
pub async fn follow(mut notes: ServingNotes, swapper: Arc<Swapper>, stop: CancellationToken) {
    let mut known = notes.registry.history().map_or(0, |history| history.len());
    loop {
        tokio::select! {
            () = stop.cancelled() => return notes.note(false).await,
            () = tokio::time::sleep(TICK) => {}
        }
        let (registry, swapper) = (notes.registry.clone(), swapper.clone());
        match tokio::task::spawn_blocking(move || catch_up(&registry, &swapper, known)).await {
            Ok(Ok(entries)) => known = entries,
            Ok(Err(e)) => tracing::error!("the registry of what serves can't be followed: {e:#}"),
            Err(e) => tracing::error!("{e}"),
        }
        notes.note(false).await;
    }
}

/// Loads the student that is to serve if the registry got entries beyond the first `known`; returns how many it has.
fn catch_up(registry: &Registry, swapper: &Swapper, known: usize) -> Result<usize> {
    let (entries, other) = look(registry, swapper)?;
    if entries == known || other.is_none() {
        return Ok(entries);
    }
    // Whoever is changing it from within this service has yet to write the entry: look again then.
    let Ok(turn) = swapper.try_turn() else { return Ok(known) };
    let (entries, other) = look(registry, swapper)?;
    if let Some(version) = other {
        // One that is refused is not tried again: the refusal is in the log, and the line goes on.
        let _ = swapper.load(&version, &turn);
    }
    Ok(entries)
}

/// How many entries the registry has, and the version that is to serve where another one serves.
fn look(registry: &Registry, swapper: &Swapper) -> Result<(usize, Option<String>)> {
    let entries = registry.history()?.len();
    let version = registry.stack()?.pop().context("no version")?;
    Ok((entries, (swapper.infer.card().version != version).then_some(version)))
}
