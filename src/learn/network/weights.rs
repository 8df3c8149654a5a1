//! Named weights on disk: safetensors in, safetensors out.
//!
//! Invariant: a file under its final name is whole.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use beltsight::files;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// Shape and row-major values by name; names as in `beltsight::network`.
pub type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Why weights can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The bytes are not float32 safetensors.
    #[error("{path}: {why}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Reads a safetensors file and its metadata.
///
/// # Errors
/// See [`WeightsError`].
pub fn read(path: &Path) -> Result<(Weights, HashMap<String, String>), WeightsError> {
    let format = |why: String| WeightsError::Format { path: path.into(), why };
    let bytes = fs::read(path).map_err(|source| WeightsError::Io { path: path.into(), source })?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| format(e.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| format(e.to_string()))?;
    let mut weights = Weights::new();
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(format(format!("`{name}` is {:?}, only float32 is read", view.dtype())));
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        weights.insert(name.into(), (view.shape().to_vec(), values));
    }
    Ok((weights, header.metadata().clone().unwrap_or_default()))
}

/// Writes a safetensors file atomically.
///
/// # Errors
/// See [`WeightsError`].
pub fn write(path: &Path, weights: &Weights, metadata: HashMap<String, String>) -> Result<(), WeightsError> {
    let format = |why: String| WeightsError::Format { path: path.into(), why };
    let bytes: Vec<(&str, &[usize], Vec<u8>)> = weights
        .iter()
        .map(|(name, (shape, values))| {
            (name.as_str(), shape.as_slice(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, data)| Ok((*name, TensorView::new(Dtype::F32, shape.to_vec(), data)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|e| format(e.to_string()))?;
    let whole = safetensors::serialize(views, Some(metadata)).map_err(|e| format(e.to_string()))?;
    files::write(path, &whole).map_err(|source| WeightsError::Io { path: path.into(), source })
}

/// The network whose ImageNet weights deploy/setup brings.
pub const PUBLISHED: &str = "efficientnet_lite0";

/// `.vendor/weights/<net>.safetensors` in the working directory or a folder above the program.
pub fn pretrained(net: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    std::env::current_dir()
        .iter()
        .map(PathBuf::as_path)
        .chain(program.ancestors())
        .map(|folder| folder.join(".vendor/weights").join(format!("{net}.safetensors")))
        .find(|path| path.is_file())
}
