//! Whether the heads that were left elsewhere stand in the record, each at its place.

use std::{io::BufRead, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use sqlx::{Row, sqlite::SqlitePool};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Finding, TOLD, connect, finding, parts::signed_head};
use crate::{
    domain::time::rfc3339,
    store::{
        AnchoredHead, Entry, Event, StoreError, anchor,
        record::signer::{Mark, PUBLIC, hex, public_key, unhex},
    },
};

/// So far an authority's clock and ours may be apart.
const APART: Duration = Duration::from_secs(300);

/// What the heads that were left elsewhere show.
#[derive(Debug, Default)]
pub struct AnchorVerification {
    /// Heads that were compared.
    pub heads: u64,
    /// Lines without one: cut, or of something else.
    pub other_lines: u64,
    /// Time-stamp tokens that hold.
    pub tokens: u64,
    /// The last head's place; what stands after it in the record was left nowhere.
    pub last: i64,
    /// What is wrong, 20 at most.
    pub findings: Vec<Finding>,
}

/// Compares the heads in `lines`, which were left elsewhere, with the record in `folder`. All must be of this record: lines
/// of another one are a finding, for a record that was begun anew looks like another one. `certificate`: a time-stamp
/// authority's, DER; with it every token is verified.
///
/// This alone does not verify the record: call [`super::verify`] too.
///
/// # Errors
/// Only when there is nothing to compare: no readable database or key, no lines.
pub async fn verify_anchor(
    folder: &Path,
    key: Option<&Path>,
    lines: impl BufRead,
    certificate: Option<&[u8]>,
) -> Result<AnchorVerification, StoreError> {
    let beside = folder.join(PUBLIC);
    let key = public_key(key.unwrap_or(&beside))?;
    let refuse = |e: sqlx::Error| StoreError::Open { path: folder.into(), why: e.to_string() };
    let pool = connect(folder).await?;
    let first = hash_of(&pool, 1).await.map_err(refuse)?.unwrap_or_default();
    let end = signed_head(&pool, &key).await.map_err(refuse)?.map_or(0, |head| head.seq);
    let restored = restored(&pool).await.map_err(refuse)?;
    let mut found = AnchorVerification::default();
    for line in lines.split(b'\n') {
        let line = line.map_err(|e| refuse(e.into()))?;
        let line = String::from_utf8_lossy(&line);
        let Some(head) = AnchoredHead::read(&line) else {
            found.other_lines += u64::from(!line.trim().is_empty());
            continue;
        };
        found.heads += 1;
        found.last = found.last.max(head.entry);
        let now = hash_of(&pool, head.entry).await.map_err(refuse)?;
        if let Some(what) = unlike(&head, &first, now.as_deref(), end) {
            let what = restored.iter().find_map(|one| one.explains(&head)).unwrap_or(what);
            let doubt = if signed(&head, &key) { "" } else { "; this key did not sign what was left" };
            found.findings.push(finding(head.entry, format!("{what}{doubt}")));
        }
        if let (Some(token), Some(certificate)) = (&head.token, certificate) {
            let token = STANDARD.decode(token).map_err(|e| e.to_string());
            match token.and_then(|token| anchor::stamp::verify(&token, &head.digest(), certificate)) {
                Ok(stamped) if OffsetDateTime::parse(&head.time, &Rfc3339).is_ok_and(|said| said > stamped + APART) => {
                    let what =
                        format!("says {}, but its time-stamp token says {stamped}: a clock ran ahead", head.time);
                    found.findings.push(finding(head.entry, what));
                }
                Ok(_) => found.tokens += 1,
                Err(why) => found.findings.push(finding(head.entry, format!("its time-stamp token {why}"))),
            }
        }
    }
    pool.close().await;
    if found.heads == 0 {
        found.findings.push(finding(0, "no head of a record was left there"));
    }
    found.findings.sort();
    found.findings.dedup();
    found.findings.truncate(TOLD);
    Ok(found)
}

/// An entry that tells that the record came out of an archive.
struct Restored {
    entry: i64,
    time: OffsetDateTime,
    archived: OffsetDateTime,
}

impl Restored {
    /// What became of a head that was left elsewhere before, and whose place the restored record used anew.
    fn explains(&self, head: &AnchoredHead) -> Option<String> {
        let left = OffsetDateTime::parse(&head.time, &Rfc3339).ok()?;
        let Self { entry, archived, .. } = self;
        (head.entry >= *entry && left < self.time).then(|| {
            format!(
                "was left elsewhere at {} and is gone: entry {entry} says that the record was restored from an archive of {}",
                head.time,
                rfc3339(*archived)
            )
        })
    }
}

async fn restored(pool: &SqlitePool) -> Result<Vec<Restored>, sqlx::Error> {
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT seq, CAST(body AS TEXT) FROM record WHERE kind = 'restored' AND verdict IS NULL ORDER BY seq",
    )
    .fetch_all(pool)
    .await?;
    let read = |(entry, body): (i64, String)| match serde_json::from_str(&body).ok()? {
        Entry { time, event: Event::Restored { archived, .. }, .. } => Some(Restored { entry, time, archived }),
        _ => None,
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// What is wrong with a record that begins with `first`, ends at `end` and has the hash `now` at the head's place.
fn unlike(head: &AnchoredHead, first: &str, now: Option<&str>, end: i64) -> Option<String> {
    if head.store != first {
        return Some(format!("a head of {} was left elsewhere that belongs to another record", head.time));
    }
    if head.entry > end || now.is_none() {
        return Some(format!("was left elsewhere at {}, but the record ends at {end}: it was put back", head.time));
    }
    (now != Some(head.hash.as_str()))
        .then(|| format!("is not the one that was left elsewhere at {}: rewritten", head.time))
}

fn signed(head: &AnchoredHead, key: &VerifyingKey) -> bool {
    let hash = unhex(&head.hash).unwrap_or_default();
    let halves = head.signature.get(..64).and_then(unhex).zip(head.signature.get(64..).and_then(unhex));
    let signature = halves.map(|(r, s)| Signature::from_components(r, s).to_bytes());
    let mark = Mark { kind: "head", seq: head.entry, hash: &hash, time: &head.time };
    signature.is_some_and(|signature| mark.signed(key, &signature))
}

/// The hash of the entry at `seq`, as hexadecimal digits.
async fn hash_of(pool: &SqlitePool, seq: i64) -> Result<Option<String>, sqlx::Error> {
    let row = sqlx::query("SELECT hash FROM record WHERE seq = ?").bind(seq).fetch_optional(pool).await?;
    Ok(row.and_then(|row| row.try_get::<Vec<u8>, _>(0).ok()).map(|hash| hex(&hash)))
}
