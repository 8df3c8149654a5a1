//! Random forgeries of a closed store, for `beltsight bench forge`: somebody who may write its files and knows how they are
//! made, but does not hold its key.
//!
//! Invariant: a forgery changes a file or says that it did not; nothing of it goes through the code that writes the record.

mod bytes;
mod sql;

use std::path::Path;

use rand::{Rng, RngExt};
use sqlx::SqliteConnection;

use super::StoreError;

/// Ways to forge, in turn.
pub const FORGERIES: [&str; 10] = [
    "value",
    "row",
    "schema",
    "table page",
    "index page",
    "inner page",
    "overflow or free page",
    "file header",
    "log",
    "log, summed again",
];

/// Forges the store in `folder` in the way `FORGERIES[n % 10]`; columns and objects of the schema are gone through as `n`
/// rises. What was done, in words; `None` where nothing changed.
///
/// # Errors
/// When the files can't be read or written.
pub async fn forge(folder: &Path, random: &mut impl Rng, n: usize) -> Result<Option<String>, StoreError> {
    let (way, turn) = (FORGERIES[n % FORGERIES.len()], n / FORGERIES.len());
    let refuse = |e: std::io::Error| StoreError::Open { path: folder.into(), why: e.to_string() };
    match way {
        "value" | "row" | "schema" => {
            let mut connection = sql::open(folder).await?;
            let done = match way {
                "value" => sql::value(&mut connection, random, turn).await?,
                "row" => sql::row(&mut connection, random, turn).await?,
                _ => sql::schema(&mut connection, random, turn).await?,
            };
            sql::close(connection).await?;
            Ok(done)
        }
        "log" => bytes::log(folder, random, false).map_err(refuse),
        "log, summed again" => bytes::log(folder, random, true).map_err(refuse),
        "file header" => bytes::header(folder, random).map_err(refuse),
        way => bytes::page(folder, random, way).map_err(refuse),
    }
}

/// One of them by chance; `None` of none.
fn one<'a, T>(random: &mut impl Rng, all: &'a [T]) -> Option<&'a T> {
    (!all.is_empty()).then(|| &all[random.random_range(0..all.len())])
}

/// Runs SQL that the database may refuse; the rows that it changed.
async fn run(connection: &mut SqliteConnection, sql: String) -> u64 {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await.map_or(0, |done| done.rows_affected())
}
