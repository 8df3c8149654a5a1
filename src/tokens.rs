//! Access tokens: who may ask for what, kept in `tokens.toml`.
//!
//! Invariant: doubt refuses. The file holds hashes, never a token; a file that can't be read lets nobody in; a service
//! that once had a token never serves everyone again before it is restarted.
//!
//! A token is 256 bits from the system's generator, so one round of SHA-256 is hash enough: slow hashes (argon2 and the
//! like) stretch what people can remember, and there is nothing to guess here; a slow hash on every request would only
//! hand each stranger our cores.

use std::{
    fmt,
    io::Write,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRng, rngs::SysRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

/// What every token starts with, so that scanners for leaked secrets know it.
pub const PREFIX: &str = "bs_";
/// Most tokens in a file: each costs every request a comparison.
pub const MAX_TOKENS: usize = 256;
/// Longest name in bytes.
const MAX_NAME: usize = 64;
/// A larger file is refused unread, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What its holder may do; each role may do all that the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks: pictures, verdicts, metrics.
    Viewer,
    /// Says what is on a picture; has pictures judged.
    Labeler,
    /// Runs the line: lots, ejects, models.
    Operator,
    /// Everything, the audit log included.
    Admin,
}

impl Role {
    /// All roles, least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Labeler, Self::Operator, Self::Admin];

    /// As in the file and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Labeler => "labeler",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == name);
        found.ok_or_else(|| format!("`{name}` is no role: viewer, labeler, operator and admin are"))
    }
}

/// A token as the file knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
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
struct File {
    #[serde(default)]
    token: Vec<Entry>,
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
    #[error("`{0}` is no name for a token: 1 to {MAX_NAME} letters, digits, dots, dashes or underscores are")]
    Name(String),
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
    let mut secret = [0; 32];
    SysRng.try_fill_bytes(&mut secret).map_err(|e| TokenError::File { path: path.into(), why: e.to_string() })?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    let created = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let entry = Entry { name: name.into(), role, sha256: hex(&Sha256::digest(&token)), created, expires };
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
pub fn list(path: &Path) -> Result<Vec<Entry>, TokenError> {
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

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let File { token: entries } = toml::from_str(text).map_err(|e| e.to_string())?;
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
fn change<T>(path: &Path, edit: impl FnOnce(&mut Vec<Entry>) -> Result<T, TokenError>) -> Result<T, TokenError> {
    let failed = |e: std::io::Error| TokenError::File { path: path.into(), why: e.to_string() };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let lock = std::fs::File::open(folder).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut entries = list(path)?;
    let done = edit(&mut entries)?;
    let text = toml::to_string(&File { token: entries }).map_err(|e| failed(std::io::Error::other(e)))?;
    // Written beside and renamed, so that a running service never reads half a file.
    let mut new = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    new.write_all(b"# Written by `beltsight tokens`; it holds hashes, the tokens themselves are nowhere.\n")
        .and_then(|()| new.write_all(text.as_bytes()))
        .and_then(|()| new.as_file().sync_all())
        .map_err(failed)?;
    let (owner, ours) = (lock.metadata().map_err(failed)?, new.as_file().metadata().map_err(failed)?);
    if owner.uid() != ours.uid() {
        // Root makes tokens for a service that runs as somebody else.
        chown(new.path(), Some(owner.uid()), Some(owner.gid())).map_err(failed)?;
    }
    new.persist(path).map_err(|e| failed(e.error))?;
    lock.sync_all().map_err(failed)?;
    Ok(done)
}

fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Who a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The token's name.
    pub name: String,
    /// What the holder may do.
    pub role: Role,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No such token.
    Unknown,
    /// Its time is over.
    Expired,
}

/// The tokens of a running service, read anew when the file changes; clones share them.
#[derive(Clone)]
pub struct Tokens(Arc<Shared>);

struct Shared {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    stamp: Option<Stamp>,
    entries: Vec<Entry>,
    /// Whether there ever was a token, or a file that could not be read.
    guarded: bool,
}

/// What changes when the file is written or replaced: inode, length, time in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

impl Tokens {
    /// Reads the file; there need not be one.
    ///
    /// # Errors
    /// [`TokenError::File`], [`TokenError::Wrong`]: a service with doubtful tokens must not start.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let stamp = stamp(path);
        let entries = list(path)?;
        let state = State { stamp, guarded: !entries.is_empty(), entries };
        Ok(Self(Arc::new(Shared { path: path.into(), state: RwLock::new(state) })))
    }

    /// Whether a token is asked for; without any, everybody is let in.
    pub fn guarded(&self) -> bool {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner).guarded
    }

    /// The holder of `token`. Every hash is compared, each in constant time.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn holder(&self, token: &str, now: OffsetDateTime) -> Result<Holder, Refused> {
        let hash = hex(&Sha256::digest(token));
        let state = self.0.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for entry in &state.entries {
            if bool::from(entry.sha256.as_bytes().ct_eq(hash.as_bytes())) {
                found = Some(entry);
            }
        }
        match found {
            None => Err(Refused::Unknown),
            Some(entry) if entry.expires.is_some_and(|expires| now >= expires) => Err(Refused::Expired),
            Some(entry) => Ok(Holder { name: entry.name.clone(), role: entry.role }),
        }
    }

    /// Reads the file again if it changed. If it can't be read, nobody is let in until it can. Blocks on the disk.
    pub fn refresh(&self) {
        let stamp = stamp(&self.0.path);
        if stamp == self.0.state.read().unwrap_or_else(PoisonError::into_inner).stamp {
            return;
        }
        let read = list(&self.0.path);
        let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
        state.stamp = stamp;
        match read {
            Ok(entries) => {
                tracing::info!("{} tokens are valid now", entries.len());
                state.guarded |= !entries.is_empty();
                state.entries = entries;
            }
            Err(e) => {
                tracing::error!("{e}");
                state.guarded = true;
                state.entries.clear();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use time::Duration;

    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store/tokens.toml");
        (folder, path)
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    #[test]
    fn a_token_opens_for_its_holder_and_its_text_is_kept_nowhere() {
        let (_folder, path) = file();
        let token = add(&path, "line-2", Role::Labeler, None).unwrap();
        assert_eq!(token.len(), 3 + 43, "256 bits in base64");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&token[3..]) && text.contains("line-2"), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let tokens = Tokens::open(&path).unwrap();
        assert!(tokens.guarded());
        assert_eq!(tokens.holder(&token, now()), Ok(Holder { name: "line-2".into(), role: Role::Labeler }));
        for wrong in ["", "bs_", &token[..45], &format!("{token} "), &hex(&Sha256::digest(&token))] {
            assert_eq!(tokens.holder(wrong, now()), Err(Refused::Unknown), "{wrong}");
        }
        assert_ne!(add(&path, "other", Role::Labeler, None).unwrap(), token);
    }

    #[test]
    fn an_expired_token_is_refused_from_its_last_second_on() {
        let (_folder, path) = file();
        let end = now() + Duration::days(1);
        let token = add(&path, "guest", Role::Viewer, Some(end)).unwrap();
        let tokens = Tokens::open(&path).unwrap();
        assert!(tokens.holder(&token, end - Duration::SECOND).is_ok());
        assert_eq!(tokens.holder(&token, end + Duration::NANOSECOND), Err(Refused::Expired));
    }

    #[test]
    fn changes_of_the_file_count_without_a_restart_and_a_broken_file_lets_nobody_in() {
        let (_folder, path) = file();
        let tokens = Tokens::open(&path).unwrap();
        assert!(!tokens.guarded(), "no file, no guard");
        let (one, two) =
            (add(&path, "one", Role::Admin, None).unwrap(), add(&path, "two", Role::Viewer, None).unwrap());
        tokens.refresh();
        assert!(tokens.guarded() && tokens.holder(&one, now()).is_ok() && tokens.holder(&two, now()).is_ok());
        assert_eq!(revoke(&path, "one").unwrap(), 1);
        tokens.refresh();
        assert!(tokens.holder(&one, now()).is_err() && tokens.holder(&two, now()).is_ok());

        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, whole.replace("viewer", "vieweradmin")).unwrap();
        tokens.refresh();
        assert!(tokens.guarded() && tokens.holder(&two, now()).is_err(), "a broken file lets nobody in");
        assert!(Tokens::open(&path).is_err(), "and nothing starts with it");
        assert!(add(&path, "three", Role::Viewer, None).is_err(), "nor is it overwritten");
        std::fs::write(&path, &whole).unwrap();
        tokens.refresh();
        assert!(tokens.holder(&two, now()).is_ok());

        std::fs::remove_file(&path).unwrap();
        tokens.refresh();
        assert!(tokens.guarded() && tokens.holder(&two, now()).is_err(), "a vanished file does not open the door");
    }

    #[test]
    fn names_are_plain_and_unique_and_their_number_is_bounded() {
        let (_folder, path) = file();
        for name in ["", "a b", "ü", "a\n", &"x".repeat(65)] {
            assert!(matches!(add(&path, name, Role::Viewer, None), Err(TokenError::Name(_))), "{name:?}");
        }
        add(&path, "a", Role::Viewer, None).unwrap();
        assert!(matches!(add(&path, "a", Role::Admin, None), Err(TokenError::Taken(_))));
        assert!(matches!(revoke(&path, "b"), Err(TokenError::Unknown(_))));
        let mut entries = list(&path).unwrap();
        let last = entries[0].clone();
        entries.extend((1..MAX_TOKENS).map(|i| Entry { name: format!("n{i}"), ..last.clone() }));
        std::fs::write(&path, toml::to_string(&File { token: entries }).unwrap()).unwrap();
        assert!(matches!(add(&path, "one-more", Role::Viewer, None), Err(TokenError::Full)));
    }

    #[test]
    fn tokens_made_at_the_same_time_are_all_kept() {
        let (_folder, path) = file();
        let path = &path;
        std::thread::scope(|scope| {
            for i in 0..8 {
                scope.spawn(move || add(path, &format!("n{i}"), Role::Viewer, None).unwrap());
            }
        });
        assert_eq!(list(path).unwrap().len(), 8);
    }
}
