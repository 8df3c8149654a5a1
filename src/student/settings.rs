//! The student that serves, and where it runs.

use std::path::PathBuf;

use serde::Deserialize;

use super::{engine::Device, registry::Registry};

/// The student that serves, and where it runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// Folder with a folder per version.
    pub root: PathBuf,
    /// The version that serves while none was ever promoted.
    pub version: String,
    /// `float32` or `int8`; absent: what the manifest says.
    pub precision: Option<String>,
    /// `auto`, `cpu`, `cuda[:n]` or `tensorrt`; anything but `auto` fails to start if it can't run.
    pub device: Device,
    /// Threads for inference: all in one session for a lone item, else a session each; 0: as many as the cgroup allows
    /// cores.
    pub threads: usize,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self { root: "models".into(), version: "belt-small".into(), precision: None, device: Device::Auto, threads: 0 }
    }
}

impl ModelSettings {
    /// The registry of what serves.
    pub fn registry(&self) -> Registry {
        Registry { root: self.root.clone(), first: self.version.clone() }
    }
}
