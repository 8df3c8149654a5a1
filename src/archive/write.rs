//! Writes an archive while the service runs, and reads it back.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use time::OffsetDateTime;

use super::{
    ArchiveError, ArchiveHead, CONFIG, DATA, FORMAT, HEAD, MANIFEST, MODELS, TOKENS, at,
    read::{self, Hashed, hex, line},
};
use crate::{
    files,
    store::{self, PUBLIC, SECRET, Verification},
};

/// How hard zstd tries: its own default. Pictures do not get smaller, the database becomes a quarter.
const LEVEL: i32 = 3;
/// A file up to this size is read at once, so that one which is being appended to has one size.
const AT_ONCE: u64 = 1 << 20;
/// How drafts and what killed ones left are named.
const DRAFT: (&str, &str) = (".beltsight-archive.", ".new");
/// What a killed writer left is removed when it is older: no archive takes as long.
const LEFTOVER: Duration = Duration::from_secs(86_400);
/// How deep folders may lie within each other.
const DEEPEST: usize = 16;

/// What to put into an archive.
#[derive(Clone, Debug)]
pub struct ArchivePlan {
    /// The store's folder.
    pub store: PathBuf,
    /// The folder of the models, unless they are to be left out.
    pub models: Option<PathBuf>,
    /// The file of the access tokens, which need not exist, and whether it is to be in the archive.
    pub tokens: (PathBuf, bool),
    /// The configuration.
    pub config: PathBuf,
    /// Whether the kept pictures are to be in it.
    pub pictures: bool,
    /// Whether the key that signs the record is to be in it.
    pub key: bool,
    /// The file to write, which must not exist.
    pub out: PathBuf,
}

/// What was written, and verified.
#[derive(Debug)]
pub struct ArchiveReport {
    /// What it says of itself.
    pub head: ArchiveHead,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Its own size in bytes.
    pub size: u64,
    /// SHA-256 of the archive.
    pub sha256: String,
    /// Files that were removed while it was written, as retention removes pictures.
    pub gone: u64,
    /// What the record in it says when it is verified.
    pub verification: Verification,
}

/// Writes what `plan` names into one file, also beside the running service, and reads it back.
///
/// A record with findings is archived all the same: it is what there is, and the report tells.
///
/// # Errors
/// Whatever keeps it from being written whole; then there is no file.
pub async fn archive(mut plan: ArchivePlan) -> Result<ArchiveReport, ArchiveError> {
    for path in [&mut plan.store, &mut plan.tokens.0].into_iter().chain(&mut plan.models) {
        *path = fs::canonicalize(&*path).unwrap_or_else(|_| path.clone());
    }
    let folder = plan.out.parent().filter(|of| !of.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
    check_place(&plan, &folder)?;
    remove_leftovers(&folder);
    let mut draft = tempfile::Builder::new();
    draft.prefix(DRAFT.0).suffix(DRAFT.1);
    let copied = draft.tempdir_in(&folder).map_err(at(&folder))?;
    let made = OffsetDateTime::now_utc();
    store::snapshot(&plan.store, copied.path()).await?;
    let verification = store::verify(copied.path(), None, None).await?;
    let head = ArchiveHead {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        made,
        record: format!("{}:{}", verification.entries, verification.head),
        store: plan.store.clone(),
        models: plan.models.clone(),
        tokens: (plan.tokens.1 && plan.tokens.0.is_file()).then(|| plan.tokens.0.clone()),
        pictures: plan.pictures,
        key: plan.key,
    };
    let written = tokio::task::spawn_blocking(move || {
        let file = draft.tempfile_in(&folder).map_err(at(&folder))?;
        let mut writer = Writer::new(file, made, &plan.store)?;
        writer.fill(&plan, &head, copied.path())?;
        drop(copied); // its bytes are in the archive
        writer.finish(&plan.out, verification)
    });
    written.await.map_err(|e| at(Path::new("archive"))(io::Error::other(e)))?
}

/// Refuses to write where an archive stands, or into what is archived: it would die with it.
fn check_place(plan: &ArchivePlan, folder: &Path) -> Result<(), ArchiveError> {
    if plan.out.symlink_metadata().is_ok() {
        return Err(ArchiveError::Taken { path: plan.out.clone(), why: "is there already: name a new file" });
    }
    let real = fs::canonicalize(folder).map_err(at(folder))?;
    for own in [Some(&plan.store), plan.models.as_ref()].into_iter().flatten() {
        if real.starts_with(own) {
            let why = "lies in a folder that is archived: write to another disk, or at least another folder";
            return Err(ArchiveError::Taken { path: plan.out.clone(), why });
        }
    }
    Ok(())
}

/// Removes what killed writers left. It does no harm, so neither does an error here.
fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let draft = name.to_str().is_some_and(|name| name.starts_with(DRAFT.0) && name.ends_with(DRAFT.1));
        let old = || entry.metadata()?.modified()?.elapsed().map_err(io::Error::other);
        if draft && old().is_ok_and(|age| age > LEFTOVER) {
            let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
    }
}

struct Writer {
    tar: tar::Builder<zstd::Encoder<'static, BufWriter<NamedTempFile>>>,
    /// The list of what is in it, which comes last.
    list: File,
    hash: Sha256,
    made: u64,
    files: u64,
    bytes: u64,
    gone: u64,
    out: PathBuf,
    /// Where the key that signs the record really lies.
    secret: Option<PathBuf>,
}

impl Writer {
    fn new(file: NamedTempFile, made: OffsetDateTime, store: &Path) -> Result<Self, ArchiveError> {
        let out = file.path().to_path_buf();
        let list = tempfile::tempfile_in(out.parent().unwrap_or(Path::new("."))).map_err(at(&out))?;
        let mut archive = zstd::Encoder::new(BufWriter::new(file), LEVEL).map_err(at(&out))?;
        archive.include_checksum(true).map_err(at(&out))?;
        let made = u64::try_from(made.unix_timestamp()).unwrap_or_default();
        let tar = tar::Builder::new(archive);
        let secret = fs::canonicalize(store.join(SECRET)).ok();
        Ok(Self { tar, list, hash: Sha256::new(), made, files: 0, bytes: 0, gone: 0, out, secret })
    }

    /// Everything that `plan` names; the database and the public key as they lie in `copied`.
    fn fill(&mut self, plan: &ArchivePlan, head: &ArchiveHead, copied: &Path) -> Result<(), ArchiveError> {
        let text = serde_json::to_vec_pretty(head).map_err(|e| at(Path::new(HEAD))(e.into()))?;
        self.add(HEAD, &mut &text[..], text.len() as u64, false)?;
        self.folder(DATA, copied, &|_| true, 0)?;
        self.file(CONFIG, &plan.config, false)?;
        if plan.key {
            let key = plan.store.join(SECRET);
            fs::metadata(&key).map_err(at(&key))?; // it was asked for
            self.file(&format!("{DATA}/{SECRET}"), &key, true)?;
        }
        let (tokens, with_tokens) = &plan.tokens;
        if *with_tokens && tokens.exists() {
            let inside = tokens.strip_prefix(&plan.store).ok().and_then(Path::to_str);
            self.file(&inside.map_or(TOKENS.into(), |inside| format!("{DATA}/{inside}")), tokens, true)?;
        }
        if let Some(models) = &plan.models {
            self.folder(MODELS, models, &|_| true, 0)?;
        }
        // The pictures after the database: none that a verdict in it names is missing, unless retention removed it meanwhile.
        let wanted = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let in_frames = path.starts_with(plan.store.join(store::FRAMES));
            let of_record = name.starts_with(store::DATABASE) || [SECRET, PUBLIC, store::RESTORED].contains(&name);
            let draft = name.starts_with('.') && name.ends_with(".new");
            let staged = in_frames && name.contains('#');
            path != tokens && !draft && !staged && (if in_frames { plan.pictures } else { !of_record })
        };
        self.folder(DATA, &plan.store, &wanted, 0)
    }

    /// The wanted files of a folder and of those in it, by name; links are followed.
    fn folder(
        &mut self,
        name: &str,
        folder: &Path,
        wanted: &dyn Fn(&Path) -> bool,
        depth: usize,
    ) -> Result<(), ArchiveError> {
        if depth > DEEPEST {
            return Err(at(folder)(io::Error::other("the folders lie too deep: a link that leads back?")));
        }
        let entries = match fs::read_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && depth > 0 => {
                self.gone += 1;
                return Ok(());
            }
            read => read.map_err(at(folder))?,
        };
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>().map_err(at(folder))?;
        paths.retain(|path| wanted(path));
        paths.sort();
        for path in paths {
            let Some(last) = path.file_name().and_then(|last| last.to_str()) else {
                return Err(at(&path)(io::Error::other("the name is no UTF-8")));
            };
            let name = format!("{name}/{last}");
            if path.is_dir() { self.folder(&name, &path, wanted, depth + 1)? } else { self.file(&name, &path, false)? }
        }
        Ok(())
    }

    /// A file; one that is gone is counted.
    fn file(&mut self, name: &str, path: &Path, private: bool) -> Result<(), ArchiveError> {
        // A pipe would be waited for, and a link could lead to the secret that was not asked for.
        let leads = || fs::canonicalize(path).ok().is_some_and(|leads| self.secret.as_ref() == Some(&leads));
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) || !private && leads() {
            return Ok(());
        }
        let mut file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.gone += 1;
                return Ok(());
            }
            opened => opened.map_err(at(path))?,
        };
        let found = file.metadata().map_err(at(path))?;
        let private = private || found.permissions().mode() & 0o077 == 0; // a configuration may hold passwords
        if found.len() > AT_ONCE {
            return self.add(name, &mut file, found.len(), private);
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(at(path))?;
        self.add(name, &mut &content[..], content.len() as u64, private)
    }

    /// `bytes` bytes of `from` as the file `name`.
    fn add(&mut self, name: &str, from: &mut dyn Read, bytes: u64, private: bool) -> Result<(), ArchiveError> {
        let mut content = Hashed::new(from.take(bytes));
        let header = self.header(bytes, private);
        self.tar.append_data(&mut { header }, name, &mut content).map_err(at(Path::new(name)))?;
        if content.bytes != bytes {
            return Err(at(Path::new(name))(io::Error::other("it became shorter while it was read")));
        }
        let line = line(name, bytes, content.sha256());
        self.list.write_all(&line).map_err(at(&self.out))?;
        self.hash.update(&line);
        (self.files, self.bytes) = (self.files + 1, self.bytes + bytes);
        Ok(())
    }

    fn header(&self, bytes: u64, private: bool) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(if private { 0o600 } else { 0o644 });
        header.set_mtime(self.made);
        header
    }

    /// Writes the list, flushes all to the disk, reads it back, and gives it its name.
    fn finish(mut self, out: &Path, verification: Verification) -> Result<ArchiveReport, ArchiveError> {
        let bytes = self.list.stream_position().map_err(at(out))?;
        self.list.rewind().map_err(at(out))?;
        let mut header = self.header(bytes, false);
        self.tar.append_data(&mut header, MANIFEST, &mut self.list).map_err(at(out))?;
        let file = self.tar.into_inner().and_then(zstd::Encoder::finish).map_err(at(out))?;
        let file = file.into_inner().map_err(|e| at(out)(e.into_error()))?;
        file.as_file().sync_all().map_err(at(out))?;
        let size = file.as_file().metadata().map_err(at(out))?.len();
        let read = read::read(file.path(), |_, _| Ok(Box::new(io::sink())))?;
        if read.manifest != hex(self.hash) {
            let why = "it came back otherwise than it was written: the disk is bad".into();
            return Err(ArchiveError::Archive { path: out.into(), why });
        }
        file.persist_noclobber(out).map_err(|e| at(out)(e.error))?;
        files::sync_folder_of(out).map_err(at(out))?;
        let (files, bytes) = (read.files, read.bytes);
        let (head, sha256, gone) = (read.head, read.sha256, self.gone);
        Ok(ArchiveReport { head, files, bytes, size, sha256, gone, verification })
    }
}
