//! Decides challenge tests as their items pass, and says when the next one is due.
//!
//! Invariant: it reads the store and never the line; a store that is slow delays a result, nothing else.

use std::{collections::HashMap, time::Duration};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    store::{Challenge, Store, StoreError},
};

/// How often challenges are looked at.
const TICK: Duration = Duration::from_millis(500);

/// Runs until `stop`. `every` is the longest time between two found challenge tests of a camera; zero: none is asked for.
pub async fn watch(store: Store, every: Duration, cameras: Vec<String>, metrics: Metrics, stop: CancellationToken) {
    let mut watch = ChallengeWatch {
        store,
        every,
        cameras,
        metrics,
        started: OffsetDateTime::now_utc(),
        recorded: RecordedChallenges::default(),
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        if let Err(e) = watch.decide().await {
            watch.metrics.store.errors.inc();
            tracing::warn!("challenges could not be looked at: {e}");
        }
    }
}

struct ChallengeWatch {
    store: Store,
    every: Duration,
    cameras: Vec<String>,
    metrics: Metrics,
    started: OffsetDateTime,
    recorded: RecordedChallenges,
}

/// What the record said when it was last read.
#[derive(Default)]
struct RecordedChallenges {
    /// The newest event; read again when there is a newer one.
    event: i64,
    running: Vec<Challenge>,
    /// By camera, when the last found challenge was announced.
    found: HashMap<String, OffsetDateTime>,
}

impl ChallengeWatch {
    async fn decide(&mut self) -> Result<(), StoreError> {
        let event = self.store.newest_event().await?;
        if event != self.recorded.event {
            self.recorded = self.read_record(event).await?;
        }
        let now = OffsetDateTime::now_utc();
        for challenge in &self.recorded.running {
            let Some(found) = self.store.decide_challenge(challenge, now).await? else { continue };
            self.metrics.store.challenges.with_label_values(&[if found { "found" } else { "missed" }]).inc();
            if !found {
                tracing::error!("challenge {} on {} was missed", challenge.challenge, challenge.camera);
            }
            self.recorded.event = 0; // the rest next time, when all is read again
            return Ok(());
        }
        for camera in &self.cameras {
            let last = self.recorded.found.get(camera).copied().unwrap_or(self.started);
            let overdue = !self.every.is_zero() && now - last > self.every;
            self.metrics.store.challenge_overdue.with_label_values(&[camera]).set(overdue.into());
        }
        Ok(())
    }

    async fn read_record(&self, event: i64) -> Result<RecordedChallenges, StoreError> {
        let mut recorded = RecordedChallenges { event, ..RecordedChallenges::default() };
        for challenge in self.store.challenges(None).await? {
            match challenge.found {
                None => recorded.running.push(challenge),
                Some(true) => drop(recorded.found.insert(challenge.camera, challenge.announced)),
                Some(false) => {}
            }
        }
        let open = self.store.corrective_actions(None).await?.iter().filter(|action| action.closed.is_none()).count();
        self.metrics.store.corrective_open.set(open as i64);
        Ok(recorded)
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
        let mut watch = ChallengeWatch {
            store: Store::open(folder.path()).await.unwrap(),
            every: Duration::from_secs(3600),
            cameras: vec!["belt".into()],
            metrics: Metrics::new().unwrap(),
            started: OffsetDateTime::now_utc(),
            recorded: RecordedChallenges::default(),
        };
        let metrics = watch.metrics.clone();
        let overdue = || metrics.store.challenge_overdue.with_label_values(&["belt"]).get();
        watch.decide().await.unwrap();
        assert_eq!(overdue(), 0, "the service has just started");
        watch.started -= Duration::from_secs(3601);
        watch.decide().await.unwrap();
        assert_eq!(overdue(), 1);
        let announced = Announcement {
            camera: "belt".into(),
            piece: "a shoe".into(),
            class: None,
            within_s: -2.0, // its time and the grace are over at once
            by: String::new(),
        };
        watch.store.challenge(announced).await.unwrap();
        for _ in 0..4 {
            watch.decide().await.unwrap();
        }
        assert_eq!(metrics.store.challenges.with_label_values(&["missed"]).get(), 1, "once");
        assert_eq!(metrics.store.corrective_open.get(), 1);
    }
}
