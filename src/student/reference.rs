//! What a student was trained on, in its own words: a centre per class among its embeddings, and how far from them its
//! training pictures lie, how bright and sharp they are. Belt items that lie farther are new to it: that is drift.
//!
//! Invariant: written with the graph that serves, so that serving measures with the same ruler.

use std::path::Path;

use crate::{
    domain::{Reference, Spread, hash::sha256},
    files,
    picture::pixels,
    student::{
        engine::{Device, Engine},
        manifest::{Manifest, ModelError, Named},
        scorecard::argmax,
    },
};

/// File name inside the model folder.
const FILE: &str = "reference.json";
/// Share of the training pictures that lie within the edge.
const WITHIN: f64 = 0.95;

/// Measures the serving graph of the model in `folder` on `pictures` (`side * side * 3` RGB bytes each), writes
/// `reference.json` there and names it in the manifest.
///
/// # Errors
/// [`ModelError`].
pub fn write(folder: &Path, pictures: &[Vec<u8>]) -> Result<Reference, ModelError> {
    let mut manifest = Manifest::read(folder)?;
    let onnx = manifest.onnx(folder, &manifest.serve)?;
    let path = folder.join(FILE);
    let refuse = |why: String| ModelError::Read { path: path.clone(), why };
    let outputs = Engine::open(&onnx, Device::Cpu, 0)
        .and_then(|mut engine| engine.run_all(pictures, 8))
        .map_err(|source| ModelError::Engine { path: path.clone(), source })?;
    let rows = |matrix: &ndarray::Array2<f32>| matrix.rows().into_iter().map(|row| row.to_vec()).collect::<Vec<_>>();
    let measured = measure(&rows(&outputs.logits), &rows(&outputs.embedding));
    let optics: Vec<_> = pictures.iter().map(|pixels| pixels::optics(pixels, manifest.input.side)).collect();
    let reference = Reference {
        brightness: spread(optics.iter().map(|o| o.brightness)),
        sharpness: spread(optics.iter().map(|o| o.sharpness)),
        ..measured
    };
    let text = serde_json::to_vec(&reference).map_err(|e| refuse(e.to_string()))?;
    files::write(&path, &text).map_err(|e| refuse(e.to_string()))?;
    manifest.reference = Some(Named { name: FILE.into(), sha256: sha256(&text) });
    manifest.write(folder)?;
    Ok(reference)
}

/// `None` of nothing, or where all are alike: nothing can be measured in deviations then.
fn spread(values: impl Iterator<Item = f32> + Clone) -> Option<Spread> {
    let n = values.clone().count() as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / n;
    let variance = values.map(|value| (f64::from(value) - mean).powi(2)).sum::<f64>() / n;
    (variance > 0.0).then_some(Spread { mean: mean as f32, deviation: variance.sqrt() as f32 })
}

/// Centres by the class that the student itself names, in the order of the classes it names at all.
fn measure(logits: &[Vec<f32>], embeddings: &[Vec<f32>]) -> Reference {
    let classes = logits.first().map_or(0, Vec::len);
    let said: Vec<usize> = logits.iter().map(|row| argmax(row)).collect();
    let units: Vec<Vec<f32>> = embeddings.iter().map(|e| Reference::unit(e)).collect();
    let mut reference = Reference { centres: Vec::new(), edge: 1.0, brightness: None, sharpness: None };
    for class in 0..classes {
        let members: Vec<&Vec<f32>> = units.iter().zip(&said).filter(|(_, s)| **s == class).map(|(u, _)| u).collect();
        let Some(first) = members.first() else { continue };
        let mut centre = vec![0.0; first.len()];
        for member in &members {
            centre.iter_mut().zip(*member).for_each(|(c, m)| *c += m / members.len() as f32);
        }
        reference.centres.push(centre);
    }
    let mut distances: Vec<f32> = embeddings.iter().filter_map(|e| reference.novelty(e)).collect();
    distances.sort_by(f32::total_cmp);
    let place = ((distances.len() as f64 * WITHIN) as usize).min(distances.len().saturating_sub(1));
    reference.edge = distances.get(place).copied().filter(|edge| *edge > 0.0).unwrap_or(1.0);
    reference
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_pictures_lie_within_the_edge_and_a_stranger_beyond() {
        // Two classes around (1, 0) and (0, 1), a little spread.
        let spread = |i: usize| i as f32 / 1000.0;
        let embeddings: Vec<Vec<f32>> =
            (0..200).map(|i| if i % 2 == 0 { vec![3.0, spread(i)] } else { vec![spread(i), 5.0] }).collect();
        let logits: Vec<Vec<f32>> = (0..200).map(|i| vec![(i % 2) as f32, 0.5, -9.0]).collect();
        let reference = measure(&logits, &embeddings);
        assert_eq!(reference.centres.len(), 2, "nothing was ever called the third class");
        let novelty = |e: &[f32]| reference.novelty(e).unwrap_or(f32::NAN);
        let inside = embeddings.iter().filter(|e| novelty(e) <= 1.0).count();
        assert!((186..=194).contains(&inside), "{inside} of 200 lie within the 95 % edge");
        assert!(novelty(&[-1.0, -1.0]) > 10.0);
        assert_eq!(reference.novelty(&[1.0]), None, "an embedding of another width");
        assert_eq!(reference.novelty(&[f32::NAN, 1.0]), None);
    }

    #[test]
    fn a_reference_of_before_still_loads_and_a_spread_needs_values_that_differ() {
        let old: Reference =
            serde_json::from_str(r#"{"centres": [[1.0, 0.0]], "edge": 0.5}"#).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((old.edge, old.brightness, old.sharpness), (0.5, None, None));
        assert_eq!(spread([0.2, 0.4].into_iter()), Some(Spread { mean: 0.3, deviation: 0.1 }));
        assert_eq!((spread([0.2, 0.2].into_iter()), spread(std::iter::empty())), (None, None));
    }
}
