//! Reads an archive to its end: to verify it, or to restore it.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Component, Path},
};

use sha2::{Digest, Sha256};

use super::{ArchiveError, ArchiveHead, CONFIG, DATA, FORMAT, HEAD, Line, MANIFEST, MODELS, TOKENS, at};

/// Most bytes of an archive's head.
const MOST_HEAD: u64 = 1 << 16;

/// What an archive holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub head: ArchiveHead,
    /// Files, the list of them aside.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// SHA-256 of the list, by which archives differ.
    pub manifest: String,
    /// SHA-256 of the whole archive.
    pub sha256: String,
}

/// Reads the archive `file`; each of its files goes where `place` says, which is told path and mode.
///
/// # Errors
/// When it is not whole, or what `place` gave takes no bytes; then what was placed is of no use.
pub(super) fn read(
    file: &Path,
    mut place: impl FnMut(&str, u32) -> Result<Box<dyn Write>, ArchiveError>,
) -> Result<Contents, ArchiveError> {
    let wrong = |why: String| ArchiveError::Archive { path: file.into(), why };
    let broken = |e: io::Error| wrong(format!("it is cut or damaged: {e}"));
    let mut archive = zstd::Decoder::new(Hashed::new(File::open(file).map_err(at(file))?)).map_err(broken)?;
    let mut tar = tar::Archive::new(&mut archive);
    let (mut head, mut manifest): (Option<ArchiveHead>, Option<String>) = (None, None);
    let (mut files, mut bytes, mut lines, mut buffer) = (0, 0, Sha256::new(), vec![0; 1 << 16]);
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = checked(&entry).map_err(wrong)?;
        if path == MANIFEST {
            let mut listed = Hashed::new(&mut entry);
            io::copy(&mut listed, &mut io::sink()).map_err(broken)?;
            let (found, told) = (hex(lines), listed.sha256());
            if found != told {
                return Err(wrong("what came out of it is not what its list says was put in".into()));
            }
            manifest = Some(told);
            break;
        }
        let mut content = Hashed::new(&mut entry);
        if head.is_none() {
            let mut text = Vec::new();
            (&mut content).take(MOST_HEAD).read_to_end(&mut text).map_err(broken)?;
            head = Some(parsed(&path, &text).map_err(wrong)?);
        } else {
            let mode = content.inner.header().mode().map_err(broken)?;
            let mut target = place(&path, mode)?;
            while let Some(some) = next(&mut content, &mut buffer).map_err(broken)? {
                target.write_all(some).map_err(at(Path::new(&path)))?;
            }
            target.flush().map_err(at(Path::new(&path)))?;
        }
        files += 1;
        bytes += content.bytes;
        lines.update(line(&path, content.bytes, content.sha256()));
    }
    let whole = head.zip(manifest);
    let (head, manifest) = whole.ok_or_else(|| wrong("it ends before its list of files: it was cut".into()))?;
    io::copy(&mut archive, &mut io::sink()).map_err(broken)?;
    Ok(Contents { head, files, bytes, manifest, sha256: archive.finish().into_inner().sha256() })
}

/// A file's line of the list.
pub(super) fn line(path: &str, bytes: u64, sha256: String) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Line { path, bytes, sha256 }).unwrap_or_default();
    line.push(b'\n');
    line
}

fn parsed(path: &str, text: &[u8]) -> Result<ArchiveHead, String> {
    if path != HEAD {
        return Err(format!("it begins with {path}: no archive of beltsight"));
    }
    let head: ArchiveHead = serde_json::from_slice(text).map_err(|e| format!("{HEAD}: {e}"))?;
    if head.format != FORMAT {
        return Err(format!(
            "its form is {}, this program reads {FORMAT}: use beltsight {}",
            head.format, head.version
        ));
    }
    Ok(head)
}

/// The path of an entry, which must be one that an archive can hold: whoever made it may not write elsewhere.
fn checked<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String, String> {
    let name = entry.path_bytes();
    let path = std::str::from_utf8(&name).map_err(|e| e.to_string())?;
    let mut parts = Path::new(path).components();
    let plain = parts.clone().all(|part| matches!(part, Component::Normal(_)));
    let first = parts.next().and_then(|part| part.as_os_str().to_str());
    let ours = match first {
        Some(DATA | MODELS) => parts.next().is_some(),
        Some(HEAD | MANIFEST | CONFIG | TOKENS) => parts.next().is_none(),
        _ => false,
    };
    if !plain || !ours || !entry.header().entry_type().is_file() {
        return Err(format!("it holds {path}, which does not belong there"));
    }
    Ok(path.to_owned())
}

/// What comes next of `from`; `None` at its end.
fn next<'b>(from: &mut impl Read, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
    let read = from.read(buffer)?;
    Ok((read > 0).then(|| &buffer[..read]))
}

/// Counts and hashes what is read through it.
pub(super) struct Hashed<R> {
    inner: R,
    hash: Sha256,
    pub bytes: u64,
}

impl<R: Read> Hashed<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Of what was read so far.
    pub(super) fn sha256(self) -> String {
        hex(self.hash)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// In hexadecimal digits.
pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
