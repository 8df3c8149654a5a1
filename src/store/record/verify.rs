//! Whether a record is whole and unchanged: every entry, every verdict it holds, every signature; or, for a lot's page,
//! the parts of it that hold the lot.
//!
//! Invariant: nothing is written, no secret is needed, and a broken record gives findings, never a panic or an error.
//! It works beside a running service: what is verified is the record up to the head at the start, and what retention
//! removes meanwhile is no finding.

use std::{fmt, path::Path, sync::Arc};

use ed25519_dalek::VerifyingKey;
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::{
    Row, SqliteExecutor,
    sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow},
};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use super::{
    chain::{CHECKPOINT, link, seed},
    lots::NAMED,
    signer::{Mark, PUBLIC, hex, public_key, unhex},
};
use crate::{
    domain::hash::sha256,
    store::{Lot, StoreError},
};

/// Entries read by one task.
const CHUNK: i64 = 16_384;
/// Connections that read side by side.
const READERS: u32 = 4;
/// Rows that SQLite's thread may be ahead of ours: with few, the two threads wake each other for every one.
const ROW_BUFFER: usize = 1024;
/// Findings told at most; the first ones by place.
const TOLD: usize = 20;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// Entries up to the signed head.
    pub entries: i64,
    /// Verdicts among them.
    pub verdicts: i64,
    /// Verdicts whose document was removed by retention; their entries are verified, what they said is gone.
    pub removed: i64,
    /// Signed checkpoints.
    pub checkpoints: i64,
    /// The signed head's hash: compare it with one kept elsewhere.
    pub head: String,
    /// When the head was signed.
    pub signed: String,
    /// The public key that it was verified with.
    pub public_key: String,
    /// What is wrong, by place in the record, 20 at most; empty for a whole record.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, verdicts, removed, checkpoints, head, signed, public_key, findings } = self;
        writeln!(f, "{entries} entries, {verdicts} verdicts, {checkpoints} checkpoints; public key {public_key}")?;
        if *removed > 0 {
            writeln!(
                f,
                "{removed} of the verdicts were removed by retention: their entries stand, what they said is gone"
            )?;
        }
        writeln!(f, "head {head}, entry {entries}, signed {signed}")?;
        for Finding { entry, what } in findings {
            writeln!(f, "BROKEN   entry {entry}: {what}")?;
        }
        if findings.is_empty() { writeln!(f, "ok       whole and unchanged") } else { Ok(()) }
    }
}

/// What was found in the parts of the record that hold a lot.
#[derive(Clone, Debug)]
pub struct LotVerification {
    /// First and last entry of each part, in order. Each begins with a signed checkpoint or the record, and ends with a
    /// signed checkpoint or the signed head.
    pub parts: Vec<(i64, i64)>,
    /// Verdicts in them whose document was removed by retention.
    pub removed: i64,
    /// The public key that they were verified with.
    pub public_key: String,
    /// What is wrong, by place in the record, 20 at most; empty for whole parts.
    pub findings: Vec<Finding>,
}

/// Something wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The entry it was found at; 0 for the record as a whole.
    pub entry: i64,
    /// What.
    pub what: String,
}

fn finding(entry: i64, what: impl Into<String>) -> Finding {
    Finding { entry, what: what.into() }
}

/// An entry's place and hash that were kept elsewhere: on an exported page, in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its place.
    pub entry: i64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl std::str::FromStr for Kept {
    type Err = String;

    /// `ENTRY:HASH`, the hash as 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(entry, hash)| Some((entry.parse().ok()?, unhex(hash)?)));
        let (entry, hash) = parts.ok_or("write ENTRY:HASH, the hash as 64 hexadecimal digits")?;
        Ok(Self { entry, hash })
    }
}

/// Verifies the record in `folder` with the public key in `key`, or with the one beside it, and that it still holds the
/// entry `kept`, which shows that it is no earlier or rewritten one.
///
/// # Errors
/// Only when there is nothing to verify: no readable database or key.
pub async fn verify(folder: &Path, key: Option<&Path>, kept: Option<&Kept>) -> Result<Verification, StoreError> {
    let beside = folder.join(PUBLIC);
    let key = public_key(key.unwrap_or(&beside))?;
    let refuse = |e: sqlx::Error| StoreError::Open { path: folder.into(), why: e.to_string() };
    let pool = connect(folder).await.map_err(refuse)?;
    let mut found = verify_all(&pool, &key).await.map_err(refuse)?;
    if let Some(kept) = kept {
        let now: Option<Vec<u8>> = sqlx::query_scalar("SELECT hash FROM record WHERE seq = ?")
            .bind(kept.entry)
            .fetch_optional(&pool)
            .await
            .map_err(refuse)?;
        if now.is_none_or(|hash| hash != kept.hash) {
            found.findings.insert(0, finding(kept.entry, "is not the one that was kept elsewhere"));
        }
    }
    pool.close().await;
    Ok(found)
}

/// Verifies the parts of the record in `folder` that hold `lot`, with the public key beside it: the lot itself, what was
/// said of it later, and the newest word of retention, by which a verdict may be gone. What it costs depends on the lot,
/// not on the record.
///
/// # Errors
/// Only when there is nothing to verify: no readable database or key.
pub async fn verify_lot(folder: &Path, lot: &Lot) -> Result<LotVerification, StoreError> {
    let key = public_key(&folder.join(PUBLIC))?;
    let refuse = |e: sqlx::Error| StoreError::Open { path: folder.into(), why: e.to_string() };
    let pool = connect(folder).await.map_err(refuse)?;
    let found = verify_around(&pool, &key, lot).await.map_err(refuse)?;
    pool.close().await;
    Ok(found)
}

async fn connect(folder: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join(crate::store::DATABASE))
        .read_only(true)
        .busy_timeout(crate::store::BUSY)
        .row_buffer_size(ROW_BUFFER);
    SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await
}

/// Place and hash of the head, if it is signed.
async fn signed_head(
    from: impl SqliteExecutor<'_>,
    key: &VerifyingKey,
) -> Result<Option<(i64, [u8; 32])>, sqlx::Error> {
    let row = sqlx::query("SELECT seq, hash, time, signature FROM head").fetch_optional(from).await?;
    let head = row.and_then(|row| read_mark(&row, 0)).filter(|mark| mark.signed("head", key));
    Ok(head.map(|mark| (mark.seq, mark.hash)))
}

async fn verify_around(pool: &SqlitePool, key: &VerifyingKey, lot: &Lot) -> Result<LotVerification, sqlx::Error> {
    let mut findings = Vec::new();
    // One state: else an entry that is written meanwhile would stand behind the head.
    let mut state = pool.begin().await?;
    let (head, head_hash) = signed_head(&mut *state, key).await?.unwrap_or_else(|| {
        findings.push(finding(0, "the head is not signed by this key"));
        (0, [0; 32])
    });
    // Verdicts that waited for the store stand a little behind the lot's closing.
    let last: Option<i64> = sqlx::query_scalar(
        "SELECT seq FROM record WHERE seq >= ? AND verdict = (SELECT max(id) FROM verdicts WHERE lot = ?)
         ORDER BY seq LIMIT 1",
    )
    .bind(lot.lot)
    .bind(lot.lot)
    .fetch_optional(&mut *state)
    .await?;
    let last = lot.closed_at.unwrap_or(head).max(last.unwrap_or(0)).max(lot.lot);
    let later: Vec<i64> = sqlx::query_scalar(NAMED).bind(lot.lot).bind(lot.lot).fetch_all(&mut *state).await?;
    let removal: Option<(i64, i64)> = sqlx::query_as(
        "SELECT seq, json_extract(body, '$.to') FROM record WHERE verdict IS NULL AND kind = 'verdicts_removed'
         ORDER BY seq DESC LIMIT 1",
    )
    .fetch_optional(&mut *state)
    .await?;
    state.rollback().await?;

    let (removal, removed_to) = removal.unzip();
    let mut spans = vec![(lot.lot, last)];
    spans.extend(later.into_iter().chain(removal).map(|seq| (seq, seq)));
    spans.sort_unstable();
    let end = spans.iter().map(|span| span.1).fold(head, i64::max);
    let mut parts: Vec<(i64, i64)> = Vec::new();
    for (first, last) in spans {
        if first < 1 {
            findings.push(finding(first, "stands before the record"));
        }
        // The checkpoint before them is verified too: both ends are signed.
        let from = ((first - 1) / CHECKPOINT * CHECKPOINT).max(1);
        let to = ((last - 1) / CHECKPOINT + 1).saturating_mul(CHECKPOINT).min(end);
        match parts.last_mut() {
            Some(part) if part.1 >= from => part.1 = part.1.max(to),
            _ => parts.push((from, to)),
        }
    }
    let (found, removed) = verify_parts(pool, key, &parts, (head, head_hash), removed_to.unwrap_or(0)).await?;
    findings.extend(found);
    findings.sort();
    findings.truncate(TOLD);
    Ok(LotVerification { parts, removed, public_key: hex(key.as_bytes()), findings })
}

async fn verify_all(pool: &SqlitePool, key: &VerifyingKey) -> Result<Verification, sqlx::Error> {
    // One statement sees one state, even beside a writer.
    let state = sqlx::query(
        "SELECT (SELECT count(*) FROM record), (SELECT min(seq) FROM record), (SELECT max(seq) FROM record),
                (SELECT count(*) FROM record WHERE verdict IS NOT NULL), (SELECT count(*) FROM verdicts),
                (SELECT count(*) FROM checkpoints), (SELECT count(*) FROM head),
                (SELECT seq FROM head), (SELECT hash FROM head), (SELECT time FROM head), (SELECT signature FROM head)",
    )
    .fetch_one(pool)
    .await?;
    let mut findings = Vec::new();
    let mut number = |column: usize| {
        state.try_get::<Option<i64>, _>(column).ok().flatten().unwrap_or_else(|| {
            findings.push(finding(0, format!("a number of the record can't be read (column {column})")));
            -1
        })
    };
    let [entries, first, last, held, verdicts, marks, heads] = [0, 1, 2, 3, 4, 5, 6].map(&mut number);
    if heads != 1 {
        findings.push(finding(0, "the signed head is gone"));
    }
    let head = read_mark(&state, 7);
    let (seq, hash, time) = match &head {
        Some(mark) => (mark.seq, mark.hash, mark.time.clone()),
        None => (last, [0; 32], String::new()),
    };
    if !head.is_some_and(|mark| mark.signed("head", key)) {
        findings.push(finding(seq, "the head is not signed by this key"));
    }
    if (first, last, entries) != (1, seq, seq) {
        let what = format!("{entries} entries from {first} to {last}, but the signed head is entry {seq}");
        findings.push(finding(0, what));
    }
    // Read before its entries are verified, and believed only if they are whole.
    let told = sqlx::query_as(
        "SELECT coalesce(max(json_extract(body, '$.to')), 0), coalesce(sum(json_extract(body, '$.verdicts')), 0)
         FROM record WHERE verdict IS NULL AND kind = 'verdicts_removed' AND seq <= ?",
    );
    let (removed_to, removed): (i64, i64) = told.bind(seq).fetch_one(pool).await.unwrap_or_else(|e| {
        findings.push(finding(0, format!("events can't be read: {e}")));
        (0, 0)
    });
    if held != verdicts + removed {
        let what = format!("{verdicts} verdicts and {removed} removed by retention, but {held} entries that hold one");
        findings.push(finding(0, what));
    }
    if marks != seq / CHECKPOINT {
        findings.push(finding(0, format!("{marks} checkpoints instead of {}", seq / CHECKPOINT)));
    }

    // The last place is looked at too when it lies beyond the head, so that what was appended is told by place.
    let (found, gone) = verify_parts(pool, key, &[(1, seq.max(last))], (seq, hash), removed_to).await?;
    findings.extend(found);
    if findings.is_empty() && gone != removed {
        findings.push(finding(0, format!("{gone} verdicts are gone, but retention removed {removed}")));
    }
    findings.sort();
    findings.truncate(TOLD);
    let public_key = hex(key.as_bytes());
    Ok(Verification {
        entries,
        verdicts: held,
        removed,
        checkpoints: marks,
        head: hex(&hash),
        signed: time,
        public_key,
        findings,
    })
}

/// Compares every kept picture with the hash in its name: how many there are, and what is wrong. That a picture is gone is
/// no finding: retention removes them.
///
/// # Errors
/// When the folder can't be read.
pub fn verify_pictures(folder: &Path) -> std::io::Result<(usize, Vec<Finding>)> {
    let (mut pictures, mut findings) = (0, Vec::new());
    for day in std::fs::read_dir(folder.join("frames"))? {
        for file in std::fs::read_dir(day?.path())? {
            let path = file?.path();
            pictures += 1;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hash = sha256(&std::fs::read(&path)?);
            if name.strip_suffix(".jpg") != hash.get(..24) && findings.len() < TOLD {
                findings.push(finding(0, format!("the picture {} was changed", path.display())));
            }
        }
    }
    Ok((pictures, findings))
}

/// Seq, hash, time and signature of a head or checkpoint.
struct Read {
    seq: i64,
    hash: [u8; 32],
    time: String,
    signature: Vec<u8>,
}

impl Read {
    fn signed(&self, kind: &'static str, key: &VerifyingKey) -> bool {
        Mark { kind, seq: self.seq, hash: &self.hash, time: &self.time }.signed(key, &self.signature)
    }
}

fn read_mark(row: &SqliteRow, from: usize) -> Option<Read> {
    Some(Read {
        seq: row.try_get(from).ok()?,
        hash: row.try_get::<Vec<u8>, _>(from + 1).ok()?.try_into().ok()?,
        time: row.try_get(from + 2).ok()?,
        signature: row.try_get(from + 3).ok()?,
    })
}

/// Verifies `parts` up to `head`: what is wrong, and how many verdicts up to `removed_to` are gone.
async fn verify_parts(
    pool: &SqlitePool,
    key: &VerifyingKey,
    parts: &[(i64, i64)],
    head: (i64, [u8; 32]),
    removed_to: i64,
) -> Result<(Vec<Finding>, i64), sqlx::Error> {
    let mut found = verify_chunks(pool, key, parts, head, removed_to).await?;
    if !found.missing.is_empty() {
        // Retention may have gone on since `removed_to` was read. It tells so in the same step, behind `head`: that is
        // believed if it is whole and signed too.
        let now = signed_head(pool, key).await?.unwrap_or(head);
        let told = sqlx::query_scalar(
            "SELECT coalesce(max(json_extract(body, '$.to')), 0) FROM record
             WHERE verdict IS NULL AND kind = 'verdicts_removed' AND seq > ? AND seq <= ?",
        );
        let removed_to: i64 = told.bind(head.0).bind(now.0).fetch_one(pool).await.unwrap_or(0);
        let since = verify_chunks(pool, key, &[(head.0 + 1, now.0)], now, removed_to).await?;
        found.findings.extend(since.findings);
        found.missing.retain(|(_, id)| *id > removed_to);
        found.missing.sort_unstable();
        // No more are told; of a record without its verdicts there would be millions.
        let missing = found.missing.iter().take(TOLD).map(|(seq, id)| finding(*seq, format!("verdict {id} is gone")));
        found.findings.extend(missing);
    }
    Ok((found.findings, found.gone))
}

/// What verifying some entries found.
#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    /// How many verdicts are gone that had been removed by retention.
    gone: i64,
    /// Place and id of the other verdicts that are gone.
    missing: Vec<(i64, i64)>,
}

/// [`verify_chunk`] for all chunks of `parts`, several side by side.
async fn verify_chunks(
    pool: &SqlitePool,
    key: &VerifyingKey,
    parts: &[(i64, i64)],
    head: (i64, [u8; 32]),
    removed_to: i64,
) -> Result<Found, sqlx::Error> {
    let key = Arc::new(*key);
    let mut chunks = parts.iter().flat_map(|&(from, to)| {
        (from..=to).step_by(CHUNK as usize).map(move |from| (from, from.saturating_add(CHUNK - 1).min(to)))
    });
    let (mut tasks, mut all) = (JoinSet::new(), Found::default());
    loop {
        for chunk in chunks.by_ref().take(READERS as usize - tasks.len()) {
            tasks.spawn(verify_chunk(pool.clone(), key.clone(), chunk, head, removed_to));
        }
        let Some(done) = tasks.join_next().await else { break };
        let found = done.map_err(|e| sqlx::Error::Io(std::io::Error::other(e)))??;
        all.findings.extend(found.findings);
        all.gone += found.gone;
        all.missing.extend(found.missing);
        if all.findings.len() > 100 * TOLD {
            break; // enough to say that it is broken
        }
    }
    Ok(all)
}

/// Entries `from` to `to` with their verdicts and checkpoints; `head` is the signed place and hash, and verdicts up to
/// `removed_to` may be gone.
async fn verify_chunk(
    pool: SqlitePool,
    key: Arc<VerifyingKey>,
    (from, to): (i64, i64),
    (head, head_hash): (i64, [u8; 32]),
    removed_to: i64,
) -> Result<Found, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let Found { mut findings, mut gone, mut missing } = Found::default();
    let marks =
        sqlx::query("SELECT seq, hash, time, signature FROM checkpoints WHERE seq BETWEEN ? AND ? ORDER BY seq")
            .bind(from)
            .bind(to)
            .fetch_all(&mut *connection)
            .await?;
    let marks: Vec<Option<Read>> = marks.iter().map(|row| read_mark(row, 0)).collect();
    let mut marks = marks.into_iter();

    let before =
        sqlx::query("SELECT hash FROM record WHERE seq = ?").bind(from - 1).fetch_optional(&mut *connection).await?;
    let mut previous = match (from, &before) {
        (1, _) => seed(),
        (_, Some(row)) => row.try_get::<Vec<u8>, _>(0).ok().and_then(|h| h.try_into().ok()).unwrap_or_default(),
        (_, None) => [0; 32], // told by the chunk that misses it
    };
    let mut expected = from;
    let mut rows = sqlx::query(
        "SELECT r.seq, r.verdict, r.body, r.hash, v.body FROM record r LEFT JOIN verdicts v ON v.id = r.verdict
         WHERE r.seq BETWEEN ? AND ? ORDER BY r.seq",
    )
    .bind(from)
    .bind(to)
    .fetch(&mut *connection);
    while let Some(row) = rows.next().await {
        let row = row?;
        let seq: i64 = row.try_get(0)?;
        if seq != expected {
            findings.push(finding(expected, format!("missing; the next is entry {seq}")));
        }
        expected = seq + 1;
        if seq > head {
            findings.push(finding(seq, "stands behind the signed head"));
        }
        let read = (|| {
            let verdict: Option<i64> = row.try_get_unchecked(1).ok()?;
            let body: &[u8] = row.try_get_unchecked(2).ok()?;
            let hash: [u8; 32] = row.try_get_unchecked::<&[u8], _>(3).ok()?.try_into().ok()?;
            let document: Option<&[u8]> = row.try_get_unchecked(4).ok()?;
            Some((verdict, body, hash, document))
        })();
        let Some((verdict, body, hash, document)) = read else {
            findings.push(finding(seq, "can't be read"));
            continue;
        };
        if link(&previous, seq, verdict, body) != hash {
            findings.push(finding(seq, "its hash does not fit it and the entry before"));
        }
        if let Some(id) = verdict {
            match document {
                None if id <= removed_to => gone += 1,
                None => missing.push((seq, id)),
                Some(document) if Sha256::digest(document)[..] != *body => {
                    findings.push(finding(seq, format!("verdict {id} was changed")));
                }
                Some(_) => {}
            }
        }
        if seq % CHECKPOINT == 0 {
            let fits = |mark: &Read| mark.seq == seq && mark.hash == hash && mark.signed("checkpoint", &key);
            if !marks.next().flatten().is_some_and(|mark| fits(&mark)) {
                findings.push(finding(seq, "its checkpoint is missing or wrong"));
            }
        }
        if seq == head && hash != head_hash {
            findings.push(finding(seq, "its hash is not the one in the signed head"));
        }
        previous = hash;
        if findings.len() > TOLD {
            return Ok(Found { findings, gone, missing });
        }
    }
    if expected <= to {
        findings.push(finding(expected, format!("missing, as all to {to}")));
    }
    if marks.next().is_some() {
        findings.push(finding(to, "a checkpoint stands where none belongs"));
    }
    Ok(Found { findings, gone, missing })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use sqlx::{Connection, SqliteConnection};

    use super::*;
    use crate::{
        domain::{Action, testing::verdict},
        store::{Event, Store},
    };

    /// A closed store of 1,100 verdicts and some events: one checkpoint.
    async fn filled() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        for batch in 0..11 {
            let mut verdicts = vec![verdict(Action::Accept); 100];
            for (i, verdict) in verdicts.iter_mut().enumerate() {
                verdict.track = batch * 100 + i as u64; // no two alike, so that swapping changes something
            }
            store.insert(&verdicts).await.unwrap();
            let gap = Event::Gap { verdicts: batch, pictures: 0, events: 0, from: None, to: None };
            store.append(gap).await.unwrap();
        }
        store.close().await;
        folder
    }

    /// Opens the database as a forger would, without triggers, checks and indices.
    async fn forge(folder: &Path) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(folder.join("verdicts.sqlite"));
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql("PRAGMA ignore_check_constraints = ON").execute(&mut connection).await.unwrap();
        let made: Vec<(String, String)> = sqlx::query_as(
            "SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'index') AND sql IS NOT NULL",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        for (kind, name) in made {
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP {kind} {name}"))).execute(&mut connection).await.unwrap();
        }
        connection
    }

    async fn run(connection: &mut SqliteConnection, sql: String) -> u64 {
        // A change that the table's own rules refuse (a seq that is taken) is no change.
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await;
        done.map_or(0, |done| done.rows_affected())
    }

    /// Flips one bit of one column of one row.
    async fn flip(connection: &mut SqliteConnection, random: &mut impl Rng) -> (String, u64) {
        let columns = [
            ("record", "seq"),
            ("record", "verdict"),
            ("record", "body"),
            ("record", "hash"),
            ("verdicts", "id"),
            ("verdicts", "body"),
            ("checkpoints", "seq"),
            ("checkpoints", "hash"),
            ("checkpoints", "time"),
            ("checkpoints", "signature"),
            ("head", "seq"),
            ("head", "hash"),
            ("head", "time"),
            ("head", "signature"),
        ];
        let (table, column) = columns[random.random_range(0..columns.len())];
        let rows: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE {column} IS NOT NULL")))
                .fetch_one(&mut *connection)
                .await
                .unwrap();
        let at = random.random_range(0..rows);
        let (row, kind, bytes): (i64, String, Vec<u8>) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT rowid, typeof({column}), CAST({column} AS BLOB) FROM {table} WHERE {column} IS NOT NULL
             ORDER BY rowid LIMIT 1 OFFSET {at}"
        )))
        .fetch_one(&mut *connection)
        .await
        .unwrap();
        let value = if kind == "integer" {
            let number: i64 = String::from_utf8(bytes).unwrap().parse().unwrap();
            (number ^ (1 << random.random_range(0..40))).to_string()
        } else {
            let mut bytes = bytes;
            let byte = random.random_range(0..bytes.len());
            bytes[byte] ^= 1 << random.random_range(0..8);
            format!("CAST(x'{}' AS {kind})", hex(&bytes))
        };
        let done = run(connection, format!("UPDATE {table} SET {column} = {value} WHERE rowid = {row}")).await;
        (format!("{table}.{column} of row {row} := {value:.80}"), done)
    }

    /// One forgery of a random kind: what, and how many rows it changed.
    async fn mutate(connection: &mut SqliteConnection, random: &mut ChaCha8Rng, kind: usize) -> (String, u64) {
        let newest: i64 = sqlx::query_scalar("SELECT max(seq) FROM record").fetch_one(&mut *connection).await.unwrap();
        let mut entry = || random.random_range(1..=newest);
        let (a, b) = (entry(), entry());
        let (lower, upper) = (1.max(newest - a % 50), newest);
        let swap = |table: &str, column: &str| {
            format!(
                "UPDATE {table} SET {column} = (SELECT t.{column} FROM {table} t WHERE t.rowid = {a} + {b} - {table}.rowid)
                 WHERE rowid IN ({a}, {b})"
            )
        };
        let tail: Vec<u8> = sqlx::query_scalar("SELECT hash FROM head").fetch_one(&mut *connection).await.unwrap();
        let tail: [u8; 32] = tail.try_into().unwrap();
        // A forger knows how hashes are made: only the signature is out of reach.
        let body = br#"{"kind":"gap","time":"2026-11-25T00:00:00Z","verdicts":0}"#;
        let hash = link(&tail, newest + 1, None, body);
        let append = format!(
            "INSERT INTO record (seq, body, hash) VALUES ({}, CAST(x'{}' AS TEXT), x'{}')",
            newest + 1,
            hex(body),
            hex(&hash)
        );
        let sql = match kind {
            0..=11 => return flip(connection, random).await,
            12 => format!("DELETE FROM record WHERE seq = {a}"),
            13 => format!("DELETE FROM verdicts WHERE id = {a}"),
            14 => format!(
                "DELETE FROM verdicts WHERE id IN (SELECT verdict FROM record WHERE seq >= {lower});
                 DELETE FROM record WHERE seq >= {lower}"
            ),
            15 => format!(
                // … and the head set to the one signature that is at hand, the checkpoint's.
                "DELETE FROM verdicts WHERE id IN (SELECT verdict FROM record WHERE seq > {CHECKPOINT});
                 DELETE FROM record WHERE seq > {CHECKPOINT};
                 UPDATE head SET (seq, hash, time, signature) = (SELECT seq, hash, time, signature FROM checkpoints)"
            ),
            16 => swap("record", "hash") + ";" + &swap("record", "body") + ";" + &swap("record", "verdict"),
            17 => swap("verdicts", "body"),
            18 => append,
            19 => format!("{append}; UPDATE head SET seq = {}, hash = x'{}'", newest + 1, hex(&hash)),
            20 => format!("INSERT INTO verdicts (body) SELECT body FROM verdicts WHERE id = {a}"),
            21 => format!("INSERT INTO checkpoints SELECT {}, hash, time, signature FROM checkpoints", upper + 5000),
            22 => "DELETE FROM checkpoints".into(),
            _ => "DELETE FROM head".into(),
        };
        let swaps_nothing = matches!(kind, 16 | 17) && a == b;
        let done = if swaps_nothing { 0 } else { run(connection, sql.clone()).await };
        (sql, done)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_flipped_byte_and_every_removed_swapped_or_appended_entry_is_found() {
        let whole = filled().await;
        let found = verify(whole.path(), None, None).await.unwrap();
        assert_eq!(found.findings, [], "a whole record");
        assert_eq!((found.entries, found.verdicts, found.checkpoints), (1112, 1100, 1));

        let forged = tempfile::tempdir().unwrap();
        std::fs::copy(whole.path().join(PUBLIC), forged.path().join(PUBLIC)).unwrap();
        let base = tempfile::tempdir().unwrap();
        std::fs::copy(whole.path().join("verdicts.sqlite"), base.path().join("verdicts.sqlite")).unwrap();
        forge(base.path()).await.close().await.unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut changed = 0;
        for n in 0.. {
            let file = forged.path().join("verdicts.sqlite");
            std::fs::copy(base.path().join("verdicts.sqlite"), &file).unwrap();
            let options = SqliteConnectOptions::new().filename(&file).synchronous(sqlx::sqlite::SqliteSynchronous::Off);
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::raw_sql("PRAGMA ignore_check_constraints = ON").execute(&mut connection).await.unwrap();
            let (what, rows) = mutate(&mut connection, &mut random, n % 24).await;
            connection.close().await.unwrap();
            let found = verify(forged.path(), None, None).await.unwrap();
            assert_eq!(found.findings.is_empty(), rows == 0, "{n}: {what}: {found}");
            changed += usize::from(rows > 0);
            if changed == 320 {
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_lot_is_verified_between_the_checkpoints_around_it_however_long_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.insert(&vec![verdict(Action::Accept); 3000]).await.unwrap();
        let number = store.begin_lot("A", "").await.unwrap(); // entry 3,002
        let of_it = crate::domain::Verdict { lot: Some(number), ..verdict(Action::Reject) };
        store.insert(&vec![of_it.clone(); 5]).await.unwrap();
        store.end_lot("").await.unwrap();
        store.insert(&vec![verdict(Action::Accept); 60]).await.unwrap();
        let late = store.insert(&[of_it]).await.unwrap()[0]; // entry 3,069
        store.insert(&vec![verdict(Action::Accept); 3000]).await.unwrap();
        store.sign_off(number, "Bo", "").await.unwrap(); // entry 6,070
        store.insert(&vec![verdict(Action::Accept); 2000]).await.unwrap();
        let lot = store.lot(number).await.unwrap().unwrap();
        store.close().await;
        let found = verify_lot(folder.path(), &lot).await.unwrap();
        assert_eq!(found.findings, []);
        // From the checkpoint before the lot to the one after it, and those around the sign-off.
        assert_eq!(found.parts, [(2048, 3072), (5120, 6144)]);

        let mut forger = forge(folder.path()).await;
        run(&mut forger, "UPDATE verdicts SET body = replace(body, 'accept', 'reject') WHERE id IN (9, 4000)".into())
            .await;
        assert_eq!(verify_lot(folder.path(), &lot).await.unwrap().findings, [], "that is not of the lot");
        assert_eq!(verify(folder.path(), None, None).await.unwrap().findings.len(), 2);
        run(&mut forger, format!("UPDATE verdicts SET body = replace(body, 'reject', 'accept') WHERE id = {late}"))
            .await;
        let found = verify_lot(folder.path(), &lot).await.unwrap().findings;
        assert_eq!(found, [finding(3069, format!("verdict {late} was changed"))]);
        run(&mut forger, "UPDATE record SET body = replace(CAST(body AS TEXT), 'Bo', 'Di') WHERE seq = 6070".into())
            .await;
        assert_eq!(verify_lot(folder.path(), &lot).await.unwrap().findings.len(), 2, "who signed it off");
        run(&mut forger, "DELETE FROM checkpoints WHERE seq = 2048".into()).await;
        let found = verify_lot(folder.path(), &lot).await.unwrap().findings;
        assert!(found.contains(&finding(2048, "its checkpoint is missing or wrong")), "{found:?}");
        run(&mut forger, format!("UPDATE record SET seq = -1 WHERE seq = {}", lot.closed_at.unwrap())).await;
        let moved = Lot { closed_at: None, ..lot.clone() };
        let found = verify_lot(folder.path(), &moved).await.unwrap().findings;
        assert_eq!(found[0], finding(-1, "stands before the record"));
        run(&mut forger, "DELETE FROM head".into()).await;
        assert_eq!(
            verify_lot(folder.path(), &lot).await.unwrap().findings[1],
            finding(0, "the head is not signed by this key")
        );
    }

    #[tokio::test]
    async fn what_retention_removes_meanwhile_is_no_finding_but_one_more_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let (second, now) = (std::time::Duration::from_secs(1), time::OffsetDateTime::now_utc());
        let of = |time| crate::domain::Verdict { time, ..verdict(Action::Accept) };
        store.insert(&vec![of(now - second * 9); 3000]).await.unwrap();
        store.insert(&vec![of(now); 100]).await.unwrap();
        let pool = connect(folder.path()).await.unwrap();
        let key = public_key(&folder.path().join(PUBLIC)).unwrap();
        // Here a verification has read the head, and that nothing was removed.
        let head = signed_head(&pool, &key).await.unwrap().unwrap();
        let found = async || verify_parts(&pool, &key, &[(1, head.0)], head, 0).await.unwrap().0;
        let rules = crate::store::Retention { verdicts: second * 5, ..Default::default() };
        assert_eq!(store.retain(&rules, now).await.unwrap().verdicts, 3000);
        store.insert(&vec![of(now); 100]).await.unwrap();
        assert_eq!(found().await, []);
        let mut forger = forge(folder.path()).await;
        run(&mut forger, "DELETE FROM verdicts WHERE id = 3050".into()).await;
        assert_eq!(found().await, [finding(3051, "verdict 3050 is gone")]);
        // What retention says is believed only where it is whole.
        let more =
            "UPDATE record SET body = replace(CAST(body AS TEXT), '3000', '9000') WHERE seq > 3102 AND verdict IS NULL";
        assert_eq!(run(&mut forger, more.into()).await, 1);
        assert_eq!(found().await, [finding(3103, "its hash does not fit it and the entry before")]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_record_that_is_being_written_is_whole_at_every_moment() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let writer = tokio::spawn(async move {
            for _ in 0..60 {
                store.insert(&vec![verdict(Action::Reject); 64]).await.unwrap();
            }
        });
        let mut lengths = Vec::new();
        while !writer.is_finished() || lengths.len() < 2 {
            let found = verify(folder.path(), None, None).await.unwrap();
            assert_eq!(found.findings, []);
            lengths.push(found.entries);
        }
        writer.await.unwrap();
        assert!(lengths.first() < lengths.last(), "{lengths:?}");
    }

    #[tokio::test]
    async fn a_record_signed_with_another_key_is_found_by_the_key_kept_elsewhere() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for each in [&folder, &other] {
            Store::open(each.path()).await.unwrap().close().await;
        }
        let found = verify(folder.path(), Some(&other.path().join(PUBLIC)), None).await.unwrap();
        assert_eq!(found.findings, [finding(1, "the head is not signed by this key")]);
        assert!(verify(folder.path(), Some(Path::new("/no/such/key")), None).await.is_err());
    }

    #[tokio::test]
    async fn a_store_put_back_to_an_earlier_state_is_found_by_an_entry_kept_elsewhere() {
        let (folder, earlier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Store::open(folder.path()).await.unwrap().close().await;
        for file in [PUBLIC, "verdicts.sqlite"] {
            std::fs::copy(folder.path().join(file), earlier.path().join(file)).unwrap();
        }
        let store = Store::open(folder.path()).await.unwrap();
        store.insert(&[verdict(Action::Reject)]).await.unwrap();
        let (entry, hash) = store.head().await.unwrap();
        store.close().await;
        let kept: Kept = format!("{entry}:{hash}").parse().unwrap();
        assert_eq!(verify(folder.path(), None, Some(&kept)).await.unwrap().findings, []);
        assert_eq!(verify(earlier.path(), None, None).await.unwrap().findings, [], "by itself it is whole");
        let found = verify(earlier.path(), None, Some(&kept)).await.unwrap();
        assert_eq!(found.findings, [finding(2, "is not the one that was kept elsewhere")]);
    }

    #[tokio::test]
    async fn a_changed_picture_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let now = time::OffsetDateTime::now_utc();
        for n in 0..3u8 {
            let jpeg = bytes::Bytes::from(vec![n; 50]);
            store.put_frame(&crate::store::frame_key(&jpeg, now), jpeg).await.unwrap();
        }
        assert_eq!(verify_pictures(folder.path()).unwrap(), (3, vec![]));
        let day = std::fs::read_dir(folder.path().join("frames")).unwrap().next().unwrap().unwrap().path();
        let picture = std::fs::read_dir(day).unwrap().next().unwrap().unwrap().path();
        std::fs::write(picture, "another").unwrap();
        assert_eq!(verify_pictures(folder.path()).unwrap().1.len(), 1);
    }
}
