//! How long what is kept is kept, by class: pictures of accepted items, pictures of the others, verdicts.
//!
//! The record's entries are never removed: they are what proves that the rest is whole. When a verdict's document goes,
//! its entry stays, and an entry of the kind `retention` says up to where documents were removed, so that verifying
//! tells what was removed by rule from what somebody took away.
//!
//! Invariant: what a person labeled stays, picture and verdict: students are made of it.

use serde::Deserialize;
use std::time::Duration;
use time::{Date, OffsetDateTime};

use super::{
    Store, StoreError,
    chain::{self, extend, no_head, tail},
    event::Event,
};

/// Documents removed in one transaction, so that the writer waits little.
const BATCH: i64 = 2000;

/// Ages at which things go; zero keeps them for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Pictures in which every item was accepted.
    #[serde(with = "humantime_serde")]
    pub accepted_pictures: Duration,
    /// Pictures with a rejected or diverted item.
    #[serde(with = "humantime_serde")]
    pub other_pictures: Duration,
    /// Verdicts.
    #[serde(with = "humantime_serde")]
    pub verdicts: Duration,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Pictures.
    pub pictures: u64,
    /// Verdicts.
    pub verdicts: u64,
}

impl Store {
    /// Removes what is older at `now` than it has to be kept, and tells the record.
    ///
    /// # Errors
    /// The store's; what was removed until then is removed, and what is left is found again.
    pub async fn retain(&self, rules: &Retention, now: OffsetDateTime) -> Result<Removed, StoreError> {
        let before = |age: Duration| (!age.is_zero()).then(|| now - age);
        let mut removed = Removed::default();
        let (accepted, other) = (before(rules.accepted_pictures), before(rules.other_pictures));
        if accepted.is_some() || other.is_some() {
            removed.pictures = self.remove_pictures(accepted, other).await?;
            if removed.pictures > 0 {
                self.append(Event::PicturesRemoved { pictures: removed.pictures }).await?;
            }
        }
        if let Some(before) = before(rules.verdicts) {
            removed.verdicts = self.remove_verdicts(before).await?;
        }
        Ok(removed)
    }

    /// Whole days only: a day's folder is looked at when its last moment is old enough.
    async fn remove_pictures(
        &self,
        accepted: Option<OffsetDateTime>,
        other: Option<OffsetDateTime>,
    ) -> Result<u64, StoreError> {
        let over = |day: Date, before: Option<OffsetDateTime>| {
            before.is_some_and(|before| day.next_day().is_some_and(|next| next.midnight().assume_utc() <= before))
        };
        let mut removed = 0;
        for day in self.frame_days().await? {
            let (accepted, other) = (over(day, accepted), over(day, other));
            if !accepted && !other {
                continue;
            }
            for key in self.frame_keys(day).await? {
                let (items, taken_off, labels): (i64, i64, i64) = sqlx::query_as(
                    "SELECT count(*), count(*) FILTER (WHERE action <> 'accept'),
                            count(*) FILTER (WHERE EXISTS (SELECT 1 FROM labels WHERE verdict = v.id))
                     FROM verdicts v WHERE frame = ?",
                )
                .bind(&key)
                .fetch_one(&self.database)
                .await?;
                // One that no verdict names is left by a crash, or its verdicts are gone: it goes with the last.
                let goes = if items > 0 && taken_off == 0 { accepted } else { other };
                if goes && labels == 0 {
                    self.remove_frame(&key).await?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    async fn remove_verdicts(&self, before: OffsetDateTime) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            // Ids rise with commits, so the first verdict that is young enough ends what may go.
            let oldest: Vec<(i64, String)> = sqlx::query_as(
                "SELECT id, time FROM verdicts WHERE id NOT IN (SELECT verdict FROM labels) ORDER BY id LIMIT ?",
            )
            .bind(BATCH)
            .fetch_all(&self.database)
            .await?;
            let old = |(_, time): &&(i64, String)| {
                OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).is_ok_and(|t| t < before)
            };
            let going: Vec<i64> = oldest.iter().take_while(old).map(|(id, _)| *id).collect();
            let Some(&to) = going.last() else { return Ok(removed) };
            let mut transaction = self.database.begin_with("BEGIN IMMEDIATE").await?;
            let done = sqlx::query("DELETE FROM verdicts WHERE id <= ? AND id NOT IN (SELECT verdict FROM labels)")
                .bind(to)
                .execute(&mut *transaction)
                .await?
                .rows_affected();
            let entry = [chain::event(Event::VerdictsRemoved { to, verdicts: done })?];
            let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
            extend(&mut transaction, self.signer()?, tail, &entry).await?;
            transaction.commit().await?;
            removed += done;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        domain::{Action, Verdict},
        line::verdict::tests::verdict,
        store::{Page, frame_key, verify},
    };

    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test]
    async fn each_class_goes_at_its_age_and_the_record_still_verifies() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let now = OffsetDateTime::now_utc();
        let mut keys = Vec::new();
        for (n, (action, days)) in [
            (Action::Accept, 40),
            (Action::Reject, 40),
            (Action::Accept, 5),
            (Action::Reject, 400),
            (Action::Accept, 401),
        ]
        .into_iter()
        .enumerate()
        {
            let time = now - DAY * days;
            let jpeg = bytes::Bytes::from(vec![n as u8; 100]);
            let key = frame_key(&jpeg, time);
            store.put_frame(&key, jpeg).await.unwrap();
            keys.push((key.clone(), days));
            store.insert(&[Verdict { time, frame: Some(key), ..verdict(action) }]).await.unwrap();
        }
        store.add_label(5, Some("salmon"), "Ada", now).await.unwrap();
        let rules = Retention { accepted_pictures: DAY * 30, other_pictures: DAY * 365, verdicts: DAY * 60 };
        // Verdicts are in the order of their commits; an old one behind a young one waits for it.
        assert_eq!(store.retain(&rules, now).await.unwrap(), Removed { pictures: 2, verdicts: 0 });
        let mut left = Vec::new();
        for (key, _) in &keys {
            left.push(store.frame(key).await.unwrap().is_some());
        }
        assert_eq!(left, [false, true, true, false, true], "accepted at 40 days, rejected at 400; labeled never");
        assert_eq!(store.retain(&rules, now + DAY * 30).await.unwrap(), Removed { pictures: 1, verdicts: 2 });
        assert_eq!(store.retain(&rules, now + DAY * 30).await.unwrap(), Removed::default());
        let page = Page { limit: 10, ..Page::default() };
        let ids: Vec<i64> = store.verdicts(page).await.unwrap().iter().map(|v| v.id).collect();
        assert_eq!(ids, [5, 4, 3]);
        let found = verify(folder.path(), None, None).await.unwrap();
        assert_eq!((found.findings.len(), found.verdicts, found.removed), (0, 5, 2), "{found}");
        // One more taken away is no retention.
        sqlx::query("DELETE FROM verdicts WHERE id = 4").execute(&store.database).await.unwrap();
        assert!(!verify(folder.path(), None, None).await.unwrap().findings.is_empty());
    }
}
