//! Challenge tests and corrective actions.
//!
//! A known wrong piece is announced, sent through, and must be taken off the belt: rejected or diverted, within the time
//! announced, by the camera announced; its gate must acknowledge the command, and the sensor after it, where there is one,
//! see it leave. If it is not, a corrective action is opened, which says since when the line is in doubt; the sign-offs of the
//! lots in doubt are withdrawn. It is closed after another challenge on that camera was found. Without the piece's class any
//! rejected item in that time counts as the piece, so announce just before.
//!
//! Invariant: every challenge gets exactly one result, also when the service was down in between; doubt is a miss.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    chain::{self, extend, no_head, tail},
    event::{Entry, Event},
    lots::withdrawals,
};
use crate::store::{Store, StoreError};

/// How long after the announced time a verdict may still come into the store.
const GRACE: time::Duration = time::Duration::seconds(2);

/// What somebody announces.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The camera it will pass.
    pub camera: String,
    /// What it is, in words.
    pub piece: String,
    /// Set: only an item that is taken for this class counts as found.
    pub class: Option<String>,
    /// It passes within this many seconds.
    pub within_s: f64,
    /// Who sends it.
    pub by: String,
}

/// An item that was rejected or diverted while a challenge ran.
#[derive(Clone, Debug)]
pub struct TakenOff {
    /// Its verdict.
    pub verdict: i64,
    /// Its track number on the challenge's camera.
    pub track: u64,
    /// When its picture was taken.
    pub time: OffsetDateTime,
    /// `reject` or `divert`.
    pub action: String,
}

/// What became of the command for such an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateResult {
    /// No gate is configured: the verdict alone counts, and the result says so.
    NoGate,
    /// Not all that must answer have.
    Pending,
    /// The gate acknowledged; its sensor saw the item leave, where there is one.
    Moved {
        /// Whether there is a sensor.
        sensor: bool,
    },
    /// The gate did not answer, in words.
    Silent(String),
    /// The gate acknowledged, and its sensor did not see the item leave.
    Unconfirmed,
}

/// A known wrong piece that is to be sent through again and again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedChallenge {
    /// What it is, in words; a challenge announced with these words is one of it.
    pub piece: String,
    /// Only an item that is taken for this class counts as found; absent: any item that is rejected or diverted.
    pub class: Option<String>,
    /// Longest time between two found challenges of it.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

/// When a planned challenge is due.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ChallengeDue {
    /// The camera.
    pub camera: String,
    /// The piece in words; empty: any.
    pub piece: String,
    /// The class that it has to be taken for, if any.
    pub class: Option<String>,
    /// Seconds between two found ones, at most.
    pub every_s: f64,
    /// When the last one that was found was announced (RFC 3339); `null`: never.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub last_found: Option<OffsetDateTime>,
    /// When the next one is due (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub due: OffsetDateTime,
    /// Whether that is over.
    pub overdue: bool,
}

/// A challenge and how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Challenge {
    /// Its number: the place of its announcement in the record.
    pub challenge: i64,
    /// When it was announced (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub announced: OffsetDateTime,
    /// The lot that was open.
    pub lot: Option<i64>,
    /// The camera.
    pub camera: String,
    /// The piece in words.
    pub piece: String,
    /// The class that it had to be taken for, if any.
    pub class: Option<String>,
    /// Seconds it had.
    pub within_s: f64,
    /// Who announced it.
    pub by: String,
    /// Whether it was taken off the belt; `null` until that is decided.
    pub found: Option<bool>,
    /// The verdict that took it off.
    pub verdict: Option<i64>,
    /// Items that passed in that time.
    pub items: Option<i64>,
    /// Whether the gate acknowledged the command; `null` where no gate is configured, or nothing was taken off.
    pub acknowledged: Option<bool>,
    /// Whether the sensor after the gate saw it leave; `null` where there is none.
    pub confirmed: Option<bool>,
    /// Why it was missed, in words; empty otherwise.
    pub why: String,
    #[serde(skip)]
    after_verdict: i64,
}

/// Something that must be put right.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct CorrectiveAction {
    /// Its number: the place of its opening in the record.
    pub action: i64,
    /// When it was opened (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub opened: OffsetDateTime,
    /// The lot that was open when the challenge was announced.
    pub lot: Option<i64>,
    /// The lots that are in doubt: all that were open since the last challenge that was found.
    pub lots: Vec<i64>,
    /// The challenge that was missed.
    pub challenge: i64,
    /// Its camera; empty where the record does not say.
    pub camera: String,
    /// A challenge on that camera that was found after this was opened; it can't be closed before. `null`: none yet.
    pub retest: Option<i64>,
    /// What happened, in words.
    pub cause: String,
    /// Since when what passed is in doubt (RFC 3339): the last challenge that was found; `null`: never.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub last_good: Option<OffsetDateTime>,
    /// When it was closed (RFC 3339); `null` while it is open.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub closed: Option<OffsetDateTime>,
    /// What was done.
    pub done: String,
    /// Who did it.
    pub by: String,
}

impl Store {
    /// Announces a challenge; returns its number.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn challenge(&self, said: Announcement) -> Result<i64, StoreError> {
        let after_verdict = self.newest_verdict().await?;
        let Announcement { camera, piece, class, within_s, by } = said;
        let lot = self.open_lot();
        self.append(Event::Challenge { lot, camera, piece, class, within_s, after_verdict, by }).await
    }

    /// Challenges, oldest first; `lot`: only those announced in it.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn challenges(&self, lot: Option<i64>) -> Result<Vec<Challenge>, StoreError> {
        Ok(gather_challenges(&self.events(&["challenge", "challenge_result"], lot).await?))
    }

    /// Corrective actions, oldest first; `lot`: only those that put it in doubt.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn corrective_actions(&self, lot: Option<i64>) -> Result<Vec<CorrectiveAction>, StoreError> {
        let mut actions: Vec<CorrectiveAction> = Vec::new();
        for Entry { seq, time, event } in self.events(&["corrective_opened", "corrective_closed"], None).await? {
            match event {
                Event::CorrectiveOpened { lot, challenge, cause, last_good, lots } => actions.push(CorrectiveAction {
                    action: seq,
                    opened: time,
                    lot,
                    // An older record names only the one.
                    lots: if lots.is_empty() { lot.into_iter().collect() } else { lots },
                    challenge,
                    camera: String::new(),
                    retest: None,
                    cause,
                    last_good,
                    closed: None,
                    done: String::new(),
                    by: String::new(),
                }),
                Event::CorrectiveClosed { action, done, by, .. } => {
                    if let Some(action) = actions.iter_mut().find(|a| a.action == action) {
                        (action.closed, action.done, action.by) = (Some(time), done, by);
                    }
                }
                _ => {}
            }
        }
        actions.retain(|action| lot.is_none_or(|lot| action.lots.contains(&lot)));
        if actions.is_empty() {
            return Ok(actions);
        }
        let challenges = self.challenges(None).await?;
        for action in &mut actions {
            let missed = challenges.iter().find(|c| c.challenge == action.challenge);
            action.camera = missed.map(|c| c.camera.clone()).unwrap_or_default();
            let on_it = |c: &&Challenge| missed.is_none_or(|missed| c.proves_again(missed));
            let after = challenges.iter().filter(|c| c.challenge > action.action && c.found == Some(true));
            action.retest = after.filter(on_it).map(|c| c.challenge).next();
        }
        Ok(actions)
    }

    /// Closes a corrective action.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when there is none of that number, it is closed, or no challenge was found on its camera since
    /// it was opened; [`StoreError::Database`].
    pub async fn close_corrective_action(&self, action: i64, done: &str, by: &str) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?; // held until the end: it is closed once
        let actions = self.corrective_actions(None).await?;
        let Some(found) = actions.into_iter().find(|a| a.action == action) else {
            return Err(StoreError::Refused(format!("there is no corrective action {action}")));
        };
        if found.closed.is_some() {
            return Err(StoreError::Refused(format!("corrective action {action} is closed already")));
        }
        let CorrectiveAction { lot, lots, camera, retest, .. } = found;
        if retest.is_none() {
            return Err(StoreError::Refused(format!(
                "corrective action {action} needs a re-test: send the piece that was missed through again on camera {camera}; \
                 it can be closed after that challenge test was found"
            )));
        }
        let closed = [chain::event(Event::CorrectiveClosed { action, lot, lots, done: done.into(), by: by.into() })?];
        let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
        extend(&mut transaction, self.signer()?, tail, &closed).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Decides a challenge if it can be decided at `now`: found as soon as an item was taken off and `became` says that its
    /// gate moved, missed when its time and [`GRACE`] are over and no answer of a gate is pending; a miss opens a corrective
    /// action and withdraws sign-offs in the same step. `true` for found.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn decide_challenge(
        &self,
        asked: &Challenge,
        now: OffsetDateTime,
        became: impl Fn(&TakenOff) -> GateResult,
    ) -> Result<Option<bool>, StoreError> {
        let passed = self.passed(asked).await?;
        let taken_off = passed.iter().filter_map(|(item, class)| {
            let it = item.action != "accept" && (asked.class.is_none() || *class == asked.class);
            it.then(|| (item, became(item)))
        });
        let mut taken_off: Vec<_> = taken_off.collect();
        if !taken_off.is_empty() {
            // An item is the piece of one test.
            let others = self.challenges(None).await?;
            let others: Vec<i64> = others.iter().filter(|c| c.found == Some(true)).filter_map(|c| c.verdict).collect();
            taken_off.retain(|(item, _)| !others.contains(&item.verdict));
        }
        let good = |result: &GateResult| matches!(result, GateResult::NoGate | GateResult::Moved { .. });
        let moved = taken_off.iter().find(|(_, result)| good(result));
        let over = now >= asked.announced + time::Duration::seconds_f64(asked.within_s) + GRACE;
        if moved.is_none() && (!over || taken_off.iter().any(|(_, result)| *result == GateResult::Pending)) {
            return Ok(None);
        }
        let shown = moved.or(taken_off.last());
        let (acknowledged, confirmed) = match shown.map(|(_, result)| result) {
            None | Some(GateResult::NoGate | GateResult::Pending) => (None, None),
            Some(GateResult::Moved { sensor }) => (Some(true), sensor.then_some(true)),
            Some(GateResult::Silent(_)) => (Some(false), None),
            Some(GateResult::Unconfirmed) => (Some(true), Some(false)),
        };
        let (found, why) = (moved.is_some(), why_missed(passed.len(), shown.filter(|_| moved.is_none())));
        let result = Event::ChallengeResult {
            challenge: asked.challenge,
            lot: asked.lot,
            camera: asked.camera.clone(),
            found,
            verdict: shown.map(|(item, _)| item.verdict),
            items: passed.len() as i64,
            acknowledged,
            confirmed,
            why: if found { String::new() } else { why.clone() },
        };
        let mut bodies = vec![chain::event(result)?];
        let doubt = if found { None } else { Some(self.doubt(asked, &why).await?) };
        let mut transaction = self.begin().await?;
        if let Some((opened, lots)) = doubt {
            bodies.push(chain::event(opened)?);
            let why = format!("challenge test {} on {} was missed: {why}", asked.challenge, asked.camera);
            bodies.extend(withdrawals(&mut transaction, &lots, &why).await?);
        }
        let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
        extend(&mut transaction, self.signer()?, tail, &bodies).await?;
        transaction.commit().await?;
        Ok(Some(found))
    }

    /// The items that passed the challenge's camera in its time, in order, each with its class.
    async fn passed(&self, asked: &Challenge) -> Result<Vec<(TakenOff, Option<String>)>, StoreError> {
        let end = asked.announced + time::Duration::seconds_f64(asked.within_s);
        // Ids of a camera's verdicts after the announcement are few: the time is compared here, as a time.
        let rows: Vec<(i64, String, String, Option<String>, i64)> = sqlx::query_as(
            "SELECT id, time, action, class, json_extract(body, '$.track') FROM verdicts
             WHERE id > ? AND camera = ? AND +source = 'belt' ORDER BY id",
        )
        .bind(asked.after_verdict)
        .bind(&asked.camera)
        .fetch_all(&self.database)
        .await?;
        let item = |(verdict, time, action, class, track): (i64, String, String, _, i64)| {
            let time = OffsetDateTime::parse(&time, &time::format_description::well_known::Rfc3339).ok()?;
            let in_time = time >= asked.announced && time <= end;
            in_time.then_some((TakenOff { verdict, track: track as u64, time, action }, class))
        };
        Ok(rows.into_iter().filter_map(item).collect())
    }

    /// The corrective action for a missed challenge, and the lots in doubt: all that were open since the last one found.
    async fn doubt(&self, asked: &Challenge, why: &str) -> Result<(Event, Vec<i64>), StoreError> {
        let before = self.challenges(None).await?.into_iter().rev().filter(|c| c.challenge < asked.challenge);
        let good = before.into_iter().find(|c| c.camera == asked.camera && c.found == Some(true));
        let since = good.as_ref().map_or(0, |c| c.challenge);
        let open_since = self.lots(usize::MAX).await?.into_iter().rev();
        let open_since = open_since.filter(|lot| lot.closed_at.is_none_or(|closed| closed > since));
        let lots: Vec<i64> = open_since.map(|lot| lot.lot).collect();
        let opened = Event::CorrectiveOpened {
            lot: asked.lot,
            challenge: asked.challenge,
            cause: format!(
                "the challenge piece \"{}\" on {} was not taken off the belt: {why}",
                asked.piece, asked.camera
            ),
            last_good: good.map(|c| c.announced),
            lots: lots.clone(),
        };
        Ok((opened, lots))
    }

    /// When the planned challenges, each with its camera, are due at `now`, the most urgent first. One that was never found is
    /// due that long after the record began.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn challenges_due(
        &self,
        plan: &[(String, PlannedChallenge)],
        now: OffsetDateTime,
    ) -> Result<Vec<ChallengeDue>, StoreError> {
        if plan.is_empty() {
            return Ok(Vec::new());
        }
        let began = self.events(&["began"], None).await?.first().map_or(now, |entry| entry.time);
        let challenges = self.challenges(None).await?;
        let of = |(camera, planned): &(String, PlannedChallenge)| {
            let PlannedChallenge { piece, class, every } = planned.clone();
            let it = |c: &&Challenge| {
                let right = (piece.is_empty() || c.piece == piece) && (class.is_none() || c.class == class);
                right && c.found == Some(true) && c.camera == *camera
            };
            let last_found = challenges.iter().rev().find(it).map(|c| c.announced);
            let due = last_found.unwrap_or(began) + every;
            let (every_s, overdue) = (every.as_secs_f64(), due < now);
            ChallengeDue { camera: camera.clone(), piece, class, every_s, last_found, due, overdue }
        };
        let mut due: Vec<_> = plan.iter().map(of).collect();
        due.sort_by_key(|one| one.due);
        Ok(due)
    }
}

/// Why a challenge was missed of which `items` were seen; `taken_off`: the last that was taken off for it.
fn why_missed(items: usize, taken_off: Option<&(&TakenOff, GateResult)>) -> String {
    match taken_off {
        None if items == 0 => "no item was seen".into(),
        None => format!("none of the {items} items seen was taken off for it"),
        Some((item, GateResult::Unconfirmed)) => {
            format!("verdict {} has it, and the gate acknowledged, but the sensor did not see it leave", item.verdict)
        }
        Some((item, GateResult::Silent(why))) => {
            format!("verdict {} has it, but the gate did not answer: {why}", item.verdict)
        }
        Some((item, _)) => format!("verdict {} has it, but nobody knows what the gate did", item.verdict),
    }
}

impl Challenge {
    /// Whether it tries what `missed` tried: the same piece or the same class, on the same camera.
    fn proves_again(&self, missed: &Self) -> bool {
        let alike = self.piece == missed.piece || (missed.class.is_some() && self.class == missed.class);
        alike && self.camera == missed.camera
    }
}

/// Challenges with their results, in the order of announcement.
fn gather_challenges(events: &[Entry]) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    for Entry { seq, time, event } in events {
        match event.clone() {
            Event::Challenge { lot, camera, piece, class, within_s, after_verdict, by } => challenges.push(Challenge {
                challenge: *seq,
                announced: *time,
                lot,
                camera,
                piece,
                class,
                within_s,
                by,
                found: None,
                verdict: None,
                items: None,
                acknowledged: None,
                confirmed: None,
                why: String::new(),
                after_verdict,
            }),
            Event::ChallengeResult { challenge, found, verdict, items, acknowledged, confirmed, why, .. } => {
                if let Some(challenge) = challenges.iter_mut().rev().find(|c| c.challenge == challenge) {
                    (challenge.found, challenge.verdict, challenge.items) = (Some(found), verdict, Some(items));
                    (challenge.acknowledged, challenge.confirmed, challenge.why) = (acknowledged, confirmed, why);
                }
            }
            _ => {}
        }
    }
    challenges
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::{Action, Source, Verdict, testing::verdict};

    async fn item(store: &Store, action: Action, class: &str, time: OffsetDateTime) {
        let mut item = verdict(action);
        (item.source, item.camera, item.time) = (Source::Belt, "belt".into(), time);
        item.decision.class = Some(class.into());
        store.insert(&[item]).await.unwrap();
    }

    fn no_gate(_: &TakenOff) -> GateResult {
        GateResult::NoGate
    }

    async fn announce(store: &Store, class: Option<&str>) -> Challenge {
        let said = Announcement {
            camera: "belt".into(),
            piece: "trout on a stick".into(),
            class: class.map(String::from),
            within_s: 10.0,
            by: "Ada".into(),
        };
        let number = store.challenge(said).await.unwrap();
        store.challenges(None).await.unwrap().into_iter().find(|c| c.challenge == number).unwrap()
    }

    #[tokio::test]
    async fn a_piece_that_is_taken_off_in_time_is_found_and_any_doubt_is_a_miss_that_names_lot_and_last_good() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let lot = store.begin_lot("A", "Ada").await.unwrap();
        let seconds = time::Duration::seconds;

        let good = announce(&store, Some("trout")).await;
        let now = good.announced;
        item(&store, Action::Reject, "cod", now + seconds(1)).await; // another wrong one, not the piece
        assert_eq!(store.decide_challenge(&good, now + seconds(2), no_gate).await.unwrap(), None);
        item(&store, Action::Divert, "trout", now + seconds(3)).await;
        assert_eq!(store.decide_challenge(&good, now + seconds(4), no_gate).await.unwrap(), Some(true));
        let told = &store.challenges(Some(lot)).await.unwrap()[0];
        assert_eq!((told.found, told.verdict, told.items), (Some(true), Some(2), Some(2)));

        let missed = announce(&store, None).await;
        let now = missed.announced;
        let other = Verdict { camera: "other".into(), time: now + seconds(1), ..verdict(Action::Reject) };
        store.insert(&[Verdict { source: Source::Belt, ..other }]).await.unwrap();
        item(&store, Action::Accept, "trout", now + seconds(2)).await; // seen, and let through
        item(&store, Action::Reject, "trout", now + seconds(11)).await; // too late to be it
        assert_eq!(store.decide_challenge(&missed, now + seconds(11), no_gate).await.unwrap(), None);
        assert_eq!(store.decide_challenge(&missed, now + seconds(13), no_gate).await.unwrap(), Some(false));
        assert_eq!(store.challenges(None).await.unwrap()[1].items, Some(1));
        let actions = store.corrective_actions(Some(lot)).await.unwrap();
        assert_eq!(actions.len(), 1);
        assert_eq!((actions[0].challenge, actions[0].last_good), (missed.challenge, Some(good.announced)));

        // Lots that were closed before the last good one are in no doubt, those in between are.
        let between = store.begin_lot("B", "").await.unwrap();
        store.end_lot("").await.unwrap();
        let again = announce(&store, None).await;
        let far = again.announced + seconds(60);
        assert_eq!(store.decide_challenge(&again, far, no_gate).await.unwrap(), Some(false));
        assert_eq!(store.corrective_actions(None).await.unwrap()[1].lots, [lot, between]);
        let doubtful = store.corrective_actions(Some(between)).await.unwrap();
        assert_eq!((doubtful.len(), doubtful[0].lot), (1, None), "it was closed, and no lot was open");
        let good = announce(&store, None).await;
        item(&store, Action::Reject, "cod", good.announced + seconds(1)).await;
        assert_eq!(store.decide_challenge(&good, far, no_gate).await.unwrap(), Some(true));
        let last = announce(&store, None).await;
        assert_eq!(store.decide_challenge(&last, last.announced + seconds(60), no_gate).await.unwrap(), Some(false));
        assert_eq!(store.corrective_actions(None).await.unwrap()[2].lots, Vec::<i64>::new());

        let refused = |outcome: Result<(), StoreError>| matches!(outcome, Err(StoreError::Refused(_)));
        assert!(refused(store.sign_off(lot, "Bo", "").await), "not while a corrective action is open");
        let action = actions[0].action;
        assert!(store.corrective_actions(None).await.unwrap()[0].retest.is_some_and(|number| number > action));
        store.close_corrective_action(action, "checked the lot by hand", "Ada").await.unwrap();
        assert!(refused(store.close_corrective_action(action, "again", "Ada").await));
        assert!(refused(store.sign_off(lot, "Bo", "").await), "not while another one names it");
        store.close_corrective_action(doubtful[0].action, "checked both", "Ada").await.unwrap();
        // Since the last one was missed, none was found.
        let open = store.corrective_actions(None).await.unwrap().pop().unwrap();
        assert_eq!((open.retest, open.camera.as_str()), (None, "belt"));
        let Err(StoreError::Refused(why)) = store.close_corrective_action(open.action, "hope", "Ada").await else {
            panic!("it was closed without a re-test")
        };
        assert!(why.contains("needs a re-test") && why.contains("camera belt"), "{why}");
        store.sign_off(lot, "Bo", "fine").await.unwrap();
        assert_eq!(store.lot(lot).await.unwrap().unwrap().signed_off[0].name, "Bo");
        // Its entries are the lot's too, wherever they stand.
        let closed = store.lot(between).await.unwrap().unwrap();
        let kinds: Vec<String> =
            store.lot_entries(&closed, 0, i64::MAX, 99).await.unwrap().into_iter().map(|e| e.kind).collect();
        assert_eq!(kinds, ["lot_opened", "lot_closed", "corrective_opened", "corrective_closed"]);
    }

    #[tokio::test]
    async fn an_item_is_the_piece_of_one_test_and_a_plan_wants_its_class() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let (one, two) = (announce(&store, None).await, announce(&store, Some("trout")).await);
        let far = two.announced + time::Duration::seconds(60);
        item(&store, Action::Reject, "trout", two.announced).await;
        assert_eq!(store.decide_challenge(&one, far, no_gate).await.unwrap(), Some(true));
        let every = Duration::from_secs(3600);
        let piece = "trout on a stick".to_owned();
        let plan = [("belt".to_owned(), PlannedChallenge { piece, class: Some("trout".into()), every })];
        let due = store.challenges_due(&plan, far).await.unwrap();
        assert_eq!(due[0].last_found, None, "whatever it was taken for");
        assert_eq!(store.decide_challenge(&two, far, no_gate).await.unwrap(), Some(false));
        let again = announce(&store, Some("trout")).await;
        item(&store, Action::Reject, "trout", again.announced).await;
        assert_eq!(store.decide_challenge(&again, far, no_gate).await.unwrap(), Some(true));
        assert!(store.challenges_due(&plan, far).await.unwrap()[0].last_found.is_some());
    }

    #[tokio::test]
    async fn a_verdict_without_its_gate_is_a_miss_that_says_what_failed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let silent = || GateResult::Silent("modbus: nobody acknowledged the command in time".into());
        let mut told = Vec::new();
        for (became, found) in [
            (GateResult::NoGate, true),
            (GateResult::Moved { sensor: false }, true),
            (GateResult::Moved { sensor: true }, true),
            (silent(), false),
            (GateResult::Unconfirmed, false),
        ] {
            let asked = announce(&store, None).await;
            let (now, far) = (asked.announced, asked.announced + time::Duration::seconds(60));
            item(&store, Action::Reject, "trout", now).await;
            assert_eq!(store.decide_challenge(&asked, far, |_| GateResult::Pending).await.unwrap(), None);
            assert_eq!(store.decide_challenge(&asked, far, |_| became.clone()).await.unwrap(), Some(found));
            let one = store.challenges(None).await.unwrap().pop().unwrap();
            assert!(one.verdict.is_some(), "it was seen");
            told.push((one.acknowledged, one.confirmed, one.why.split(&[',', ':']).next_back().unwrap().to_owned()));
        }
        let fine = String::new;
        let wanted = [
            (None, None, fine()),
            (Some(true), None, fine()),
            (Some(true), Some(true), fine()),
            (Some(false), None, " nobody acknowledged the command in time".into()),
            (Some(true), Some(false), " but the sensor did not see it leave".into()),
        ];
        assert_eq!(told, wanted);
        let cause = &store.corrective_actions(None).await.unwrap()[0].cause;
        assert!(cause.contains("verdict 4 has it, but the gate did not answer"), "{cause}");
    }

    #[tokio::test]
    async fn later_doubt_withdraws_a_sign_off_until_the_lot_is_signed_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let lot = store.begin_lot("A", "Ada").await.unwrap();
        let other = store.begin_lot("B", "Ada").await.unwrap();
        store.end_lot("Ada").await.unwrap();
        for lot in [lot, other] {
            store.sign_off(lot, "Bo", "fine").await.unwrap();
        }
        let told = async |lot| {
            let lot = store.lot(lot).await.unwrap().unwrap();
            (lot.signed_off.len(), lot.withdrawn.iter().map(|one| one.why.clone()).collect::<Vec<_>>())
        };
        // A reject of the first lot turns out to have stayed on the belt.
        let missed = Event::RejectMissed {
            gate: "out".into(),
            camera: "belt".into(),
            track: 4,
            uid: None,
            lot: Some(lot),
            passed: None,
        };
        let entry = store.append_of(missed.clone(), OffsetDateTime::now_utc(), None).await.unwrap();
        let why = format!("entry {entry} tells of a reject that was not seen to leave the belt");
        assert_eq!((told(lot).await, told(other).await), ((0, vec![why.clone()]), (1, vec![])));
        store.append_of(missed, OffsetDateTime::now_utc(), None).await.unwrap();
        assert_eq!(told(lot).await, (0, vec![why.clone()]), "nothing is left to withdraw");
        store.sign_off(lot, "Bo", "searched by hand").await.unwrap();
        assert_eq!(told(lot).await, (1, vec![why]));
        // A challenge that is missed puts both in doubt.
        let asked = announce(&store, None).await;
        let far = asked.announced + time::Duration::seconds(60);
        assert_eq!(store.decide_challenge(&asked, far, no_gate).await.unwrap(), Some(false));
        let why = format!("challenge test {} on belt was missed: no item was seen", asked.challenge);
        assert_eq!(told(lot).await, (0, vec![why.clone(), told(lot).await.1[1].clone()]));
        assert_eq!(told(other).await, (0, vec![why]));
        assert_eq!(crate::store::verify(folder.path(), None, None).await.unwrap().findings, []);
    }

    #[tokio::test]
    async fn planned_challenges_are_due_an_interval_after_the_last_found_one_of_their_piece() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let planned = |piece: &str, hours: u64| {
            let every = Duration::from_secs(3600 * hours);
            ("belt".to_owned(), PlannedChallenge { piece: piece.into(), class: None, every })
        };
        let plan = [planned("trout on a stick", 4), planned("bone", 2), planned("", 3)];
        let asked = announce(&store, None).await;
        item(&store, Action::Reject, "trout", asked.announced).await;
        assert_eq!(store.decide_challenge(&asked, asked.announced, no_gate).await.unwrap(), Some(true));
        let now = asked.announced + Duration::from_secs(3600 * 3 + 60);
        let due = store.challenges_due(&plan, now).await.unwrap();
        let told: Vec<_> = due.iter().map(|one| (one.piece.as_str(), one.last_found.is_some(), one.overdue)).collect();
        assert_eq!(told, [("bone", false, true), ("", true, true), ("trout on a stick", true, false)]);
    }

    #[tokio::test]
    async fn a_lot_is_not_signed_off_before_its_challenges_are_decided() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let lot = store.begin_lot("A", "Ada").await.unwrap();
        let asked = announce(&store, None).await;
        store.end_lot("").await.unwrap();
        let Err(StoreError::Refused(why)) = store.sign_off(lot, "Bo", "").await else { panic!("it was signed off") };
        assert_eq!(why, format!("challenge test {} of lot A is not decided yet", asked.challenge));
        item(&store, Action::Reject, "cod", asked.announced).await;
        assert_eq!(store.decide_challenge(&asked, asked.announced, no_gate).await.unwrap(), Some(true));
        store.sign_off(lot, "Bo", "").await.unwrap();
    }
}
