//! Opens, verifies and warms up a new student beside the serving one.
//!
//! Invariant: whatever is wrong with a model folder, the student that serves goes on serving.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use crate::{
    domain::Card,
    line::infer::{Infer, Student, warm_up},
    metrics::Metrics,
    student::{
        engine::{Device, Engine, cores},
        manifest::{Manifest, ModelError},
    },
};

/// Opens the model in `folder`, checks hash, classes and input side against the graph, and warms it up with batches of 1
/// and `max_batch`. Without `precision` it is the file that the manifest says serves, but on a GPU float32: ONNX Runtime
/// computes the convolutions of an int8 graph in float there, and only adds to them (0.6 of the speed on an H100). On the
/// CPU it is opened once with `threads` threads (0: as many as [`cores`]) and, if those are several, as often with one
/// thread; on a GPU once for lone items and once for batches.
///
/// # Errors
/// [`ModelError`], each in words.
pub fn open(
    folder: &Path,
    precision: Option<&str>,
    device: Device,
    threads: usize,
    max_batch: usize,
) -> Result<Student, ModelError> {
    let manifest = Manifest::read(folder)?;
    let open = |precision: &str| -> Result<(Vec<u8>, Engine), ModelError> {
        let onnx = manifest.onnx(folder, precision)?;
        let path = folder.join(&manifest.files[precision].name);
        let engine = Engine::open(&onnx, device, threads).map_err(|source| ModelError::Engine { path, source })?;
        Ok((onnx, engine))
    };
    let mut served = precision.unwrap_or(&manifest.serve);
    let (mut onnx, mut engine) = open(served)?;
    if precision.is_none()
        && served != "float32"
        && engine.provider() != "cpu"
        && manifest.files.contains_key("float32")
    {
        served = "float32";
        (onnx, engine) = open(served)?;
    }
    let path = folder.join(&manifest.files[served].name);
    let refuse = |source| ModelError::Engine { path: path.clone(), source };
    let wrong = |why: String| ModelError::Manifest { path: folder.join(crate::student::manifest::MANIFEST), why };
    if engine.classes() != manifest.classes.len() {
        let (graph, listed) = (engine.classes(), manifest.classes.len());
        return Err(wrong(format!("`classes` names {listed} classes, the graph has {graph}")));
    }
    if engine.side() != manifest.input.side as usize {
        return Err(wrong(format!("`input.side` is {}, the graph takes {}", manifest.input.side, engine.side())));
    }
    let gpu = engine.provider() != "cpu";
    warm_up(&mut engine, if gpu { 1 } else { max_batch }).map_err(refuse)?;
    let threads = if threads == 0 { cores() } else { threads };
    let mut lanes = Vec::new();
    if gpu && max_batch > 1 {
        let mut lane = Engine::open(&onnx, device, threads).map_err(refuse)?.padded(max_batch);
        warm_up(&mut lane, max_batch).map_err(refuse)?;
        lanes.push(lane);
    } else if !gpu && threads > 1 {
        for _ in 0..threads {
            let mut lane = Engine::open(&onnx, Device::Cpu, 1).map_err(refuse)?;
            warm_up(&mut lane, max_batch).map_err(refuse)?;
            lanes.push(lane);
        }
    }
    let card = Card { reference: manifest.read_reference(folder)?, ..manifest.card(served) };
    Ok(Student { engine, lanes, card: Arc::new(card) })
}

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
    /// Threads of each, as in [`open`].
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
        let opened = open(&self.root.join(version), precision, self.device, self.threads, self.max_batch);
        let outcome = if opened.is_ok() { "loaded" } else { "refused" };
        self.metrics.model_loads.with_label_values(&[outcome]).inc();
        let loaded = opened.map(|student| {
            let card = student.card.clone();
            self.infer.exchange(student);
            tracing::info!("model {} serves now", card.label);
            card
        });
        loaded.inspect_err(|e| tracing::warn!("a model was refused: {e}")).map_err(LoadError::from)
    }
}
