//! The record as a hash chain: every entry's hash covers the one before it, and the newest one is signed.
//!
//! An entry is a verdict (held by the SHA-256 of its JSON document in `verdicts`) or an [`Event`]. Its hash is SHA-256
//! over previous hash (32 bytes) ‖ seq (8, big-endian) ‖ verdict id or 0 (8) ‖ body; the hash before the first entry is
//! the SHA-256 of [`SEED`]. Entries, signed head and signed checkpoints are written in ONE transaction, so there is no
//! moment, not even within a crash, at which the head does not name the newest entry: a kill loses a whole batch or
//! nothing, a power cut may lose the newest batches whole (see [`super`]), and no recovery rule has to excuse entries
//! that nobody signed.
//!
//! What this can't find: the whole store put back to an earlier state of itself, head included, and a record rewritten
//! by somebody who holds `record.key`. Both are found by an entry's hash that was kept elsewhere (`record verify --kept`):
//! every exported lot names one, and the log does when the service starts and stops.
//!
//! Invariant: the chain grows only from a head that is signed and is the newest entry.

use sha2::{Digest, Sha256};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, SqliteTransaction};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    event::{Entry, Event},
    signer::{Mark, Signer, hex},
};
use crate::{
    domain::time::rfc3339_now,
    store::{Store, StoreError},
};

/// Reads events; conditions follow.
const EVENTS: &str = "SELECT seq, CAST(body AS TEXT) FROM record WHERE verdict IS NULL";
/// Whether an entry is a verdict or an event that says no lot, not even that none was open: such an event belongs to the
/// lot that was open when it was told.
pub(in crate::store) const UNSAID: &str =
    "CASE WHEN record.verdict IS NULL THEN json_type(record.body, '$.lot') END IS NULL";
/// Hashed, it stands before the first entry.
const SEED: &[u8] = b"beltsight record 1";
/// Every entry whose seq is a multiple of this is signed for good.
pub(in crate::store) const CHECKPOINT: i64 = 1024;
/// Rows in one statement; four values each, of at most 32,766.
const ROWS: usize = 512;

/// The hash before the first entry.
pub(in crate::store) fn seed() -> [u8; 32] {
    Sha256::digest(SEED).into()
}

/// The hash of an entry.
pub(in crate::store) fn link(previous: &[u8; 32], seq: i64, verdict: Option<i64>, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(previous);
    hash.update(seq.to_be_bytes());
    hash.update(verdict.unwrap_or(0).to_be_bytes());
    hash.update(body);
    hash.finalize().into()
}

/// What an entry holds.
pub(in crate::store) enum Body {
    /// Verdict id and the SHA-256 of its document.
    Verdict(i64, [u8; 32]),
    /// An [`Entry`] as JSON.
    Event(String),
}

/// The end of the chain, read in the transaction that will extend it.
pub(in crate::store) struct Tail {
    pub seq: i64,
    pub hash: [u8; 32],
    /// The highest id that a verdict ever had.
    pub last_verdict: i64,
}

/// The head; `None` in a store that has no record yet.
pub(in crate::store) async fn tail(connection: &mut SqliteConnection) -> Result<Option<Tail>, StoreError> {
    let row: Option<(i64, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT seq, hash, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'verdicts'), 0) FROM head",
    )
    .fetch_optional(connection)
    .await?;
    let broken = |_| StoreError::Record("the head's hash is not 32 bytes".into());
    row.map(|(seq, hash, last_verdict)| Ok(Tail { seq, hash: hash.try_into().map_err(broken)?, last_verdict }))
        .transpose()
}

/// Appends `bodies` after `tail`, with the checkpoints they reach, and signs the new head; returns it.
pub(in crate::store) async fn extend(
    transaction: &mut SqliteTransaction<'_>,
    signer: &Signer,
    mut tail: Tail,
    bodies: &[Body],
) -> Result<Tail, StoreError> {
    let time = rfc3339_now();
    for some in bodies.chunks(ROWS) {
        let mut marks = Vec::new();
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO record (seq, verdict, body, hash) ");
        insert.push_values(some, |mut row, body| {
            let (verdict, bytes) = match body {
                Body::Verdict(id, digest) => (Some(*id), &digest[..]),
                Body::Event(json) => (None, json.as_bytes()),
            };
            let seq = tail.seq + 1;
            (tail.seq, tail.hash) = (seq, link(&tail.hash, seq, verdict, bytes));
            row.push_bind(seq).push_bind(verdict);
            match body {
                Body::Verdict(_, digest) => row.push_bind(digest.to_vec()),
                Body::Event(json) => row.push_bind(json.clone()),
            };
            row.push_bind(tail.hash.to_vec());
            if seq % CHECKPOINT == 0 {
                marks.push((seq, tail.hash));
            }
        });
        insert.build().persistent(some.len() == 1).execute(&mut **transaction).await?;
        for (seq, hash) in marks {
            let signature = signer.sign(&Mark { kind: "checkpoint", seq, hash: &hash, time: &time });
            sqlx::query("INSERT INTO checkpoints (seq, hash, time, signature) VALUES (?, ?, ?, ?)")
                .bind(seq)
                .bind(&hash[..])
                .bind(&time)
                .bind(&signature[..])
                .execute(&mut **transaction)
                .await?;
        }
    }
    let signature = signer.sign(&Mark { kind: "head", seq: tail.seq, hash: &tail.hash, time: &time });
    sqlx::query("REPLACE INTO head (one, seq, hash, time, signature) VALUES (1, ?, ?, ?, ?)")
        .bind(tail.seq)
        .bind(&tail.hash[..])
        .bind(&time)
        .bind(&signature[..])
        .execute(&mut **transaction)
        .await?;
    Ok(tail)
}

/// An event of this moment, as it is stored.
pub(in crate::store) fn event(event: Event) -> Result<Body, StoreError> {
    let entry = Entry { seq: 0, time: OffsetDateTime::now_utc(), event };
    Ok(Body::Event(serde_json::to_string(&entry).map_err(|e| sqlx::Error::Encode(e.into()))?))
}

impl Store {
    /// Appends an event to the record; returns its place.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then it was not recorded.
    pub async fn append(&self, happened: Event) -> Result<i64, StoreError> {
        let mut transaction = self.begin().await?;
        let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
        let tail = extend(&mut transaction, self.signer()?, tail, &[event(happened)?]).await?;
        transaction.commit().await?;
        Ok(tail.seq)
    }

    /// The events of these kinds, oldest first; `lot`: only those that name it.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn events(&self, kinds: &[&'static str], lot: Option<i64>) -> Result<Vec<Entry>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(EVENTS);
        push_kinds(&mut query, kinds);
        if let Some(lot) = lot {
            query.push(" AND lot = ").push_bind(lot);
        }
        self.read_events(query).await
    }

    /// The events of these kinds between two places, both included, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn events_between(&self, kinds: &[&'static str], from: i64, to: i64) -> Result<Vec<Entry>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(EVENTS);
        push_kinds(&mut query, kinds);
        query.push(" AND seq BETWEEN ").push_bind(from).push(" AND ").push_bind(to);
        self.read_events(query).await
    }

    /// What happened to the item of this uid: commands to gates and what sensors saw, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn item_events(&self, uid: Uuid) -> Result<Vec<Entry>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(EVENTS);
        query.push(" AND uid = ").push_bind(uid.to_string());
        self.read_events(query).await
    }

    /// The events of these kinds of a lot, oldest first: those between its opening and `to` that say no lot, and those that
    /// name it.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn lot_events(&self, lot: i64, to: i64, kinds: &[&'static str]) -> Result<Vec<Entry>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(EVENTS);
        // Each half has an index; with OR there would be none.
        query.push(" AND seq IN (SELECT seq FROM record WHERE verdict IS NULL");
        push_kinds(&mut query, kinds);
        query.push(" AND seq BETWEEN ").push_bind(lot).push(" AND ").push_bind(to).push(" AND ").push(UNSAID);
        query.push(" UNION SELECT seq FROM record WHERE verdict IS NULL AND lot = ").push_bind(lot).push(")");
        push_kinds(&mut query, kinds);
        self.read_events(query).await
    }

    /// The newest event of a kind before the place `before`.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn last_event(&self, kind: &str, before: i64) -> Result<Option<Entry>, StoreError> {
        let row: Option<(i64, String)> = sqlx::query_as(
            "SELECT seq, CAST(body AS TEXT) FROM record WHERE verdict IS NULL AND kind = ? AND seq < ?
             ORDER BY seq DESC LIMIT 1",
        )
        .bind(kind)
        .bind(before)
        .fetch_optional(&self.database)
        .await?;
        row.map(|(seq, body)| entry(seq, &body)).transpose()
    }

    /// How each camera was last told to be before the place `before`: lost or back, degraded or recovered; by place.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn camera_states(&self, before: i64) -> Result<Vec<Entry>, StoreError> {
        const CAMERA: &str = "CASE WHEN verdict IS NULL THEN json_extract(body, '$.camera') END";
        const STATES: &str = "verdict IS NULL AND kind IN ('camera_lost', 'camera_back', 'degraded', 'recovered')";
        // Steps from each name to the next one of the index, however many entries each has.
        let query = format!(
            "WITH RECURSIVE cameras (name) AS (
                 VALUES ('') UNION ALL
                 SELECT (SELECT {CAMERA} FROM record INDEXED BY record_camera_states WHERE {STATES} AND {CAMERA} > name
                         ORDER BY {CAMERA} LIMIT 1) FROM cameras WHERE name IS NOT NULL),
             kinds (kind) AS (VALUES ('camera_lost'), ('camera_back'), ('degraded'), ('recovered'))
             SELECT seq, CAST(body AS TEXT) FROM record WHERE seq IN (
                 SELECT (SELECT max(seq) FROM record WHERE {STATES} AND {CAMERA} = cameras.name AND kind = kinds.kind
                         AND seq < ?) FROM cameras CROSS JOIN kinds WHERE name IS NOT NULL) ORDER BY seq"
        );
        let rows: Vec<(i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(before).fetch_all(&self.database).await?;
        rows.iter().map(|(seq, body)| entry(*seq, body)).collect()
    }

    async fn read_events(&self, mut query: QueryBuilder<Sqlite>) -> Result<Vec<Entry>, StoreError> {
        query.push(" ORDER BY seq");
        let rows: Vec<(i64, String)> = query.build_query_as().fetch_all(&self.database).await?;
        rows.iter().map(|(seq, body)| entry(*seq, body)).collect()
    }

    /// The entry of a service that starts: whether the one before it ended in order, and its last sign.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn starting(&self, version: &str) -> Result<Event, StoreError> {
        let mut connection = self.database.acquire().await?;
        let last = last_of(&mut connection, &["started", "stopped", "restored"]).await?;
        let signed: String = sqlx::query_scalar("SELECT time FROM head").fetch_one(&mut *connection).await?;
        if let Some(Entry { event: Event::Restored { archived, .. }, .. }) = last {
            // Nobody knows how the box ended that the archive was made of.
            return Ok(Event::Started { version: version.into(), after_stop: false, down_since: Some(archived) });
        }
        Ok(Event::Started {
            version: version.into(),
            after_stop: last.as_ref().is_none_or(|entry| entry.event == Event::Stopped),
            down_since: last.and_then(|_| OffsetDateTime::parse(&signed, &Rfc3339).ok()),
        })
    }

    /// The place of the newest event; 0 for none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn newest_event(&self) -> Result<i64, StoreError> {
        let newest = "SELECT coalesce(max(seq), 0) FROM record WHERE verdict IS NULL";
        Ok(sqlx::query_scalar(newest).fetch_one(&self.database).await?)
    }

    /// Place and hash of the newest entry.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn head(&self) -> Result<(i64, String), StoreError> {
        let (seq, hash): (i64, Vec<u8>) =
            sqlx::query_as("SELECT seq, hash FROM head").fetch_one(&self.database).await?;
        Ok((seq, hex(&hash)))
    }
}

fn push_kinds(query: &mut QueryBuilder<Sqlite>, kinds: &[&'static str]) {
    query.push(" AND kind IN (");
    let mut list = query.separated(", ");
    for kind in kinds {
        list.push_bind(*kind);
    }
    query.push(")");
}

/// The newest event of one of these kinds.
pub(in crate::store) async fn last_of(
    connection: &mut SqliteConnection,
    kinds: &[&'static str],
) -> Result<Option<Entry>, StoreError> {
    let mut newest = None;
    for kind in kinds {
        let row: Option<(i64, String)> = sqlx::query_as(
            "SELECT seq, CAST(body AS TEXT) FROM record WHERE verdict IS NULL AND kind = ? ORDER BY seq DESC LIMIT 1",
        )
        .bind(kind)
        .fetch_optional(&mut *connection)
        .await?;
        newest = newest.max(row);
    }
    newest.map(|(seq, body)| entry(seq, &body)).transpose()
}

/// Reads an event's row.
pub(in crate::store) fn entry(seq: i64, body: &str) -> Result<Entry, StoreError> {
    let read: Entry =
        serde_json::from_str(body).map_err(|e| StoreError::Record(format!("entry {seq} can't be read: {e}")))?;
    Ok(Entry { seq, ..read })
}

pub(in crate::store) fn no_head() -> StoreError {
    StoreError::Record("the signed head is gone".into())
}

/// Begins the record of a store that has none, with the verdicts it already holds, or checks that the one it has can be
/// continued: the head is signed with our key and is the newest entry.
pub(in crate::store) async fn begin_or_check(
    transaction: &mut SqliteTransaction<'_>,
    signer: &Signer,
) -> Result<(), StoreError> {
    let newest: Option<(i64, Vec<u8>)> = sqlx::query_as("SELECT seq, hash FROM record ORDER BY seq DESC LIMIT 1")
        .fetch_optional(&mut **transaction)
        .await?;
    let head: Option<(i64, Vec<u8>, String, Vec<u8>)> =
        sqlx::query_as("SELECT seq, hash, time, signature FROM head").fetch_optional(&mut **transaction).await?;
    match (newest, head) {
        (None, None) => begin(transaction, signer).await,
        (Some(newest), Some((seq, hash, time, signature))) => {
            let array = <[u8; 32]>::try_from(&hash[..]).unwrap_or_default();
            if !(Mark { kind: "head", seq, hash: &array, time: &time }.signed(&signer.public(), &signature)) {
                return Err(StoreError::Record(format!("its head, entry {seq}, is not signed by record.key")));
            }
            if newest != (seq, hash) {
                return Err(StoreError::Record(format!("its newest entry is {}, but entry {seq} is signed", newest.0)));
            }
            Ok(())
        }
        (None, Some(_)) => Err(StoreError::Record("all entries are gone".into())),
        (Some(_), None) => Err(no_head()),
    }
}

async fn begin(transaction: &mut SqliteTransaction<'_>, signer: &Signer) -> Result<(), StoreError> {
    let older: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM verdicts)").fetch_one(&mut **transaction).await?;
    let mut bodies = vec![event(Event::Began { rows: !older })?];
    let mut tail = Tail { seq: 0, hash: seed(), last_verdict: 0 };
    let mut last = i64::MIN;
    loop {
        let older: Vec<(i64, String)> =
            sqlx::query_as("SELECT id, body FROM verdicts WHERE id > ? ORDER BY id LIMIT 1000")
                .bind(last)
                .fetch_all(&mut **transaction)
                .await?;
        bodies.extend(older.iter().map(|(id, body)| Body::Verdict(*id, Sha256::digest(body).into())));
        tail = extend(transaction, signer, tail, &bodies).await?;
        bodies.clear();
        match older.last() {
            Some((id, _)) => last = *id,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{
        domain::{Action, testing::verdict},
        store::{SECRET, forger::edit},
    };

    async fn entries(store: &Store) -> Vec<(i64, Option<i64>, Vec<u8>, Vec<u8>)> {
        sqlx::query_as("SELECT seq, verdict, CAST(body AS BLOB), hash FROM record ORDER BY seq")
            .fetch_all(&store.database)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn every_verdict_and_event_is_an_entry_that_holds_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mode = std::fs::metadata(folder.path().join(SECRET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "nobody else reads the key");
        store.insert(&vec![verdict(Action::Accept); 1500]).await.unwrap();
        assert_eq!(store.append(Event::Stopped).await.unwrap(), 1502);
        drop(store); // not closed, as after a crash
        let store = Store::open(folder.path()).await.unwrap();
        store.insert(&[verdict(Action::Reject)]).await.unwrap();
        let rows = entries(&store).await;
        assert_eq!(rows.len(), 1503, "began, 1,500 verdicts, stopped, one verdict");
        let mut previous = seed();
        for (i, (seq, verdict, body, hash)) in rows.iter().enumerate() {
            assert_eq!(*seq, i as i64 + 1);
            previous = link(&previous, *seq, *verdict, body);
            assert_eq!(hash[..], previous[..], "entry {seq}");
            if let Some(id) = verdict {
                let document: String = sqlx::query_scalar("SELECT body FROM verdicts WHERE id = ?")
                    .bind(id)
                    .fetch_one(&store.database)
                    .await
                    .unwrap();
                assert_eq!(body[..], Sha256::digest(document)[..], "verdict {id}");
            }
        }
        let checkpoints: Vec<i64> =
            sqlx::query_scalar("SELECT seq FROM checkpoints").fetch_all(&store.database).await.unwrap();
        assert_eq!(checkpoints, [1024]);
        assert!(sqlx::query("DELETE FROM record WHERE seq = 1503").execute(&store.writer).await.is_err());
        assert!(sqlx::query("UPDATE verdicts SET body = '{}' WHERE id = 1").execute(&store.writer).await.is_err());
    }

    #[tokio::test]
    async fn a_record_that_ends_elsewhere_than_signed_is_not_continued() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.insert(&[verdict(Action::Reject), verdict(Action::Reject)]).await.unwrap();
        store.close().await;
        edit(folder.path(), "DELETE FROM record WHERE seq = 3").await;
        let Err(StoreError::Record(why)) = Store::open(folder.path()).await else { panic!("it was continued") };
        assert!(why.contains("newest entry is 2, but entry 3 is signed"), "{why}");
    }

    #[tokio::test]
    async fn a_record_without_its_key_is_not_continued() {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).await.unwrap().close().await;
        std::fs::remove_file(folder.path().join(SECRET)).unwrap();
        assert!(matches!(Store::open(folder.path()).await, Err(StoreError::Key(_))));
    }

    #[tokio::test]
    async fn verdicts_from_before_the_record_become_entries_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.insert(&vec![verdict(Action::Accept); 5]).await.unwrap();
        store.add_label(3, Some("cod"), "Ada", OffsetDateTime::UNIX_EPOCH).await.unwrap();
        store.close().await;
        edit(folder.path(), "DELETE FROM record; DELETE FROM head").await;
        for file in [SECRET, crate::store::PUBLIC] {
            std::fs::remove_file(folder.path().join(file)).unwrap();
        }
        let store = Store::open(folder.path()).await.unwrap();
        let held: Vec<_> = entries(&store).await.iter().map(|(_, verdict, ..)| *verdict).collect();
        assert_eq!(held, [None, Some(1), Some(2), Some(3), Some(4), Some(5), None, None]);
        let adopted = store.events(&["row_held", "rows_adopted"], None).await.unwrap();
        assert!(matches!(&adopted[0].event, Event::RowHeld { table, row, .. } if table == "labels" && row == "1"));
        assert_eq!(adopted[1].event, Event::RowsAdopted { rows: 1 });
        store.close().await;
        let store = Store::open(folder.path()).await.unwrap();
        assert_eq!(entries(&store).await.len(), 8, "once");
        let found = crate::store::verify(folder.path(), None, None).await.unwrap();
        assert_eq!(found.findings, []);
    }
}
