//! A copy of the database at one moment, made while the service writes on.

use std::path::Path;

use sqlx::{ConnectOptions, Connection};

use super::{DATABASE, PUBLIC, StoreError, reading};

/// Copies the database in `folder`, and the public key, into the empty folder `to`: all that was committed at one moment.
///
/// The writer goes on meanwhile; only its write-ahead log is not emptied before the copy is made.
///
/// # Errors
/// [`StoreError::Open`], [`StoreError::Database`]; then what lies in `to` is of no use.
pub async fn snapshot(folder: &Path, to: &Path) -> Result<(), StoreError> {
    let refuse = |why: String| StoreError::Open { path: folder.into(), why };
    let mut connection = reading::options(folder).await?.connect().await?;
    let copy = to.join(DATABASE);
    let name = copy.to_str().ok_or_else(|| refuse(format!("{} is no UTF-8", copy.display())))?;
    sqlx::query("VACUUM INTO ?").bind(name).execute(&mut connection).await?;
    connection.close().await?;
    std::fs::copy(folder.join(PUBLIC), to.join(PUBLIC)).map_err(|e| refuse(format!("{PUBLIC}: {e}")))?;
    Ok(())
}
