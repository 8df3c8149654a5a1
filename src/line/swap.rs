//! Opens, verifies and warms up a new student beside the serving one.
//!
//! Invariant: whatever is wrong with a model folder, the student that serves goes on serving.

use std::{path::Path, sync::Arc};

use crate::{
    engine::{Device, Engine, cores},
    line::infer::{Student, warm_up},
    model::{Manifest, ModelError},
};

/// Opens the model in `folder` (the precision its manifest says serves, unless `precision` asks for another), checks
/// hash, classes and input side against the graph, and warms it up with batches of 1 and `max_batch`. On the CPU it is
/// opened once with `threads` threads (0: as many as [`cores`]) and, if those are several, as often with one thread.
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
    let precision = precision.unwrap_or(&manifest.serve);
    let onnx = manifest.onnx(folder, precision)?;
    let path = folder.join(&manifest.files[precision].name);
    let refuse = |source| ModelError::Engine { path: path.clone(), source };
    let mut engine = Engine::open(&onnx, device, threads).map_err(refuse)?;
    let wrong = |why: String| ModelError::Manifest { path: folder.join(crate::model::MANIFEST), why };
    if engine.classes() != manifest.classes.len() {
        let (graph, listed) = (engine.classes(), manifest.classes.len());
        return Err(wrong(format!("`classes` names {listed} classes, the graph has {graph}")));
    }
    if engine.side() != manifest.input.side as usize {
        return Err(wrong(format!("`input.side` is {}, the graph takes {}", manifest.input.side, engine.side())));
    }
    warm_up(&mut engine, max_batch).map_err(refuse)?;
    let threads = if threads == 0 { cores() } else { threads };
    let mut lanes = Vec::new();
    if engine.provider() == "cpu" && threads > 1 {
        for _ in 0..threads {
            let mut lane = Engine::open(&onnx, Device::Cpu, 1).map_err(refuse)?;
            warm_up(&mut lane, max_batch).map_err(refuse)?;
            lanes.push(lane);
        }
    }
    Ok(Student { engine, lanes, card: Arc::new(manifest.card(precision)) })
}
