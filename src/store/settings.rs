//! Where records are kept.

use std::path::PathBuf;

use serde::Deserialize;

/// Where records are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// Folder for the database and the frames.
    pub folder: PathBuf,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { folder: "data".into() }
    }
}
