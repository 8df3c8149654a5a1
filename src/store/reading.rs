//! How a database is opened to read it: beside the service that writes it, and on media that nobody can write.
//!
//! A reader shares two files with the writer: the write-ahead log, and the log's index, which it makes where there is none.
//! Where it can't make one, all that was committed lies in the database's file only if the log is empty; then the file is
//! read as it is, for nothing changes it.
//!
//! Invariant: what is read is all that was committed, or the reader is refused and told what is missing.

use std::path::{Path, PathBuf};

use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

use super::{BUSY, DATABASE, StoreError};

/// SQLite's codes, the low byte of what it tells, where a file can't be made: the medium or the folder forbids it.
const CANT_MAKE: [i32; 2] = [8, 14];

/// How to open the database in `folder` to read it.
///
/// # Errors
/// [`StoreError::Open`], also when a part of what was committed could not be read.
pub(super) async fn options(folder: &Path) -> Result<SqliteConnectOptions, StoreError> {
    let database = folder.join(DATABASE);
    let options = SqliteConnectOptions::new()
        .filename(&database)
        .read_only(true)
        .pragma("trusted_schema", "OFF")
        .busy_timeout(BUSY);
    let refuse = |why: String| StoreError::Open { path: folder.into(), why };
    match reads(&options).await {
        Err(sqlx::Error::Database(e)) if cant_make(&*e) && database.is_file() => {}
        Err(e) => return Err(refuse(e.to_string())),
        Ok(()) => return Ok(options),
    }
    let log = beside(&database, "-wal");
    let waiting = std::fs::metadata(&log).map_or(0, |found| found.len());
    if waiting > 0 {
        return Err(refuse(format!(
            "{} bytes of what was committed last stand in {}, and their index {} is missing and can't be made in a folder \
             that can't be written: copy the folder with all its files to a place that can be written, and read it there",
            waiting,
            log.display(),
            beside(&database, "-shm").display()
        )));
    }
    let options = options.immutable(true);
    reads(&options).await.map_err(|e| refuse(e.to_string()))?;
    Ok(options)
}

fn cant_make(e: &dyn sqlx::error::DatabaseError) -> bool {
    e.code().and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| CANT_MAKE.contains(&(code & 0xff)))
}

/// Opens the database and reads from it: only then the files beside it are opened.
async fn reads(options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&mut connection).await?;
    connection.close().await
}

/// The file whose name is the database's with `end` behind it.
fn beside(database: &Path, end: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(end);
    name.into()
}
