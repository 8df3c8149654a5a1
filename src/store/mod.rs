//! Verdicts and labels in SQLite, frames as files beside it.
//!
//! Invariant: what was committed survives `kill -9` of the process (write-ahead log; a power cut may take the newest
//! commits, `synchronous=NORMAL`), and no verdict names a frame that was not written before it.

mod agreement;
mod audit;
mod frames;
mod labels;
mod queue;
mod verdicts;

use std::{path::Path, path::PathBuf, time::Duration};

use object_store::local::LocalFileSystem;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

pub use agreement::{Agreement, Consensus, consensus};
pub use audit::{Deed, rfc3339};
pub use frames::frame_key;
pub use labels::{ItemPage, Label, LabelPage, LabeledItem};
pub use queue::{Ask, Order, Queue, WINDOW, hash_share};
pub use verdicts::{Counts, MAX_PAGE, Page};

/// How long a reader or writer waits for another one's lock.
const BUSY: Duration = Duration::from_secs(5);

/// What can go wrong between us and the disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder can't be made or opened.
    #[error("the store at {path} can't be opened: {why}")]
    Open {
        /// The store's folder.
        path: PathBuf,
        /// The system's or SQLite's words.
        why: String,
    },
    /// SQLite reported an error.
    #[error("the verdict store failed: {0}")]
    Database(#[from] sqlx::Error),
    /// A row is no verdict; written by a newer version or by hand.
    #[error("verdict {id} in the store can't be read: {why}")]
    Row {
        /// Its id.
        id: i64,
        /// What is wrong with it.
        why: String,
    },
    /// The frame store reported an error.
    #[error("the frame store failed: {0}")]
    Frames(#[from] object_store::Error),
}

/// An open store; clones share it.
#[derive(Clone)]
pub struct Store {
    database: SqlitePool,
    frames: std::sync::Arc<LocalFileSystem>,
}

impl Store {
    /// Opens `folder/verdicts.sqlite` and `folder/frames/`, makes what is missing and migrates what is old.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        let refuse = |why: String| StoreError::Open { path: folder.into(), why };
        let frames = folder.join("frames");
        tokio::fs::create_dir_all(&frames).await.map_err(|e| refuse(e.to_string()))?;
        let frames = LocalFileSystem::new_with_prefix(&frames).map_err(|e| refuse(e.to_string()))?;
        let options = SqliteConnectOptions::new()
            .filename(folder.join("verdicts.sqlite"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY);
        let database = SqlitePoolOptions::new()
            .max_connections(4) // one writes, three read
            .acquire_timeout(BUSY)
            .connect_with(options)
            .await
            .map_err(|e| refuse(e.to_string()))?;
        sqlx::migrate!("src/store/migrations").run(&database).await.map_err(|e| refuse(e.to_string()))?;
        Ok(Self { database, frames: std::sync::Arc::new(frames) })
    }

    /// Closes the database after the work in progress; the write-ahead log is folded in.
    pub async fn close(&self) {
        self.database.close().await;
    }
}
