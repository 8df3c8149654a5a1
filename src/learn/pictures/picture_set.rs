//! Pictures at a network's input side, on the disk rather than in memory.
//!
//! Invariant: however many there are, memory holds those alone that are asked for.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use beltsight::{
    files::heartbeat,
    picture::dataset::{DataError, Dataset},
};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::pictures::feature_cache::Hash;

/// Pictures that are fitted at a time.
const CHUNK: usize = 256;

/// Pictures of `side * side * 3` bytes, by their index.
#[derive(Debug)]
pub struct PictureSet {
    side: usize,
    /// Where they come from: the pictures of the first list, then those of the next.
    lists: Vec<Dataset>,
    keys: Vec<Hash>,
    /// How often a content came so far.
    met: HashMap<Hash, u64>,
    /// The first pictures as bytes, one after the other, in a file without a name, which goes with this process.
    fitted: File,
    fitted_count: usize,
    scratch: PathBuf,
}

impl PictureSet {
    /// None yet; what is fitted lies in the folder `scratch`, without a name.
    ///
    /// # Errors
    /// The system's.
    pub fn new(side: usize, scratch: &Path) -> Result<Self, DataError> {
        let fitted = tempfile::tempfile_in(scratch).map_err(refuse(scratch))?;
        let scratch = scratch.into();
        Ok(Self { side, lists: vec![], keys: vec![], met: HashMap::new(), fitted, fitted_count: 0, scratch })
    }

    /// Pictures in memory, under keys of their content.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub fn of(pictures: &[Vec<u8>], side: usize) -> Self {
        let mut set = Self::new(side, &std::env::temp_dir()).unwrap();
        pictures.iter().for_each(|picture| set.fitted.write_all(picture).unwrap());
        set.fitted_count = pictures.len();
        set.add_keys(pictures.iter().map(|picture| Sha256::digest(picture).into()));
        set
    }

    /// Adds the pictures of `list`; gives its hash.
    ///
    /// # Errors
    /// One that can't be read.
    pub fn add(&mut self, list: Dataset) -> Result<String, DataError> {
        let digests = list.digests()?;
        let hash = list.hash_of(&digests);
        self.add_keys(digests.into_iter());
        self.lists.push(list);
        Ok(hash)
    }

    /// A key is that of the file's content, of how it is fitted, and of how often the content came before: a picture that
    /// is listed several times has other views each time.
    fn add_keys(&mut self, digests: impl Iterator<Item = Hash>) {
        for digest in digests {
            let before = self.met.entry(digest).or_default();
            let words = [&digest[..], &self.side.to_le_bytes(), &before.to_le_bytes()].concat();
            self.keys.push(Sha256::digest(words).into());
            *before += 1;
        }
    }

    /// Decodes and fits all pictures that were added, once; a damaged one is found here and named.
    ///
    /// # Errors
    /// [`DataError`], naming the file.
    pub fn fit(&mut self) -> Result<(), DataError> {
        while self.fitted_count < self.len() {
            let chunk = self.fitted_count..self.len().min(self.fitted_count + CHUNK);
            let pictures: Vec<Vec<u8>> = chunk.into_par_iter().map(|i| self.get(i)).collect::<Result<_, _>>()?;
            for picture in &pictures {
                self.fitted.write_all(picture).map_err(refuse(&self.scratch))?;
            }
            self.fitted_count += pictures.len();
            heartbeat::beat();
        }
        Ok(())
    }

    /// A picture; one that was not fitted yet is decoded.
    ///
    /// # Errors
    /// [`DataError`], naming the file.
    pub fn get(&self, index: usize) -> Result<Vec<u8>, DataError> {
        if index < self.fitted_count {
            let mut picture = vec![0; self.side * self.side * 3];
            let at = (index * picture.len()) as u64;
            self.fitted.read_exact_at(&mut picture, at).map_err(refuse(&self.scratch))?;
            return Ok(picture);
        }
        let (mut list, mut index) = (0, index);
        while index >= self.lists[list].samples.len() {
            index -= self.lists[list].samples.len();
            list += 1;
        }
        self.lists[list].picture(index, self.side as u32)
    }

    /// Some of them.
    ///
    /// # Errors
    /// As [`PictureSet::get`].
    pub fn some(&self, indices: &[usize]) -> Result<Vec<Vec<u8>>, DataError> {
        indices.par_iter().map(|&index| self.get(index)).collect()
    }

    /// What a picture is, whatever its index: the same in every run that has it.
    pub fn key(&self, index: usize) -> &Hash {
        &self.keys[index]
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Side in pixels.
    pub fn side(&self) -> usize {
        self.side
    }
}

fn refuse(path: &Path) -> impl Fn(io::Error) -> DataError {
    move |error| DataError::Read { path: path.into(), why: error.to_string() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use beltsight::{domain::Picture, picture::dataset, picture::pixels};

    use super::*;

    #[test]
    fn a_picture_is_the_same_before_and_after_fitting_and_its_key_is_its_content() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..5u8 {
            let picture = Picture::filled(20, 30, [40 * (n / 2), n / 2, 9]); // 0 and 1 are alike, and 2 and 3
            fs::write(root.path().join(format!("{n}.png")), pixels::encode_png(&picture).unwrap()).unwrap();
        }
        let read = || {
            let mut set = PictureSet::new(16, root.path()).unwrap();
            let hash = set.add(dataset::read_unlabeled(root.path()).unwrap()).unwrap();
            (set, hash)
        };
        let (mut set, hash) = read();
        assert_eq!(hash, dataset::read_unlabeled(root.path()).unwrap().hash().unwrap());
        let before = set.some(&[0, 1, 2, 3, 4]).unwrap();
        let keys: Vec<Hash> = (0..5).map(|i| *set.key(i)).collect();
        set.fit().unwrap();
        assert_eq!(set.some(&[0, 1, 2, 3, 4]).unwrap(), before);
        assert_eq!(before, dataset::read_unlabeled(root.path()).unwrap().load(16).unwrap());
        assert_ne!(keys[0], keys[1], "the same picture again has views of its own");

        fs::remove_file(root.path().join("0.png")).unwrap();
        let (set, _) = read();
        assert_eq!([*set.key(0), *set.key(3)], [keys[0], keys[4]], "whatever its name and place");
        fs::write(root.path().join("4.png"), b"no").unwrap();
        let (mut set, _) = read();
        assert!(set.fit().unwrap_err().to_string().contains("4.png"));
    }
}
