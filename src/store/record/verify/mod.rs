//! Whether a record is whole and unchanged: every entry, every verdict it holds, every signature; or, for a lot's page,
//! the parts of it that hold the lot.
//!
//! `whole` compares the record's totals, schema and pages and has all of it verified, `lot` finds the parts that a lot needs, `parts`
//! verifies entries, several chunks side by side.
//!
//! Invariant: nothing is written, no secret is needed, and a broken record gives findings, never a panic or an error.
//! It works beside a running service: what is verified is the record up to the head at the start, and what retention
//! removes meanwhile is not a finding.

mod anchor;
mod counts;
mod lot;
mod parts;
mod rows;
mod serving;
#[cfg(test)]
mod tests;
mod whole;

use std::{fmt, path::Path};

use ed25519_dalek::VerifyingKey;
use serde::Serialize;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};

pub use anchor::{AnchorVerification, verify_anchor};
pub use serving::verify_serving;

use super::signer::{PUBLIC, public_key, unhex};
use crate::{
    domain::hash::sha256,
    store::{Lot, StoreError, reading},
};

/// Connections that read side by side: as many again as a small box has cores, for each waits for the other's thread.
const READERS: u32 = 4;
/// Rows that SQLite's thread may be ahead of ours: with few, the two threads wake each other for every one.
const ROW_BUFFER: usize = 256;
/// KiB of pages that a connection keeps: each is read once, or once more for the next row on it.
const CACHE: &str = "-1024";
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
pub struct KeptEntry {
    /// Its place.
    pub entry: i64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl std::str::FromStr for KeptEntry {
    type Err = String;

    /// `ENTRY:HASH`, the hash as 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(entry, hash)| Some((entry.parse().ok()?, unhex(hash)?)));
        let (entry, hash) = parts.ok_or("write ENTRY:HASH, the hash as 64 hexadecimal digits")?;
        Ok(Self { entry, hash })
    }
}

/// Verifies the record in `folder` with the public key in `key`, or with the one beside it, and that it still holds the
/// entry `kept`, which shows that it is neither an earlier nor a rewritten one.
///
/// # Errors
/// Only when there is nothing to verify: no readable database or key.
pub async fn verify(folder: &Path, key: Option<&Path>, kept: Option<&KeptEntry>) -> Result<Verification, StoreError> {
    let beside = folder.join(PUBLIC);
    let key = public_key(key.unwrap_or(&beside))?;
    let refuse = |e: sqlx::Error| StoreError::Open { path: folder.into(), why: e.to_string() };
    let pool = connect(folder).await?;
    let mut found = whole::verify_whole(&pool, &key).await.map_err(refuse)?;
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
    let pool = connect(folder).await?;
    let found = lot::verify_around(&pool, &key, lot).await.map_err(refuse)?;
    pool.close().await;
    Ok(found)
}

/// What is wrong with the entries of `span`, first and last place, and the documents they hold: verified from the checkpoint
/// before to the one after.
///
/// # Errors
/// SQLite's.
pub(in crate::store) async fn verify_span(
    pool: &SqlitePool,
    key: &VerifyingKey,
    span: (i64, i64),
) -> Result<Vec<Finding>, sqlx::Error> {
    lot::verify_spans(pool, key, vec![span]).await
}

async fn connect(folder: &Path) -> Result<SqlitePool, StoreError> {
    let options = reading::options(folder).await?.row_buffer_size(ROW_BUFFER).pragma("cache_size", CACHE);
    let refuse = |e: sqlx::Error| StoreError::Open { path: folder.into(), why: e.to_string() };
    SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await.map_err(refuse)
}

/// Compares every kept picture with the hash in its name: how many there are, and what is wrong. That a picture is gone is
/// not a finding: retention removes them.
///
/// # Errors
/// When the folder can't be read.
pub fn verify_pictures(folder: &Path) -> std::io::Result<(usize, Vec<Finding>)> {
    let (mut pictures, mut findings) = (0, Vec::new());
    let frames = folder.join("frames");
    let strange = |path: &Path, findings: &mut Vec<Finding>| {
        if findings.len() < TOLD {
            findings.push(finding(0, format!("{} is no picture and does not belong there", path.display())));
        }
    };
    for day in std::fs::read_dir(frames)? {
        let day = day?.path();
        if !day.is_dir() {
            strange(&day, &mut findings);
            continue;
        }
        for file in std::fs::read_dir(day)? {
            let path = file?.path();
            if !std::fs::symlink_metadata(&path)?.is_file() {
                strange(&path, &mut findings); // a pipe would be waited for
                continue;
            }
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
