//! The audit log: who asked for which change, and how it was answered. Each is an entry of the record too, and the
//! record holds its row.
//!
//! Invariant: entries are only added; nothing of ours changes or deletes one, and SQLite refuses it too.

use serde::Serialize;

use super::{
    MAX_PAGE, Store, StoreError,
    record::{
        chain,
        event::Event,
        rows::{self, HeldTable},
    },
};

/// One change that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Deed {
    /// Rises with every entry; 0 before it is written.
    pub id: i64,
    /// When it was asked for (RFC 3339).
    pub time: String,
    /// The token's name; `local` when no token is set.
    pub name: String,
    /// The token's role.
    pub role: String,
    /// Where the request came from; empty when unknown.
    pub address: String,
    /// The HTTP method.
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// How it was answered: the HTTP status.
    pub status: u16,
}

impl Store {
    /// Adds an entry, here and to the record; its own `id` is not looked at.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn audit(&self, deed: &Deed) -> Result<(), StoreError> {
        let Deed { id: _, time, name, role, address, method, path, status } = deed.clone();
        let mut transaction = self.begin().await?;
        let columns =
            "INSERT INTO audit (time, name, role, address, method, path, status) VALUES (?, ?, ?, ?, ?, ?, ?)";
        let query = sqlx::query(columns).bind(&time).bind(&name).bind(&role).bind(&address);
        let done = query.bind(&method).bind(&path).bind(status).execute(&mut *transaction).await?;
        let entry = chain::event(Event::Audit { name, role, address, method, path, status })?;
        let row = done.last_insert_rowid().to_string();
        rows::hold(&mut transaction, self.signer()?, HeldTable::Audit, &row, Some(entry)).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Entries older than the id `before`, newest first; at most [`MAX_PAGE`].
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn deeds(&self, before: Option<i64>, limit: u32) -> Result<Vec<Deed>, StoreError> {
        let columns = "SELECT id, time, name, role, address, method, path, status FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?";
        let query = sqlx::query_as(columns).bind(before.unwrap_or(i64::MAX)).bind(limit.min(MAX_PAGE));
        let rows = query.fetch_all(&self.database).await?.into_iter();
        let deed = |(id, time, name, role, address, method, path, status)| Deed {
            id,
            time,
            name,
            role,
            address,
            method,
            path,
            status,
        };
        Ok(rows.map(deed).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::domain::time::rfc3339;

    #[tokio::test]
    async fn entries_are_kept_in_order_and_can_be_neither_changed_nor_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let deed = |n: u16| Deed {
            id: i64::from(n),
            time: rfc3339(OffsetDateTime::UNIX_EPOCH),
            name: "eve".into(),
            role: "operator".into(),
            address: "127.0.0.1".into(),
            method: "POST".into(),
            path: format!("/models/{n}/promote"),
            status: 200 + n,
        };
        for n in 1..=5 {
            store.audit(&deed(n)).await.unwrap();
        }
        assert_eq!(store.deeds(None, 2).await.unwrap(), [deed(5), deed(4)]);
        assert_eq!(store.deeds(Some(4), 100).await.unwrap(), [deed(3), deed(2), deed(1)]);
        for change in ["DELETE FROM audit WHERE id = 3", "UPDATE audit SET name = 'adam'"] {
            let refused = sqlx::query(change).execute(&store.writer).await.unwrap_err().to_string();
            assert!(refused.contains("append-only"), "{refused}");
        }
        assert_eq!(store.deeds(None, 100).await.unwrap().len(), 5);
    }
}
