//! Decides challenges as their items pass, and says when the next one is due.
//!
//! Invariant: it reads the store and never the line; a store that is slow delays a result, nothing else.

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    store::{Challenge, Store, StoreError},
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
    let mut watch =
        Watch { store, settings, cameras, metrics, started: OffsetDateTime::now_utc(), seen: Seen::default() };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        if let Err(e) = watch.look().await {
            watch.metrics.store_errors.inc();
            tracing::warn!("challenges could not be looked at: {e}");
        }
    }
}

struct Watch {
    store: Store,
    settings: Settings,
    cameras: Vec<String>,
    metrics: Metrics,
    started: OffsetDateTime,
    seen: Seen,
}

/// What the record said when it was last read.
#[derive(Default)]
struct Seen {
    /// The newest event; read again when there is a newer one.
    event: i64,
    running: Vec<Challenge>,
    /// By camera, when the last found challenge was announced.
    found: HashMap<String, OffsetDateTime>,
}

impl Watch {
    async fn look(&mut self) -> Result<(), StoreError> {
        let event = self.store.newest_event().await?;
        if event != self.seen.event {
            self.seen = self.read(event).await?;
        }
        let now = OffsetDateTime::now_utc();
        for challenge in &self.seen.running {
            let Some(found) = self.store.decide_challenge(challenge, now).await? else { continue };
            self.metrics.challenges.with_label_values(&[if found { "found" } else { "missed" }]).inc();
            if !found {
                tracing::error!("challenge {} on {} was missed", challenge.challenge, challenge.camera);
            }
            self.seen.event = 0; // the rest next time, when all is read again
            return Ok(());
        }
        for camera in &self.cameras {
            let last = self.seen.found.get(camera).copied().unwrap_or(self.started);
            let overdue = !self.settings.every.is_zero() && now - last > self.settings.every;
            self.metrics.challenge_overdue.with_label_values(&[camera]).set(overdue.into());
        }
        Ok(())
    }

    async fn read(&self, event: i64) -> Result<Seen, StoreError> {
        let mut seen = Seen { event, ..Seen::default() };
        for challenge in self.store.challenges(None).await? {
            match challenge.found {
                None => seen.running.push(challenge),
                Some(true) => drop(seen.found.insert(challenge.camera, challenge.announced)),
                Some(false) => {}
            }
        }
        let open = self.store.corrective_actions(None).await?.iter().filter(|action| action.closed.is_none()).count();
        self.metrics.corrective_open.set(open as i64);
        Ok(seen)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Announcement;

    #[tokio::test]
    async fn a_challenge_that_nobody_sent_is_overdue_and_a_missed_one_shows_as_an_open_action() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch {
            store: Store::open(folder.path()).await.unwrap(),
            settings: Settings { every: Duration::from_secs(3600) },
            cameras: vec!["belt".into()],
            metrics: Metrics::new().unwrap(),
            started: OffsetDateTime::now_utc(),
            seen: Seen::default(),
        };
        let metrics = watch.metrics.clone();
        let overdue = || metrics.challenge_overdue.with_label_values(&["belt"]).get();
        watch.look().await.unwrap();
        assert_eq!(overdue(), 0, "the service has just started");
        watch.started -= Duration::from_secs(3601);
        watch.look().await.unwrap();
        assert_eq!(overdue(), 1);
        let said = Announcement {
            camera: "belt".into(),
            piece: "a shoe".into(),
            class: None,
            within_s: -2.0, // its time and the grace are over at once
            by: String::new(),
        };
        watch.store.challenge(said).await.unwrap();
        for _ in 0..4 {
            watch.look().await.unwrap();
        }
        assert_eq!(metrics.challenges.with_label_values(&["missed"]).get(), 1, "once");
        assert_eq!(metrics.corrective_open.get(), 1);
    }
}
