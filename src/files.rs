//! Files and folders that appear under their final name whole or not at all, also after a power cut.
//!
//! What is written goes beside its target first, under a hidden name of its own that nobody can guess and that must not exist
//! yet: in a folder that others may write, a planted link is not followed. It is flushed to the disk, renamed, and then the
//! folder that holds it is flushed, so that the new name itself survives. A kill in between leaves the old content in place and
//! a hidden leftover beside it, which nobody reads; a later writing of the same target removes it.
//!
//! Invariant: a reader of the final name sees the old content or the new one, never a part of one, however many processes
//! write it at the same time: the later rename wins.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::NamedTempFile;

pub mod heartbeat;

/// Mode of a file that everybody may read, before the process's umask.
const PUBLIC: u32 = 0o666;
/// Mode of a file that only its owner may read.
const PRIVATE: u32 = 0o600;
/// What a killed writer left is removed when it is older: no writing takes as long.
const LEFTOVER: Duration = Duration::from_secs(600);

/// Replaces the file at `path` by `bytes`; who may read it, the umask says.
///
/// # Errors
/// The system's; then the file is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = filled(path, bytes, PUBLIC)?;
    draft.persist(path)?;
    sync_folder_of(path)
}

/// As [`write`], but only its owner may read it (mode 0600): the user and group in `owner`.
///
/// # Errors
/// The system's, also when this process may not give the file away; then the file is as it was.
pub fn write_private(path: &Path, bytes: &[u8], (user, group): (u32, u32)) -> io::Result<()> {
    let draft = filled(path, bytes, PRIVATE)?;
    if draft.as_file().metadata()?.uid() != user {
        fchown(draft.as_file(), Some(user), Some(group))?;
    }
    draft.persist(path)?;
    sync_folder_of(path)
}

/// Makes a file that must not exist yet; `private`: only its owner may read it (mode 0600).
///
/// # Errors
/// The system's; [`io::ErrorKind::AlreadyExists`] when there is one, which then stays as it is.
pub fn create(path: &Path, bytes: &[u8], private: bool) -> io::Result<()> {
    let draft = filled(path, bytes, if private { PRIVATE } else { PUBLIC })?;
    draft.persist_noclobber(path)?;
    sync_folder_of(path)
}

/// A flushed file beside `target`, removed when it is dropped before it has its final name.
fn filled(target: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let (folder, name) = (folder_of(target), name_of(target)?);
    remove_leftovers(folder, name);
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let mut draft = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".new")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    draft.write_all(bytes)?;
    draft.as_file().sync_all()?;
    Ok(draft)
}

/// Removes old drafts of the file `name`. They do no harm, so neither does an error here.
fn remove_leftovers(folder: &Path, name: &OsStr) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (found, name) = (entry.file_name(), name.as_encoded_bytes());
        let draft = found
            .as_encoded_bytes()
            .strip_prefix(b".")
            .and_then(|rest| rest.strip_prefix(name)?.strip_suffix(b".new"))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."));
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let old = || entry.metadata()?.modified()?.elapsed().map_err(io::Error::other);
        if draft && is_file && old().is_ok_and(|age| age > LEFTOVER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A folder beside its target, to be filled and then published; removed when it is dropped before that.
pub struct FolderDraft {
    path: PathBuf,
    target: PathBuf,
}

impl FolderDraft {
    /// An empty folder beside `target`. One process at a time may draft a target: what is left of an earlier draft goes.
    ///
    /// # Errors
    /// The system's.
    pub fn begin(target: &Path) -> io::Result<Self> {
        let path = beside(target)?;
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        make_folders(&path)?;
        Ok(Self { path, target: target.into() })
    }

    /// Where to write what it will hold.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes everything in it to the disk and gives it its final name, at which there may be an empty folder.
    ///
    /// # Errors
    /// The system's, also when the target is not empty; then the target is as it was and the draft is gone.
    pub fn publish(self) -> io::Result<()> {
        sync_tree(&self.path)?;
        fs::rename(&self.path, &self.target)?;
        sync_folder_of(&self.target)
    }

    /// As [`FolderDraft::publish`], in place of what is at the target: a kill in between may leave neither.
    ///
    /// # Errors
    /// The system's.
    pub fn replace(self) -> io::Result<()> {
        sync_tree(&self.path)?;
        match fs::remove_dir_all(&self.target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::rename(&self.path, &self.target)?;
        sync_folder_of(&self.target)
    }
}

impl Drop for FolderDraft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path); // there is none once it has its final name
    }
}

/// `.<name>.new` in the same folder.
fn beside(target: &Path) -> io::Result<PathBuf> {
    let mut hidden = OsString::from(".");
    hidden.push(name_of(target)?);
    hidden.push(".new");
    Ok(target.with_file_name(hidden))
}

fn name_of(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| io::Error::other(format!("{} names no file", path.display())))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes `folder` and those above it that are missing, and flushes the names of all that it made.
fn make_folders(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists()).collect();
    fs::create_dir_all(folder)?;
    missing.into_iter().try_for_each(sync_folder_of)
}

/// Flushes the entries of the folder that holds `path`.
///
/// # Errors
/// The system's.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// Flushes every file and folder under `folder`, and it.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_a_killed_writer_left_is_not_visible_and_a_later_one_removes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serving.json");
        write(&path, b"old").unwrap();
        let left = |name: &str, age: Duration| {
            let left = File::create(folder.path().join(name)).unwrap();
            left.set_modified(std::time::SystemTime::now() - age).unwrap();
        };
        left(".serving.json.new", 2 * LEFTOVER);
        left(".serving.json.Xy12.new", 2 * LEFTOVER);
        left(".serving.json.Zw34.new", Duration::ZERO); // another one writes now
        left(".serving.jsonl.Zw34.new", 2 * LEFTOVER); // another file's
        assert_eq!(fs::read(&path).unwrap(), b"old", "a kill before the rename changes nothing");
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), [".serving.json.Zw34.new", ".serving.jsonl.Zw34.new", "serving.json"]);
    }

    #[test]
    fn a_planted_link_is_not_followed_and_a_writing_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, secret) = (folder.path().join("tokens.toml"), folder.path().join("secret"));
        fs::write(&secret, "kept").unwrap();
        for planted in [".tokens.toml.new", "tokens.toml"] {
            std::os::unix::fs::symlink(&secret, folder.path().join(planted)).unwrap();
        }
        let own = fs::metadata(folder.path()).map(|found| (found.uid(), found.gid())).unwrap();
        write_private(&path, b"hashes", own).unwrap();
        assert_eq!(fs::read(&secret).unwrap(), b"kept");
        assert!(path.symlink_metadata().unwrap().is_file());
        fs::create_dir(folder.path().join("taken")).unwrap();
        assert!(write(&folder.path().join("taken"), b"a file").is_err());
        assert_eq!(names(folder.path()), [".tokens.toml.new", "secret", "taken", "tokens.toml"]);
    }

    #[test]
    fn no_reader_ever_sees_a_part_however_many_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, &[b'a'; 100_000]).unwrap();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (b'a'..=b'd')
                .map(|letter| {
                    let path = &path;
                    let write_some = move || (1..=20).for_each(|n| write(path, &vec![letter; n * 20_000]).unwrap());
                    scope.spawn(write_some)
                })
                .collect();
            while writers.iter().any(|writer| !writer.is_finished()) {
                let found = fs::read(&path).unwrap();
                assert!(found.len() >= 20_000 && found.len().is_multiple_of(20_000), "{} bytes", found.len());
                assert!(found.iter().all(|byte| *byte == found[0]), "two contents in one file");
            }
        });
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_private_file_is_read_by_its_owner_alone_also_over_a_public_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let own = fs::metadata(folder.path()).map(|found| (found.uid(), found.gid())).unwrap();
        write_private(&path, b"one", own).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"two", own).unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"two".to_vec()));
    }

    #[test]
    fn a_file_is_created_once_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.key");
        create(&path, b"first", true).unwrap();
        assert_eq!(create(&path, b"second", true).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"first".to_vec()));
        assert_eq!(names(folder.path()), ["record.key"]);
    }

    #[test]
    fn a_folder_appears_whole_and_a_draft_that_was_given_up_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("model");
        fs::create_dir_all(root.path().join(".model.new/of a killed run")).unwrap();
        let draft = FolderDraft::begin(&target).unwrap();
        fs::write(draft.path().join("student.onnx"), "1").unwrap();
        assert!(!target.exists());
        draft.publish().unwrap();
        assert_eq!((names(root.path()), names(&target)), (vec!["model".into()], vec!["student.onnx".into()]));

        let second = FolderDraft::begin(&target).unwrap();
        assert!(second.publish().is_err(), "it is taken");
        assert_eq!((names(root.path()), names(&target)), (vec!["model".into()], vec!["student.onnx".into()]));
        let third = FolderDraft::begin(&target).unwrap();
        fs::write(third.path().join("other"), "2").unwrap();
        third.replace().unwrap();
        assert_eq!((names(root.path()), names(&target)), (vec!["model".into()], vec!["other".into()]));
        drop(FolderDraft::begin(&target).unwrap());
        assert_eq!(names(root.path()), ["model"]);
    }
}
