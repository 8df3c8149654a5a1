//! A store that came out of an archive: a file beside the database tells whoever opens it next, who tells the record.
//!
//! Invariant: the entry is written before the file goes, and not twice for one restoring.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};
use sqlx::SqliteTransaction;
use time::OffsetDateTime;

use super::{
    StoreError,
    record::{chain, event::Event, signer::Signer},
};
use crate::files;

/// The file's name in the store's folder.
pub const RESTORED: &str = "restored.json";

#[derive(Serialize, Deserialize)]
struct Mark {
    #[serde(with = "time::serde::rfc3339")]
    archived: OffsetDateTime,
    record: String,
    /// Tells one restoring from the next.
    #[serde(with = "time::serde::rfc3339")]
    restored: OffsetDateTime,
}

/// Marks the store in `folder` as restored from an archive made at `archived`, when its record ended at `record`
/// (`ENTRY:HASH`).
///
/// # Errors
/// The system's.
pub fn mark_restored(folder: &Path, archived: OffsetDateTime, record: &str) -> io::Result<()> {
    let mark = Mark { archived, record: record.into(), restored: OffsetDateTime::now_utc() };
    files::write(&folder.join(RESTORED), &serde_json::to_vec(&mark)?)
}

/// Tells the record, where the store in `folder` is marked and the record was not told yet.
pub(super) async fn tell(
    transaction: &mut SqliteTransaction<'_>,
    signer: &Signer,
    folder: &Path,
) -> Result<(), StoreError> {
    let path = folder.join(RESTORED);
    let refuse = |why: String| StoreError::Open { path: path.clone(), why };
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|e| refuse(e.to_string()))?,
    };
    let Mark { archived, record, restored } = serde_json::from_slice(&text).map_err(|e| refuse(e.to_string()))?;
    let event = Event::Restored { archived, record, restored };
    if chain::last_of(transaction, &["restored"]).await?.is_some_and(|told| told.event == event) {
        return Ok(());
    }
    let tail = chain::tail(transaction).await?.ok_or_else(chain::no_head)?;
    chain::extend(transaction, signer, tail, &[chain::event(event)?]).await?;
    Ok(())
}

/// Takes the mark away, once the record's entry is committed. If that fails, it is found again, and known.
pub(super) fn unmark(folder: &Path) {
    let _ = fs::remove_file(folder.join(RESTORED));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::{Store, verify};

    #[tokio::test]
    async fn a_mark_that_somebody_wrote_by_hand_is_told_as_a_restore() {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).await.unwrap().close().await;
        let mark = r#"{"archived":"2026-11-29T06:00:00Z","record":"9999:00","restored":"2026-11-29T07:00:00Z"}"#;
        fs::write(folder.path().join(RESTORED), mark).unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        assert_eq!(store.events(&["restored"], None).await.unwrap().len(), 1);
        assert_eq!(verify(folder.path(), None, None).await.unwrap().findings, []);
        store.close().await;
    }
}
