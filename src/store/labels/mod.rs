//! Labels: what people said about items, each with its history.
//!
//! Invariant: rows are only added. A correction is a newer row of the same person, an undo a row that withdraws one, so
//! what was once said can always be read again; what a person says now is the newest label that was not withdrawn.

pub(in crate::store) mod agreement;
pub(in crate::store) mod audit;
pub(in crate::store) mod counts;
pub mod formats;
pub(in crate::store) mod items;
pub(in crate::store) mod queue;
pub mod transfer;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Sqlite};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use self::counts::LabeledState;
use super::{
    MAX_PAGE, Store, StoreError,
    record::rows::{self, HeldTable},
};
use crate::domain::Verdict;

/// One person's word on one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Label {
    /// Rises with every label.
    pub id: i64,
    /// The item's verdict.
    pub verdict: i64,
    /// Its uid.
    #[schema(value_type = String, format = "uuid")]
    pub uid: Uuid,
    /// The class; `None` when the person could not tell.
    pub class: Option<String>,
    /// Who said it.
    pub by: String,
    /// When (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub at: OffsetDateTime,
    /// Whether it was taken back.
    pub withdrawn: bool,
    /// Whether it is what this person says now: false when withdrawn or corrected.
    pub current: bool,
}

/// Which labels are wanted; newest first.
#[derive(Clone, Debug, Default)]
pub struct LabelPage {
    /// Only older ones than this id.
    pub before: Option<i64>,
    /// At most this many; more than [`MAX_PAGE`] are never returned.
    pub limit: u32,
    /// Only those of this item.
    pub verdict: Option<i64>,
    /// Only those of this person.
    pub by: Option<String>,
    /// Only those of this class.
    pub class: Option<String>,
    /// Only what people say now.
    pub current: bool,
}

/// Of verdicts `v` that name a frame: only those whose frame was not removed.
pub(in crate::store) const PICTURE_IS_THERE: &str =
    " AND NOT EXISTS (SELECT 1 FROM frames_gone AS g WHERE g.key = v.frame AND g.upto >= v.id)";

type Row = (i64, i64, Option<String>, String, String, bool, bool, Option<String>);

const COLUMNS: &str = "SELECT l.id, l.verdict, l.class, l.labeler, l.at, \
    EXISTS (SELECT 1 FROM labels w WHERE w.withdraws = l.id), \
    EXISTS (SELECT 1 FROM current_labels c WHERE c.id = l.id), \
    (SELECT v.uid FROM verdicts v WHERE v.id = l.verdict) FROM labels l WHERE l.withdraws IS NULL";

impl Store {
    /// Adds a label. The item must exist: see [`Store::verdict`]. `at` is now, or the time of an imported label.
    ///
    /// # Errors
    /// [`StoreError::Database`], also when there is no such verdict.
    pub async fn add_label(
        &self,
        verdict: i64,
        class: Option<&str>,
        by: &str,
        at: OffsetDateTime,
    ) -> Result<Label, StoreError> {
        let mut transaction = self.begin().await?;
        let before = LabeledState::read(&mut transaction, verdict, by).await?;
        let done = sqlx::query("INSERT INTO labels (verdict, class, labeler, at) VALUES (?, ?, ?, ?)")
            .bind(verdict)
            .bind(class)
            .bind(by)
            .bind(timestamp(at)?)
            .execute(&mut *transaction)
            .await?;
        before.count_change(&mut transaction, verdict, by).await?;
        let row = done.last_insert_rowid().to_string();
        rows::hold(&mut transaction, self.signer()?, HeldTable::Labels, &row, None).await?;
        let own: Option<String> = sqlx::query_scalar("SELECT uid FROM verdicts WHERE id = ?")
            .bind(verdict)
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let (id, class, by) = (done.last_insert_rowid(), class.map(str::to_owned), by.to_owned());
        let uid = self.identity.or_own(verdict, own.as_deref());
        Ok(Label { id, verdict, uid, class, by, at, withdrawn: false, current: true })
    }

    /// Withdraws the label `id`, whose earlier one then holds again. Gives what was withdrawn; `None` when there is no
    /// such label or it was withdrawn before.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn withdraw_label(&self, id: i64, by: &str, at: OffsetDateTime) -> Result<Option<Label>, StoreError> {
        let mut transaction = self.begin().await?;
        let label: Option<(i64, String)> = sqlx::query_as("SELECT verdict, labeler FROM labels WHERE id = ?")
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await?;
        let Some((verdict, labeler)) = label else { return Ok(None) };
        let before = LabeledState::read(&mut transaction, verdict, &labeler).await?;
        let done = sqlx::query(
            "INSERT INTO labels (verdict, labeler, at, withdraws) \
             SELECT verdict, ?, ?, id FROM standing_labels WHERE id = ?",
        )
        .bind(by)
        .bind(timestamp(at)?)
        .bind(id)
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        before.count_change(&mut transaction, verdict, &labeler).await?;
        let row = done.last_insert_rowid().to_string();
        rows::hold(&mut transaction, self.signer()?, HeldTable::Labels, &row, None).await?;
        transaction.commit().await?;
        self.one_label(id).await
    }

    /// The label `id`, whether it still holds or not.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn one_label(&self, id: i64) -> Result<Option<Label>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
        query.push(" AND l.id = ").push_bind(id);
        Ok(query.build_query_as::<Row>().fetch_optional(&self.database).await?.map(|row| self.label(row)))
    }

    /// One page of the history, newest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn labels(&self, page: &LabelPage) -> Result<Vec<Label>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
        query.push(" AND l.id < ").push_bind(page.before.unwrap_or(i64::MAX));
        if let Some(verdict) = page.verdict {
            query.push(" AND l.verdict = ").push_bind(verdict);
        }
        if let Some(by) = &page.by {
            query.push(" AND l.labeler = ").push_bind(by);
        }
        if let Some(class) = &page.class {
            query.push(" AND l.class = ").push_bind(class);
        }
        if page.current {
            query.push(" AND EXISTS (SELECT 1 FROM current_labels c WHERE c.id = l.id)");
        }
        query.push(" ORDER BY l.id DESC LIMIT ").push_bind(page.limit.min(MAX_PAGE));
        let rows = query.build_query_as::<Row>().fetch_all(&self.database).await?;
        Ok(rows.into_iter().map(|row| self.label(row)).collect())
    }

    /// Every label that the item ever had, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn history(&self, verdict: i64) -> Result<Vec<Label>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
        query.push(" AND l.verdict = ").push_bind(verdict).push(" ORDER BY l.id");
        let rows = query.build_query_as::<Row>().fetch_all(&self.database).await?;
        Ok(rows.into_iter().map(|row| self.label(row)).collect())
    }

    /// What people say now about every item from verdict `from` to `to`: verdict → labels, oldest first. Their uids are
    /// those of the verdicts, which are not read here: they are nil.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn current_labels(&self, from: i64, to: i64) -> Result<BTreeMap<i64, Vec<Label>>, StoreError> {
        let rows: Vec<(i64, i64, Option<String>, String, String)> = sqlx::query_as(
            "SELECT id, verdict, class, labeler, at FROM current_labels WHERE verdict BETWEEN ? AND ? ORDER BY id",
        )
        .bind(from)
        .bind(to)
        .fetch_all(&self.database)
        .await?;
        let mut labels: BTreeMap<i64, Vec<Label>> = BTreeMap::new();
        for (id, verdict, class, by, at) in rows {
            let (uid, at) = (Uuid::nil(), moment(&at));
            let label = Label { id, verdict, uid, class, by, at, withdrawn: false, current: true };
            labels.entry(verdict).or_default().push(label);
        }
        Ok(labels)
    }

    /// The verdict `id`.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub async fn verdict(&self, id: i64) -> Result<Option<Verdict>, StoreError> {
        let body: Option<(String,)> =
            sqlx::query_as("SELECT body FROM verdicts WHERE id = ?").bind(id).fetch_optional(&self.database).await?;
        body.map(|(body,)| self.identity.verdict(id, &body)).transpose()
    }

    fn label(&self, (id, verdict, class, by, at, withdrawn, current, own): Row) -> Label {
        let uid = self.identity.or_own(verdict, own.as_deref());
        Label { id, verdict, uid, class, by, at: moment(&at), withdrawn, current }
    }
}

fn timestamp(at: OffsetDateTime) -> Result<String, sqlx::Error> {
    at.format(&Rfc3339).map_err(|e| sqlx::Error::Encode(e.into()))
}

/// Only [`timestamp`] writes the column; a row edited by hand keeps its label and loses its time.
fn moment(at: &str) -> OffsetDateTime {
    OffsetDateTime::parse(at, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        domain::{Action, testing::verdict},
        store::ItemPage,
    };

    async fn store_with(items: &[Verdict]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.insert(items).await.unwrap();
        (folder, store)
    }

    fn kept(action: Action) -> Verdict {
        Verdict { frame: Some("20261125-0123456789abcdef01234567".into()), ..verdict(action) }
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(1_795_000_000)
    }

    #[tokio::test]
    async fn a_correction_and_an_undo_leave_the_history_readable() {
        let (_folder, store) = store_with(&[kept(Action::Reject)]).await;
        let say = async |class: Option<&str>, by: &str| store.add_label(1, class, by, now()).await.unwrap().id;
        let (first, second) = (say(Some("cod"), "anna").await, say(Some("bass"), "anna").await);
        let third = say(None, "ben").await;
        let current = async || {
            let said = store.current_labels(0, i64::MAX).await.unwrap().remove(&1).unwrap_or_default();
            said.into_iter().map(|l| (l.by, l.class)).collect::<Vec<_>>()
        };
        let of = |by: &str, class: Option<&str>| (by.to_owned(), class.map(str::to_owned));
        assert_eq!(current().await, [of("anna", Some("bass")), of("ben", None)]);
        let undone = store.withdraw_label(second, "anna", now()).await.unwrap().unwrap();
        assert!(undone.withdrawn && !undone.current && undone.id == second);
        assert_eq!(current().await, [of("anna", Some("cod")), of("ben", None)], "the earlier label holds again");
        assert_eq!(store.withdraw_label(second, "anna", now()).await.unwrap(), None, "only once");
        assert_eq!(store.withdraw_label(99, "anna", now()).await.unwrap(), None);
        store.withdraw_label(first, "boss", now()).await.unwrap().unwrap();
        assert_eq!(current().await, [of("ben", None)]);

        let history = store.labels(&LabelPage { limit: 10, ..LabelPage::default() }).await.unwrap();
        let seen: Vec<_> = history.iter().map(|l| (l.id, l.withdrawn, l.current)).collect();
        assert_eq!(seen, [(third, false, true), (second, true, false), (first, true, false)]);
        assert_eq!(history[2].at, now());
        let page = LabelPage { limit: 10, by: Some("anna".into()), class: Some("bass".into()), ..LabelPage::default() };
        assert_eq!(store.labels(&page).await.unwrap().len(), 1);
        let current = LabelPage { limit: 10, current: true, ..LabelPage::default() };
        assert_eq!(store.labels(&current).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn nothing_changes_or_deletes_a_label_and_none_stands_without_its_item() {
        let (_folder, store) = store_with(&[kept(Action::Reject)]).await;
        assert!(store.add_label(2, Some("cod"), "anna", now()).await.is_err(), "there is no verdict 2");
        store.add_label(1, Some("cod"), "anna", now()).await.unwrap();
        for sql in ["DELETE FROM labels", "UPDATE labels SET class = 'bass'"] {
            let refused = sqlx::query(sql).execute(&store.writer).await.unwrap_err();
            assert!(refused.to_string().contains("only added"), "{refused}");
        }
        assert_eq!(store.verdict(1).await.unwrap().unwrap().id, 1);
        assert_eq!(store.verdict(2).await.unwrap(), None);
    }

    #[tokio::test]
    async fn items_are_found_by_action_class_and_whether_they_are_labeled() {
        let actions = [Action::Reject, Action::Accept, Action::Divert];
        let mut many: Vec<_> = (0..9).map(|i| kept(actions[i % 3])).collect();
        many.push(verdict(Action::Reject)); // its picture was not kept
        let (_folder, store) = store_with(&many).await;
        store.add_label(1, Some("bass"), "anna", now()).await.unwrap();
        store.add_label(2, Some("cod"), "anna", now()).await.unwrap();
        let found = async |page: ItemPage| {
            let page = ItemPage { limit: 100, ..page };
            store.items(&page).await.unwrap().iter().map(|i| i.verdict.id).collect::<Vec<_>>()
        };
        let all = ItemPage::default;
        assert_eq!(found(all()).await, (1..=9).rev().collect::<Vec<i64>>());
        assert_eq!(found(ItemPage { labeled: Some(true), ..all() }).await, [2, 1]);
        assert_eq!(found(ItemPage { labeled: Some(false), action: Some(Action::Reject), ..all() }).await, [7, 4]);
        assert_eq!(found(ItemPage { class: Some("bass".into()), ..all() }).await, [1], "the label beats the verdict");
        assert_eq!(found(ItemPage { class: Some("cod".into()), before: Some(4), ..all() }).await, [3, 2]);
        let item = &store.items(&ItemPage { limit: 1, before: Some(2), ..all() }).await.unwrap()[0];
        assert_eq!(item.labels[0].class.as_deref(), Some("bass"));
    }
}
