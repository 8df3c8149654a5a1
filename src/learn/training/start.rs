//! A student that a training goes on from: its network, its weights with their head, and its classes.
//!
//! Invariant: the network that comes out computes what the student's float32 graph computes.

use std::{collections::BTreeSet, path::Path};

use anyhow::Context;
use beltsight::{
    domain::{Thresholds, hash::sha256},
    network::{self as architectures, Net, onnx},
    student::manifest::Manifest,
};
use tch::{Tensor, no_grad};

use crate::network::{
    model::{Model, from_host},
    weights::Weights,
};

/// What a picture of `side * side * 3` bytes is known by among those that were learned: 64 bits of its hash.
pub fn picture_hash(picture: &[u8]) -> String {
    sha256(picture).chars().take(16).collect()
}

/// A student read back from its model folder.
#[derive(Debug)]
pub struct StartStudent {
    /// Its version.
    pub version: String,
    /// Its network.
    pub net: Net,
    /// Its classes, in the order of its logits.
    pub classes: Vec<String>,
    /// How its scores become decisions.
    pub thresholds: Thresholds,
    /// Hashes of the pictures whose labels it learned (see [`picture_hash`]); none where nobody noted them.
    pub learned: Option<BTreeSet<String>>,
    /// Hash of the float32 graph.
    pub sha256: String,
    weights: Weights,
}

impl StartStudent {
    /// Reads `folder`.
    ///
    /// # Errors
    /// When it is no model folder, holds no float32 graph, or its graph is of no network that is known here.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let manifest = Manifest::read(folder)?;
        let name = &manifest.lineage.net;
        let net = architectures::by_name(name, Some(manifest.input.side as usize)).with_context(|| {
            format!("{} is of the network `{name}`; known are {:?}", folder.display(), architectures::NAMES)
        })?;
        let graph = manifest.onnx(folder, "float32")?;
        let (weights, _) = onnx::read(&net, &graph).with_context(|| format!("{} as {name}", folder.display()))?;
        let learned = manifest.read_learned(folder)?;
        Ok(Self {
            version: manifest.version,
            net,
            classes: manifest.classes,
            thresholds: manifest.thresholds,
            learned,
            sha256: manifest.files["float32"].sha256.clone(),
            weights: weights.into_iter().map(|(name, tensor)| (name, (tensor.shape, tensor.data))).collect(),
        })
    }

    /// Whether it learned the label of `picture`.
    pub fn learned(&self, picture: &[u8]) -> bool {
        self.learned.as_ref().is_some_and(|learned| learned.contains(&picture_hash(picture)))
    }

    /// Places of its classes among `classes`, which has all of them.
    pub fn known(&self, classes: &[String]) -> Vec<usize> {
        self.classes.iter().filter_map(|class| classes.iter().position(|other| other == class)).collect()
    }

    /// Its network with a head for `classes`: a class that it knows keeps its row, another one begins at zero.
    ///
    /// # Errors
    /// When its weights do not fit its network.
    pub fn model(&self, classes: &[String]) -> Result<Model, String> {
        let mut model = Model::pretrained(&self.net, classes.len(), &self.weights)?;
        for part in ["head.weight", "head.bias"] {
            let values = from_host(self.weights.get(part).ok_or_else(|| format!("`{part}` is missing"))?);
            let places = Tensor::from_slice(&self.known(classes).iter().map(|&c| c as i64).collect::<Vec<_>>());
            let head = no_grad(|| model.params[part].index_copy(0, &places, &values));
            model.params.insert(part.into(), head);
        }
        Ok(model)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use beltsight::student::engine::{Device, Engine};

    use super::*;
    use crate::{
        network::model::{Noise, rows, to_batch},
        random::generator,
    };

    #[test]
    fn the_shipped_student_read_back_says_what_its_graph_says_and_a_new_class_begins_at_zero() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/belt-small");
        let student = StartStudent::read(&folder).unwrap();
        let side = student.net.input;
        let pictures: Vec<Vec<u8>> =
            (0..6).map(|p| (0..side * side * 3).map(|i| ((i * (2 * p + 3) + p * 31) % 251) as u8).collect()).collect();
        let graph = Manifest::read(&folder).unwrap().onnx(&folder, "float32").unwrap();
        let wanted = Engine::open(&graph, Device::Cpu, 1).unwrap().run_all(&pictures, 6).unwrap().logits;

        let classes = ["eel", "flounder", "herring", "mackerel", "salmon", "sea_bass"].map(String::from);
        let views: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        let mut model = student.model(&classes).unwrap();
        let read_back = model.logits(&views);
        model.unfold_norms(&views);
        let unfolded = model.logits(&views);
        for (found, wanted) in read_back.iter().zip(wanted.rows()).chain(unfolded.iter().zip(wanted.rows())) {
            assert_eq!(found[0], 0.0, "the new class");
            let apart = found[1..].iter().zip(wanted).map(|(a, b)| (a - f64::from(*b)).abs());
            assert!(apart.fold(0.0, f64::max) < 1e-3, "{found:?}, {wanted:?}");
        }
        // In training mode, on the same pictures, BatchNorm now sees the statistics that it expects.
        let mut noise = Noise { rng: generator(1, 2, 3), dropout: 0.0, survival: 1.0 };
        let training = rows(&no_grad(|| model.forward(&to_batch(&views, side), 0, Some(&mut noise)).1));
        for (found, wanted) in training.iter().zip(unfolded) {
            let apart = found.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs());
            assert!(apart.fold(0.0, f64::max) < 1e-2, "{found:?}");
        }
        assert_eq!(student.known(&classes), [1, 2, 3, 4, 5]);
    }
}
