//! Decides challenges as their items pass, and says when the next one is due.
//!
//! Invariant: it reads the store and never the line; a store that is slow delays a result, nothing else.

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    store::{Store, StoreError},
};

/// When challenges are due.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Longest time between two found challenges of a camera; zero: none is asked for.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

/// How often challenges are looked at.
const TICK: Duration = Duration::from_millis(500);

/// Runs until `stop`.
pub async fn watch(store: Store, settings: Settings, cameras: Vec<String>, metrics: Metrics, stop: CancellationToken) {
    let started = OffsetDateTime::now_utc();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        if let Err(e) = look(&store, &settings, &cameras, &metrics, started).await {
            metrics.store_errors.inc();
            tracing::warn!("challenges could not be looked at: {e}");
        }
    }
}

async fn look(
    store: &Store,
    settings: &Settings,
    cameras: &[String],
    metrics: &Metrics,
    started: OffsetDateTime,
) -> Result<(), StoreError> {
    let challenges = store.challenges(None).await?;
    let now = OffsetDateTime::now_utc();
    let mut last_found = HashMap::new();
    for challenge in &challenges {
        let found = match challenge.found {
            Some(found) => found,
            None => {
                let Some(found) = store.decide_challenge(challenge, now).await? else { continue };
                let outcome = if found { "found" } else { "missed" };
                metrics.challenges.with_label_values(&[outcome]).inc();
                if !found {
                    tracing::error!("challenge {} on {} was missed", challenge.challenge, challenge.camera);
                }
                found
            }
        };
        if found {
            last_found.insert(challenge.camera.as_str(), challenge.announced);
        }
    }
    for camera in cameras {
        let last = last_found.get(camera.as_str()).copied().unwrap_or(started);
        let overdue = !settings.every.is_zero() && now - last > settings.every;
        metrics.challenge_overdue.with_label_values(&[camera]).set(overdue.into());
    }
    let open = store.corrective_actions(None).await?.iter().filter(|action| action.closed.is_none()).count();
    metrics.corrective_open.set(open as i64);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Announcement;

    #[tokio::test]
    async fn a_challenge_that_nobody_sent_is_overdue_and_a_missed_one_shows_as_an_open_action() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let metrics = Metrics::new().unwrap();
        let settings = Settings { every: Duration::from_secs(3600) };
        let cameras = ["belt".to_string()];
        let overdue = || metrics.challenge_overdue.with_label_values(&["belt"]).get();
        let now = OffsetDateTime::now_utc();
        look(&store, &settings, &cameras, &metrics, now).await.unwrap();
        assert_eq!(overdue(), 0, "the service has just started");
        look(&store, &settings, &cameras, &metrics, now - Duration::from_secs(3601)).await.unwrap();
        assert_eq!(overdue(), 1);
        let said = Announcement {
            camera: "belt".into(),
            piece: "a shoe".into(),
            class: None,
            within_s: -2.0, // its time and the grace are over at once
            by: String::new(),
        };
        store.challenge(said).await.unwrap();
        for _ in 0..2 {
            look(&store, &settings, &cameras, &metrics, now).await.unwrap();
        }
        assert_eq!(metrics.challenges.with_label_values(&["missed"]).get(), 1, "once");
        assert_eq!(metrics.corrective_open.get(), 1);
    }
}
