//! Loads a new student beside the serving one and hands the line over to it.
//!
//! Invariant: whatever is wrong with a model folder, the student that serves goes on serving.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use crate::{
    domain::Card,
    line::infer::Infer,
    metrics::Metrics,
    student::{engine::Device, manifest::ModelError, open::Student},
};

/// Loads students into a running service, one at a time: a second one would take twice the memory.
pub struct Swapper {
    /// The workers that will run them.
    pub infer: Infer,
    /// Counts loads and refusals.
    pub metrics: Metrics,
    /// Folder with a folder per version.
    pub root: PathBuf,
    /// Precision to serve; `None`: what each manifest says.
    pub precision: Option<String>,
    /// Where they run.
    pub device: Device,
    /// Threads of each, as in [`Student::open`].
    pub threads: usize,
    /// Largest micro-batch, for warming up.
    pub max_batch: usize,
    /// Held from before a student is loaded until the registry says that it serves.
    pub loading: Mutex<()>,
}

/// The right to change what serves, one holder at a time. Who gives it back has told the registry, so that nobody who
/// takes it next finds the line and the registry apart.
#[must_use]
pub struct Turn<'a> {
    _alone: MutexGuard<'a, ()>,
}

/// Why a student was not loaded; the one that serves goes on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Another one is being loaded.
    #[error("another model is being loaded; try again later")]
    Busy,
    /// Its folder is refused.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Swapper {
    /// Waits until nobody else changes what serves; blocks for a second or so.
    pub fn turn(&self) -> Turn<'_> {
        Turn { _alone: self.loading.lock().unwrap_or_else(PoisonError::into_inner) } // by a load that panicked
    }

    /// The same for those who had rather come again than wait.
    ///
    /// # Errors
    /// [`LoadError::Busy`].
    pub fn try_turn(&self) -> Result<Turn<'_>, LoadError> {
        match self.loading.try_lock() {
            Ok(alone) => Ok(Turn { _alone: alone }),
            Err(TryLockError::Poisoned(left)) => Ok(Turn { _alone: left.into_inner() }),
            Err(TryLockError::WouldBlock) => Err(LoadError::Busy),
        }
    }

    /// Opens the student `root/version`, warms it up and hands the line over to it. Takes a second or so; blocks. The
    /// registry is to be told before `_turn` ends.
    ///
    /// # Errors
    /// [`LoadError::Model`].
    pub fn load(&self, version: &str, _turn: &Turn) -> Result<Arc<Card>, LoadError> {
        let precision = self.precision.as_deref();
        let opened = Student::open(&self.root.join(version), precision, self.device, self.threads, self.max_batch);
        let outcome = if opened.is_ok() { "loaded" } else { "refused" };
        self.metrics.student.loads.with_label_values(&[outcome]).inc();
        let loaded = opened.map(|student| {
            let card = student.card.clone();
            self.infer.exchange(student);
            tracing::info!("model {} serves now", card.label);
            card
        });
        loaded.inspect_err(|e| tracing::warn!("a model was refused: {e}")).map_err(LoadError::from)
    }
}
