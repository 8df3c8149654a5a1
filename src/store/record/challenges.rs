//! Challenge tests and corrective actions.
//!
//! A known wrong piece is announced, sent through, and must be taken off the belt: rejected or diverted, within the time
//! announced, by the camera announced. If it is not, a corrective action is opened, which says since when the line is in
//! doubt. Without the piece's class any rejected item in that time counts as the piece, so announce just before.
//!
//! Invariant: every challenge gets exactly one result, also when the service was down in between; doubt is a miss.

use serde::Serialize;
use time::OffsetDateTime;

use super::{
    chain::{self, extend, no_head, tail},
    event::{Entry, Event},
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
        Ok(actions)
    }

    /// Closes a corrective action.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when there is none of that number or it is closed, [`StoreError::Database`].
    pub async fn close_corrective_action(&self, action: i64, done: &str, by: &str) -> Result<(), StoreError> {
        let actions = self.corrective_actions(None).await?;
        let Some(found) = actions.into_iter().find(|a| a.action == action) else {
            return Err(StoreError::Refused(format!("there is no corrective action {action}")));
        };
        if found.closed.is_some() {
            return Err(StoreError::Refused(format!("corrective action {action} is closed already")));
        }
        let CorrectiveAction { lot, lots, .. } = found;
        self.append(Event::CorrectiveClosed { action, lot, lots, done: done.into(), by: by.into() }).await?;
        Ok(())
    }

    /// Decides a challenge if it can be decided at `now`: found as soon as an item was taken off, missed when its time
    /// and [`GRACE`] are over; a miss opens a corrective action in the same step. `true` for found.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn decide_challenge(&self, asked: &Challenge, now: OffsetDateTime) -> Result<Option<bool>, StoreError> {
        let end = asked.announced + time::Duration::seconds_f64(asked.within_s);
        // Ids of a camera's verdicts after the announcement are few: the time is compared here, as a time.
        let rows: Vec<(i64, String, String, Option<String>)> = sqlx::query_as(
            "SELECT id, time, action, class FROM verdicts
             WHERE id > ? AND camera = ? AND +source = 'belt' ORDER BY id",
        )
        .bind(asked.after_verdict)
        .bind(&asked.camera)
        .fetch_all(&self.database)
        .await?;
        let when = |text: &str| OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok();
        let in_time = |(_, time, ..): &&(i64, String, String, Option<String>)| {
            when(time).is_some_and(|time| time >= asked.announced && time <= end)
        };
        let passed: Vec<_> = rows.iter().filter(in_time).collect();
        let taken_off = passed
            .iter()
            .find(|(_, _, action, class)| action != "accept" && (asked.class.is_none() || *class == asked.class));
        if taken_off.is_none() && now < end + GRACE {
            return Ok(None);
        }
        let (found, verdict) = (taken_off.is_some(), taken_off.map(|row| row.0));
        let result = Event::ChallengeResult {
            challenge: asked.challenge,
            lot: asked.lot,
            camera: asked.camera.clone(),
            found,
            verdict,
            items: passed.len() as i64,
        };
        let mut bodies = vec![chain::event(result)?];
        if !found {
            let before = self.challenges(None).await?.into_iter().rev().filter(|c| c.challenge < asked.challenge);
            let good = before.into_iter().find(|c| c.camera == asked.camera && c.found == Some(true));
            let since = good.as_ref().map_or(0, |c| c.challenge);
            let open_since = self.lots(usize::MAX).await?.into_iter().rev();
            let open_since = open_since.filter(|lot| lot.closed_at.is_none_or(|closed| closed > since));
            let saw = match passed.len() {
                0 => "no item was seen".into(),
                n => format!("none of the {n} items seen was taken off for it"),
            };
            bodies.push(chain::event(Event::CorrectiveOpened {
                lot: asked.lot,
                challenge: asked.challenge,
                cause: format!(
                    "the challenge piece \"{}\" on {} was not taken off the belt: {saw}",
                    asked.piece, asked.camera
                ),
                last_good: good.map(|c| c.announced),
                lots: open_since.map(|lot| lot.lot).collect(),
            })?);
        }
        let mut transaction = self.begin().await?;
        let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
        extend(&mut transaction, self.signer()?, tail, &bodies).await?;
        transaction.commit().await?;
        Ok(Some(found))
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
                after_verdict,
            }),
            Event::ChallengeResult { challenge, found, verdict, items, .. } => {
                if let Some(challenge) = challenges.iter_mut().rev().find(|c| c.challenge == challenge) {
                    (challenge.found, challenge.verdict, challenge.items) = (Some(found), verdict, Some(items));
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
        assert_eq!(store.decide_challenge(&good, now + seconds(2)).await.unwrap(), None);
        item(&store, Action::Divert, "trout", now + seconds(3)).await;
        assert_eq!(store.decide_challenge(&good, now + seconds(4)).await.unwrap(), Some(true));
        let told = &store.challenges(Some(lot)).await.unwrap()[0];
        assert_eq!((told.found, told.verdict, told.items), (Some(true), Some(2), Some(2)));

        let missed = announce(&store, None).await;
        let now = missed.announced;
        let other = Verdict { camera: "other".into(), time: now + seconds(1), ..verdict(Action::Reject) };
        store.insert(&[Verdict { source: Source::Belt, ..other }]).await.unwrap();
        item(&store, Action::Accept, "trout", now + seconds(2)).await; // seen, and let through
        item(&store, Action::Reject, "trout", now + seconds(11)).await; // too late to be it
        assert_eq!(store.decide_challenge(&missed, now + seconds(11)).await.unwrap(), None);
        assert_eq!(store.decide_challenge(&missed, now + seconds(13)).await.unwrap(), Some(false));
        assert_eq!(store.challenges(None).await.unwrap()[1].items, Some(1));
        let actions = store.corrective_actions(Some(lot)).await.unwrap();
        assert_eq!(actions.len(), 1);
        assert_eq!((actions[0].challenge, actions[0].last_good), (missed.challenge, Some(good.announced)));

        // Lots that were closed before the last good one are in no doubt, those in between are.
        let between = store.begin_lot("B", "").await.unwrap();
        store.end_lot("").await.unwrap();
        let again = announce(&store, None).await;
        let far = again.announced + seconds(60);
        assert_eq!(store.decide_challenge(&again, far).await.unwrap(), Some(false));
        assert_eq!(store.corrective_actions(None).await.unwrap()[1].lots, [lot, between]);
        let doubtful = store.corrective_actions(Some(between)).await.unwrap();
        assert_eq!((doubtful.len(), doubtful[0].lot), (1, None), "it was closed, and no lot was open");
        let good = announce(&store, None).await;
        item(&store, Action::Reject, "cod", good.announced + seconds(1)).await;
        assert_eq!(store.decide_challenge(&good, far).await.unwrap(), Some(true));
        let last = announce(&store, None).await;
        assert_eq!(store.decide_challenge(&last, last.announced + seconds(60)).await.unwrap(), Some(false));
        assert_eq!(store.corrective_actions(None).await.unwrap()[2].lots, Vec::<i64>::new());

        let refused = |outcome: Result<(), StoreError>| matches!(outcome, Err(StoreError::Refused(_)));
        assert!(refused(store.sign_off(lot, "Bo", "").await), "not while a corrective action is open");
        let action = actions[0].action;
        store.close_corrective_action(action, "checked the lot by hand", "Ada").await.unwrap();
        assert!(refused(store.close_corrective_action(action, "again", "Ada").await));
        assert!(refused(store.sign_off(lot, "Bo", "").await), "not while another one names it");
        store.close_corrective_action(doubtful[0].action, "checked both", "Ada").await.unwrap();
        store.sign_off(lot, "Bo", "fine").await.unwrap();
        assert_eq!(store.lot(lot).await.unwrap().unwrap().signed_off[0].name, "Bo");
        // Its entries are the lot's too, wherever they stand.
        let closed = store.lot(between).await.unwrap().unwrap();
        let kinds: Vec<String> =
            store.lot_entries(&closed, 0, i64::MAX, 99).await.unwrap().into_iter().map(|e| e.kind).collect();
        assert_eq!(kinds, ["lot_opened", "lot_closed", "corrective_opened", "corrective_closed"]);
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
        assert_eq!(store.decide_challenge(&asked, asked.announced).await.unwrap(), Some(true));
        store.sign_off(lot, "Bo", "").await.unwrap();
    }
}
