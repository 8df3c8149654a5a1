//! `beltsight evaluate`: a model folder measured on labeled pictures, through the engine that serves.

use std::path::Path;

use anyhow::Result;

use crate::{
    domain::{Action, Scores},
    picture::dataset,
    student::{
        decide::{Look, decide},
        engine::{Device, Engine, softmax},
        manifest::Manifest,
        scorecard::{Decided, Scorecard},
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
    let precision = precision.unwrap_or(&manifest.serve);
    let onnx = manifest.onnx(folder, precision)?;
    let data = dataset::read(data)?;
    let pictures = data.load(manifest.input.side)?;
    let mut engine = Engine::open(&onnx, Device::Auto, 0)?;
    let outputs = engine.run_all(&pictures, 8)?;
    let mut classes = manifest.classes.clone();
    let truth = data.truth(&mut classes);
    let card = manifest.card(folder, precision)?;
    let accept = &card.thresholds.accept;
    let (mut decided, mut probabilities) = (Decided::default(), Vec::new());
    for ((logits, embedding), truth) in outputs.logits.rows().into_iter().zip(outputs.embedding.rows()).zip(&truth) {
        let row = softmax(&logits.to_vec(), card.thresholds.temperature);
        let scores = Ok(Scores { probabilities: row.clone(), embedding: embedding.to_vec() });
        let action = decide(&scores, Look::whole(Some(&card), &scores)).action;
        decided.add(accept.contains(&classes[*truth]), action == Action::Accept);
        probabilities.push(row);
    }
    probabilities.iter_mut().for_each(|row| row.resize(classes.len(), 0.0));
    let measured = Scorecard::measure(&probabilities, &truth, &classes, accept);
    Ok(Scorecard { decided: Some(decided), ..measured })
}
