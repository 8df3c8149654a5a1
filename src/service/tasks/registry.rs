//! Follows the registry, so that `beltsight models promote` and `rollback` reach a running service.
//!
//! Invariant: only an entry that came after the service started loads a student, and each is tried once.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use crate::{line::swap::Swapper, student::registry::Registry};

/// How often the registry of what serves is looked at.
const TICK: Duration = Duration::from_millis(200);

/// Runs until `stop`.
pub async fn follow(registry: Registry, swapper: Arc<Swapper>, stop: CancellationToken) {
    let mut known = registry.history().map_or(0, |history| history.len());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let (registry, swapper) = (registry.clone(), swapper.clone());
        match tokio::task::spawn_blocking(move || catch_up(&registry, &swapper, known)).await {
            Ok(Ok(entries)) => known = entries,
            Ok(Err(e)) => tracing::error!("the registry of what serves can't be followed: {e:#}"),
            Err(e) => tracing::error!("{e}"),
        }
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
