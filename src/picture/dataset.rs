//! Labeled pictures on disk: `photos.csv` or `index.csv` in a folder, or a folder per class.
//!
//! Invariant: a file that can't be read, or a row without a class, is an error that names it; nothing is passed over.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{
    files,
    picture::pixels::{self, PixelError, PixelLimits},
};

/// File name of the list in a data set's folder.
pub const PHOTOS: &str = "photos.csv";
/// The columns that [`write`] lists samples in.
const COLUMNS: [&str; 3] = ["file", "class", "split_group"];

/// One labeled picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Path relative to the data set's folder.
    pub file: String,
    /// Class name.
    pub class: String,
    /// Pictures of one group (one individual, one strip) must never be on both sides of a split.
    pub group: String,
}

/// The list of a data set; pixels are loaded on demand.
#[derive(Clone, Debug)]
pub struct Dataset {
    root: PathBuf,
    /// In the order of the list, or sorted by path.
    pub samples: Vec<Sample>,
    /// Class names, sorted.
    pub classes: Vec<String>,
    /// Classes marked good by a `salmonid` column; empty without one.
    pub good: Vec<String>,
}

/// Why a data set is refused.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder can't be read or written.
    #[error("{path}: {why}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// The list is wrong.
    #[error("{path}, line {line}: {why}")]
    List {
        /// The list.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A picture beside the folders of the classes.
    #[error("{0}: it has no class; put it into the folder of its class")]
    Unlabeled(PathBuf),
    /// There is nothing to learn from.
    #[error("{0} holds neither photos.csv, index.csv nor a folder of pictures per class")]
    Empty(PathBuf),
    /// There is not a single picture.
    #[error("{0} holds no picture (.jpg, .jpeg, .png, .webp)")]
    NoPictures(PathBuf),
    /// A picture can't be decoded.
    #[error("{path}: {source}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PixelError,
    },
}

/// Reads the list of a data set.
///
/// A CSV needs a column `file` and one named `species` or `class`; `split_group` or `tile_group` gives the group
/// (otherwise every picture is its own), `salmonid` = 1 marks good classes.
///
/// # Errors
/// [`DataError`].
pub fn read(root: &Path) -> Result<Dataset, DataError> {
    let list = [PHOTOS, "index.csv"].map(|name| root.join(name)).into_iter().find(|path| path.is_file());
    let (samples, good) = match list {
        Some(list) => read_csv(&list)?,
        None => (read_folders(root)?, BTreeSet::new()),
    };
    if samples.is_empty() {
        return Err(DataError::Empty(root.into()));
    }
    let classes: BTreeSet<String> = samples.iter().map(|s| s.class.clone()).collect();
    Ok(Dataset { root: root.into(), samples, classes: classes.into_iter().collect(), good: good.into_iter().collect() })
}

/// Lists `samples` in `root/photos.csv`, whole or not at all; makes `root` if it is missing.
///
/// # Errors
/// [`DataError::Read`] with the system's words.
pub fn write(root: &Path, samples: &[Sample]) -> Result<(), DataError> {
    write_table(root, COLUMNS, samples.iter().map(|sample| [&*sample.file, &*sample.class, &*sample.group]))
}

/// As [`write`], with columns of the caller's; [`read`] says which it needs.
///
/// # Errors
/// [`DataError::Read`] with the system's words.
pub fn write_table<const N: usize, T: AsRef<[u8]>>(
    root: &Path,
    columns: [&str; N],
    rows: impl IntoIterator<Item = [T; N]>,
) -> Result<(), DataError> {
    let path = root.join(PHOTOS);
    let refuse = |why: String| DataError::Read { path: path.clone(), why };
    let text = table(columns, rows).map_err(|e| refuse(e.to_string()))?;
    fs::create_dir_all(root).and_then(|()| files::write(&path, &text)).map_err(|e| refuse(e.to_string()))
}

/// A CSV in memory.
fn table<const N: usize, T: AsRef<[u8]>>(
    columns: [&str; N],
    rows: impl IntoIterator<Item = [T; N]>,
) -> Result<Vec<u8>, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(columns)?;
    rows.into_iter().try_for_each(|row| table.write_record(row))?;
    table.into_inner().map_err(|e| e.into_error().into())
}

/// Lists every picture in a folder and the folders in it, without looking for labels: their classes are empty.
///
/// # Errors
/// [`DataError`].
pub fn read_unlabeled(root: &Path) -> Result<Dataset, DataError> {
    let (mut samples, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for path in entries(&folder)? {
            if path.is_dir() {
                folders.push(path);
            } else if is_picture(&path) {
                let file = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                samples.push(Sample { class: String::new(), group: file.clone(), file });
            }
        }
    }
    if samples.is_empty() {
        return Err(DataError::NoPictures(root.into()));
    }
    samples.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(Dataset { root: root.into(), samples, classes: vec![], good: vec![] })
}

fn read_csv(path: &Path) -> Result<(Vec<Sample>, BTreeSet<String>), DataError> {
    let wrong = |line: usize, why: String| DataError::List { path: path.into(), line, why };
    let mut reader =
        csv::Reader::from_path(path).map_err(|e| DataError::Read { path: path.into(), why: e.to_string() })?;
    let headers = reader.headers().map_err(|e| wrong(1, e.to_string()))?.clone();
    let column = |names: &[&str]| headers.iter().position(|h| names.contains(&h));
    let file = column(&["file"]).ok_or_else(|| wrong(1, "there is no column `file`".into()))?;
    let class =
        column(&["species", "class"]).ok_or_else(|| wrong(1, "there is no column `species` or `class`".into()))?;
    let group = column(&["split_group", "tile_group"]);
    let good = column(&["salmonid"]);
    let (mut samples, mut good_classes) = (Vec::new(), BTreeSet::new());
    for (i, row) in reader.records().enumerate() {
        let line = i + 2;
        let row = row.map_err(|e| wrong(line, e.to_string()))?;
        let cell = |column: usize| row.get(column).unwrap_or_default().trim().to_string();
        let (file, class) = (cell(file), cell(class));
        if file.is_empty() || class.is_empty() {
            return Err(wrong(line, "the file or its class is missing".into()));
        }
        if good.is_some_and(|g| cell(g) == "1") {
            good_classes.insert(class.clone());
        }
        let group = group.map(cell).filter(|g| !g.is_empty()).unwrap_or_else(|| file.clone());
        samples.push(Sample { file, class, group });
    }
    Ok((samples, good_classes))
}

/// What a folder holds, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let read = fs::read_dir(folder).map_err(|e| DataError::Read { path: folder.into(), why: e.to_string() })?;
    let mut paths: Vec<PathBuf> = read.flatten().map(|e| e.path()).collect();
    paths.sort();
    Ok(paths)
}

fn is_picture(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| ["jpg", "jpeg", "png", "webp"].contains(&e.to_string_lossy().to_lowercase().as_str()))
}

fn read_folders(root: &Path) -> Result<Vec<Sample>, DataError> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut samples = Vec::new();
    if let Some(path) = entries(root)?.into_iter().find(|p| p.is_file() && is_picture(p)) {
        return Err(DataError::Unlabeled(path));
    }
    for folder in entries(root)?.into_iter().filter(|p| p.is_dir()) {
        for path in entries(&folder)?.into_iter().filter(|p| is_picture(p)) {
            let file = format!("{}/{}", name(&folder), name(&path));
            samples.push(Sample { class: name(&folder), group: file.clone(), file });
        }
    }
    Ok(samples)
}

impl Dataset {
    /// Every picture, decoded and resized whole to `side × side` RGB bytes, in the order of [`Dataset::samples`].
    ///
    /// # Errors
    /// [`DataError`], naming the file.
    pub fn load(&self, side: u32) -> Result<Vec<Vec<u8>>, DataError> {
        (0..self.samples.len()).into_par_iter().map(|index| self.picture(index, side)).collect()
    }

    /// The picture of a sample as [`Dataset::load`] gives it.
    ///
    /// # Errors
    /// [`DataError`], naming the file.
    pub fn picture(&self, index: usize, side: u32) -> Result<Vec<u8>, DataError> {
        let (path, bytes) = self.bytes(index)?;
        pixels::decode(&bytes, PixelLimits::default())
            .and_then(|picture| pixels::fit(&picture, None, side))
            .map_err(|source| DataError::Picture { path, source })
    }

    fn bytes(&self, index: usize) -> Result<(PathBuf, Vec<u8>), DataError> {
        let path = self.root.join(&self.samples[index].file);
        match fs::read(&path) {
            Ok(bytes) => Ok((path, bytes)),
            Err(e) => Err(DataError::Read { path, why: e.to_string() }),
        }
    }

    /// SHA-256 over the list (files, classes, groups) and every file's bytes: the data snapshot.
    ///
    /// # Errors
    /// [`DataError::Read`].
    pub fn hash(&self) -> Result<String, DataError> {
        Ok(self.hash_of(&self.digests()?))
    }

    /// SHA-256 of every file's bytes, in the order of [`Dataset::samples`].
    ///
    /// # Errors
    /// [`DataError::Read`].
    pub fn digests(&self) -> Result<Vec<[u8; 32]>, DataError> {
        let digest = |index| Ok(Sha256::digest(self.bytes(index)?.1).into());
        (0..self.samples.len()).into_par_iter().map(digest).collect()
    }

    /// As [`Dataset::hash`], from what [`Dataset::digests`] gave.
    pub fn hash_of(&self, digests: &[[u8; 32]]) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut all = Sha256::new();
        for (sample, digest) in self.samples.iter().zip(digests) {
            all.update(format!("{}\t{}\t{}\t{}\n", sample.file, sample.class, sample.group, hex(digest)));
        }
        hex(&all.finalize())
    }

    /// Index of each sample's class in `classes`; classes that are not listed get the indices after them.
    pub fn truth(&self, classes: &mut Vec<String>) -> Vec<usize> {
        self.samples
            .iter()
            .map(|s| {
                classes.iter().position(|c| *c == s.class).unwrap_or_else(|| {
                    classes.push(s.class.clone());
                    classes.len() - 1
                })
            })
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_classes_groups_and_the_good_ones() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("photos.csv"),
            "file,species,salmonid,split_group,mask\na.jpg,trout,1,g1,0\nb.jpg,bass,0,,0\n",
        )
        .unwrap();
        let data = read(folder.path()).unwrap();
        assert_eq!(
            (data.classes.as_slice(), data.good.as_slice()),
            (["bass".into(), "trout".into()].as_slice(), ["trout".into()].as_slice())
        );
        assert_eq!((data.samples[0].group.as_str(), data.samples[1].group.as_str()), ("g1", "b.jpg"));
        image::RgbImage::new(8, 8).save(folder.path().join("b.jpg")).unwrap(); // all but one are there
        assert!(data.load(8).unwrap_err().to_string().contains("a.jpg"));
    }

    #[test]
    fn what_is_written_is_read_again_whatever_stands_in_it() {
        let root = tempfile::tempdir().unwrap();
        let sample = |file: &str, class: &str, group: &str| {
            let [file, class, group] = [file, class, group].map(String::from);
            Sample { file, class, group }
        };
        let samples = vec![sample("a, b.jpg", "the \"big\" one", "g1"), sample("c.jpg", "cod", "belt#7")];
        write(&root.path().join("new"), &samples).unwrap();
        assert_eq!(read(&root.path().join("new")).unwrap().samples, samples);
        let list = root.path().join("new").join(PHOTOS);
        assert!(fs::read_to_string(list).unwrap().starts_with("file,class,split_group\n"));
        let refused = write(Path::new("/dev/null/no folder"), &samples).unwrap_err().to_string();
        assert!(refused.contains(PHOTOS), "{refused}");
    }

    #[test]
    fn a_row_without_a_class_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("index.csv"), "file,class\na.jpg,x\nb.jpg,\n").unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("line 3"));
    }

    fn gray(path: &Path, level: u8) {
        let picture = crate::domain::Picture::filled(8, 8, [level; 3]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, pixels::encode_jpeg(&picture, 90).unwrap()).unwrap();
    }

    #[test]
    fn a_folder_per_class_is_read_and_a_broken_or_stray_picture_is_named() {
        let root = tempfile::tempdir().unwrap();
        gray(&root.path().join("good/a.jpg"), 200);
        gray(&root.path().join("bad/b.jpg"), 20);
        let data = read(root.path()).unwrap();
        assert_eq!(data.classes, ["bad", "good"]);
        assert_eq!(data.load(4).unwrap()[1], vec![200; 48]);
        let hash = data.hash().unwrap();
        gray(&root.path().join("bad/b.jpg"), 21);
        assert_ne!(read(root.path()).unwrap().hash().unwrap(), hash);
        fs::write(root.path().join("bad/c.jpg"), b"no").unwrap();
        assert!(read(root.path()).unwrap().load(4).unwrap_err().to_string().contains("c.jpg"));
        gray(&root.path().join("stray.jpg"), 1);
        assert!(read(root.path()).unwrap_err().to_string().contains("stray.jpg"));
    }

    #[test]
    fn unlabeled_pictures_are_found_in_every_folder() {
        let root = tempfile::tempdir().unwrap();
        assert!(read_unlabeled(root.path()).unwrap_err().to_string().contains("holds no picture"));
        for file in ["b.jpg", "day1/a.jpg", "day1/night/c.jpg"] {
            gray(&root.path().join(file), 9);
        }
        fs::write(root.path().join("notes.txt"), "x").unwrap();
        let data = read_unlabeled(root.path()).unwrap();
        assert_eq!(
            data.samples.iter().map(|s| s.file.as_str()).collect::<Vec<_>>(),
            ["b.jpg", "day1/a.jpg", "day1/night/c.jpg"]
        );
        assert_eq!(data.load(4).unwrap()[2], vec![9; 48]);
    }

    #[test]
    fn an_unknown_class_counts_as_one_more() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("index.csv"), "file,class\na.jpg,x\nb.jpg,new\n").unwrap();
        let mut classes = vec!["w".to_string(), "x".to_string()];
        assert_eq!(read(folder.path()).unwrap().truth(&mut classes), [1, 2]);
        assert_eq!(classes, ["w", "x", "new"]);
    }
}
