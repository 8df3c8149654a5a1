//! Rows beside the verdicts that later proof rests on (what people said, who changed what, which pictures are gone, what is
//! to serve, which items were drawn for the audit): each
//! is held by an entry with its hash, written in the transaction that writes the row.
//!
//! A row's hash is SHA-256 of `json_array(…)` over its columns in the order of [`HeldTable::columns`], as SQLite writes it.
//! A table that comes to be held gets a variant here; its writer calls [`held`], and verification needs nothing more.
//!
//! Invariant: the newest entry about a row holds it, every row has one, and none is about a row that is not there.

use sqlx::{AssertSqlSafe, SqliteConnection, SqliteTransaction};

use super::{
    chain::{self, Body, Tail},
    event::Event,
    signer::Signer,
};
use crate::{domain::hash::sha256, store::StoreError};

/// Rows whose entries are written at once.
const BATCH: i64 = 1000;

/// A table whose rows the record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum HeldTable {
    Labels,
    Audit,
    FramesGone,
    Serving,
    Draws,
}

impl HeldTable {
    pub(in crate::store) const ALL: [Self; 5] =
        [Self::Labels, Self::Audit, Self::FramesGone, Self::Serving, Self::Draws];

    /// As in the database and in entries.
    pub(in crate::store) fn name(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Audit => "audit",
            Self::FramesGone => "frames_gone",
            Self::Serving => "serving",
            Self::Draws => "draws",
        }
    }

    /// The column that tells its rows apart.
    pub(in crate::store) fn key(self) -> &'static str {
        match self {
            Self::Labels | Self::Audit | Self::Serving => "id",
            Self::FramesGone => "key",
            Self::Draws => "verdict",
        }
    }

    /// Whether a row, once written, stays as it is.
    pub(in crate::store) fn only_grows(self) -> bool {
        self != Self::FramesGone
    }

    /// What is hashed, in this order.
    pub(in crate::store) fn columns(self) -> &'static str {
        match self {
            Self::Labels => "id, verdict, class, labeler, at, withdraws",
            Self::Audit => "id, time, name, role, address, method, path, status",
            Self::FramesGone => "key, upto",
            Self::Serving => {
                "id, time, seen, change, at, who, why, before, version, model, thresholds, changes, history, root"
            }
            Self::Draws => "verdict, at, chance, least",
        }
    }
}

/// The entry that holds the row `row` of `table` as it now stands; `None` where there is no such row.
pub(in crate::store) async fn held(
    connection: &mut SqliteConnection,
    table: HeldTable,
    row: &str,
) -> Result<Option<Body>, StoreError> {
    let (name, key, columns) = (table.name(), table.key(), table.columns());
    let query = format!("SELECT json_array({columns}) FROM {name} WHERE {key} = ?");
    let text: Option<String> = sqlx::query_scalar(AssertSqlSafe(query)).bind(row).fetch_optional(connection).await?;
    text.map(|text| entry(table, row, &text)).transpose()
}

/// Appends the entry that holds the row `row` of `table`, which was written in this transaction, after `also`.
pub(in crate::store) async fn hold(
    transaction: &mut SqliteTransaction<'_>,
    signer: &Signer,
    table: HeldTable,
    row: &str,
    also: Option<Body>,
) -> Result<(), StoreError> {
    let mut bodies: Vec<Body> = also.into_iter().collect();
    bodies.extend(held(transaction, table, row).await?);
    let tail = chain::tail(transaction).await?.ok_or_else(chain::no_head)?;
    chain::extend(transaction, signer, tail, &bodies).await?;
    Ok(())
}

fn entry(table: HeldTable, row: &str, text: &str) -> Result<Body, StoreError> {
    chain::event(Event::RowHeld { table: table.name().into(), row: row.into(), sha256: sha256(text.as_bytes()) })
}

/// Holds all rows of a store whose record began before rows were held, once.
pub(in crate::store) async fn adopt(
    transaction: &mut SqliteTransaction<'_>,
    signer: &Signer,
) -> Result<(), StoreError> {
    let began = chain::last_of(transaction, &["began"]).await?;
    let holds = began.is_some_and(|entry| entry.event == Event::Began { rows: true });
    if holds || chain::last_of(transaction, &["rows_adopted"]).await?.is_some() {
        return Ok(());
    }
    let mut tail: Tail = chain::tail(transaction).await?.ok_or_else(chain::no_head)?;
    let mut rows = 0;
    for table in HeldTable::ALL {
        let (name, key, columns) = (table.name(), table.key(), table.columns());
        let query = format!(
            "SELECT CAST({key} AS TEXT), json_array({columns}) FROM {name} ORDER BY {key} LIMIT {BATCH} OFFSET ?"
        );
        let mut read = 0;
        loop {
            let some: Vec<(String, String)> =
                sqlx::query_as(AssertSqlSafe(query.clone())).bind(read).fetch_all(&mut **transaction).await?;
            let bodies: Result<Vec<Body>, _> = some.iter().map(|(row, text)| entry(table, row, text)).collect();
            tail = chain::extend(transaction, signer, tail, &bodies?).await?;
            read += some.len() as i64;
            if (some.len() as i64) < BATCH {
                break;
            }
        }
        rows += read as u64;
    }
    chain::extend(transaction, signer, tail, &[chain::event(Event::RowsAdopted { rows })?]).await?;
    Ok(())
}
