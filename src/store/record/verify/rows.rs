//! The rows beside the verdicts, each as its newest entry holds it.

use sqlx::{AssertSqlSafe, Row, sqlite::SqlitePool};
use tokio_stream::StreamExt;

use super::{Finding, TOLD, finding};
use crate::{domain::hash::sha256, store::record::rows::HeldTable};

/// Entries that hold rows.
const HELD: &str = "FROM record WHERE verdict IS NULL AND kind = 'row_held'
    AND CASE WHEN verdict IS NULL THEN json_extract(body, '$.table') END = ?";
/// The row that such an entry holds.
const HELD_ROW: &str = "CASE WHEN record.verdict IS NULL THEN json_extract(record.body, '$.row') END";

/// Findings about all rows that the record holds; none where the record holds no rows yet, as those of older versions.
pub(super) async fn verify_rows(pool: &SqlitePool) -> Result<Vec<Finding>, sqlx::Error> {
    let holds: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM record WHERE verdict IS NULL AND (kind = 'rows_adopted'
             OR seq = 1 AND json_extract(body, '$.rows')))",
    )
    .fetch_one(pool)
    .await?;
    let mut findings = Vec::new();
    if holds {
        for table in HeldTable::ALL {
            findings.extend(unlike(pool, table).await?);
            findings.extend(gone(pool, table).await?);
            if table.only_grows() {
                findings.extend(held_again(pool, table).await?);
            }
        }
    }
    Ok(findings)
}

/// Each row of the table: its key, what is hashed of it, and the hash in its newest entry. Bind the table's name.
pub(super) fn query(table: HeldTable) -> String {
    let (name, key, columns) = (table.name(), table.key(), table.columns());
    // SQLite's JSON takes a BLOB for the value that it stands for: two rows with one hash, that are not read alike.
    let blobs: Vec<String> = columns.split(", ").map(|column| format!("typeof({column}) = 'blob'")).collect();
    let blobs = blobs.join(" OR ");
    // `+seq`: else the newest events are gone through instead of the row's own, quadratic in their number.
    format!(
        "SELECT CAST({key} AS TEXT), CASE WHEN {blobs} THEN NULL ELSE json_array({columns}) END,
             (SELECT json_extract(body, '$.sha256') {HELD} AND {HELD_ROW} = CAST(t.{key} AS TEXT)
              ORDER BY +seq DESC LIMIT 1) FROM {name} AS t"
    )
}

/// Rows that are not as their newest entry has them, or have none.
async fn unlike(pool: &SqlitePool, table: HeldTable) -> Result<Vec<Finding>, sqlx::Error> {
    let name = table.name();
    let query = query(table);
    let mut rows = sqlx::query(AssertSqlSafe(query)).bind(name).fetch(pool);
    let mut findings = Vec::new();
    while let Some(row) = rows.next().await {
        // A value of another kind than SQLite's JSON takes ends the reading: that is a finding, too.
        let Ok(row) = row else {
            findings.push(finding(0, format!("the rows of {name} can't be read")));
            break;
        };
        let (key, text, held): (Option<String>, Option<String>, Option<String>) =
            (row.try_get(0).ok(), row.try_get(1).ok(), row.try_get(2).ok().flatten());
        let key = key.unwrap_or_default();
        match held {
            None => findings.push(finding(0, format!("row {key} of {name} is in no entry"))),
            Some(held) if text.is_none_or(|text| sha256(text.as_bytes()) != held) => {
                findings.push(finding(0, format!("row {key} of {name} was changed")));
            }
            Some(_) => {}
        }
        if findings.len() > TOLD {
            break;
        }
    }
    Ok(findings)
}

/// Rows that an entry holds and the table does not.
async fn gone(pool: &SqlitePool, table: HeldTable) -> Result<Vec<Finding>, sqlx::Error> {
    let (name, key) = (table.name(), table.key());
    let kind = if key == "id" { "INTEGER" } else { "TEXT" };
    let query = format!(
        "SELECT max(seq), {HELD_ROW} {HELD}
             AND NOT EXISTS (SELECT 1 FROM {name} AS t WHERE t.{key} = CAST({HELD_ROW} AS {kind}))
         GROUP BY 2 LIMIT {TOLD}"
    );
    let rows: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(query)).bind(name).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(seq, row)| finding(seq, format!("row {row} of {name} is gone"))).collect())
}

/// Rows that are never changed, and have a second entry all the same: the key's holder can write one behind the anchor.
async fn held_again(pool: &SqlitePool, table: HeldTable) -> Result<Vec<Finding>, sqlx::Error> {
    let name = table.name();
    let query = format!("SELECT max(seq), {HELD_ROW} {HELD} GROUP BY 2 HAVING count(*) > 1 LIMIT {TOLD}");
    let rows: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(query)).bind(name).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(seq, row)| finding(seq, format!("row {row} of {name} is held a second time"))).collect())
}
