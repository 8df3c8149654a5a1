//! What a finished run leaves behind for serving and for later students.
//!
//! Invariant: what is on disk was read back, and is the trained network's own weights.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use anyhow::ensure;
use beltsight::{
    domain::Thresholds,
    student::{manifest::Lineage, scorecard::Scorecard},
};

use crate::network::{model::Model, weights};

/// A trained network and all that is known about it.
#[derive(Debug)]
pub struct TrainedStudent {
    /// The network with its averaged weights.
    pub model: Model,
    /// Class names in the order of the logits.
    pub classes: Vec<String>,
    /// Calibrated on pictures that training did not see.
    pub thresholds: Thresholds,
    /// Hashes of the pictures whose labels it learned, itself or before.
    pub learned: BTreeSet<String>,
    /// Where it comes from.
    pub lineage: Lineage,
    /// Measured on pictures that training did not see.
    pub scorecard: Scorecard,
    /// Share of the good items that may be diverted as unknown.
    pub false_diverts: f64,
}

/// Writes `weights.safetensors`, names as in `beltsight::network`; its metadata says what the network is.
///
/// # Errors
/// When the file can't be written, or what it holds is not what the network does.
pub fn write_weights(student: &TrainedStudent, out: &Path) -> anyhow::Result<()> {
    let path = out.join("weights.safetensors");
    let metadata = HashMap::from([
        ("net".to_string(), student.model.net.name.to_string()),
        ("input".to_string(), student.model.net.input.to_string()),
        ("classes".to_string(), serde_json::to_string(&student.classes)?),
        ("thresholds".to_string(), serde_json::to_string(&student.thresholds)?),
        ("lineage".to_string(), serde_json::to_string(&student.lineage)?),
        ("scorecard".to_string(), serde_json::to_string(&student.scorecard)?),
    ]);
    weights::write(&path, &student.model.weights(), metadata)?;
    let (read, _) = weights::read(&path)?;
    ensure!(read == student.model.weights(), "{}: read back, it holds other weights than were trained", path.display());
    Ok(())
}
