//! What the trained part of a network sees: fresh views of the pictures, or cached outputs of its frozen part.
//!
//! Invariant: a view depends on (seed, kind of view, content of the picture, pass) only; the frozen part never moves, so
//! its outputs for a fixed set of views are computed once, for every run and round that asks for them.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    rc::Rc,
};

use anyhow::Context;
use beltsight::{network::onnx, picture::dataset::DataError, student::engine::Trunk};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    network::model::{Model, from_host, to_batch},
    pictures::{
        augment::{StrongAugmentation, WeakAugmentation, strong_view, weak_view},
        feature_cache::{FeatureCache, FeatureRows, Hash, Key},
        picture_set::PictureSet,
    },
    random::generator,
};

const CHUNK: usize = 16;
/// A GPU is idle most of the time with fewer.
const CHUNK_ON_GPU: usize = 256;
/// Views that are drawn, and rows that are read, at a time.
const DRAWN: usize = 512;
/// Part of every key of the feature cache: to be raised when views or fitting change.
const VIEWS_VERSION: &str = "views 1";

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

/// Draws views of pictures.
#[derive(Clone, Copy, Debug)]
pub struct Augmenter<'a> {
    /// The pictures.
    pub pictures: &'a PictureSet,
    /// How far weak views stray.
    pub weak: WeakAugmentation,
    /// Seed of the views.
    pub seed: u64,
}

impl Augmenter<'_> {
    /// The picture as `view` shows it at a pass.
    ///
    /// # Errors
    /// When it can't be read or decoded.
    pub fn draw(&self, view: View, showing: PicturePass) -> Result<Vec<u8>, DataError> {
        let (picture, side) = (self.pictures.get(showing.picture)?, self.pictures.side());
        // Kinds are drawn independently: a strong view is moved otherwise than the weak one of the same pass.
        let kind: u64 = match view {
            View::Plain | View::Weak => 0,
            View::Strong => 1 << 62,
            View::Noisy => 2 << 62,
        };
        let (content, _) = self.pictures.key(showing.picture).split_at(8);
        let content = content.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)) & !(3 << 62);
        let mut rng = generator(self.seed, showing.pass as u64, content | kind);
        Ok(match view {
            View::Plain => picture,
            View::Weak => weak_view(&picture, side, self.weak, &mut rng),
            View::Strong => strong_view(&picture, side, self.weak, &StrongAugmentation::FIXMATCH, &mut rng),
            View::Noisy => strong_view(&picture, side, self.weak, &StrongAugmentation::NOISY_STUDENT, &mut rng),
        })
    }

    /// Several of them, in parallel.
    ///
    /// # Errors
    /// As [`Augmenter::draw`].
    pub fn draw_all(&self, view: View, showings: &[PicturePass]) -> Result<Vec<Vec<u8>>, DataError> {
        showings.par_iter().map(|&showing| self.draw(view, showing)).collect()
    }

    /// What a view shows, whatever the picture's index.
    fn key(&self, view: View, showing: PicturePass) -> Key {
        let drawn = match view {
            View::Plain => String::new(), // nothing is drawn
            _ => format!("{} {} {:?}", self.seed, showing.pass, self.weak),
        };
        let mut all = Sha256::new();
        all.update(self.pictures.key(showing.picture));
        all.update(format!("{VIEWS_VERSION} {view:?} {drawn}"));
        let mut key = [0; 16];
        key.copy_from_slice(&all.finalize()[..16]);
        key
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
#[derive(Clone, Debug)]
pub struct ViewCache {
    /// `[pictures * each, …]`, all views of a picture together.
    values: Rc<Values>,
    /// Views per picture.
    each: usize,
    scaling: Option<Rc<FeatureScaling>>,
}

#[derive(Debug)]
enum Values {
    InMemory(Tensor),
    OnDisk(FeatureRows),
}

impl ViewCache {
    fn rows(&self, rows: impl Iterator<Item = usize>) -> Tensor {
        let raw = match &*self.values {
            Values::InMemory(all) => {
                all.index_select(0, &Tensor::from_slice(&rows.map(|i| i as i64).collect::<Vec<_>>()))
            }
            Values::OnDisk(all) => all.read(rows),
        };
        match &self.scaling {
            Some(scaling) => (raw - &scaling.mean) / &scaling.std,
            None => raw,
        }
    }

    /// Whether a row is an embedding.
    fn is_flat(&self) -> bool {
        match &*self.values {
            Values::InMemory(all) => all.dim() == 2,
            Values::OnDisk(all) => all.is_flat(),
        }
    }

    /// Mean and deviation over the views of `pictures`, read a few at a time.
    fn scaling(&self, pictures: &[usize]) -> FeatureScaling {
        let mut sums: Option<(Tensor, Tensor)> = None;
        for chunk in pictures.chunks(DRAWN) {
            let rows = self.rows(chunk.iter().flat_map(|&i| i * self.each..(i + 1) * self.each)).to_kind(Kind::Double);
            let sum = |rows: &Tensor| rows.sum_dim_intlist(0i64, false, Kind::Double);
            let (once, squared) = (sum(&rows), sum(&(&rows * &rows)));
            sums = Some(match sums {
                Some((one, other)) => (one + once, other + squared),
                None => (once, squared),
            });
        }
        let zero = || Tensor::zeros([1], (Kind::Double, Device::Cpu));
        let (once, squared) = sums.unwrap_or_else(|| (zero(), zero()));
        let count = (pictures.len() * self.each).max(1) as f64;
        let mean = once / count;
        let std = (squared / count - &mean * &mean).clamp_min(0.0).sqrt();
        FeatureScaling { mean: mean.to_kind(Kind::Float), std: std.to_kind(Kind::Float).clamp_min(1e-3) }
    }
}

/// The blocks of a network before `cut`, opened once: activations of plain pictures, or embeddings `[n, features]` after
/// the last block. ONNX Runtime computes it, in float32: on a CPU it needs a third of libtorch's time; a model on a GPU
/// runs there.
pub struct FrozenTrunk<'a> {
    model: &'a Model,
    cut: usize,
    /// None on a GPU.
    session: Option<Trunk>,
}

impl<'a> FrozenTrunk<'a> {
    /// Opens it.
    ///
    /// # Errors
    /// ONNX Runtime's.
    pub fn open(model: &'a Model, cut: usize) -> anyhow::Result<Self> {
        if model.device().is_cuda() {
            return Ok(Self { model, cut, session: None });
        }
        let weights = model.weights().into_iter().map(|(n, (shape, data))| (n, onnx::Tensor { shape, data })).collect();
        let session = Trunk::open(&onnx::export_trunk(&model.net, &weights, cut)?, model.net.input)?;
        Ok(Self { model, cut, session: Some(session) })
    }

    /// Its outputs. `tick` hears of every picture; false stops.
    ///
    /// # Errors
    /// ONNX Runtime's; `Ok(None)` when stopped.
    pub fn run(&mut self, pictures: &[Vec<u8>], mut tick: impl FnMut(usize) -> bool) -> anyhow::Result<Option<Tensor>> {
        let side = self.model.net.input;
        let mut parts = Vec::new();
        for chunk in pictures.chunks(if self.session.is_some() { CHUNK } else { CHUNK_ON_GPU }) {
            parts.push(match &mut self.session {
                Some(session) => from_host(&session.run(chunk)?),
                None => {
                    no_grad(|| self.model.blocks(&to_tensor(chunk, side), 0..self.cut, None)).to_device(Device::Cpu)
                }
            });
            if !tick(chunk.len()) {
                return Ok(None);
            }
        }
        let all = Tensor::cat(&parts, 0);
        let pooled = self.cut == self.model.net.blocks.len();
        Ok(Some(if pooled && all.dim() == 4 { all.flatten(1, 3) } else { all }))
    }

    /// What its outputs depend on besides the picture.
    fn hash(&self) -> Hash {
        let net = &self.model.net;
        let mut all = Sha256::new();
        all.update(format!("{net:?} {} {}", self.cut, self.session.is_none()));
        let trained: Vec<String> =
            net.blocks[self.cut..].iter().flat_map(|block| block.names()).map(|name| format!("{name}.")).collect();
        for (name, (_, values)) in self.model.weights() {
            if !name.starts_with("head.") && !trained.iter().any(|block| name.starts_with(block)) {
                all.update(&name);
                values.iter().for_each(|value| all.update(value.to_le_bytes()));
            }
        }
        all.finalize().into()
    }
}

/// What the blocks before `cut` give for plain pictures: see [`FrozenTrunk`].
///
/// # Errors
/// ONNX Runtime's; `Ok(None)` when stopped.
pub fn through_trunk(
    model: &Model,
    cut: usize,
    pictures: &[Vec<u8>],
    tick: impl FnMut(usize) -> bool,
) -> anyhow::Result<Option<Tensor>> {
    FrozenTrunk::open(model, cut)?.run(pictures, tick)
}

impl<'a> ViewSource<'a> {
    /// Sends `each` views of every kind in `kinds`, and the plain pictures, through `trunk`, and keeps what it gives in
    /// `folder`, of at most `limit` bytes: what is there already is not computed again. `tick` hears of every view.
    ///
    /// # Errors
    /// ONNX Runtime's; a picture's; the system's; `Ok(None)` when stopped.
    pub fn cached(
        mut trunk: FrozenTrunk,
        augmenter: &Augmenter,
        (kinds, each): (&[View], usize),
        (folder, limit): (&Path, u64),
        mut tick: impl FnMut(usize) -> bool,
    ) -> anyhow::Result<Option<ViewSource<'a>>> {
        let shown = |kind: View| {
            let each = if kind == View::Plain { 1 } else { each };
            let showings = (0..augmenter.pictures.len())
                .flat_map(move |picture| (0..each).map(move |pass| PicturePass { picture, pass }));
            (each, showings)
        };
        let kinds: Vec<View> = [View::Plain].into_iter().chain(kinds.iter().copied()).collect();
        let keys: Vec<Vec<Key>> =
            kinds.iter().map(|&kind| shown(kind).1.map(|showing| augmenter.key(kind, showing)).collect()).collect();
        let one = augmenter.draw_all(View::Plain, &[PicturePass { picture: 0, pass: 0 }])?;
        let one = trunk.run(&one, |_| true)?.context("it was not stopped")?;
        let (hash, width) = (trunk.hash(), one.numel());
        let wanted: HashSet<Key> = keys.iter().flatten().copied().collect();
        let mut cache =
            FeatureCache::open(folder, limit, (hash, width), &wanted).with_context(|| folder.display().to_string())?;
        drop(wanted);
        for (&kind, keys) in kinds.iter().zip(&keys) {
            let missing: Vec<(PicturePass, Key)> =
                shown(kind).1.zip(keys.iter().copied()).filter(|(_, key)| !cache.has(key)).collect();
            let known = keys.len() - missing.len();
            if known > 0 && !tick(known) {
                return Ok(None);
            }
            for chunk in missing.chunks(DRAWN) {
                let showings: Vec<PicturePass> = chunk.iter().map(|(showing, _)| *showing).collect();
                let mut go_on = true;
                let rows = trunk.run(&augmenter.draw_all(kind, &showings)?, |n| {
                    go_on = go_on && tick(n);
                    true // what was drawn is kept
                })?;
                let rows = Vec::<f32>::try_from(rows.context("it was not stopped")?.flatten(0, -1))?;
                for ((_, key), row) in chunk.iter().zip(rows.chunks(width)) {
                    cache.add(*key, row.to_vec())?;
                }
                if !go_on {
                    cache.write()?;
                    return Ok(None);
                }
            }
        }
        cache.write()?;
        let caches = kinds.iter().zip(&keys).map(|(&kind, keys)| {
            let values = Rc::new(Values::OnDisk(cache.rows(keys, &one.size()[1..])?));
            Ok((kind, ViewCache { values, each: shown(kind).0, scaling: None }))
        });
        Ok(Some(ViewSource::Cached(caches.collect::<std::io::Result<_>>()?)))
    }

    /// Activations made elsewhere, `[pictures, …]` plain and `[pictures * each, …]` for weak views.
    pub fn precomputed(plain: Tensor, weak: Tensor, each: usize) -> ViewSource<'static> {
        let cache = |values, each| ViewCache { values: Rc::new(Values::InMemory(values)), each, scaling: None };
        ViewSource::Cached([(View::Plain, cache(plain, 1)), (View::Weak, cache(weak, each))].into())
    }

    /// Views of some pictures.
    ///
    /// Cached ones come round again; pictures start at different views, so that every batch holds a mixture.
    ///
    /// # Panics
    /// When the disk no longer gives what this process read or wrote before.
    pub fn batch(&self, view: View, showings: &[PicturePass]) -> Tensor {
        match self {
            ViewSource::Fresh(augmenter) => {
                let drawn = augmenter.draw_all(view, showings);
                to_tensor(&drawn.unwrap_or_else(|e| panic!("a picture was lost: {e}")), augmenter.pictures.side())
            }
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
    pub fn standardised(&self, pictures: &[usize], view: View) -> Option<(ViewSource<'a>, Rc<FeatureScaling>)> {
        let ViewSource::Cached(caches) = self else { return None };
        let cache = caches.get(&view).filter(|cache| cache.is_flat())?;
        let scaling = Rc::new(cache.scaling(pictures));
        let scaled = |cache: &ViewCache| ViewCache { scaling: Some(scaling.clone()), ..cache.clone() };
        Some((ViewSource::Cached(caches.iter().map(|(&view, cache)| (view, scaled(cache))).collect()), scaling))
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
        let source = ViewSource::precomputed(raw.shallow_clone(), raw.shallow_clone(), 1);
        let (scaled, scale) = source.standardised(&[0, 1, 2, 3], View::Plain).unwrap();
        let seen = raw.narrow(0, 0, 4);
        assert!((&scale.mean - seen.mean_dim(0i64, false, Kind::Float)).abs().max().double_value(&[]) < 1e-5);
        assert!((&scale.std - seen.std_dim(0i64, false, false)).abs().max().double_value(&[]) < 1e-5);
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
        let pictures = PictureSet::of(&pictures, 64);
        let augmenter = Augmenter { pictures: &pictures, weak: WeakAugmentation::PHOTO, seed: 9 };
        let kinds = [View::Weak, View::Strong];
        let folder = tempfile::tempdir().unwrap();
        let cached = |augmenter: &Augmenter, tick: &mut dyn FnMut(usize) -> bool| {
            let trunk = FrozenTrunk::open(&model, 4).unwrap();
            ViewSource::cached(trunk, augmenter, (&kinds, 2), (folder.path(), 1 << 30), tick).unwrap()
        };
        assert!(cached(&augmenter, &mut |_| false).is_none());
        let mut segments = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(segments, 1, "what was computed before the stop is kept");
        let source = cached(&augmenter, &mut |_| true).unwrap();
        for kind in kinds {
            // Picture 1 starts at view 1: pass 1 shows it view 0 again, as `Fresh` does in pass 0.
            let wanted = model.blocks(
                &ViewSource::Fresh(augmenter).batch(kind, &[PicturePass { picture: 1, pass: 0 }]),
                0..4,
                None,
            );
            let found = source.batch(kind, &[PicturePass { picture: 1, pass: 1 }]);
            assert!((wanted - found).abs().max().double_value(&[]) < 1e-4);
        }
        // Another round with the same pictures in another order, and one that is new.
        segments = std::fs::read_dir(folder.path()).unwrap().count();
        let reordered = PictureSet::of(&[2, 0, 1].map(|i| pictures.get(i).unwrap()), 64);
        let again = cached(&Augmenter { pictures: &reordered, ..augmenter }, &mut |_| true).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), segments, "nothing was computed again");
        let (one, other) = (source.plain(&[2]), again.plain(&[0]));
        assert_eq!((one - other).abs().max().double_value(&[]), 0.0);
        let seeded = Augmenter { seed: 10, ..augmenter };
        cached(&seeded, &mut |_| true).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), segments + 1, "other views");
    }
}
