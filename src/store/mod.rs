//! Verdicts, labels and the record in SQLite, frames as files beside it.
//!
//! Invariant: what was committed survives `kill -9` of the process (write-ahead log; a power cut may take the newest
//! commits, `synchronous=NORMAL`), no verdict names a frame that was not written before it, and nothing is written into
//! a folder that was removed or moved away, where nobody would find it.

pub mod anchor;
mod audit;
mod clock;
mod draws;
mod earlier;
#[cfg(test)]
mod forger;
pub mod forgery;
mod frames;
pub mod labels;
#[cfg(test)]
mod plans;
mod proof;
mod reading;
mod record;
mod restored;
mod retention;
mod schema;
mod search;
mod serving;
mod settings;
mod snapshot;
mod tallies;
mod uids;
mod verdicts;

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicI64},
    time::{Duration, Instant},
};

use object_store::local::LocalFileSystem;
use sqlx::{
    Connection, SqlSafeStr, SqliteConnection, SqliteTransaction,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};

pub use anchor::{AnchorSettings, AnchorTarget, AnchoredHead};
pub use audit::Deed;
pub use clock::Clock;
pub use earlier::{VERSIONS, make_earlier, migrate_to};
pub use frames::frame_key;
use labels::queue;
pub use labels::{
    Label, LabelPage,
    agreement::{Agreement, Consensus, consensus},
    audit::AuditAnswer,
    items::{FoundItems, ItemPage, LabeledItem},
    queue::{Ask, Queue, QueueOrder, WINDOW, hash_share},
};
use record::{chain, rows, signer};
pub use record::{
    challenges::{Announcement, Challenge, ChallengeDue, CorrectiveAction, GateResult, PlannedChallenge, TakenOff},
    event::{Entry, Event},
    lots::{Lot, LotEntry, LotTally, RemovedOf, SignOff, WithdrawnSignOff},
    signer::{KeyError, PUBLIC, SECRET},
    verify::{
        AnchorVerification, Finding, KeptEntry, LotVerification, Verification, verify, verify_anchor, verify_lot,
        verify_pictures, verify_serving,
    },
};
pub use restored::{RESTORED, mark_restored};
pub use retention::{HeldBack, Removed, Retention, RetentionState};
pub use serving::ServingChange;
pub use settings::StoreSettings;
pub use snapshot::snapshot;
use uids::StoreIdentity;
pub use uids::VerdictName;
pub use verdicts::{Counts, Found, MAX_PAGE, Page};

/// The database's name in the store's folder.
pub const DATABASE: &str = "verdicts.sqlite";
/// Folder of the kept frames, in the store's.
pub const FRAMES: &str = "frames";
/// Connections that read for everybody.
const READERS: u32 = 3;
/// How long a reader keeps a connection from the others at most; what it asks for is broken off then.
const READ: Duration = Duration::from_secs(5);
/// Steps of SQLite's machine after which it is asked whether it may go on: some hundred microseconds.
const STEPS: i32 = 10_000;
/// How long a reader or writer waits for another one's lock.
const BUSY: Duration = Duration::from_secs(5);

/// What makes the database, in order; each file runs once. Listed here, for sqlx's macro would build the half of it a
/// second time, for the compiler.
const MIGRATIONS: [(&str, &str); 11] = [
    ("verdicts", include_str!("migrations/0001_verdicts.sql")),
    ("labels", include_str!("migrations/0002_labels.sql")),
    ("chain", include_str!("migrations/0003_chain.sql")),
    ("audit", include_str!("migrations/0004_audit.sql")),
    ("retention", include_str!("migrations/0005_retention.sql")),
    ("frames gone", include_str!("migrations/0006_frames_gone.sql")),
    ("rows", include_str!("migrations/0007_rows.sql")),
    ("uids", include_str!("migrations/0008_uids.sql")),
    ("counts", include_str!("migrations/0009_counts.sql")),
    ("serving", include_str!("migrations/0010_serving.sql")),
    ("draws", include_str!("migrations/0011_draws.sql")),
];

fn migrations() -> Migrator {
    let numbered = (1..).zip(MIGRATIONS);
    let migration = |(version, (what, sql)): (i64, (&'static str, &'static str))| {
        Migration::new(version, what.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(numbered.map(migration).collect())
}

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
    /// The database is not where it was opened; what were written now would be lost.
    #[error("the store's database {0} was removed, moved or replaced while the service runs: put it back")]
    Gone(PathBuf),
    /// SQLite reported an error.
    #[error("the verdict store failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The record can't be continued or read; it must be examined.
    #[error("the record is broken: {0}")]
    Record(String),
    /// What was asked for does not fit the record.
    #[error("{0}")]
    Refused(String),
    /// The record's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A row is not a verdict; written by a newer version or by hand.
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

impl StoreError {
    /// Whether the same may succeed later: a full or slow disk, another one's lock, a folder that comes back.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Database(e) => !matches!(e, sqlx::Error::Encode(_)),
            Self::Gone(_) | Self::Frames(_) => true,
            _ => false,
        }
    }
}

/// An open store; clones share it.
#[derive(Clone)]
pub struct Store {
    folder: Arc<Path>,
    /// To read.
    database: SqlitePool,
    /// One connection, to write: however much is read, recording goes on.
    writer: SqlitePool,
    /// Device and inode of the database's file.
    file: (u64, u64),
    frames: Arc<LocalFileSystem>,
    window: Arc<tokio::sync::Mutex<queue::Window>>,
    /// `None` in a store that was opened to read.
    signer: Option<Arc<signer::Signer>>,
    /// The open lot; 0 for none.
    lot: Arc<AtomicI64>,
    identity: StoreIdentity,
}

impl Store {
    /// Opens `folder/verdicts.sqlite` and `folder/frames/`, makes what is missing and migrates what is old; the record
    /// is begun with a key of its own, or found to end where it was signed.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::Record`], [`StoreError::Key`].
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        let refuse = |why: String| StoreError::Open { path: folder.into(), why };
        let frames = folder.join(FRAMES);
        tokio::fs::create_dir_all(&frames).await.map_err(|e| refuse(e.to_string()))?;
        let frames = LocalFileSystem::new_with_prefix(&frames).map_err(|e| refuse(e.to_string()))?;
        let options = SqliteConnectOptions::new()
            .filename(folder.join(DATABASE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .pragma("trusted_schema", "OFF")
            .busy_timeout(BUSY);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(BUSY)
            // After some errors, a full disk among them, SQLite has ended a transaction that sqlx believes open.
            .before_acquire(|connection, _| {
                let usable = !connection.is_in_transaction();
                Box::pin(async move { Ok(usable) })
            })
            .connect_with(options.clone())
            .await
            .map_err(|e| refuse(e.to_string()))?;
        let options = options.create_if_missing(false);
        writer.set_connect_options(options.clone());
        let file = file(folder).await.map_err(|e| refuse(e.to_string()))?;
        migrations().run(&writer).await.map_err(|e| refuse(e.to_string()))?;
        let database = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(2 * BUSY)
            .after_connect(|connection, _| Box::pin(limit(connection)))
            .before_acquire(|connection, _| Box::pin(async { limit(connection).await.map(|()| true) }))
            .connect_with(options.read_only(true))
            .await
            .map_err(|e| refuse(e.to_string()))?;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(what) = schema::differences(&mut transaction).await?.first() {
            return Err(StoreError::Record(format!("in its database {what}; `beltsight record verify` tells more")));
        }
        let has_record = chain::tail(&mut transaction).await?.is_some();
        let has_key = folder.join(SECRET).exists();
        let signer = if has_record || has_key { signer::Signer::open(folder) } else { signer::Signer::make(folder) }?;
        let any = sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT 1 FROM verdicts)");
        if !has_record && has_key && any.fetch_one(&mut *transaction).await? {
            let why = "there are verdicts and a key, but no record: somebody took it away";
            return Err(StoreError::Record(why.into()));
        }
        chain::begin_or_check(&mut transaction, &signer).await?;
        rows::adopt(&mut transaction, &signer).await?;
        tallies::adopt(&mut transaction).await?;
        labels::counts::adopt(&mut transaction).await?;
        restored::tell(&mut transaction, &signer, folder).await?;
        let lot = chain::last_of(&mut transaction, &["lot_opened", "lot_closed"]).await?;
        let lot = lot.filter(|entry| matches!(entry.event, Event::LotOpened { .. })).map_or(0, |entry| entry.seq);
        let identity = StoreIdentity::read(&mut transaction).await?;
        transaction.commit().await?;
        if !has_key {
            signer::Signer::keep(folder)?;
        }
        restored::unmark(folder);
        Ok(Self {
            folder: folder.into(),
            database,
            writer,
            file,
            frames: Arc::new(frames),
            window: Arc::default(),
            signer: Some(Arc::new(signer)),
            lot: Arc::new(lot.into()),
            identity,
        })
    }

    /// Opens a store to read it, also beside the service that writes it and where nothing can be written. Needs no secret
    /// and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub async fn open_to_read(folder: &Path) -> Result<Self, StoreError> {
        let refuse = |why: String| StoreError::Open { path: folder.into(), why };
        let frames = LocalFileSystem::new_with_prefix(folder.join(FRAMES)).map_err(|e| refuse(e.to_string()))?;
        let database = SqlitePoolOptions::new()
            .max_connections(2)
            .connect_with(reading::options(folder).await?)
            .await
            .map_err(|e| refuse(e.to_string()))?;
        let file = file(folder).await.map_err(|e| refuse(e.to_string()))?;
        let frames = Arc::new(frames);
        let (window, lot) = (Arc::default(), Arc::default());
        let writer = database.clone(); // it can't write either
        let identity = StoreIdentity::read(&mut *database.acquire().await?).await?;
        Ok(Self { folder: folder.into(), database, writer, file, frames, window, signer: None, lot, identity })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes that may still be written to the disk that it lies on.
    ///
    /// # Errors
    /// The system's.
    pub async fn free_bytes(&self) -> std::io::Result<u64> {
        let folder = self.folder.clone();
        // A disk that hangs must not hold up whoever else runs on this thread.
        let free = move || rustix::fs::statvfs(&*folder).map(|found| found.f_bavail * found.f_frsize);
        Ok(tokio::task::spawn_blocking(free).await.map_err(std::io::Error::other)??)
    }

    /// The folder's key, for what is about to be written.
    fn signer(&self) -> Result<&signer::Signer, StoreError> {
        self.signer.as_deref().ok_or_else(|| StoreError::Refused("the store was opened to read".into()))
    }

    /// Refuses when the database is not where it was opened: SQLite itself would write on into a removed file.
    async fn there(&self) -> Result<(), StoreError> {
        match file(&self.folder).await {
            Ok(found) if found == self.file => Ok(()),
            _ => Err(StoreError::Gone(self.folder.join(DATABASE))),
        }
    }

    /// A transaction that holds the write lock from its start.
    async fn begin(&self) -> Result<SqliteTransaction<'static>, StoreError> {
        self.there().await?;
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Closes the database after the work in progress; the write-ahead log is folded in.
    pub async fn close(&self) {
        self.database.close().await;
        self.writer.close().await; // last, for only it can fold the log in
    }
}

/// From now on `connection` has [`READ`] for what it is asked.
async fn limit(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let end = Instant::now() + READ;
    connection.lock_handle().await?.set_progress_handler(STEPS, move || Instant::now() < end);
    Ok(())
}

/// Device and inode of the database in `folder`.
async fn file(folder: &Path) -> std::io::Result<(u64, u64)> {
    let found = tokio::fs::metadata(folder.join(DATABASE)).await?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn while_readers_hold_every_connection_of_theirs_the_record_grows() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..READERS {
            let mut reader = store.database.begin().await.unwrap();
            sqlx::query("SELECT count(*) FROM record").fetch_one(&mut *reader).await.unwrap();
            held.push(reader);
        }
        let append = store.append(Event::Stopped);
        let written = tokio::time::timeout(Duration::from_secs(1), append).await;
        assert_eq!(written.expect("it had to wait for them").unwrap(), 2);
        drop(held);
        assert_eq!(store.head().await.unwrap().0, 2, "what was written is read");
    }

    #[tokio::test]
    async fn a_read_without_end_is_broken_off_and_takes_no_others_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        const ENDLESS: &str =
            "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c WHERE n < 0";
        let endless =
            |store: Store| async move { sqlx::query_scalar::<_, i64>(ENDLESS).fetch_one(&store.database).await };
        let mut kept = tokio::spawn(endless(store.clone()));
        for _ in 1..READERS {
            // Whoever asked has hung up; SQLite does not know.
            let gone = tokio::time::timeout(Duration::from_millis(50), endless(store.clone())).await;
            assert!(gone.is_err());
        }
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut kept).await.is_err());
        let read = tokio::time::timeout(2 * READ, store.head()).await;
        assert_eq!(read.expect("they hold every connection").unwrap().0, 1);
        assert!(kept.await.unwrap().unwrap_err().to_string().contains("interrupted"));
    }
}
