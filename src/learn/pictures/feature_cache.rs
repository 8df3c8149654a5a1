//! What a frozen trunk gave, kept on the disk for the next run, round or resume that asks for the same.
//!
//! A folder of segments. A segment holds rows of one trunk, is written once, whole, and never changed:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`] |
//! | 32 | SHA-256 of all that follows |
//! | 32 | the trunk |
//! | 4, 4 | floats in a row; rows |
//! | 16 × rows | their keys |
//! | 4 × floats × rows | their values; all numbers little-endian |
//!
//! Invariant: a segment is used only after its hash was verified, and a file that was opened stays readable though another
//! process removes it. So a damaged segment is made anew, and any number of processes may share a folder.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use beltsight::files::{self, heartbeat};
use sha2::{Digest, Sha256};
use tch::Tensor;
use uuid::Uuid;

/// A trunk, or the content of a picture's file, by its SHA-256.
pub type Hash = [u8; 32];
/// What a row is of: a picture and a view of it.
pub type Key = [u8; 16];

const MAGIC: &[u8; 8] = b"BSFEAT01";
const HEADER: usize = 8 + 32 + 32 + 4 + 4;
const ENDING: &str = "features";
/// Most bytes of rows in a segment.
const SEGMENT: usize = 64 << 20;
/// Rows are written at least this often, so that no more than this is lost when the process is killed.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// A draft that a killed process left is removed when it is older: no writing takes as long.
const LEFTOVER: Duration = Duration::from_secs(600);

/// The rows of one trunk in a folder.
pub struct FeatureCache {
    folder: PathBuf,
    /// Most bytes in the folder; segments that were not used for longest give way.
    limit: u64,
    trunk: Hash,
    /// Floats in a row.
    width: usize,
    segments: Vec<Segment>,
    places: HashMap<Key, Place>,
    draft: Vec<(Key, Vec<f32>)>,
    written: Instant,
}

#[derive(Clone, Debug)]
struct Segment {
    file: Rc<File>,
    /// Where its rows begin.
    rows_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u32,
    row: u32,
}

impl FeatureCache {
    /// Opens the rows of `trunk` in `folder` that are `wanted`, and verifies them: what is damaged is removed.
    ///
    /// # Errors
    /// The system's.
    pub fn open(
        folder: &Path,
        limit: u64,
        (trunk, width): (Hash, usize),
        wanted: &HashSet<Key>,
    ) -> io::Result<FeatureCache> {
        fs::create_dir_all(folder)?;
        let mut cache = Self {
            folder: folder.into(),
            limit,
            trunk,
            width,
            segments: Vec::new(),
            places: HashMap::new(),
            draft: Vec::new(),
            written: Instant::now(),
        };
        let mut paths: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if path.extension().is_some_and(|ending| ending == "new") {
                let age = fs::metadata(&path).and_then(|data| data.modified()?.elapsed().map_err(io::Error::other));
                if age.is_ok_and(|age| age > LEFTOVER) {
                    removed(&path)?;
                }
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&hex(&trunk)[..16])) {
                cache.take_up(path, wanted)?;
            }
        }
        Ok(cache)
    }

    /// Takes up a segment if it holds something that is wanted.
    fn take_up(&mut self, path: PathBuf, wanted: &HashSet<Key>) -> io::Result<()> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()), // another process made room
            Err(e) => return Err(e),
        };
        let keys = keys_of(&file, &self.trunk, self.width)?;
        let needed = |keys: &Vec<Key>| keys.iter().any(|key| wanted.contains(key) && !self.places.contains_key(key));
        match keys {
            Some(keys) if !needed(&keys) => {}
            Some(keys) if is_whole(&file)? => {
                // What is used last goes last; a folder that can't say so is used all the same.
                let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                self.add_segment(file, keys.into_iter());
            }
            _ => {
                eprintln!("note: {} is damaged, so what it held is made anew", path.display());
                removed(&path)?;
            }
        }
        Ok(())
    }

    fn add_segment(&mut self, file: File, keys: impl ExactSizeIterator<Item = Key>) {
        let (segment, rows_at) = (self.segments.len() as u32, (HEADER + keys.len() * 16) as u64);
        for (row, key) in (0..).zip(keys) {
            self.places.entry(key).or_insert(Place { segment, row });
        }
        self.segments.push(Segment { file: Rc::new(file), rows_at });
    }

    /// Whether the row `key` is there.
    pub fn has(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    /// Adds a row; it is on the disk after [`FeatureCache::write`] or a minute.
    ///
    /// # Errors
    /// The system's.
    pub fn add(&mut self, key: Key, row: Vec<f32>) -> io::Result<()> {
        self.draft.push((key, row));
        if self.draft.len() * self.width * 4 >= SEGMENT || self.written.elapsed() > WRITE_EVERY {
            self.write()?;
        }
        Ok(())
    }

    /// Writes a segment of what was added since the last one.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self) -> io::Result<()> {
        let rows = std::mem::take(&mut self.draft);
        self.written = Instant::now();
        if rows.is_empty() {
            return Ok(());
        }
        let mut body = Vec::with_capacity(40 + rows.len() * (16 + 4 * self.width));
        body.extend(self.trunk);
        body.extend((self.width as u32).to_le_bytes());
        body.extend((rows.len() as u32).to_le_bytes());
        rows.iter().for_each(|(key, _)| body.extend(key));
        rows.iter().flat_map(|(_, row)| row).for_each(|value| body.extend(value.to_le_bytes()));
        let mut bytes = Vec::with_capacity(40 + body.len());
        bytes.extend(MAGIC);
        bytes.extend(Sha256::digest(&body));
        bytes.append(&mut body);
        self.make_room(bytes.len() as u64)?;
        let path = self.folder.join(format!("{}-{}.{ENDING}", &hex(&self.trunk)[..16], Uuid::now_v7()));
        files::write(&path, &bytes)?;
        self.add_segment(File::open(&path)?, rows.into_iter().map(|(key, _)| key));
        Ok(())
    }

    /// Removes the segments that were not used for longest until `bytes` more have room; what is open stays readable.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == ENDING)
                && let Ok(data) = entry.metadata()
            {
                all.push((data.modified()?, path, data.len()));
            }
        }
        all.sort();
        let mut taken = bytes + all.iter().map(|(_, _, bytes)| bytes).sum::<u64>();
        for (_, path, bytes) in all {
            if taken > self.limit {
                removed(&path)?;
                taken -= bytes;
            }
        }
        Ok(())
    }

    /// The rows `keys`, each of `shape`.
    ///
    /// # Errors
    /// When one is not there or not written yet.
    pub fn rows(&self, keys: &[Key], shape: &[i64]) -> io::Result<FeatureRows> {
        let place = |key| self.places.get(key).copied().ok_or_else(|| io::Error::other("a row was not made"));
        let places = keys.iter().map(place).collect::<io::Result<_>>()?;
        Ok(FeatureRows { segments: self.segments.clone(), places, shape: shape.to_vec() })
    }
}

/// Rows on the disk, in the order in which they were asked for.
#[derive(Debug)]
pub struct FeatureRows {
    segments: Vec<Segment>,
    places: Vec<Place>,
    /// Of a row.
    shape: Vec<i64>,
}

impl FeatureRows {
    /// Some of them, `[n, …]`.
    ///
    /// # Panics
    /// When the disk no longer gives what this process verified or wrote: nothing can be trained on.
    pub fn read(&self, rows: impl Iterator<Item = usize>) -> Tensor {
        let row_bytes = 4 * self.shape.iter().product::<i64>() as usize;
        let (mut bytes, mut count) = (Vec::new(), 0);
        for row in rows {
            let place = self.places[row];
            let segment = &self.segments[place.segment as usize];
            bytes.resize((count + 1) * row_bytes, 0);
            let at = segment.rows_at + u64::from(place.row) * row_bytes as u64;
            let read = segment.file.read_exact_at(&mut bytes[count * row_bytes..], at);
            read.unwrap_or_else(|e| panic!("a cached row can't be read: {e}"));
            count += 1;
        }
        let shape = [&[count as i64], self.shape.as_slice()].concat();
        Tensor::from_data_size(&bytes, &shape, tch::Kind::Float)
    }

    /// Whether a row is a vector.
    pub fn is_flat(&self) -> bool {
        self.shape.len() == 1
    }
}

/// The keys of a segment; `None` when its head is not that of one of `trunk` with rows of `width`.
fn keys_of(file: &File, trunk: &Hash, width: usize) -> io::Result<Option<Vec<Key>>> {
    let length = file.metadata()?.len();
    let mut head = [0; HEADER];
    if length < HEADER as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut head, 0)?;
    let number = |at: usize| head[at..at + 4].iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    let (floats, rows) = (number(72), number(76));
    let fits = head[..8] == *MAGIC && head[40..72] == *trunk && floats == width as u64;
    if !fits || length != HEADER as u64 + rows * (16 + 4 * floats) {
        return Ok(None);
    }
    let mut keys = vec![0; rows as usize * 16];
    file.read_exact_at(&mut keys, HEADER as u64)?;
    Ok(Some(keys.as_chunks::<16>().0.to_vec()))
}

/// Whether a segment's hash is that of its content.
fn is_whole(file: &File) -> io::Result<bool> {
    let mut head = [0; 40];
    file.read_exact_at(&mut head, 0)?;
    let (mut all, mut buffer, mut at) = (Sha256::new(), vec![0; 1 << 20], 40);
    loop {
        heartbeat::beat();
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return Ok(all.finalize()[..] == head[8..]);
        }
        all.update(&buffer[..read]);
        at += read as u64;
    }
}

/// Removes a file that may be gone already.
fn removed(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TRUNK: (Hash, usize) = ([7; 32], 3);

    fn key(n: u8) -> Key {
        [n; 16]
    }

    fn row(n: u8) -> Vec<f32> {
        vec![f32::from(n), 0.5, -1.0]
    }

    fn open(folder: &Path, trunk: (Hash, usize), keys: std::ops::Range<u8>) -> FeatureCache {
        FeatureCache::open(folder, 1 << 20, trunk, &keys.map(key).collect()).unwrap()
    }

    /// Writes rows as one segment, as a process of its own would.
    fn write(folder: &Path, limit: u64, keys: std::ops::Range<u8>) -> PathBuf {
        let mut cache = FeatureCache::open(folder, limit, TRUNK, &keys.clone().map(key).collect()).unwrap();
        keys.for_each(|n| cache.add(key(n), row(n)).unwrap());
        cache.write().unwrap();
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.max().unwrap() // names rise with time
    }

    fn segments(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn what_one_process_wrote_another_finds_for_the_same_trunk_alone() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1 << 20, 0..4);
        write(folder.path(), 1 << 20, 4..6);
        let cache = open(folder.path(), TRUNK, 0..9);
        assert_eq!(
            (0..9).map(|n| cache.has(&key(n))).collect::<Vec<_>>(),
            [[true; 6].as_slice(), &[false; 3]].concat()
        );
        let rows = cache.rows(&[5, 0, 3, 0].map(key), &[3]).unwrap();
        let read = Vec::<f32>::try_from(rows.read([0, 2, 3].into_iter()).flatten(0, 1)).unwrap();
        assert_eq!(read, [row(5), row(3), row(0)].concat());
        assert!(cache.rows(&[key(8)], &[3]).is_err());
        assert!(!open(folder.path(), ([8; 32], 3), 0..9).has(&key(0)), "another trunk");
        assert_eq!(segments(folder.path()), 2);
    }

    #[test]
    fn a_damaged_segment_is_removed_wherever_the_damage_is_and_the_others_serve() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1 << 20, 10..12);
        let segment = write(folder.path(), 1 << 20, 0..4);
        let whole = fs::read(&segment).unwrap();
        for at in (0..whole.len()).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&segment, &damaged).unwrap();
            let cache = open(folder.path(), TRUNK, 0..12);
            let has = [0, 1, 2, 3, 10, 11].map(|n| cache.has(&key(n)));
            assert_eq!(has, [false, false, false, false, true, true], "byte {at}");
            assert!(!segment.exists(), "byte {at}");
        }
        fs::write(&segment, &whole).unwrap();
        let cut = folder.path().join(format!("{}-cut.{ENDING}", &hex(&TRUNK.0)[..16]));
        fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
        let cache = open(folder.path(), TRUNK, 0..12);
        assert!(cache.has(&key(3)) && cache.has(&key(11)) && !cut.exists());
    }

    #[test]
    fn the_folder_stays_below_its_limit_and_what_was_not_used_for_longest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let one = fs::metadata(write(folder.path(), 1 << 20, 0..2)).unwrap().len();
        let paths: Vec<PathBuf> = [2, 4].map(|n| write(folder.path(), 1 << 20, n..n + 2)).into_iter().collect();
        let ago = |path: &Path, seconds| {
            let file = File::options().append(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        paths.iter().zip([500, 400]).for_each(|(path, seconds)| ago(path, seconds));
        let reader = open(folder.path(), TRUNK, 2..4); // it uses the older of the two
        write(folder.path(), 3 * one, 6..8);
        assert_eq!(paths.iter().map(|path| path.exists()).collect::<Vec<_>>(), [true, false]);
        assert_eq!(segments(folder.path()), 3);
        // What a process has open stays readable, though another makes room for itself.
        let rows = reader.rows(&[key(3)], &[3]).unwrap();
        write(folder.path(), one, 20..22);
        assert!(!paths[0].exists() && segments(folder.path()) == 1);
        assert_eq!(Vec::<f32>::try_from(rows.read([0].into_iter()).flatten(0, 1)).unwrap(), row(3));
    }

    #[test]
    fn a_killed_writer_leaves_nothing_that_is_read_and_its_draft_goes() {
        let folder = tempfile::tempdir().unwrap();
        let left = |name: &str, age: Duration| {
            let left = File::create(folder.path().join(name)).unwrap();
            left.set_modified(SystemTime::now() - age).unwrap();
        };
        left(".0707070707070707-a.features.x.new", 2 * LEFTOVER);
        left(".0707070707070707-b.features.y.new", Duration::ZERO); // another one writes now
        assert!(!open(folder.path(), TRUNK, 0..3).has(&key(0)));
        assert_eq!(segments(folder.path()), 1);
    }
}
