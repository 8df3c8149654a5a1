//! `tokens.toml`: made, listed and revoked by commands.
//!
//! Invariant: one process at a time replaces the whole file, so that nobody reads half a file and no change is lost.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRng, rngs::SysRng};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Role, hash};
use crate::files;

/// The first line of the file.
const HEADING: &str = "# Written by `beltsight tokens`; it holds hashes, the tokens themselves are nowhere.\n";
/// What every token starts with, so that scanners for leaked secrets know it.
const PREFIX: &str = "bs_";
/// Most tokens in a file: each costs every request a comparison.
pub const MAX_TOKENS: usize = 256;
/// Longest name in bytes.
const MAX_NAME: usize = 64;
/// A larger file is refused unread, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A token as the file knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// Who holds it; unique.
    pub name: String,
    /// What the holder may do.
    pub role: Role,
    /// SHA-256 of the token, 64 hexadecimal digits.
    pub sha256: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// From when on it is refused; absent: never.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub expires: Option<OffsetDateTime>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenFile {
    #[serde(default)]
    pub(super) token: Vec<TokenEntry>,
}

/// Why tokens can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file or its folder can't be read or written.
    #[error("the tokens in {path} can't be read or written: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// The file's content is wrong.
    #[error("the tokens in {path} are wrong: {why}; nobody is let in by this file")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The name can't be used.
    #[error("`{0}` can't name a token: use 1 to {MAX_NAME} letters, digits, dots, dashes or underscores")]
    Name(String),
    /// The name of whoever needs no token.
    #[error("`local` is who asks while no token is set: choose another name")]
    Local,
    /// There is a token of this name.
    #[error("there is a token named `{0}`; revoke it first")]
    Taken(String),
    /// There is no token of this name.
    #[error("there is no token named `{0}`")]
    Unknown(String),
    /// No more tokens are taken.
    #[error("there are {MAX_TOKENS} tokens, which is the most; revoke one first")]
    Full,
}

/// Makes a token, keeps its hash in the file, and returns it: nobody can ever read it again.
///
/// # Errors
/// [`TokenError`]; then the file is as it was.
pub fn add(path: &Path, name: &str, role: Role, expires: Option<OffsetDateTime>) -> Result<String, TokenError> {
    if !is_name(name) {
        return Err(TokenError::Name(name.into()));
    }
    if name == "local" {
        return Err(TokenError::Local);
    }
    let mut secret = [0; 32];
    SysRng.try_fill_bytes(&mut secret).map_err(|e| TokenError::File { path: path.into(), why: e.to_string() })?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    let created = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let entry = TokenEntry { name: name.into(), role, sha256: hash(&token), created, expires };
    change(path, |entries| {
        if entries.iter().any(|e| e.name == name) {
            return Err(TokenError::Taken(name.into()));
        }
        if entries.len() >= MAX_TOKENS {
            return Err(TokenError::Full);
        }
        entries.push(entry);
        Ok(())
    })?;
    Ok(token)
}

/// Forgets a token; a running service refuses it within two seconds. Returns how many are left.
///
/// # Errors
/// [`TokenError`]; then the file is as it was.
pub fn revoke(path: &Path, name: &str) -> Result<usize, TokenError> {
    change(path, |entries| {
        let before = entries.len();
        entries.retain(|e| e.name != name);
        if entries.len() == before { Err(TokenError::Unknown(name.into())) } else { Ok(entries.len()) }
    })
}

/// The file's entries; none when there is no file.
///
/// # Errors
/// [`TokenError::File`], [`TokenError::Wrong`].
pub fn list(path: &Path) -> Result<Vec<TokenEntry>, TokenError> {
    let failed = |e: std::io::Error| TokenError::File { path: path.into(), why: e.to_string() };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
        Ok(found) if found.len() > MAX_FILE => {
            let why = format!("{} bytes are more than {MAX_FILE}", found.len());
            return Err(TokenError::Wrong { path: path.into(), why });
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&text).map_err(|why| TokenError::Wrong { path: path.into(), why })
}

fn parse(text: &str) -> Result<Vec<TokenEntry>, String> {
    let TokenFile { token: entries } = toml::from_str(text).map_err(|e| e.to_string())?;
    if entries.len() > MAX_TOKENS {
        return Err(format!("{} tokens are more than {MAX_TOKENS}", entries.len()));
    }
    for (i, entry) in entries.iter().enumerate() {
        if !is_name(&entry.name) {
            return Err(TokenError::Name(entry.name.clone()).to_string());
        }
        if entries[..i].iter().any(|e| e.name == entry.name) {
            return Err(format!("two tokens are named {}", entry.name));
        }
        if entry.sha256.len() != 64 || !entry.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format!("the sha256 of {} is not 64 lower-case hexadecimal digits", entry.name));
        }
    }
    Ok(entries)
}

/// Reads, changes and writes the file while no other process does.
fn change<T>(path: &Path, edit: impl FnOnce(&mut Vec<TokenEntry>) -> Result<T, TokenError>) -> Result<T, TokenError> {
    let failed = |e: std::io::Error| TokenError::File { path: path.into(), why: e.to_string() };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let lock = std::fs::File::open(folder).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut entries = list(path)?;
    let done = edit(&mut entries)?;
    let text = toml::to_string(&TokenFile { token: entries }).map_err(|e| failed(std::io::Error::other(e)))?;
    let text = format!("{HEADING}{text}");
    // Root makes tokens for a service that runs as somebody else: the file is the folder's owner's.
    let owner = lock.metadata().map_err(failed)?;
    files::write_private(path, text.as_bytes(), (owner.uid(), owner.gid())).map_err(failed)?;
    Ok(done)
}

fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits)
}
