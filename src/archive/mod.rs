//! A box's archive: one file from which an empty machine goes on where a dead one ended.
//!
//! It is a tar file, compressed with zstd. First comes [`HEAD`], which says what it holds and where that lay; then the files,
//! in the order in which they were read; last [`MANIFEST`], one line a file with its size and SHA-256. Whoever reads an archive
//! writes the same lines of what came out of it, and compares: a cut or changed one is found, whatever was changed.
//!
//! Invariant: nothing has its final name before it was verified, and nothing is overwritten. What is written at once is
//! bounded, however large the store is.

mod read;
mod restore;
mod write;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::store::StoreError;

pub use restore::{RestoreReport, restore};
pub use write::{ArchivePlan, ArchiveReport, archive};

/// What an archive begins with: [`ArchiveHead`] as JSON.
const HEAD: &str = "archive.json";
/// What an archive ends with: one [`Line`] of JSON for each file before it.
const MANIFEST: &str = "manifest.jsonl";
/// The archives that this program writes and reads.
const FORMAT: u32 = 1;
/// Folder of the store inside an archive.
const DATA: &str = "data";
/// Folder of the models.
const MODELS: &str = "models";
/// The configuration.
const CONFIG: &str = "beltsight.toml";
/// The access tokens, where they do not lie in the store.
const TOKENS: &str = "tokens.toml";

/// Why there is no archive, or why it can't be restored.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file can't be read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: io::Error,
    },
    /// The archive is not as it was written, or was not written by us.
    #[error("the archive {path} can't be used: {why}")]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Something stands where the result would.
    #[error("{path} {why}")]
    Taken {
        /// What is there.
        path: PathBuf,
        /// What to do.
        why: &'static str,
    },
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What an archive says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveHead {
    /// Of its form.
    format: u32,
    /// The program that wrote it.
    pub version: String,
    /// When the record was read (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    pub made: time::OffsetDateTime,
    /// Where the record ended: `ENTRY:HASH`.
    pub record: String,
    /// The store's folder on that machine.
    pub store: PathBuf,
    /// The folder of the models; `None`: they are not in it.
    pub models: Option<PathBuf>,
    /// Where the access tokens lay; `None`: there were none, or they are not in it.
    pub tokens: Option<PathBuf>,
    /// Whether pictures are in it.
    pub pictures: bool,
    /// Whether the key that signs the record is in it.
    pub key: bool,
}

/// A file in an archive.
#[derive(Debug, Serialize)]
struct Line<'a> {
    path: &'a str,
    bytes: u64,
    sha256: String,
}

/// What went wrong with a file, with its name.
fn at(path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_path_buf();
    move |why| ArchiveError::File { path, why }
}
