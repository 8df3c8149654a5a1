//! Access tokens: who may ask for what, kept in `tokens.toml`.
//!
//! Invariant: doubt refuses. The file holds hashes, never a token; a file that can't be read lets nobody in; a service
//! that once had a token never serves everyone again before it is restarted.
//!
//! A token is 256 bits from the system's generator, so one round of SHA-256 is hash enough: slow hashes (argon2 and the
//! like) stretch what people can remember, and there is nothing to guess here; a slow hash on every request would only
//! hand each stranger our cores.

mod file;

use std::{
    fmt,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

pub use file::{MAX_TOKENS, TokenEntry, TokenError, add, list, revoke};

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
        found.ok_or_else(|| format!("`{name}` is not a role; the roles are viewer, labeler, operator and admin"))
    }
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
pub enum TokenRefusal {
    /// No such token.
    Unknown,
    /// Its time is over.
    Expired,
}

/// The tokens of a running service, read again when the file changes; clones share them.
#[derive(Clone)]
pub struct Tokens(Arc<Shared>);

struct Shared {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    stamp: Option<Stamp>,
    entries: Vec<TokenEntry>,
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
    /// [`TokenRefusal`].
    pub fn holder(&self, token: &str, now: OffsetDateTime) -> Result<Holder, TokenRefusal> {
        let hash = hash(token);
        let state = self.0.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for entry in &state.entries {
            if bool::from(entry.sha256.as_bytes().ct_eq(hash.as_bytes())) {
                found = Some(entry);
            }
        }
        match found {
            None => Err(TokenRefusal::Unknown),
            Some(entry) if entry.expires.is_some_and(|expires| now >= expires) => Err(TokenRefusal::Expired),
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

/// SHA-256 as 64 hexadecimal digits.
fn hash(token: &str) -> String {
    Sha256::digest(token).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use time::Duration;

    use super::{file::TokenFile, *};

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
        for wrong in ["", "bs_", &token[..45], &format!("{token} "), &hash(&token)] {
            assert_eq!(tokens.holder(wrong, now()), Err(TokenRefusal::Unknown), "{wrong}");
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
        assert_eq!(tokens.holder(&token, end + Duration::NANOSECOND), Err(TokenRefusal::Expired));
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
        entries.extend((1..MAX_TOKENS).map(|i| TokenEntry { name: format!("n{i}"), ..last.clone() }));
        std::fs::write(&path, toml::to_string(&TokenFile { token: entries }).unwrap()).unwrap();
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
