//! Restores an archive on an empty machine.

use std::{
    fs::{self, OpenOptions},
    io::{BufWriter, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use super::{ArchiveError, ArchiveHead, DATA, at, read};
use crate::{
    files::FolderDraft,
    store::{self, Verification},
};

/// What was restored, and verified.
#[derive(Debug)]
pub struct RestoreReport {
    /// What the archive says of itself.
    pub head: ArchiveHead,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the record says when it is verified.
    pub verification: Verification,
}

/// Puts what the archive `file` holds into the folder `to`, which must be empty or not exist: the store in `data`, the
/// students in `models`, the configuration beside them.
///
/// A kill leaves `to` as it was, and a hidden draft beside it, which the next call removes.
///
/// # Errors
/// When the archive is not whole, or can't be written there; then `to` is as it was.
pub async fn restore(file: &Path, to: &Path) -> Result<RestoreReport, ArchiveError> {
    check_place(to)?;
    let draft = FolderDraft::begin(to).map_err(at(to))?;
    let data = draft.path().join(DATA);
    let (archive, target) = (file.to_path_buf(), draft.path().to_path_buf());
    let unpacked = tokio::task::spawn_blocking(move || {
        read::read(&archive, |path, mode| {
            let path = target.join(path);
            let folder = path.parent().unwrap_or(&target);
            fs::create_dir_all(folder).map_err(at(folder))?;
            let mode = if mode & 0o077 == 0 { 0o600 } else { 0o666 };
            let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(at(&path))?;
            Ok(Box::new(BufWriter::new(made)) as Box<dyn Write>)
        })
    });
    let read = unpacked.await.map_err(|e| at(to)(std::io::Error::other(e)))??;
    let frames = data.join(store::FRAMES);
    fs::create_dir_all(&frames).map_err(at(&frames))?; // there may be no picture
    store::mark_restored(&data, read.head.made, &read.head.record).map_err(at(&data))?;
    let verification = store::verify(&data, None, None).await?;
    draft.publish().map_err(at(to))?;
    Ok(RestoreReport { head: read.head, files: read.files, bytes: read.bytes, verification })
}

/// Refuses a folder with anything in it, and one that can't be replaced as a whole.
fn check_place(to: &Path) -> Result<(), ArchiveError> {
    let taken = |why| Err(ArchiveError::Taken { path: to.into(), why });
    let Ok(found) = fs::symlink_metadata(to) else { return Ok(()) };
    if !found.is_dir() {
        return taken("is there already and no folder: name a new folder");
    }
    if fs::read_dir(to).map_err(at(to))?.next().is_some() {
        return taken("is not empty: name a new folder; nothing is overwritten");
    }
    let above = fs::metadata(to.join("..")).map_err(at(to))?;
    if above.dev() != found.dev() || above.ino() == found.ino() {
        return taken("is a disk of its own: name a folder on it");
    }
    Ok(())
}
