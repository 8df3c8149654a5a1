//! What a student was trained on, in its own words: a centre per class among its embeddings, and how far from them its
//! training pictures lie, how bright and sharp they are. Belt items that lie farther are new to it: that is drift.
//!
//! Invariant: written with the graph that serves, so that serving measures with the same ruler.

use std::path::Path;

use crate::{
    domain::{Reference, Spread, hash::sha256},
    files,
    picture::pixels,
    statistics::limit::exceeded_by,
    student::{
        engine::{Device, Engine},
        manifest::{Manifest, ModelError, Named},
    },
};

/// File name inside the model folder.
const FILE: &str = "reference.json";
/// Share of the training pictures that lie within the edge.
const WITHIN: f64 = 0.95;

/// A labeled picture: `side * side * 3` RGB bytes, and the index of its class.
pub type LabeledPicture = (Vec<u8>, usize);

/// Measures the serving graph of the model in `folder` on what it learned from, `learned`, and on what it did not,
/// `held_out`; writes `reference.json` there, and names it and the limit to the unknown in the manifest. Of good ones like
/// those of `held_out` the share `false_diverts` lies beyond that limit; without two of them there is none.
///
/// Labeled pictures only: among those that nobody looked at, a foreign kind that is frequent would become a known one.
///
/// # Errors
/// [`ModelError`].
pub fn write(
    folder: &Path,
    learned: &[LabeledPicture],
    held_out: &[LabeledPicture],
    false_diverts: f64,
) -> Result<Reference, ModelError> {
    let mut manifest = Manifest::read(folder)?;
    let onnx = manifest.onnx(folder, &manifest.serve)?;
    let path = folder.join(FILE);
    let refuse = |why: String| ModelError::Read { path: path.clone(), why };
    let engine = |source| ModelError::Engine { path: path.clone(), source };
    let mut opened = Engine::open(&onnx, Device::Cpu, 0).map_err(engine)?;
    let mut embeddings = |pictures: &[LabeledPicture]| -> Result<Vec<(Vec<f32>, usize)>, ModelError> {
        let mut rows = Vec::new();
        for some in pictures.chunks(64) {
            let (pixels, classes): (Vec<_>, Vec<_>) = some.iter().cloned().unzip();
            let outputs = opened.run_all(&pixels, 8).map_err(engine)?;
            rows.extend(outputs.embedding.rows().into_iter().map(|row| row.to_vec()).zip(classes));
        }
        Ok(rows)
    };
    let measured = measure(manifest.classes.len(), &embeddings(learned)?);
    let optics: Vec<_> = learned.iter().map(|(pixels, _)| pixels::optics(pixels, manifest.input.side)).collect();
    let reference = Reference {
        brightness: spread(optics.iter().map(|o| o.brightness)),
        sharpness: spread(optics.iter().map(|o| o.sharpness)),
        ..measured
    };
    let good = |class: usize| manifest.thresholds.accept.contains(&manifest.classes[class]);
    let strange = embeddings(held_out)?.into_iter().filter(|(_, class)| good(*class));
    let strange: Vec<f32> = strange.filter_map(|(embedding, _)| reference.novelty(&embedding)).collect();
    let text = serde_json::to_vec(&reference).map_err(|e| refuse(e.to_string()))?;
    files::write(&path, &text).map_err(|e| refuse(e.to_string()))?;
    manifest.reference = Some(Named { name: FILE.into(), sha256: sha256(&text) });
    manifest.thresholds.unknown_from = exceeded_by(&strange, false_diverts);
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

/// A centre per class that has pictures, in the order of the classes, and the edge around them.
fn measure(classes: usize, embeddings: &[(Vec<f32>, usize)]) -> Reference {
    let units: Vec<(Vec<f32>, usize)> = embeddings.iter().map(|(e, class)| (Reference::unit(e), *class)).collect();
    let mut reference = Reference { edge: 1.0, ..Reference::default() };
    for class in 0..classes {
        let members: Vec<&Vec<f32>> = units.iter().filter(|(_, of)| *of == class).map(|(unit, _)| unit).collect();
        let Some(first) = members.first() else { continue };
        let mut centre = vec![0.0; first.len()];
        for member in &members {
            centre.iter_mut().zip(*member).for_each(|(c, m)| *c += m / members.len() as f32);
        }
        reference.centres.push(centre);
    }
    let mut distances: Vec<f32> = embeddings.iter().filter_map(|(e, _)| reference.novelty(e)).collect();
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
        let embeddings: Vec<(Vec<f32>, usize)> =
            (0..200).map(|i| if i % 2 == 0 { (vec![3.0, spread(i)], 0) } else { (vec![spread(i), 5.0], 1) }).collect();
        let reference = measure(3, &embeddings);
        assert_eq!(reference.centres.len(), 2, "of the third class there is no picture");
        let novelty = |e: &[f32]| reference.novelty(e).unwrap_or(f32::NAN);
        let inside = embeddings.iter().filter(|(e, _)| novelty(e) <= 1.0).count();
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
