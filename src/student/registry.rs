//! Which student serves, and which served before: `models/serving.json`, one entry per change, the newest last.
//!
//! Invariant: the file is replaced whole or not at all, entries are only added, and no version gets in whose folder
//! does not match its manifest's hashes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    domain::time::rfc3339_now,
    files,
    student::manifest::{Manifest, ModelError},
};

/// File name inside the folder of the model folders.
pub const SERVING: &str = "serving.json";

/// One change of the serving student.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryEntry {
    /// What was done.
    pub change: Change,
    /// The version that served from then on.
    pub version: String,
    /// When (RFC 3339).
    pub at: String,
    /// Who: a person's name, `gate`, or `probation`.
    pub by: String,
    /// Why, as a sentence.
    pub why: String,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// A version took over.
    Promote,
    /// The one before took over again.
    Rollback,
}

impl Change {
    /// Lower-case name, as in the file.
    pub fn name(self) -> &'static str {
        match self {
            Change::Promote => "promote",
            Change::Rollback => "rollback",
        }
    }
}

/// Why the registry refuses.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file can't be read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's or parser's words.
        why: String,
    },
    /// The version's folder is refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The name is not a folder name.
    #[error("`{0}` is not a version name")]
    Name(String),
    /// It serves already.
    #[error("{0} serves already")]
    Serves(String),
    /// There is nothing to go back to.
    #[error("no student served before {0}")]
    First(String),
}

/// The folder of the model folders, and the student that serves there as long as none was promoted.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Folder with a folder per version.
    pub root: PathBuf,
    /// The configured version.
    pub first: String,
}

impl Registry {
    /// All changes, the oldest first; none when there was never one.
    ///
    /// # Errors
    /// [`RegistryError::File`].
    pub fn history(&self) -> Result<Vec<RegistryEntry>, RegistryError> {
        let path = self.root.join(SERVING);
        let refuse = |why: String| RegistryError::File { path: path.clone(), why };
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| refuse(e.to_string())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(refuse(e.to_string())),
        }
    }

    /// The versions that rollbacks would go through from the last to the first; the last is to serve.
    ///
    /// # Errors
    /// [`RegistryError::File`].
    pub fn stack(&self) -> Result<Vec<String>, RegistryError> {
        Ok(self.stacked(&self.history()?))
    }

    pub(super) fn stacked(&self, history: &[RegistryEntry]) -> Vec<String> {
        let mut stack = vec![self.first.clone()];
        for entry in history {
            match entry.change {
                Change::Promote => stack.push(entry.version.clone()),
                Change::Rollback if stack.len() > 1 => drop(stack.pop()),
                Change::Rollback => {}
            }
        }
        stack
    }

    /// Makes `version` the serving one after its files were verified.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn promote(&self, version: &str, by: &str, why: &str) -> Result<(), RegistryError> {
        if version.is_empty() || version.contains(['/', '\\']) || version.starts_with('.') {
            return Err(RegistryError::Name(version.into()));
        }
        let mut history = self.history()?;
        if self.stacked(&history).last().is_some_and(|serving| serving == version) {
            return Err(RegistryError::Serves(version.into()));
        }
        verify(&self.root.join(version))?;
        history.push(entry(Change::Promote, version, by, why));
        self.write(&history)
    }

    /// Makes the student serve again that served before the present one; tells which. Again and again it goes further
    /// back.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::First`] when the present one is the first.
    pub fn rollback(&self, by: &str, why: &str) -> Result<String, RegistryError> {
        let mut history = self.history()?;
        let mut stack = self.stacked(&history);
        let present = stack.pop().unwrap_or_else(|| self.first.clone());
        let version = stack.pop().ok_or(RegistryError::First(present))?;
        verify(&self.root.join(&version))?;
        history.push(entry(Change::Rollback, &version, by, why));
        self.write(&history)?;
        Ok(version)
    }

    fn write(&self, history: &[RegistryEntry]) -> Result<(), RegistryError> {
        let path = self.root.join(SERVING);
        let refuse = |why: String| RegistryError::File { path: path.clone(), why };
        let text = serde_json::to_string_pretty(history).map_err(|e| refuse(e.to_string()))?;
        files::write(&path, text.as_bytes()).map_err(|e| refuse(e.to_string()))
    }
}

/// Compares every file of the version in `folder` with its manifest.
///
/// # Errors
/// [`ModelError`], which names the file.
pub fn verify(folder: &Path) -> Result<(), ModelError> {
    let manifest = Manifest::read(folder)?;
    for precision in manifest.files.keys() {
        manifest.onnx(folder, precision)?;
    }
    manifest.read_reference(folder)?;
    manifest.read_learned(folder)?;
    Ok(())
}

fn entry(change: Change, version: &str, by: &str, why: &str) -> RegistryEntry {
    RegistryEntry { change, version: version.into(), at: rfc3339_now(), by: by.into(), why: why.into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        domain::{Thresholds, hash::sha256},
        student::manifest::{File, Input, Lineage},
    };

    /// A folder with a student of a few bytes, enough for hashes.
    pub(crate) fn student(root: &Path, version: &str) {
        let folder = root.join(version);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("student.onnx"), version).unwrap();
        let file = File {
            name: "student.onnx".into(),
            sha256: sha256(version.as_bytes()),
            bytes: version.len() as u64,
            max_probability_difference: 0.0,
        };
        Manifest {
            version: version.into(),
            created: "2026-11-25T00:00:00Z".into(),
            serve: "float32".into(),
            classes: vec!["salmon".into(), "cod".into()],
            input: Input { side: 96, format: "uint8 RGB NHWC".into() },
            files: BTreeMap::from([("float32".into(), file)]),
            thresholds: Thresholds {
                accept: vec!["salmon".into()],
                accept_from: 0.9,
                unsure_from: 0.5,
                temperature: 1.0,
                unknown_from: None,
            },
            lineage: Lineage::default(),
            reference: None,
            learned: None,
            scorecard: None,
        }
        .write(&folder)
        .unwrap();
    }

    fn registry(versions: &[&str]) -> (tempfile::TempDir, Registry) {
        let folder = tempfile::tempdir().unwrap();
        versions.iter().for_each(|v| student(folder.path(), v));
        let registry = Registry { root: folder.path().into(), first: "a".into() };
        (folder, registry)
    }

    fn serving(registry: &Registry) -> String {
        registry.stack().unwrap().pop().unwrap()
    }

    #[test]
    fn rollbacks_go_back_step_by_step_and_nothing_is_forgotten() {
        let (_folder, registry) = registry(&["a", "b", "c"]);
        assert_eq!(serving(&registry), "a");
        registry.promote("b", "gate", "better").unwrap();
        registry.promote("c", "gate", "better still").unwrap();
        assert!(matches!(registry.promote("c", "gate", ""), Err(RegistryError::Serves(_))));
        assert_eq!(serving(&registry), "c");
        assert_eq!(registry.rollback("Ann", "rejects everything").unwrap(), "b");
        assert_eq!(registry.rollback("Ann", "this one too").unwrap(), "a");
        assert!(matches!(registry.rollback("Ann", ""), Err(RegistryError::First(v)) if v == "a"));
        registry.promote("c", "Ann", "it was the lamp").unwrap();
        assert_eq!(serving(&registry), "c");
        assert_eq!(registry.rollback("Ann", "").unwrap(), "a", "b was rolled back before");
        let by: Vec<_> = registry.history().unwrap().into_iter().map(|e| (e.change, e.version, e.by)).collect();
        assert_eq!(by.len(), 6);
        assert_eq!(by[2], (Change::Rollback, "b".into(), "Ann".into()));
    }

    #[test]
    fn a_flipped_byte_a_missing_folder_and_a_path_are_refused_and_the_old_one_stays() {
        let (folder, registry) = registry(&["a", "b"]);
        fs::write(folder.path().join("b/student.onnx"), "c").unwrap();
        assert!(registry.promote("b", "gate", "").unwrap_err().to_string().contains("SHA-256"));
        assert!(registry.promote("d", "gate", "").is_err());
        assert!(matches!(registry.promote("../a", "gate", ""), Err(RegistryError::Name(_))));
        assert_eq!(serving(&registry), "a");
        assert!(!folder.path().join(SERVING).exists());
    }

    #[test]
    fn a_damaged_registry_is_an_error_that_names_it() {
        let (folder, registry) = registry(&[]);
        fs::write(folder.path().join(SERVING), "[{").unwrap();
        assert!(registry.stack().unwrap_err().to_string().contains(SERVING));
    }
}
