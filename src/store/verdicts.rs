//! Verdicts: written in batches, read in pages, newest first.
//!
//! Invariant: ids rise with every commit and are never used twice, so a page boundary is an id and paging neither
//! repeats nor skips.

use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::{QueryBuilder, Sqlite};
use time::OffsetDateTime;

use super::{
    Store, StoreError, draws,
    record::{
        chain::{self, Body},
        event::Event,
    },
    tallies::Counted,
};
use crate::domain::{Action, AuditDraw, Source, Verdict};

/// Most verdicts in one page.
pub const MAX_PAGE: u32 = 500;
/// Rows in one statement.
const ROWS: usize = 512;

/// Which verdicts are wanted; newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Only older ones than this id.
    pub before: Option<i64>,
    /// Only newer ones than this id.
    pub after: Option<i64>,
    /// At most this many; more than [`MAX_PAGE`] are never returned.
    pub limit: u32,
    /// Only those with this action.
    pub action: Option<Action>,
    /// Only those from there.
    pub source: Option<Source>,
    /// Only those of this lot.
    pub lot: Option<i64>,
    /// Only those of lots with this name.
    pub lot_name: Option<String>,
    /// Only those of this class, the most probable one.
    pub class: Option<String>,
    /// Only those of this camera.
    pub camera: Option<String>,
    /// Only those taken then or later.
    pub from: Option<OffsetDateTime>,
    /// Only those taken before then.
    pub to: Option<OffsetDateTime>,
}

/// Some verdicts that were found, newest first.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// They.
    pub verdicts: Vec<Verdict>,
    /// Where to go on, as [`Page::before`]: all that are wanted down to this id are here. `None`: there are no more.
    /// Where few match what is asked for, a search stops at times before its page is full.
    pub next: Option<i64>,
}

/// How many verdicts the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Counts {
    /// All of them.
    pub verdicts: u64,
    /// Accepted.
    pub accept: u64,
    /// Rejected.
    pub reject: u64,
    /// Diverted.
    pub divert: u64,
}

impl Store {
    /// Commits `verdicts` and their entries in the record in one transaction, all or none; returns their ids in order.
    /// Their own `id` is not looked at.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then nothing was stored.
    pub async fn insert(&self, verdicts: &[Verdict]) -> Result<Vec<i64>, StoreError> {
        self.insert_after(&[], verdicts).await
    }

    /// [`Store::insert`] with `events` before the verdicts, all or none.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then nothing was stored.
    pub async fn insert_after(&self, events: &[Event], verdicts: &[Verdict]) -> Result<Vec<i64>, StoreError> {
        self.insert_drawn(events, verdicts, &[]).await
    }

    /// [`Store::insert_after`] with the audit's draws, one for each verdict; those that are missing were not drawn.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then nothing was stored.
    pub async fn insert_drawn(
        &self,
        events: &[Event],
        verdicts: &[Verdict],
        drawn: &[Option<AuditDraw>],
    ) -> Result<Vec<i64>, StoreError> {
        let mut transaction = self.begin().await?;
        let tail = chain::tail(&mut transaction).await?.ok_or_else(chain::no_head)?;
        let last = tail.last_verdict.checked_add(verdicts.len() as i64);
        let last = last.ok_or_else(|| StoreError::Record(format!("no id comes after {}", tail.last_verdict)))?;
        let ids: Vec<i64> = (tail.last_verdict + 1..=last).collect();
        let documents: Vec<String> = verdicts
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<_, _>>()
            .map_err(|e| sqlx::Error::Encode(e.into()))?;
        let digest = |(id, document): (&i64, &String)| Body::Verdict(*id, Sha256::digest(document).into());
        let mut bodies: Vec<Body> = events.iter().map(|e| chain::event(e.clone())).collect::<Result<_, _>>()?;
        bodies.extend(ids.iter().zip(&documents).map(digest));
        for rows in ids.iter().zip(documents).collect::<Vec<_>>().chunks(ROWS) {
            let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO verdicts (id, body) ");
            insert.push_values(rows, |mut row, (id, document)| {
                row.push_bind(**id).push_bind(document.clone());
            });
            insert.build().persistent(rows.len() == 1).execute(&mut *transaction).await?;
        }
        let mut counted = Counted::default();
        ids.iter().zip(verdicts).for_each(|(id, verdict)| counted.add(*id, verdict));
        counted.write(&mut transaction).await?;
        chain::extend(&mut transaction, self.signer()?, tail, &bodies).await?;
        draws::write(&mut transaction, self.signer()?, &ids, verdicts, drawn).await?;
        transaction.commit().await?;
        Ok(ids)
    }

    /// The verdicts that follow the id `last`, oldest first; at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub async fn verdicts_after(&self, last: i64, limit: u32) -> Result<Vec<Verdict>, StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as("SELECT id, body FROM verdicts WHERE id > ? ORDER BY id LIMIT ?")
            .bind(last)
            .bind(limit.min(MAX_PAGE))
            .fetch_all(&self.database)
            .await?;
        rows.iter().map(|(id, body)| self.identity.verdict(*id, body)).collect()
    }

    /// The newest verdict's id; 0 for none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn newest_verdict(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM verdicts").fetch_one(&self.database).await?)
    }

    /// How many verdicts there are, by action.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT action, verdicts FROM counts").fetch_all(&self.database).await?;
        let of = |action: Action| rows.iter().find(|(name, _)| name == action.name()).map_or(0, |(_, n)| *n as u64);
        let (accept, reject, divert) = (of(Action::Accept), of(Action::Reject), of(Action::Divert));
        Ok(Counts { verdicts: accept + reject + divert, accept, reject, divert })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::testing::verdict;

    #[tokio::test]
    async fn what_was_committed_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = verdict(Action::Divert);
        let store = Store::open(folder.path()).await.unwrap();
        assert_eq!(store.insert(&[wanted.clone(), verdict(Action::Accept)]).await.unwrap(), [1, 2]);
        drop(store); // not closed: as after a crash, the log has not been folded in
        let store = Store::open(folder.path()).await.unwrap();
        let found = store.verdicts(Page { limit: 10, ..Page::default() }).await.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], Verdict { id: 1, ..wanted });
        let counts = Counts { verdicts: 2, accept: 1, reject: 0, divert: 1 };
        assert_eq!(store.counts().await.unwrap(), counts);
    }

    #[tokio::test]
    async fn pages_neither_repeat_nor_skip_and_filters_hold() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let actions = [Action::Accept, Action::Reject, Action::Divert];
        let many: Vec<_> = (0..25).map(|i| verdict(actions[i % 3])).collect();
        store.insert(&many).await.unwrap();
        let mut seen = Vec::new();
        let mut page = Page { limit: 7, ..Page::default() };
        loop {
            let found = store.verdicts(page.clone()).await.unwrap();
            let Some(last) = found.last() else { break };
            page.before = Some(last.id);
            seen.extend(found.iter().map(|v| v.id));
        }
        assert_eq!(seen, (1..=25).rev().collect::<Vec<i64>>());
        let rejects = Page { limit: 100, action: Some(Action::Reject), after: Some(10), ..Page::default() };
        let ids: Vec<_> = store.verdicts(rejects).await.unwrap().iter().map(|v| v.id).collect();
        assert_eq!(ids, [23, 20, 17, 14, 11]);
        let belt = Page { limit: 100, source: Some(Source::Belt), ..Page::default() };
        assert_eq!(store.verdicts(belt).await.unwrap().len(), 0);
    }
}
