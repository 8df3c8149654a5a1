//! How long what is kept is kept, by class: pictures of accepted items, pictures of the others, verdicts.
//!
//! The record's entries are never removed: they are what proves that the rest is whole. When a verdict's document goes,
//! its entry stays, and an entry of the kind `retention` says up to where documents were removed, so that verifying
//! tells what was removed by rule from what somebody took away.
//!
//! Invariant: what a person labeled stays, picture and verdict: students are made of it.

use serde::Deserialize;
use std::{collections::HashSet, time::Duration};
use time::{Date, OffsetDateTime};

use super::{
    Store, StoreError,
    frames::Stored,
    record::{
        chain::{self, extend, no_head, tail},
        event::Event,
    },
    tallies::Counted,
};

/// Documents removed in one transaction, so that the writer waits little.
const BATCH: i64 = 2000;

/// A picture that was written so lately is left: its verdict may still be on its way.
const SETTLED: Duration = Duration::from_secs(600);

/// Which of `files` have to go, oldest first, so that the rest takes at most `most` bytes: neither those that are
/// `labeled` nor those written after `settled`, even if then too much stays.
fn surplus(mut files: Vec<Stored>, labeled: &HashSet<String>, most: u64, settled: i64) -> Vec<String> {
    let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
    // The key begins with the day that the picture was taken.
    files.sort_by(|a, b| (a.key.get(..8), a.written, &a.key).cmp(&(b.key.get(..8), b.written, &b.key)));
    let mut going = Vec::new();
    for file in files {
        if bytes <= most {
            break;
        }
        if file.written <= settled && !labeled.contains(&file.key) {
            bytes -= file.bytes;
            going.push(file.key);
        }
    }
    going
}

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
    /// Most bytes of pictures; the oldest go first. 0 sets no limit.
    pub pictures_bytes: u64,
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
        }
        if rules.pictures_bytes > 0 {
            removed.pictures += self.remove_surplus(rules.pictures_bytes, now).await?;
        }
        if removed.pictures > 0 {
            self.append(Event::PicturesRemoved { pictures: removed.pictures }).await?;
        }
        if let Some(before) = before(rules.verdicts) {
            removed.verdicts = self.remove_verdicts(before).await?;
        }
        if removed != Removed::default() {
            self.window.lock().await.forget();
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

    /// Removes pictures, the oldest first, until the rest takes at most `most` bytes or is labeled.
    async fn remove_surplus(&self, most: u64, now: OffsetDateTime) -> Result<u64, StoreError> {
        let mut files = Vec::new();
        for day in self.frame_days().await? {
            files.extend(self.frame_files(day).await?);
        }
        let labeled: Vec<(String,)> = sqlx::query_as(
            // From the labels on, which are few, not from all pictures.
            "SELECT DISTINCT v.frame FROM labels AS l CROSS JOIN verdicts AS v ON v.id = l.verdict
             WHERE l.id > 0 AND +v.frame IS NOT NULL",
        )
        .fetch_all(&self.database)
        .await?;
        let labeled = labeled.into_iter().map(|(key,)| key).collect();
        let going = surplus(files, &labeled, most, (now - SETTLED).unix_timestamp());
        for key in &going {
            self.remove_frame(key).await?;
        }
        Ok(going.len() as u64)
    }

    async fn remove_verdicts(&self, before: OffsetDateTime) -> Result<u64, StoreError> {
        let (mut removed, mut after) = (0, 0);
        loop {
            // Ids rise with commits, so the first verdict that is young enough ends what may go.
            let oldest: Vec<(i64, String)> = sqlx::query_as(
                "SELECT id, time FROM verdicts AS v WHERE id > ? AND NOT EXISTS (SELECT 1 FROM labels WHERE verdict = v.id)
                 ORDER BY id LIMIT ?",
            )
            .bind(after)
            .bind(BATCH)
            .fetch_all(&self.database)
            .await?;
            let old = |(_, time): &&(i64, String)| {
                OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).is_ok_and(|t| t < before)
            };
            let going: Vec<i64> = oldest.iter().take_while(old).map(|(id, _)| *id).collect();
            let Some(&to) = going.last() else { return Ok(removed) };
            let mut transaction = self.begin().await?;
            // What is counted is what goes: both are seen by this transaction alone.
            let documents: Vec<(i64, String)> = sqlx::query_as(
                "DELETE FROM verdicts WHERE id > ? AND id <= ? AND NOT EXISTS (SELECT 1 FROM labels WHERE verdict = verdicts.id)
                 RETURNING id, body",
            )
            .bind(after)
            .bind(to)
            .fetch_all(&mut *transaction)
            .await?;
            let (done, mut counted) = (documents.len() as u64, Counted::default());
            for (id, document) in documents {
                counted.read(id, document.as_bytes()).map_err(|e| StoreError::Row { id, why: e.to_string() })?;
            }
            counted.remove(&mut transaction).await?;
            let lots = counted.by_lot().into_iter().collect();
            let entry = [chain::event(Event::VerdictsRemoved { to, verdicts: done, lots })?];
            let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
            extend(&mut transaction, self.signer()?, tail, &entry).await?;
            transaction.commit().await?;
            (removed, after) = (removed + done, to);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        domain::{Action, Verdict, testing::verdict},
        store::{Ask, ItemPage, Page, QueueOrder, frame_key, verify},
    };

    #[test]
    fn the_oldest_go_until_the_rest_fits_and_the_labeled_never() {
        let file = |key: &str, bytes, written| Stored { key: key.into(), bytes, written };
        let files = || {
            vec![
                file("20261103-c", 100, 30),
                file("20261101-a", 100, 90), // of the oldest day, written late
                file("20261101-b", 100, 10),
                file("20261102-d", 100, 20),
                file("20261104-e", 100, 100),
            ]
        };
        let labeled = HashSet::from(["20261101-b".to_owned()]);
        let going = |most, settled| surplus(files(), &labeled, most, settled);
        assert_eq!(going(500, 200), Vec::<String>::new());
        assert_eq!(going(499, 200), ["20261101-a"]);
        assert_eq!(going(250, 200), ["20261101-a", "20261102-d", "20261103-c"]);
        assert_eq!(going(0, 200).len(), 4, "the labeled one stays although nothing should");
        assert_eq!(going(0, 95), ["20261101-a", "20261102-d", "20261103-c"], "what is on its way stays");
    }

    #[tokio::test]
    async fn pictures_over_the_limit_are_gone_from_queue_and_gallery_but_not_the_labeled_and_disputed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let now = OffsetDateTime::now_utc();
        for n in 0..6u8 {
            let (time, jpeg) = (now - DAY * (10 - u32::from(n)), bytes::Bytes::from(vec![n; 1000]));
            let key = frame_key(&jpeg, time);
            store.put_frame(&key, jpeg).await.unwrap();
            store.insert(&[Verdict { time, frame: Some(key), ..verdict(Action::Reject) }]).await.unwrap();
        }
        store.add_label(1, Some("salmon"), "Ada", now).await.unwrap();
        store.add_label(3, Some("salmon"), "Ada", now).await.unwrap();
        store.add_label(3, Some("cod"), "Ben", now).await.unwrap();
        let rules = Retention { pictures_bytes: 4_000, ..Retention::default() };
        assert_eq!(store.retain(&rules, now).await.unwrap(), Removed::default(), "all were just written");
        let later = now + Duration::from_secs(3600);
        assert_eq!(store.retain(&rules, later).await.unwrap(), Removed { pictures: 2, verdicts: 0 });
        assert_eq!(store.retain(&rules, later).await.unwrap(), Removed::default());
        let page = ItemPage { limit: 10, ..ItemPage::default() };
        let there: Vec<i64> = store.items(&page).await.unwrap().iter().map(|i| i.verdict.id).collect();
        assert_eq!(there, [6, 5, 3, 1]);
        let ask =
            Ask { by: "Cleo".into(), limit: 10, order: QueueOrder::Useful, second_share: 0.0, busy: HashSet::new() };
        let mut asked: Vec<i64> = store.queue(ask).await.unwrap().items.iter().map(|v| v.id).collect();
        asked.sort_unstable();
        assert_eq!((asked, store.unlabeled().await.unwrap()), (vec![5, 6], 2));

        // The same picture comes again: its new verdict has it, the old one's stays gone.
        let jpeg = bytes::Bytes::from(vec![1; 1000]);
        let old = store.verdict(2).await.unwrap().unwrap();
        store.put_frame(old.frame.as_deref().unwrap(), jpeg).await.unwrap();
        store.insert(&[old]).await.unwrap();
        let there: Vec<i64> = store.items(&page).await.unwrap().iter().map(|i| i.verdict.id).collect();
        assert_eq!(there, [7, 6, 5, 3, 1]);
    }

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
        let rules =
            Retention { accepted_pictures: DAY * 30, other_pictures: DAY * 365, verdicts: DAY * 60, pictures_bytes: 0 };
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
        sqlx::query("DELETE FROM verdicts WHERE id = 4").execute(&store.writer).await.unwrap();
        assert!(!verify(folder.path(), None, None).await.unwrap().findings.is_empty());
    }
}
