//! For tests: somebody who may write the store's files and does not hold its key.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use sha2::{Digest, Sha256};
use sqlx::{
    Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

use super::record::{
    chain::{link, seed},
    signer::{Mark, Signer, hex},
};
use crate::domain::time::rfc3339_now;

/// A forger: the database without triggers, checks and indices.
pub(in crate::store) struct Forger {
    pub connection: SqliteConnection,
    /// What makes them again, so that nothing tells of the forger but what was forged.
    pub schema: Vec<String>,
}

impl Forger {
    /// Leaves the schema as it was; what an index refuses stays away.
    pub async fn close(mut self) {
        for sql in self.schema {
            run(&mut self.connection, sql).await;
        }
        self.connection.close().await.unwrap();
    }
}

/// Opens the store in `folder`, which must be closed.
pub(in crate::store) async fn forge(folder: &Path) -> Forger {
    let options =
        SqliteConnectOptions::new().filename(folder.join("verdicts.sqlite")).synchronous(SqliteSynchronous::Off);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF")
        .execute(&mut connection)
        .await
        .unwrap();
    let made: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'index') AND sql IS NOT NULL",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut schema = Vec::new();
    for (kind, name, sql) in made {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP {kind} {name}"))).execute(&mut connection).await.unwrap();
        schema.push(sql);
    }
    Forger { connection, schema }
}

/// Does one thing as a forger; the rows that it changed.
pub(in crate::store) async fn edit(folder: &Path, sql: impl Into<String>) -> u64 {
    let mut forger = forge(folder).await;
    let done = run(&mut forger.connection, sql.into()).await;
    forger.close().await;
    done
}

/// Makes hashes, checkpoints and head anew after a forgery: what somebody can who holds the key.
pub(in crate::store) async fn sign_again(folder: &Path) {
    let signer = Signer::open(folder).unwrap();
    let mut forger = forge(folder).await;
    type Row = (i64, Option<i64>, Vec<u8>, Option<Vec<u8>>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT seq, verdict, CAST(r.body AS BLOB), CAST(v.body AS BLOB)
         FROM record r LEFT JOIN verdicts v ON v.id = r.verdict ORDER BY seq",
    )
    .fetch_all(&mut forger.connection)
    .await
    .unwrap();
    let (mut previous, mut last, time) = (seed(), 0, rfc3339_now());
    for (seq, verdict, body, document) in rows {
        let body = document.map_or(body, |document| Sha256::digest(document).to_vec());
        (previous, last) = (link(&previous, seq, verdict, &body), seq);
        if verdict.is_some() {
            let sql = format!("UPDATE record SET body = x'{}' WHERE seq = {seq}", hex(&body));
            run(&mut forger.connection, sql).await;
        }
        let mark = |kind| {
            let signature = hex(&signer.sign(&Mark { kind, seq, hash: &previous, time: &time }));
            format!("SET hash = x'{}', time = '{time}', signature = x'{signature}'", hex(&previous))
        };
        let (checkpoint, head) = (mark("checkpoint"), mark("head"));
        run(
            &mut forger.connection,
            format!(
                "UPDATE record SET hash = x'{}' WHERE seq = {seq}; UPDATE checkpoints {checkpoint} WHERE seq = {seq};
                 UPDATE head {head}, seq = {seq}",
                hex(&previous)
            ),
        )
        .await;
    }
    assert!(last > 0);
    forger.close().await;
}

/// Runs SQL; the rows that it changed.
pub(in crate::store) async fn run(connection: &mut SqliteConnection, sql: String) -> u64 {
    // A change that the table's own rules refuse (a seq that is taken) is no change.
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await;
    done.map_or(0, |done| done.rows_affected())
}
