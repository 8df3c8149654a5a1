//! Entries of the record, part by part: each chained to the one before, each verdict as its entry holds it, each checkpoint
//! signed.
//!
//! Invariant: a part is verified in chunks, several side by side; a chunk takes the hash before its first entry from the
//! record, and the chunk that holds that entry verifies it.

use std::{sync::Arc, vec};

use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};
use sqlx::{
    Row, SqliteExecutor, TypeInfo, ValueRef,
    sqlite::{SqlitePool, SqliteRow},
};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use super::{Finding, READERS, TOLD, finding};
use crate::store::{
    record::{
        chain::{CHECKPOINT, link, seed},
        signer::Mark,
    },
    tallies::Counted,
};

/// Entries read by one task.
const CHUNK: i64 = 16_384;

/// The signed head: what is verified is the record up to it.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) seq: i64,
    pub(super) hash: [u8; 32],
}

/// A head or a checkpoint as it was read.
pub(super) struct SignedMark {
    pub(super) seq: i64,
    pub(super) hash: [u8; 32],
    pub(super) time: String,
    signature: Vec<u8>,
}

impl SignedMark {
    /// Four columns from `from` on: seq, hash, time, signature.
    pub(super) fn read(row: &SqliteRow, from: usize) -> Option<Self> {
        Some(Self {
            seq: row.try_get(from).ok()?,
            hash: row.try_get::<Vec<u8>, _>(from + 1).ok()?.try_into().ok()?,
            time: row.try_get(from + 2).ok()?,
            signature: row.try_get(from + 3).ok()?,
        })
    }

    /// Whether this key signed it as a mark of this kind.
    pub(super) fn signed(&self, kind: &'static str, key: &VerifyingKey) -> bool {
        Mark { kind, seq: self.seq, hash: &self.hash, time: &self.time }.signed(key, &self.signature)
    }
}

/// The head, if it is signed.
pub(super) async fn signed_head(
    from: impl SqliteExecutor<'_>,
    key: &VerifyingKey,
) -> Result<Option<Head>, sqlx::Error> {
    let row = sqlx::query("SELECT seq, hash, time, signature FROM head").fetch_optional(from).await?;
    let head = row.and_then(|row| SignedMark::read(&row, 0)).filter(|mark| mark.signed("head", key));
    Ok(head.map(|mark| Head { seq: mark.seq, hash: mark.hash }))
}

/// What verifying some entries found.
#[derive(Default)]
pub(super) struct PartFindings {
    pub(super) findings: Vec<Finding>,
    /// How many verdicts are gone that retention had removed.
    pub(super) removed: i64,
    /// The verdicts that are there.
    pub(super) counted: Counted,
    /// Place and id of the other verdicts that are gone.
    missing: Vec<(i64, i64)>,
}

/// Verifies `parts` up to `head`; verdicts up to `removed_to` may be gone.
pub(super) async fn verify_parts(
    pool: &SqlitePool,
    key: &VerifyingKey,
    parts: &[(i64, i64)],
    head: Head,
    removed_to: i64,
) -> Result<PartFindings, sqlx::Error> {
    let mut found = verify_chunks(pool, key, parts, head, removed_to).await?;
    if !found.missing.is_empty() {
        // Retention may have gone on since `removed_to` was read. It tells so in the same step, behind `head`: that is
        // believed if it is whole and signed too.
        let now = signed_head(pool, key).await?.unwrap_or(head);
        let told = sqlx::query_scalar(
            "SELECT coalesce(max(json_extract(body, '$.to')), 0) FROM record
             WHERE verdict IS NULL AND kind = 'verdicts_removed' AND seq > ? AND seq <= ?",
        );
        let removed_to: i64 = told.bind(head.seq).bind(now.seq).fetch_one(pool).await.unwrap_or(0);
        let since = verify_chunks(pool, key, &[(head.seq + 1, now.seq)], now, removed_to).await?;
        found.findings.extend(since.findings);
        found.missing.retain(|(_, id)| *id > removed_to);
        found.missing.sort_unstable();
        // No more are told; of a record without its verdicts there would be millions.
        let missing = found.missing.iter().take(TOLD).map(|(seq, id)| finding(*seq, format!("verdict {id} is gone")));
        found.findings.extend(missing);
    }
    Ok(found)
}

/// [`verify_chunk`] for all chunks of `parts`, several side by side.
async fn verify_chunks(
    pool: &SqlitePool,
    key: &VerifyingKey,
    parts: &[(i64, i64)],
    head: Head,
    removed_to: i64,
) -> Result<PartFindings, sqlx::Error> {
    let key = Arc::new(*key);
    let mut chunks = parts.iter().flat_map(|&(from, to)| {
        (from..=to).step_by(CHUNK as usize).map(move |from| (from, from.saturating_add(CHUNK - 1).min(to)))
    });
    let (mut tasks, mut all) = (JoinSet::new(), PartFindings::default());
    loop {
        for chunk in chunks.by_ref().take(READERS as usize - tasks.len()) {
            tasks.spawn(verify_chunk(pool.clone(), key.clone(), chunk, head, removed_to));
        }
        let Some(done) = tasks.join_next().await else { break };
        let found = done.map_err(|e| sqlx::Error::Io(std::io::Error::other(e)))??;
        all.findings.extend(found.findings);
        all.removed += found.removed;
        all.counted.extend(found.counted);
        all.missing.extend(found.missing);
        if all.findings.len() > 100 * TOLD {
            break; // enough to say that it is broken
        }
    }
    Ok(all)
}

/// Entries `from` to `to` with their verdicts and checkpoints.
async fn verify_chunk(
    pool: SqlitePool,
    key: Arc<VerifyingKey>,
    (from, to): (i64, i64),
    head: Head,
    removed_to: i64,
) -> Result<PartFindings, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let checkpoints =
        sqlx::query("SELECT seq, hash, time, signature FROM checkpoints WHERE seq BETWEEN ? AND ? ORDER BY seq")
            .bind(from)
            .bind(to)
            .fetch_all(&mut *connection)
            .await?;
    let checkpoints: Vec<_> = checkpoints.iter().map(|row| SignedMark::read(row, 0)).collect();
    let before =
        sqlx::query("SELECT hash FROM record WHERE seq = ?").bind(from - 1).fetch_optional(&mut *connection).await?;
    let previous = match (from, &before) {
        (1, _) => seed(),
        (_, Some(row)) => row.try_get::<Vec<u8>, _>(0).ok().and_then(|h| h.try_into().ok()).unwrap_or_default(),
        (_, None) => [0; 32], // told by the chunk that misses it
    };
    let (checkpoints, found) = (checkpoints.into_iter(), PartFindings::default());
    let mut chunk = Chunk { key, head, removed_to, checkpoints, expected: from, previous, found };
    let mut rows = sqlx::query(
        "SELECT r.seq, r.verdict, r.body, r.hash, v.body FROM record r LEFT JOIN verdicts v ON v.id = r.verdict
         WHERE r.seq BETWEEN ? AND ? ORDER BY r.seq",
    )
    .bind(from)
    .bind(to)
    .fetch(&mut *connection);
    while let Some(row) = rows.next().await {
        let row = row?;
        chunk.verify(row.try_get(0)?, EntryRow::read(&row));
        if chunk.found.findings.len() > TOLD {
            return Ok(chunk.found);
        }
    }
    Ok(chunk.finish(to))
}

/// An entry as it was read.
struct EntryRow<'a> {
    verdict: Option<i64>,
    body: &'a [u8],
    hash: [u8; 32],
    /// The verdict's document, if it is there.
    document: Option<&'a [u8]>,
    /// Whether both are of the kinds that are written: what is text as bytes alone reads as something else, or not at all.
    as_written: bool,
}

impl<'a> EntryRow<'a> {
    fn read(row: &'a SqliteRow) -> Option<Self> {
        let verdict: Option<i64> = row.try_get_unchecked(1).ok()?;
        let is = |column: usize, kind: &str| {
            row.try_get_raw(column).is_ok_and(|value| value.is_null() || value.type_info().name() == kind)
        };
        let kind = if verdict.is_some() { "BLOB" } else { "TEXT" };
        let as_written = is(1, "INTEGER") && is(2, kind) && is(3, "BLOB") && is(4, "TEXT");
        Some(Self {
            verdict,
            body: row.try_get_unchecked(2).ok()?,
            hash: row.try_get_unchecked::<&[u8], _>(3).ok()?.try_into().ok()?,
            document: row.try_get_unchecked(4).ok()?,
            as_written,
        })
    }
}

/// A chunk whose entries are verified in order.
struct Chunk {
    key: Arc<VerifyingKey>,
    head: Head,
    /// Verdicts up to this id may be gone.
    removed_to: i64,
    /// The checkpoints that lie in it, from the next one on; `None` for one that can't be read.
    checkpoints: vec::IntoIter<Option<SignedMark>>,
    /// The place of the next entry.
    expected: i64,
    /// The hash of the entry before.
    previous: [u8; 32],
    found: PartFindings,
}

impl Chunk {
    fn tell(&mut self, seq: i64, what: impl Into<String>) {
        self.found.findings.push(finding(seq, what));
    }

    fn verify(&mut self, seq: i64, entry: Option<EntryRow<'_>>) {
        if seq != self.expected {
            self.tell(self.expected, format!("missing; the next is entry {seq}"));
        }
        self.expected = seq + 1;
        if seq > self.head.seq {
            self.tell(seq, "stands behind the signed head");
        }
        let Some(EntryRow { verdict, body, hash, document, as_written }) = entry else {
            return self.tell(seq, "can't be read");
        };
        if !as_written {
            self.tell(seq, "holds a value of another kind than was written");
        }
        if link(&self.previous, seq, verdict, body) != hash {
            self.tell(seq, "its hash does not fit it and the entry before");
        }
        if verdict.is_some_and(|id| id < 1) {
            self.tell(seq, "holds a verdict whose id no verdict has"); // 0 is hashed as none is, and hides an event
        }
        if let Some(id) = verdict {
            self.verify_document(seq, id, body, document);
        }
        if seq % CHECKPOINT == 0 {
            let key = self.key.clone();
            let fits = |mark: SignedMark| mark.seq == seq && mark.hash == hash && mark.signed("checkpoint", &key);
            if !self.checkpoints.next().flatten().is_some_and(fits) {
                self.tell(seq, "its checkpoint is missing or wrong");
            }
        }
        if seq == self.head.seq && hash != self.head.hash {
            self.tell(seq, "its hash is not the one in the signed head");
        }
        self.previous = hash;
    }

    /// The entry at `seq` holds the verdict `id` by `digest`.
    fn verify_document(&mut self, seq: i64, id: i64, digest: &[u8], document: Option<&[u8]>) {
        match document {
            None if id <= self.removed_to => self.found.removed += 1,
            None => self.found.missing.push((seq, id)),
            Some(document) if Sha256::digest(document)[..] != *digest => {
                self.tell(seq, format!("verdict {id} was changed"));
            }
            Some(document) => {
                if self.found.counted.read(id, document).is_err() {
                    self.tell(seq, format!("verdict {id} can't be read"));
                }
            }
        }
    }

    /// After the last entry that was read: whether more should have come up to `to`.
    fn finish(mut self, to: i64) -> PartFindings {
        if self.expected <= to {
            self.tell(self.expected, format!("missing, as all to {to}"));
        }
        if self.checkpoints.next().is_some() {
            self.tell(to, "a checkpoint stands where none belongs");
        }
        self.found
    }
}
