//! `beltsight evaluate`: a model folder measured on labeled pictures, through the engine that serves.

use std::path::Path;

use anyhow::Result;

use crate::{
    picture::dataset,
    student::{
        engine::{Device, Engine, softmax},
        manifest::Manifest,
        scorecard::Scorecard,
    },
};

/// Measures the file of `precision` (or the serving one) of the model in `folder` on the data set in `data`.
///
/// A class of the data that the model does not know counts as one it never names; for accept-or-reject figures it is
/// simply an item that must not pass.
///
/// # Errors
/// When model or data can't be read; see [`crate::student::manifest::ModelError`] and [`dataset::DataError`].
pub fn evaluate(folder: &Path, precision: Option<&str>, data: &Path) -> Result<Scorecard> {
    let manifest = Manifest::read(folder)?;
    let onnx = manifest.onnx(folder, precision.unwrap_or(&manifest.serve))?;
    let data = dataset::read(data)?;
    let pictures = data.load(manifest.input.side)?;
    let mut engine = Engine::open(&onnx, Device::Auto, 0)?;
    let outputs = engine.run_all(&pictures, 8)?;
    let mut classes = manifest.classes.clone();
    let truth = data.truth(&mut classes);
    let probabilities: Vec<Vec<f32>> = outputs
        .logits
        .rows()
        .into_iter()
        .map(|row| {
            let mut row = softmax(&row.to_vec(), manifest.thresholds.temperature);
            row.resize(classes.len(), 0.0);
            row
        })
        .collect();
    Ok(Scorecard::measure(&probabilities, &truth, &classes, &manifest.thresholds.accept))
}
