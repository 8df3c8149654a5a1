//! A model folder: `models/<version>/manifest.toml` and the ONNX files it names.
//!
//! Invariant: nothing is opened for serving before its bytes matched the manifest's hash.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    domain::{Card, Reference, Thresholds, hash::sha256},
    files,
    student::scorecard::Scorecard,
};

/// File name of the manifest inside a model folder.
pub const MANIFEST: &str = "manifest.toml";

/// Everything known about one student.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version name, the folder's name.
    pub version: String,
    /// When it was exported (RFC 3339).
    pub created: String,
    /// Which of `files` serves: `float32` or `int8`.
    pub serve: String,
    /// Class names in the order of the logits.
    pub classes: Vec<String>,
    /// What the network takes.
    pub input: Input,
    /// ONNX files by precision.
    pub files: BTreeMap<String, File>,
    /// How scores become a decision.
    pub thresholds: Thresholds,
    /// Where the student comes from.
    pub lineage: Lineage,
    /// What it was trained on, to tell what is new to it; absent where that was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Named>,
    /// The pictures whose labels it learned, itself or before, as hashes one a line: what may not calibrate a student that
    /// goes on from it; absent where nobody noted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<Named>,
    /// Measured on data that training never saw; absent until it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scorecard: Option<Scorecard>,
}

/// What the network takes; mean and deviation are inside the graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of the square picture in pixels.
    pub side: u32,
    /// Always `uint8 RGB NHWC`.
    pub format: String,
}

/// One ONNX file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// File name inside the folder.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Largest |p_trained − p_ONNX| seen when it was exported.
    pub max_probability_difference: f64,
}

/// A file and its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// File name inside the folder.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Where a student comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// Learning method.
    pub method: String,
    /// Network name.
    pub net: String,
    /// Hash of the data snapshot (file names, bytes and labels).
    pub data_sha256: String,
    /// Number of labeled pictures trained on.
    pub labeled: usize,
    /// Seed of the run.
    pub seed: u64,
    /// The command that made it.
    pub command: String,
    /// The teacher's version, if it was distilled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// The version whose weights the training began from, if it went on from a student.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Folds of cross-validation, if there were any: the network itself then learned from every picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<usize>,
}

/// Why a model folder is refused.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file can't be read.
    #[error("{path}: {why}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// The manifest is not valid.
    #[error("{path}: {why}")]
    Manifest {
        /// The manifest's path.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The bytes are not those that were exported.
    #[error("{path}: its SHA-256 is {found}, the manifest says {wanted}; the file was changed or cut: export it again")]
    Hash {
        /// The ONNX file.
        path: PathBuf,
        /// Hash of the bytes found.
        found: String,
        /// Hash in the manifest.
        wanted: String,
    },
    /// ONNX Runtime refused it.
    #[error("{path}: {source}")]
    Engine {
        /// The ONNX file.
        path: PathBuf,
        /// What ONNX Runtime said.
        source: crate::student::engine::EngineError,
    },
}

impl Manifest {
    /// Reads and checks `folder/manifest.toml`, but not the ONNX bytes.
    ///
    /// # Errors
    /// [`ModelError::Read`], [`ModelError::Manifest`].
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(MANIFEST);
        let text =
            fs::read_to_string(&path).map_err(|e| ModelError::Read { path: path.clone(), why: e.to_string() })?;
        let refuse = |why: String| ModelError::Manifest { path: path.clone(), why };
        let manifest: Manifest = toml::from_str(&text).map_err(|e| refuse(e.to_string()))?;
        manifest.check().map_err(refuse)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let Thresholds { accept, accept_from, unsure_from, temperature, unknown_from } = &self.thresholds;
        if self.classes.len() < 2 {
            return Err("`classes` must name at least two classes".into());
        }
        if let Some(unknown) = accept.iter().find(|c| !self.classes.contains(c)) {
            return Err(format!("`thresholds.accept` names {unknown}, which is none of the classes"));
        }
        if accept.is_empty() {
            return Err("`thresholds.accept` is empty: nothing would ever pass".into());
        }
        // Written so that NaN is refused too.
        if !(*accept_from > 0.0 && *accept_from <= 1.0 && *unsure_from >= 0.0 && unsure_from <= accept_from) {
            return Err("thresholds must satisfy 0 <= unsure_from <= accept_from <= 1 and accept_from > 0".into());
        }
        if !(*temperature > 0.0 && temperature.is_finite()) {
            return Err("`thresholds.temperature` must be positive".into());
        }
        if unknown_from.is_some_and(|limit| !(limit > 0.0 && limit.is_finite() && self.reference.is_some())) {
            return Err("`thresholds.unknown_from` must be positive and needs a `reference`".into());
        }
        match self.files.get(&self.serve) {
            None => Err(format!("`serve` is {}, but `files` has no such entry", self.serve)),
            Some(file) if file.name.contains(['/', '\\']) => Err(format!("`{}` must be a plain file name", file.name)),
            Some(_) => Ok(()),
        }
    }

    /// Writes `folder/manifest.toml`, whole or not at all.
    ///
    /// # Errors
    /// [`ModelError::Read`] with the system's words.
    pub fn write(&self, folder: &Path) -> Result<(), ModelError> {
        let path = folder.join(MANIFEST);
        let refuse = |why: String| ModelError::Read { path: path.clone(), why };
        let text = toml::to_string_pretty(self).map_err(|e| refuse(e.to_string()))?;
        files::write(&path, text.as_bytes()).map_err(|e| refuse(e.to_string()))
    }

    /// The bytes of the file of `precision`, checked against the manifest's hash.
    ///
    /// # Errors
    /// [`ModelError::Read`], [`ModelError::Hash`], and [`ModelError::Manifest`] when there is no such precision.
    pub fn onnx(&self, folder: &Path, precision: &str) -> Result<Vec<u8>, ModelError> {
        let file = self.files.get(precision).ok_or_else(|| ModelError::Manifest {
            path: folder.join(MANIFEST),
            why: format!("it has no {precision} file"),
        })?;
        verified(folder, &file.name, &file.sha256)
    }

    /// What the student was trained on, checked against the manifest's hash; `None` when the manifest names nothing.
    ///
    /// # Errors
    /// [`ModelError::Read`], [`ModelError::Hash`].
    pub fn read_reference(&self, folder: &Path) -> Result<Option<Arc<Reference>>, ModelError> {
        let Some(Named { name, sha256 }) = &self.reference else { return Ok(None) };
        let bytes = verified(folder, name, sha256)?;
        let read = serde_json::from_slice(&bytes);
        read.map(|r| Some(Arc::new(r))).map_err(|e| ModelError::Read { path: folder.join(name), why: e.to_string() })
    }

    /// Hashes of the pictures whose labels it learned, checked against the manifest's hash; `None` when the manifest names
    /// nothing.
    ///
    /// # Errors
    /// [`ModelError::Read`], [`ModelError::Hash`].
    pub fn read_learned(&self, folder: &Path) -> Result<Option<BTreeSet<String>>, ModelError> {
        let Some(Named { name, sha256 }) = &self.learned else { return Ok(None) };
        let bytes = verified(folder, name, sha256)?;
        Ok(Some(String::from_utf8_lossy(&bytes).lines().map(String::from).collect()))
    }

    /// The part that scoring and deciding need, for the file of `precision` of the model in `folder`.
    ///
    /// # Errors
    /// As [`Manifest::read_reference`].
    pub fn card(&self, folder: &Path, precision: &str) -> Result<Card, ModelError> {
        let sha256 = self.files.get(precision).map_or("", |f| f.sha256.as_str());
        Ok(Card {
            label: format!("{}@{}", self.version, sha256.get(..12).unwrap_or(sha256)),
            sha256: sha256.into(),
            version: self.version.clone(),
            precision: precision.into(),
            classes: self.classes.clone(),
            side: self.input.side,
            thresholds: self.thresholds.clone(),
            reference: self.read_reference(folder)?,
        })
    }
}

/// The bytes of `folder/name`, whose hash must be `wanted`.
fn verified(folder: &Path, name: &str, wanted: &str) -> Result<Vec<u8>, ModelError> {
    let path = folder.join(name);
    let bytes = fs::read(&path).map_err(|e| ModelError::Read { path: path.clone(), why: e.to_string() })?;
    let found = sha256(&bytes);
    if found != wanted {
        return Err(ModelError::Hash { path, found, wanted: wanted.into() });
    }
    Ok(bytes)
}

/// Model folders under `root`, by name; folders without a manifest are passed over, and those whose name begins with a
/// dot: they are being copied, or were when something broke off.
///
/// # Errors
/// The system's, when `root` can't be read.
pub fn list(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let paths = fs::read_dir(root)?.flatten().map(|entry| entry.path());
    let mut folders: Vec<_> = paths.filter(|path| !hidden(path) && path.join(MANIFEST).is_file()).collect();
    folders.sort();
    Ok(folders)
}
