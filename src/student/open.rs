//! A student that is ready to serve: read from its folder, checked against its manifest, open and warm.
//!
//! Invariant: a [`Student`] has run before it is handed out, so its first item is as fast as the others.

use std::{path::Path, sync::Arc};

use crate::{
    domain::Card,
    student::{
        engine::{Device, Engine, EngineError, cores, softmax, stack},
        manifest::{MANIFEST, Manifest, ModelError},
    },
};

/// One loaded, verified and warmed-up student.
pub struct Student {
    /// The session for an item that comes alone.
    pub engine: Engine,
    /// Sessions for when there is more to do: of one thread each, or a padded one on a GPU. None with one thread.
    pub lanes: Vec<Engine>,
    /// Classes and thresholds.
    pub card: Arc<Card>,
    /// What it said of [`known_picture`] when it was opened: a probability for each class.
    pub known: Vec<f32>,
}

impl Student {
    /// Opens the model in `folder`, checks hash, classes and input side against the graph, and warms it up with batches of 1
    /// and `max_batch`.
    ///
    /// Without `precision` it is the file that the manifest says serves, but on a GPU float32: ONNX Runtime computes the
    /// convolutions of an int8 graph in float there, and only adds to them (0.6 of the speed on an H100). On the CPU it is
    /// opened once with `threads` threads (0: as many as [`cores`]) and, if those are several, as often with one thread; on
    /// a GPU once for lone items and once for batches.
    ///
    /// # Errors
    /// [`ModelError`], which names the file.
    pub fn open(
        folder: &Path,
        precision: Option<&str>,
        device: Device,
        threads: usize,
        max_batch: usize,
    ) -> Result<Self, ModelError> {
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
        let wrong = |why: String| ModelError::Manifest { path: folder.join(MANIFEST), why };
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
        let card = manifest.card(folder, served)?;
        let known = stack(&[known_picture(engine.side())], engine.side()).and_then(|one| engine.run(one.view()));
        let known = softmax(&known.map_err(refuse)?.logits.row(0).to_vec(), card.thresholds.temperature);
        Ok(Self { engine, lanes, card: Arc::new(card), known })
    }
}

/// A picture whose answer is known, as `side * side * 3` RGB bytes: shades that rise across and down.
pub fn known_picture(side: usize) -> Vec<u8> {
    let shade = |part: usize| (part * 255 / side.max(1)) as u8;
    (0..side * side).flat_map(|at| [shade(at % side), shade(at / side), 128]).collect()
}

/// Runs blank batches of every size that will be asked for, so that the first item is as fast as the others.
///
/// # Errors
/// ONNX Runtime's.
pub fn warm_up(engine: &mut Engine, max_batch: usize) -> Result<(), EngineError> {
    let blank = vec![128; engine.side() * engine.side() * 3];
    for batch in [1, max_batch.max(1), 1] {
        engine.run(stack(&vec![blank.clone(); batch], engine.side())?.view())?;
    }
    Ok(())
}
