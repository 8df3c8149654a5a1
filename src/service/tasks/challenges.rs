//! Decides challenge tests as their items pass, and says when the next one is due.
//!
//! Invariant: it reads the store and never the line; a store that is slow delays a result, nothing else.

use std::{collections::BTreeMap, time::Duration};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::Action,
    line::eject::{
        Ejector,
        answers::{GateAnswers, GateState},
    },
    metrics::Metrics,
    store::{Challenge, GateResult, PlannedChallenge, Store, StoreError, TakenOff},
};

/// How often challenges are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How long the answer about an item's gate is waited for: as long as an item may take to its gate, and some seconds.
const ANSWERED: time::Duration = time::Duration::seconds(630);

/// Runs until `stop`. `plan` holds what is to be sent through and on which camera; `ejector`, what moves the gates.
pub async fn watch(
    store: Store,
    plan: Vec<(String, PlannedChallenge)>,
    ejector: Option<Ejector>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut watch = ChallengeWatch::new(store, plan, ejector, metrics);
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
    plan: Vec<(String, PlannedChallenge)>,
    /// The gates, and what they answered since the service started.
    gates: Option<(Ejector, GateAnswers)>,
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
    /// By camera, when the next planned challenge is due.
    due: BTreeMap<String, OffsetDateTime>,
}

impl ChallengeWatch {
    fn new(store: Store, plan: Vec<(String, PlannedChallenge)>, ejector: Option<Ejector>, metrics: Metrics) -> Self {
        let gates = ejector.map(|ejector| (ejector.clone(), GateAnswers::new(ejector.answers())));
        let (started, recorded) = (OffsetDateTime::now_utc(), RecordedChallenges::default());
        Self { store, plan, gates, metrics, started, recorded }
    }

    async fn decide(&mut self) -> Result<(), StoreError> {
        if let Some((_, answers)) = &mut self.gates {
            answers.take_in();
        }
        let event = self.store.newest_event().await?;
        if event != self.recorded.event {
            self.recorded = self.read_record(event).await?;
        }
        let now = OffsetDateTime::now_utc();
        for challenge in &self.recorded.running {
            let became = |item: &TakenOff| self.became(challenge, item, now);
            let Some(found) = self.store.decide_challenge(challenge, now, became).await? else { continue };
            self.metrics.store.challenges.with_label_values(&[if found { "found" } else { "missed" }]).inc();
            if !found {
                tracing::error!("challenge {} on {} was missed", challenge.challenge, challenge.camera);
            }
            self.recorded.event = 0; // the rest next time, when all is read again
            return Ok(());
        }
        for (camera, due) in &self.recorded.due {
            self.metrics.store.challenge_overdue.with_label_values(&[camera]).set((now > *due).into());
        }
        Ok(())
    }

    /// What became of the command for an item. Of one that was judged before the service started nobody knows.
    fn became(&self, challenge: &Challenge, item: &TakenOff, now: OffsetDateTime) -> GateResult {
        let action = if item.action == Action::Divert.name() { Action::Divert } else { Action::Reject };
        let Some((ejector, answers)) = &self.gates else { return GateResult::NoGate };
        let Some(duty) = ejector.duty(&challenge.camera, action) else { return GateResult::NoGate };
        match answers.state(&duty, &challenge.camera, item.track, item.time) {
            GateState::Moved => GateResult::Moved { sensor: duty.sensor },
            GateState::Unconfirmed => GateResult::Unconfirmed,
            GateState::Silent(why) => GateResult::Silent(why),
            GateState::Pending if item.time < self.started => {
                GateResult::Silent("the service started anew before all had answered".into())
            }
            GateState::Pending if now > item.time + ANSWERED => {
                GateResult::Silent(format!("nothing came of it within {ANSWERED}"))
            }
            GateState::Pending => GateResult::Pending,
        }
    }

    async fn read_record(&self, event: i64) -> Result<RecordedChallenges, StoreError> {
        let mut recorded = RecordedChallenges { event, ..RecordedChallenges::default() };
        for challenge in self.store.challenges(None).await? {
            if challenge.found.is_none() {
                recorded.running.push(challenge);
            }
        }
        for one in self.store.challenges_due(&self.plan, OffsetDateTime::now_utc()).await? {
            recorded.due.entry(one.camera).or_insert(one.due); // the first is the most urgent
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
    use crate::{
        domain::{Region, Source, Verdict, testing::verdict},
        store::Announcement,
    };

    #[tokio::test]
    async fn a_challenge_that_nobody_sent_is_overdue_and_a_missed_one_shows_as_an_open_action() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let planned = |every| {
            let every = Duration::from_millis(every);
            vec![("belt".to_owned(), PlannedChallenge { piece: "a shoe".into(), class: None, every })]
        };
        let metrics = Metrics::new().unwrap();
        let overdue = || metrics.store.challenge_overdue.with_label_values(&["belt"]).get();
        let mut watch = ChallengeWatch::new(store.clone(), planned(3_600_000), None, metrics.clone());
        watch.decide().await.unwrap();
        assert_eq!(overdue(), 0, "the record has just begun");
        // A service that starts anew every day asks all the same.
        let mut watch = ChallengeWatch::new(store, planned(1), None, metrics.clone());
        tokio::time::sleep(Duration::from_millis(2)).await;
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

    #[tokio::test]
    async fn a_piece_that_was_judged_but_whose_gate_is_unplugged_is_missed() {
        // A port that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "[[gate]]
            name = 'out'
            camera = 'belt'
            actions = ['reject', 'divert']
            speed = '1.25m/s'
            scale = '2mm/px'
            distance = '400mm'
            coil = 0
            [[output]]
            kind = 'modbus'
            address = '127.0.0.1:{port}'
            pulse = '30ms'
            heartbeat = 100
            tolerance = '8ms'
            on_late = 'alarm'"
        );
        let metrics = Metrics::new().unwrap();
        let alive = crate::line::eject::output::alive::LineAlive::default();
        let (ejector, running) = Ejector::start(toml::from_str(&settings).unwrap(), &metrics, alive, |_| ()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mut watch = ChallengeWatch::new(store.clone(), Vec::new(), Some(ejector.clone()), metrics);
        let (camera, piece, by) = ("belt".into(), "a shoe".into(), String::new());
        store.challenge(Announcement { camera, piece, class: None, within_s: 0.01, by }).await.unwrap();
        let item = Verdict {
            source: Source::Belt,
            camera: "belt".into(),
            time: OffsetDateTime::now_utc(),
            region: Some(Region { x: 50, y: 0, width: 100, height: 50 }),
            ..verdict(Action::Reject)
        };
        ejector.act(&item, std::time::Instant::now(), None);
        store.insert(&[item]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2100)).await; // the challenge's grace
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let told = loop {
            watch.decide().await.unwrap();
            let told = store.challenges(None).await.unwrap().remove(0);
            if told.found.is_some() || std::time::Instant::now() > deadline {
                break told;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!((told.found, told.verdict, told.acknowledged), (Some(false), Some(1), Some(false)), "{told:?}");
        assert!(told.why.contains("but the gate did not answer: modbus"), "{}", told.why);
        tokio::task::spawn_blocking(|| running.close()).await.unwrap();
    }
}
