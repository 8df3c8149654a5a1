//! How many items people label now, kept beside the labels: the queue tells it with every answer.
//!
//! Invariant: the table says what [`COUNTED`] finds. It changes in the transaction that writes the label, and
//! `record verify` counts again.

use sqlx::{SqliteConnection, SqliteTransaction};

use crate::store::{Store, StoreError};

/// Counts all labels: each person's items, and under the empty name the items that somebody tells the class of.
pub(in crate::store) const COUNTED: &str = "SELECT labeler, count(*) FROM current_labels GROUP BY labeler UNION ALL
    SELECT '', count(DISTINCT verdict) FROM current_labels WHERE class IS NOT NULL HAVING count(*) > 0";

/// Whether a person labels an item, and whether anybody tells its class.
pub(super) struct LabeledState {
    by_them: bool,
    told: bool,
}

impl LabeledState {
    pub(super) async fn read(
        transaction: &mut SqliteTransaction<'_>,
        verdict: i64,
        labeler: &str,
    ) -> Result<Self, sqlx::Error> {
        let query = "SELECT EXISTS (SELECT 1 FROM standing_labels WHERE verdict = ? AND labeler = ?),
            EXISTS (SELECT 1 FROM current_labels WHERE verdict = ? AND class IS NOT NULL)";
        let query = sqlx::query_as(query).bind(verdict).bind(labeler).bind(verdict);
        let (by_them, told) = query.fetch_one(&mut **transaction).await?;
        Ok(Self { by_them, told })
    }

    /// Counts what has changed about the item since `self` was read.
    pub(super) async fn count_change(
        self,
        transaction: &mut SqliteTransaction<'_>,
        verdict: i64,
        labeler: &str,
    ) -> Result<(), sqlx::Error> {
        let now = Self::read(transaction, verdict, labeler).await?;
        for (whose, was, is) in [(labeler, self.by_them, now.by_them), ("", self.told, now.told)] {
            if was != is {
                sqlx::query(
                    "INSERT INTO label_counts (labeler, items) VALUES (?, ?) ON CONFLICT (labeler) \
                     DO UPDATE SET items = items + excluded.items",
                )
                .bind(whose)
                .bind(if is { 1 } else { -1 })
                .execute(&mut **transaction)
                .await?;
            }
        }
        Ok(())
    }
}

/// Counts the labels of a store that an older version wrote, once.
pub(in crate::store) async fn adopt(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let counted: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM label_counts)").fetch_one(&mut *connection).await?;
    if !counted {
        let query = format!("INSERT INTO label_counts (labeler, items) {COUNTED}");
        sqlx::query(sqlx::AssertSqlSafe(query)).execute(connection).await?;
    }
    Ok(())
}

impl Store {
    /// Items that somebody could tell the class of.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn labeled_items(&self) -> Result<usize, StoreError> {
        Ok(self.labels_of("").await? as usize)
    }

    /// How many items `by` labels now.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn labels_of(&self, by: &str) -> Result<u64, StoreError> {
        let items: Option<i64> = sqlx::query_scalar("SELECT items FROM label_counts WHERE labeler = ?")
            .bind(by)
            .fetch_optional(&self.database)
            .await?;
        Ok(items.map_or(0, |items| u64::try_from(items).unwrap_or(0))) // a count is never negative
    }
}
