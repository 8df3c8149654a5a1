//! A trained student → the model folder that serves: `student.onnx`, `student.int8.onnx`, `manifest.toml`.
//!
//! Invariant: the folder appears whole or not at all, and only after ONNX Runtime gave the trained network's own
//! probabilities on real pictures.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};
use beltsight::{
    domain::{hash::sha256, time::rfc3339_now},
    files::FolderDraft,
    network::onnx::{self, Tensor},
    student::{
        engine::{Device, Engine, softmax},
        manifest::{File, Input, Manifest},
        reference,
        scorecard::argmax,
    },
};

use crate::training::export::TrainedStudent;

/// Largest difference of a probability between the trained network and its float32 graph.
const FLOAT_TOLERANCE: f64 = 1e-4;
/// int8 serves when it names the same class as the trained network on at least this share of the pictures.
const INT8_AGREEMENT: f64 = 0.99;
/// Pictures whose activations set the ranges of the int8 graph; more change nothing that can be measured.
const CALIBRATION: usize = 128;

/// Writes `out/model`. Both graphs are run on `pictures`; a spread of [`CALIBRATION`] of them, labels unused, sets the
/// int8 ranges.
///
/// # Errors
/// When the float32 graph differs by more than [`FLOAT_TOLERANCE`], or a file can't be written.
pub fn write(student: &TrainedStudent, pictures: &[&[u8]], version: &str, out: &Path) -> anyhow::Result<Manifest> {
    let net = &student.model.net;
    let classes = student.classes.len();
    let weights: onnx::Weights =
        student.model.weights().into_iter().map(|(name, (shape, data))| (name, Tensor { shape, data })).collect();
    let step = pictures.len().div_ceil(CALIBRATION).max(1);
    let calibration: Vec<Vec<u8>> = pictures.iter().step_by(step).map(|p| p.to_vec()).collect();
    let graphs = [
        ("float32", "student.onnx", onnx::export(net, &weights, classes)?),
        ("int8", "student.int8.onnx", onnx::quantize(net, &weights, classes, &calibration)?),
    ];

    let temperature = student.thresholds.temperature;
    let trained = student.model.probabilities(pictures, f64::from(temperature));
    let folder = out.join("model");
    let draft = FolderDraft::begin(&folder).with_context(|| folder.display().to_string())?;
    let mut files = BTreeMap::new();
    let mut serve = "float32";
    for (precision, name, bytes) in graphs {
        let (apart, agreement) = compare(&bytes, pictures, &trained, temperature)?;
        println!(
            "{precision:<8} {:>8} bytes, |p - p trained| <= {apart:.1e}, same class {:.2} %",
            bytes.len(),
            agreement * 100.0
        );
        if precision == "float32" {
            ensure!(
                apart <= FLOAT_TOLERANCE,
                "the float32 graph's probabilities differ by {apart} from the trained ones"
            );
        } else if agreement >= INT8_AGREEMENT {
            serve = "int8";
        }
        fs::write(draft.path().join(name), &bytes)?;
        let file = File {
            name: name.into(),
            sha256: sha256(&bytes),
            bytes: bytes.len() as u64,
            max_probability_difference: apart,
        };
        files.insert(precision.to_string(), file);
    }
    let manifest = Manifest {
        version: version.into(),
        created: rfc3339_now(),
        serve: serve.into(),
        classes: student.classes.clone(),
        input: Input { side: net.input as u32, format: "uint8 RGB NHWC".into() },
        files,
        thresholds: student.thresholds.clone(),
        lineage: student.lineage.clone(),
        reference: None,
        scorecard: Some(student.scorecard.clone()),
    };
    manifest.write(draft.path())?;
    let pictures: Vec<Vec<u8>> = pictures.iter().map(|p| p.to_vec()).collect();
    reference::write(draft.path(), &pictures)?;
    let manifest = Manifest::read(draft.path())?;
    draft.replace().with_context(|| folder.display().to_string())?; // an earlier run's goes
    Ok(manifest)
}

/// Largest probability difference to the trained network, and the share of pictures with the same class.
fn compare(onnx: &[u8], pictures: &[&[u8]], trained: &[Vec<f32>], temperature: f32) -> anyhow::Result<(f64, f64)> {
    let mut engine = Engine::open(onnx, Device::Cpu, 0)?;
    let (mut apart, mut same) = (0f64, 0);
    for (chunk, trained_rows) in pictures.chunks(16).zip(trained.chunks(16)) {
        let owned: Vec<Vec<u8>> = chunk.iter().map(|p| p.to_vec()).collect();
        let outputs = engine.run_all(&owned, 16)?;
        for (row, trained_row) in outputs.logits.rows().into_iter().zip(trained_rows) {
            let found = softmax(&row.to_vec(), temperature);
            same += usize::from(argmax(&found) == argmax(trained_row));
            apart = found.iter().zip(trained_row).map(|(a, b)| f64::from((a - b).abs())).fold(apart, f64::max);
        }
    }
    Ok((apart, same as f64 / trained.len().max(1) as f64))
}
