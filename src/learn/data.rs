//! Labeled pictures from a folder, kept in memory as bytes, and splits of them.
//!
//! Invariant: pictures of one group (one fish, one tile) never stand on both sides of a split.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use beltsight::{model, pixels};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Labeled pictures.
#[derive(Debug)]
pub struct Dataset {
    /// Class names, sorted.
    pub classes: Vec<String>,
    /// Classes whose `salmonid` column says 1.
    pub accept: Vec<String>,
    /// File names relative to the folder.
    pub files: Vec<String>,
    /// Class index per picture.
    pub labels: Vec<usize>,
    /// Group number per picture.
    pub groups: Vec<usize>,
    /// `side * side * 3` bytes per picture.
    pub pictures: Vec<Vec<u8>>,
    /// SHA-256 over file names, classes and the files' own SHA-256.
    pub sha256: String,
}

/// Why pictures can't be learned from.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Not a picture.
    #[error("{path}: {source}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// Why it can't be decoded.
        source: pixels::PixelError,
    },
    /// A picture without a class.
    #[error("{path}: it has no class; {hint}")]
    Unlabeled {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// The table or folder is not what it should be.
    #[error("{path}: {why}")]
    Layout {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

struct Entry {
    file: String,
    class: String,
    group: String,
    accept: bool,
}

/// Reads `photos.csv`, `index.csv` or one folder per class under `root`; every picture is fitted to `side` as serving
/// does it.
///
/// The table's columns: `file` or `image`; `species` or `class`; a group in `split_group` or `tile_group` if there is
/// one; `salmonid` 1 marks a class to accept.
///
/// # Errors
/// See [`DataError`]; one unreadable or unlabeled picture fails the whole, because a silent hole would change the figures.
pub fn read(root: &Path, side: u32) -> Result<Dataset, DataError> {
    let table = ["photos.csv", "index.csv"].map(|name| root.join(name)).into_iter().find(|path| path.is_file());
    let mut entries = match table {
        Some(path) => read_table(&path)?,
        None => read_folders(root)?,
    };
    entries.sort_by(|a, b| a.file.cmp(&b.file));
    let mut classes: Vec<String> = entries.iter().map(|e| e.class.clone()).collect();
    classes.sort();
    classes.dedup();
    if classes.len() < 2 {
        return Err(layout(root, "at least two classes of pictures are needed".into()));
    }
    let mut accept: Vec<String> = entries.iter().filter(|e| e.accept).map(|e| e.class.clone()).collect();
    accept.sort();
    accept.dedup();
    let mut numbers = BTreeMap::new();
    let groups = entries
        .iter()
        .map(|e| {
            let next = numbers.len();
            *numbers.entry(e.group.as_str()).or_insert(next)
        })
        .collect();
    let read: Vec<(Vec<u8>, String)> = entries
        .par_iter()
        .map(|entry| {
            let path = root.join(&entry.file);
            let bytes = fs::read(&path).map_err(|source| DataError::Io { path: path.clone(), source })?;
            let picture = pixels::decode(&bytes, pixels::Limits::default())
                .and_then(|picture| pixels::fit(&picture, None, side))
                .map_err(|source| DataError::Picture { path, source })?;
            Ok((picture, model::sha256(&bytes)))
        })
        .collect::<Result<_, DataError>>()?;
    let mut snapshot = String::new();
    for (entry, (_, hash)) in entries.iter().zip(&read) {
        snapshot += &format!("{}\0{}\0{hash}\n", entry.file, entry.class);
    }
    Ok(Dataset {
        labels: entries.iter().map(|e| classes.iter().position(|c| *c == e.class).unwrap_or_default()).collect(),
        files: entries.iter().map(|e| e.file.clone()).collect(),
        groups,
        pictures: read.into_iter().map(|(picture, _)| picture).collect(),
        sha256: model::sha256(snapshot.as_bytes()),
        classes,
        accept,
    })
}

fn layout(path: &Path, why: String) -> DataError {
    DataError::Layout { path: path.into(), why }
}

fn read_table(path: &Path) -> Result<Vec<Entry>, DataError> {
    let broken = |e: csv::Error| layout(path, e.to_string());
    let mut reader = csv::Reader::from_path(path).map_err(broken)?;
    let header = reader.headers().map_err(broken)?.clone();
    let column = |names: [&str; 2]| names.iter().find_map(|name| header.iter().position(|h| h == *name));
    let needed = |names: [&str; 2]| {
        column(names).ok_or_else(|| layout(path, format!("it has no column `{}` or `{}`", names[0], names[1])))
    };
    let (file, class) = (needed(["file", "image"])?, needed(["species", "class"])?);
    let (group, salmonid) = (column(["split_group", "tile_group"]), column(["salmonid", "accept"]));
    let mut entries = Vec::new();
    for row in reader.records() {
        let row = row.map_err(broken)?;
        let name = row[file].to_string();
        if row[class].trim().is_empty() {
            let path = path.with_file_name("").join(name);
            return Err(DataError::Unlabeled { path, hint: "fill its class in or take its row out of the table" });
        }
        let own = |text: &str| if text.is_empty() { name.clone() } else { text.to_string() };
        entries.push(Entry {
            class: row[class].trim().into(),
            group: own(group.map_or("", |g| &row[g])),
            accept: salmonid.is_some_and(|s| &row[s] == "1"),
            file: name,
        });
    }
    Ok(entries)
}

fn read_folders(root: &Path) -> Result<Vec<Entry>, DataError> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>, DataError> {
        fs::read_dir(folder)
            .and_then(|found| found.map(|entry| Ok(entry?.path())).collect())
            .map_err(|source| DataError::Io { path: folder.into(), source })
    };
    let mut entries = Vec::new();
    for folder in list(root)? {
        if folder.is_file() && is_picture(&folder) {
            return Err(DataError::Unlabeled { path: folder, hint: "put it into the folder of its class" });
        }
        if !folder.is_dir() {
            continue;
        }
        let class = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in list(&folder)?.into_iter().filter(|path| is_picture(path)) {
            let file = format!("{class}/{}", path.file_name().unwrap_or_default().to_string_lossy());
            entries.push(Entry { class: class.clone(), group: file.clone(), accept: false, file });
        }
    }
    Ok(entries)
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    EXTENSIONS.contains(&extension.as_str())
}

/// Assigns every picture to one of `count` folds: groups stay whole, every class is spread as evenly as groups allow.
///
/// Greedy: groups from large to small (shuffled by `seed` within a size) go where their class is rarest, then where
/// fewest pictures are.
///
/// # Errors
/// In words, when there are fewer groups than folds.
pub fn folds(labels: &[usize], groups: &[usize], count: usize, seed: u64) -> Result<Vec<usize>, String> {
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (picture, group) in groups.iter().enumerate() {
        members.entry(*group).or_default().push(picture);
    }
    if count < 2 || members.len() < count {
        return Err(format!("{} groups of pictures can't be split into {count} folds", members.len()));
    }
    let mut members: Vec<Vec<usize>> = members.into_values().collect();
    members.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    members.sort_by_key(|pictures| std::cmp::Reverse(pictures.len()));
    let classes = labels.iter().max().map_or(0, |c| c + 1);
    let mut of_class = vec![vec![0; classes]; count];
    let mut fold_of = vec![0; labels.len()];
    for pictures in members {
        let class = labels[pictures[0]];
        let fold = (0..count).min_by_key(|&f| (of_class[f][class], of_class[f].iter().sum::<usize>())).unwrap_or(0);
        for picture in pictures {
            of_class[fold][labels[picture]] += 1;
            fold_of[picture] = fold;
        }
    }
    Ok(fold_of)
}

/// Indices outside and inside `fold`: training and validation.
pub fn split(fold_of: &[usize], fold: usize) -> (Vec<usize>, Vec<usize>) {
    (0..fold_of.len()).partition(|&picture| fold_of[picture] != fold)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_group_stands_on_both_sides_and_classes_are_even() {
        // 3 classes of 40 pictures; every group has 1 to 3 pictures.
        let labels: Vec<usize> = (0..120).map(|i| i / 40).collect();
        let groups: Vec<usize> = (0..120).map(|i| i / 40 * 100 + (i % 40) * (i % 40) / 60).collect();
        let fold_of = folds(&labels, &groups, 5, 3).unwrap();
        for fold in 0..5 {
            let (train, validation) = split(&fold_of, fold);
            assert_eq!(train.len() + validation.len(), 120);
            assert!(train.iter().all(|&t| validation.iter().all(|&v| groups[t] != groups[v])));
            for class in 0..3 {
                let n = validation.iter().filter(|&&v| labels[v] == class).count();
                assert!((6..=10).contains(&n), "fold {fold} has {n} of class {class}");
            }
        }
        assert_eq!(fold_of, folds(&labels, &groups, 5, 3).unwrap());
        assert_ne!(fold_of, folds(&labels, &groups, 5, 4).unwrap());
        assert!(folds(&labels[..4], &groups[..4], 5, 3).is_err());
    }

    fn gray(path: &Path, level: u8) {
        let picture = beltsight::domain::Picture::filled(8, 8, [level; 3]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, pixels::encode_jpeg(&picture, 90).unwrap()).unwrap();
    }

    #[test]
    fn a_folder_per_class_is_read_and_a_broken_or_stray_picture_is_named() {
        let root = tempfile::tempdir().unwrap();
        gray(&root.path().join("good/a.jpg"), 200);
        gray(&root.path().join("bad/b.jpg"), 20);
        let data = read(root.path(), 4).unwrap();
        assert_eq!(
            (data.classes.as_slice(), data.labels.as_slice()),
            (&["bad".into(), "good".into()][..], &[0, 1][..])
        );
        assert_eq!(data.pictures[1], vec![200; 48]);
        gray(&root.path().join("bad/b.jpg"), 21);
        assert_ne!(read(root.path(), 4).unwrap().sha256, data.sha256);
        fs::write(root.path().join("bad/c.jpg"), b"no").unwrap();
        assert!(read(root.path(), 4).unwrap_err().to_string().contains("c.jpg"));
        fs::remove_file(root.path().join("bad/c.jpg")).unwrap();
        gray(&root.path().join("stray.jpg"), 1);
        assert!(read(root.path(), 4).unwrap_err().to_string().contains("stray.jpg"));
    }

    #[test]
    fn a_table_gives_classes_groups_and_accepted_ones() {
        let root = tempfile::tempdir().unwrap();
        gray(&root.path().join("p/1.jpg"), 10);
        gray(&root.path().join("p/2.jpg"), 20);
        let table = root.path().join("photos.csv");
        fs::write(&table, "file,species,salmonid,split_group\np/1.jpg,trout,1,g\np/2.jpg,bass,0,g\n").unwrap();
        let data = read(root.path(), 4).unwrap();
        assert_eq!(data.accept, ["trout"]);
        assert_eq!(data.groups, [0, 0]);
        fs::write(&table, "file,species\np/1.jpg,trout\np/2.jpg,\n").unwrap();
        assert!(read(root.path(), 4).unwrap_err().to_string().contains("2.jpg"));
    }
}
