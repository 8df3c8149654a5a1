//! Files and folders that appear under their final name whole or not at all, also after a power cut.
//!
//! What is written goes beside its target first, under the hidden name `.<target>.new`. It is flushed to the disk, renamed,
//! and then the folder that holds it is flushed, so that the new name itself survives. A kill in between leaves the old
//! content in place and a hidden leftover beside it, which nobody reads and the next writing of the same target reuses.
//!
//! Invariant: a reader of the final name sees the old content or the new one, never a part of one, however many processes
//! write it at the same time: the later rename wins.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

/// Mode of a file that everybody may read, before the process's umask.
const PUBLIC: u32 = 0o666;
/// Mode of a file that only its owner may read.
const PRIVATE: u32 = 0o600;

/// Replaces the file at `path` by `bytes`; who may read it, the umask says.
///
/// # Errors
/// The system's; then the file is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = Draft::open(path, PUBLIC)?;
    draft.fill(bytes)?;
    draft.replace(path)
}

/// As [`write`], but only its owner may read it (mode 0600): the user and group in `owner`.
///
/// # Errors
/// The system's, also when this process may not give the file away; then the file is as it was.
pub fn write_private(path: &Path, bytes: &[u8], (user, group): (u32, u32)) -> io::Result<()> {
    let mut draft = Draft::open(path, PRIVATE)?;
    draft.file.set_permissions(Permissions::from_mode(PRIVATE))?; // whatever a leftover had
    draft.fill(bytes)?;
    if draft.file.metadata()?.uid() != user {
        fchown(&draft.file, Some(user), Some(group))?;
    }
    draft.replace(path)
}

/// Makes a file that must not exist yet; `private`: only its owner may read it (mode 0600).
///
/// # Errors
/// The system's; [`io::ErrorKind::AlreadyExists`] when there is one, which then stays as it is.
pub fn create(path: &Path, bytes: &[u8], private: bool) -> io::Result<()> {
    let mut draft = Draft::open(path, if private { PRIVATE } else { PUBLIC })?;
    // The draft's lock keeps others who create it waiting until it is there.
    if fs::symlink_metadata(path).is_ok() {
        draft.discard();
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists already"));
    }
    draft.fill(bytes)?;
    draft.replace(path)
}

/// An empty file beside its target. Its lock keeps other writers of the same target waiting.
struct Draft {
    path: PathBuf,
    file: File,
}

impl Draft {
    fn open(target: &Path, mode: u32) -> io::Result<Self> {
        let path = beside(target)?;
        let file = loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(mode).open(&path)?;
            file.lock()?;
            // Whoever held the lock before has renamed the file meanwhile: then it is a target, not a draft.
            if fs::metadata(&path).is_ok_and(|found| same_file(&found, &file)) {
                break file;
            }
        };
        file.set_len(0)?; // a leftover
        Ok(Self { path, file })
    }

    fn fill(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).inspect_err(|_| self.discard()) // a full disk needs the room
    }

    fn discard(&self) {
        let _ = fs::remove_file(&self.path); // else the next writer reuses it
    }

    fn replace(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        sync_folder_of(target)
    }
}

fn same_file(found: &fs::Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
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
        fs::create_dir_all(&path)?;
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
    let name = target.file_name().ok_or_else(|| io::Error::other(format!("{} names no file", target.display())))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    Ok(target.with_file_name(hidden))
}

/// Flushes the entries of the folder that holds `path`.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
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
    fn what_a_killed_writer_left_is_not_visible_and_the_next_one_clears_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serving.json");
        write(&path, b"old").unwrap();
        fs::write(folder.path().join(".serving.json.new"), "half of something that was longer than the n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old", "a kill before the rename changes nothing");
        write(&path, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"new".to_vec(), vec!["serving.json".into()]));
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
    fn a_private_file_is_read_by_its_owner_alone_also_over_a_leftover_or_a_public_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let own = fs::metadata(folder.path()).map(|found| (found.uid(), found.gid())).unwrap();
        write_private(&path, b"one", own).unwrap();
        assert_eq!(mode(&path), 0o600);
        for public in [path.clone(), folder.path().join(".tokens.toml.new")] {
            fs::write(&public, "public").unwrap();
            fs::set_permissions(&public, Permissions::from_mode(0o644)).unwrap();
            write_private(&path, b"two", own).unwrap();
            assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"two".to_vec()));
        }
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
