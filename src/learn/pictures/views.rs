//! What the trained part of a network sees: fresh views of the pictures, or cached outputs of its frozen part.
//!
//! Invariant: a view depends on (seed, kind of view, picture, pass) only; the frozen part never moves, so its outputs for
//! a fixed set of views are computed once, and for every run that shares it.

use std::collections::BTreeMap;

use beltsight::{network::onnx, student::engine::Trunk};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor, no_grad};

use crate::{
    network::model::{Model, from_host, to_batch},
    pictures::augment::{StrongAugmentation, WeakAugmentation, strong_view, weak_view},
    random::generator,
};

const CHUNK: usize = 16;
/// A GPU is idle most of the time with fewer.
const CHUNK_ON_GPU: usize = 256;

/// How a picture is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// As it is.
    Plain,
    /// Moved a little.
    Weak,
    /// FixMatch's strong view.
    Strong,
    /// Noisy Student's input noise.
    Noisy,
}

/// One showing of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PicturePass {
    /// Its index.
    pub picture: usize,
    /// How often it was shown before.
    pub pass: usize,
}

/// Draws views of pictures of `side * side * 3` bytes.
#[derive(Clone, Copy, Debug)]
pub struct Augmenter<'a> {
    /// The pictures.
    pub pictures: &'a [Vec<u8>],
    /// Side in pixels.
    pub side: usize,
    /// How far weak views stray.
    pub weak: WeakAugmentation,
    /// Seed of the views.
    pub seed: u64,
}

impl Augmenter<'_> {
    /// The picture as `view` shows it at a pass.
    pub fn draw(&self, view: View, showing: PicturePass) -> Vec<u8> {
        let picture = &self.pictures[showing.picture];
        // Kinds are drawn independently: a strong view is moved otherwise than the weak one of the same pass.
        let kind = match view {
            View::Plain | View::Weak => 0,
            View::Strong => 1 << 32,
            View::Noisy => 2 << 32,
        };
        let mut rng = generator(self.seed, showing.pass as u64, showing.picture as u64 | kind);
        match view {
            View::Plain => picture.clone(),
            View::Weak => weak_view(picture, self.side, self.weak, &mut rng),
            View::Strong => strong_view(picture, self.side, self.weak, &StrongAugmentation::FIXMATCH, &mut rng),
            View::Noisy => strong_view(picture, self.side, self.weak, &StrongAugmentation::NOISY_STUDENT, &mut rng),
        }
    }

    /// Several of them, in parallel.
    pub fn draw_all(&self, view: View, showings: &[PicturePass]) -> Vec<Vec<u8>> {
        showings.par_iter().map(|&showing| self.draw(view, showing)).collect()
    }
}

/// Inputs of the trained part.
#[derive(Debug)]
pub enum ViewSource<'a> {
    /// The whole network is trained: a new view at every pass.
    Fresh(Augmenter<'a>),
    /// Part of the network is frozen: some views per picture went through it.
    Cached(BTreeMap<View, ViewCache>),
}

/// Outputs of the frozen part.
#[derive(Debug)]
pub struct ViewCache {
    /// `[pictures * each, …]`, all views of a picture together.
    values: Tensor,
    /// Views per picture.
    each: usize,
}

impl ViewCache {
    fn rows(&self, rows: impl Iterator<Item = usize>) -> Tensor {
        self.values.index_select(0, &Tensor::from_slice(&rows.map(|i| i as i64).collect::<Vec<_>>()))
    }

    fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        Self { values: change(&self.values), each: self.each }
    }
}

/// What the blocks before `cut` give for plain pictures: activations, or embeddings `[n, features]` after the last
/// block. ONNX Runtime computes it, in float32: on a CPU it needs a third of libtorch's time; a model on a GPU runs there.
/// `tick` hears of every picture; false stops.
///
/// # Errors
/// ONNX Runtime's; `Ok(None)` when stopped.
pub fn through_trunk(
    model: &Model,
    cut: usize,
    pictures: &[Vec<u8>],
    mut tick: impl FnMut(usize) -> bool,
) -> anyhow::Result<Option<Tensor>> {
    let side = model.net.input;
    let mut parts = Vec::new();
    if model.device().is_cuda() {
        for chunk in pictures.chunks(CHUNK_ON_GPU) {
            parts.push(no_grad(|| model.blocks(&to_tensor(chunk, side), 0..cut, None)).to_device(Device::Cpu));
            if !tick(chunk.len()) {
                return Ok(None);
            }
        }
        return Ok(Some(Tensor::cat(&parts, 0)));
    }
    let weights = model.weights().into_iter().map(|(n, (shape, data))| (n, onnx::Tensor { shape, data })).collect();
    let mut trunk = Trunk::open(&onnx::export_trunk(&model.net, &weights, cut)?, side)?;
    for chunk in pictures.chunks(CHUNK) {
        parts.push(from_host(&trunk.run(chunk)?));
        if !tick(chunk.len()) {
            return Ok(None);
        }
    }
    let all = Tensor::cat(&parts, 0);
    Ok(Some(if cut == model.net.blocks.len() { all.flatten(1, 3) } else { all }))
}

impl<'a> ViewSource<'a> {
    /// Sends `each` views of every kind in `kinds`, and the plain pictures, through the blocks before `cut`.
    ///
    /// # Errors
    /// As [`through_trunk`].
    pub fn cached(
        model: &Model,
        cut: usize,
        augmenter: &Augmenter,
        (kinds, each): (&[View], usize),
        mut tick: impl FnMut(usize) -> bool,
    ) -> anyhow::Result<Option<ViewSource<'a>>> {
        let mut caches = BTreeMap::new();
        for &kind in [View::Plain].iter().chain(kinds) {
            let each = if kind == View::Plain { 1 } else { each };
            let showings: Vec<PicturePass> = (0..augmenter.pictures.len())
                .flat_map(|picture| (0..each).map(move |pass| PicturePass { picture, pass }))
                .collect();
            let mut parts = Vec::new();
            for chunk in showings.chunks(512) {
                match through_trunk(model, cut, &augmenter.draw_all(kind, chunk), &mut tick)? {
                    Some(part) => parts.push(part),
                    None => return Ok(None),
                }
            }
            caches.insert(kind, ViewCache { values: Tensor::cat(&parts, 0), each });
        }
        Ok(Some(ViewSource::Cached(caches)))
    }

    /// Activations made elsewhere, `[pictures, …]` plain and `[pictures * each, …]` for weak views.
    pub fn precomputed(plain: Tensor, weak: Tensor, each: usize) -> ViewSource<'static> {
        ViewSource::Cached(
            [(View::Plain, ViewCache { values: plain, each: 1 }), (View::Weak, ViewCache { values: weak, each })]
                .into(),
        )
    }

    /// Views of some pictures.
    ///
    /// Cached ones come round again; pictures start at different views, so that every batch holds a mixture.
    pub fn batch(&self, view: View, showings: &[PicturePass]) -> Tensor {
        match self {
            ViewSource::Fresh(augmenter) => to_tensor(&augmenter.draw_all(view, showings), augmenter.side),
            ViewSource::Cached(caches) => {
                let cache = &caches[&view];
                cache.rows(showings.iter().map(|p| p.picture * cache.each + (p.picture + p.pass) % cache.each))
            }
        }
    }

    /// The unchanged pictures at `indices`.
    pub fn plain(&self, indices: &[usize]) -> Tensor {
        let showings: Vec<PicturePass> = indices.iter().map(|&picture| PicturePass { picture, pass: 0 }).collect();
        self.batch(View::Plain, &showings)
    }

    /// Cached embeddings scaled to mean 0 and deviation 1 over the views of kind `view` of `pictures`, and the scale.
    ///
    /// Only embeddings `[n, features]` can be scaled: other views come back as `None`.
    pub fn standardised(&self, pictures: &[usize], view: View) -> Option<(ViewSource<'a>, FeatureScaling)> {
        let ViewSource::Cached(caches) = self else { return None };
        let cache = caches.get(&view)?;
        if cache.values.dim() != 2 {
            return None;
        }
        let embeddings = cache.rows(pictures.iter().flat_map(|&i| i * cache.each..(i + 1) * cache.each));
        let mean = embeddings.mean_dim(0i64, false, None);
        let std = embeddings.std_dim(0i64, false, false).clamp_min(1e-3);
        let caches = caches.iter().map(|(&view, cache)| (view, cache.map(|x| (x - &mean) / &std))).collect();
        Some((ViewSource::Cached(caches), FeatureScaling { mean, std }))
    }
}

/// Pictures of `side * side * 3` bytes → uint8 `[n, side, side, 3]`.
pub fn to_tensor(pictures: &[Vec<u8>], side: usize) -> Tensor {
    to_batch(&pictures.iter().map(Vec::as_slice).collect::<Vec<_>>(), side)
}

/// Mean and deviation per feature, `[features]` each.
#[derive(Debug)]
pub struct FeatureScaling {
    mean: Tensor,
    std: Tensor,
}

impl FeatureScaling {
    /// The reverse of [`FeatureScaling::fold_into`]: `W σ`, `b + W μ`.
    pub fn take_out_of(&self, model: &mut Model) {
        no_grad(|| {
            let (mean, std) = (self.mean.to_device(model.device()), self.std.to_device(model.device()));
            let weight = &model.params["head.weight"] * std;
            let bias = &model.params["head.bias"] + model.params["head.weight"].matmul(&mean);
            model.params.insert("head.weight".into(), weight);
            model.params.insert("head.bias".into(), bias);
        });
    }

    /// Turns a head for scaled embeddings into the equal head for raw ones: `W/σ`, `b − (W/σ) μ`.
    pub fn fold_into(&self, model: &mut Model) {
        no_grad(|| {
            let (mean, std) = (self.mean.to_device(model.device()), self.std.to_device(model.device()));
            let weight = &model.params["head.weight"] / std;
            let bias = &model.params["head.bias"] - weight.matmul(&mean);
            model.params.insert("head.weight".into(), weight);
            model.params.insert("head.bias".into(), bias);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use beltsight::network;
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn a_folded_head_says_the_same_of_raw_embeddings() {
        tch::manual_seed(1);
        let float = (Kind::Float, Device::Cpu);
        let mut model = Model::random(&network::by_name("small", None).unwrap(), 3, 1);
        model.params.insert("head.weight".into(), Tensor::randn([3, 128], float));
        let raw = Tensor::randn([6, 128], float) * 3.0 + 1.0;
        let cache = ViewCache { values: raw.shallow_clone(), each: 1 };
        let (scaled, scale) =
            ViewSource::Cached([(View::Plain, cache)].into()).standardised(&[0, 1, 2, 3], View::Plain).unwrap();
        let wanted = model.head(&scaled.plain(&[4, 5]), None);
        scale.fold_into(&mut model);
        let found = model.head(&raw.narrow(0, 4, 2), None);
        assert!((wanted - found).abs().max().double_value(&[]) < 1e-4);
    }

    #[test]
    fn cached_views_are_the_frozen_part_of_the_same_views() {
        let model = Model::random(&network::by_name("small", None).unwrap(), 3, 1);
        let pictures: Vec<Vec<u8>> =
            (0..3).map(|p| (0..64 * 64 * 3).map(|i| ((i * 7 + p * 40) % 256) as u8).collect()).collect();
        let augmenter = Augmenter { pictures: &pictures, side: 64, weak: WeakAugmentation::PHOTO, seed: 9 };
        let kinds = [View::Weak, View::Strong];
        let cached = ViewSource::cached(&model, 4, &augmenter, (&kinds, 2), |_| true).unwrap().unwrap();
        for kind in kinds {
            // Picture 1 starts at view 1: pass 1 shows it view 0 again, as `Fresh` does in pass 0.
            let wanted = model.blocks(
                &ViewSource::Fresh(augmenter).batch(kind, &[PicturePass { picture: 1, pass: 0 }]),
                0..4,
                None,
            );
            let found = cached.batch(kind, &[PicturePass { picture: 1, pass: 1 }]);
            assert!((wanted - found).abs().max().double_value(&[]) < 1e-4);
        }
        assert!(ViewSource::cached(&model, 4, &augmenter, (&kinds, 2), |_| false).unwrap().is_none());
    }
}
