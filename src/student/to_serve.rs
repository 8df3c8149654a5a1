//! What is to serve, by what it is known again: the registry's changes, and what decides in the version they lead to.

use std::path::{Path, PathBuf};

use crate::{
    domain::{Thresholds, hash::sha256},
    student::{
        manifest::Manifest,
        registry::{Registry, RegistryEntry, RegistryError},
    },
};

/// What is to serve.
#[derive(Clone, Debug, PartialEq)]
pub struct ToServe {
    /// The models' folder, absolute where that can be told.
    pub root: PathBuf,
    /// The version.
    pub version: String,
    /// The registry's changes, the oldest first.
    pub history: Vec<RegistryEntry>,
    /// What decides in it; `None` where its manifest can't be read.
    pub model: Option<Deciding>,
}

/// What decides in a version.
#[derive(Clone, Debug, PartialEq)]
pub struct Deciding {
    /// SHA-256 of all that its manifest says but where it comes from and how well it did: classes, graphs by their hashes,
    /// thresholds, what is new to it.
    pub sha256: String,
    /// Its thresholds.
    pub thresholds: Thresholds,
}

impl ToServe {
    /// Reads the registry and the manifest of the version it leads to.
    ///
    /// # Errors
    /// [`RegistryError::File`].
    pub fn read(registry: &Registry) -> Result<Self, RegistryError> {
        let history = registry.history()?;
        let version = registry.stacked(&history).pop().unwrap_or_else(|| registry.first.clone());
        let root = std::path::absolute(&registry.root).unwrap_or_else(|_| registry.root.clone());
        let model = Deciding::read(&root, &version);
        Ok(Self { root, version, history, model })
    }

    /// What decides in another version of the same folder; `None` where its manifest can't be read.
    pub fn deciding(&self, version: &str) -> Option<Deciding> {
        Deciding::read(&self.root, version)
    }

    /// SHA-256 of the first `changes` changes; of all, where there are not so many.
    pub fn history_sha256(&self, changes: usize) -> String {
        let some = &self.history[..changes.min(self.history.len())];
        sha256(&serde_json::to_vec(some).unwrap_or_default())
    }
}

impl Deciding {
    fn read(root: &Path, version: &str) -> Option<Self> {
        let Manifest { version, serve, classes, input, files, thresholds, reference, .. } =
            Manifest::read(&root.join(version)).ok()?;
        let deciding = serde_json::to_vec(&(version, serve, classes, input, files, &thresholds, reference)).ok()?;
        Some(Self { sha256: sha256(&deciding), thresholds })
    }
}
