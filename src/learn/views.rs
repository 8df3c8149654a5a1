//! What the trained part of a network sees: fresh weak views of the pictures, or cached outputs of its frozen part.
//!
//! Invariant: the frozen part never moves, so its outputs for a fixed set of views are computed once for all folds.

use std::ops::Range;

use rayon::prelude::*;
use tch::{Tensor, no_grad};

use crate::{
    augment::{Weak, generator, weak},
    nets::{Model, to_batch},
};

const CHUNK: usize = 32;

/// Inputs of the trained part.
#[derive(Debug)]
pub enum Views<'a> {
    /// The whole network is trained: a new view in every epoch.
    Fresh {
        /// Pictures of `side * side * 3` bytes.
        pictures: &'a [Vec<u8>],
        /// Side in pixels.
        side: usize,
        /// How far views stray.
        weak: Weak,
        /// Seed of the views.
        seed: u64,
    },
    /// Part of the network is frozen: `views` weak views per picture went through it.
    Cached {
        /// Weak views, `[pictures * views, …]`, all views of a picture together.
        weak: Tensor,
        /// Unchanged pictures, `[pictures, …]`.
        plain: Tensor,
        /// Views per picture.
        views: usize,
    },
}

impl<'a> Views<'a> {
    /// Sends `count` weak views and the plain picture through the blocks before `cut`; `tick` hears of every picture.
    pub fn cached(
        model: &Model,
        cut: usize,
        pictures: &[Vec<u8>],
        (options, count, seed): (Weak, usize, u64),
        mut tick: impl FnMut(usize) -> bool,
    ) -> Option<Views<'a>> {
        let side = model.net.input;
        let mut through = |pictures: &[Vec<u8>]| -> Option<Tensor> {
            let mut parts = Vec::new();
            for chunk in pictures.chunks(CHUNK) {
                let batch: Vec<&[u8]> = chunk.iter().map(Vec::as_slice).collect();
                parts.push(no_grad(|| model.blocks(&to_batch(&batch, side), 0..cut, false)));
                if !tick(chunk.len()) {
                    return None;
                }
            }
            Some(Tensor::cat(&parts, 0))
        };
        let plain = through(pictures)?;
        let mut weak_parts = Vec::new();
        for (chunk, start) in pictures.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
            let views: Vec<Vec<u8>> = chunk
                .par_iter()
                .enumerate()
                .flat_map_iter(|(i, picture)| {
                    (0..count).map(move |view| {
                        weak(picture, side, options, &mut generator(seed, view as u64, (start + i) as u64))
                    })
                })
                .collect();
            weak_parts.push(through(&views)?);
        }
        Some(Views::Cached { weak: Tensor::cat(&weak_parts, 0), plain, views: count })
    }

    /// Weak views of the pictures at `indices` as `epoch` shows them.
    pub fn batch(&self, epoch: usize, indices: &[usize]) -> Tensor {
        match self {
            Views::Fresh { pictures, side, weak: options, seed } => {
                let views: Vec<Vec<u8>> = indices
                    .par_iter()
                    .map(|&i| weak(&pictures[i], *side, *options, &mut generator(*seed, epoch as u64, i as u64)))
                    .collect();
                to_batch(&views.iter().map(Vec::as_slice).collect::<Vec<_>>(), *side)
            }
            // Pictures start at different views, so that every batch holds a mixture.
            Views::Cached { weak, views, .. } => {
                let at: Vec<i64> = indices.iter().map(|&i| (i * views + (i + epoch) % views) as i64).collect();
                weak.index_select(0, &Tensor::from_slice(&at))
            }
        }
    }

    /// The unchanged pictures at `indices`.
    pub fn plain(&self, indices: &[usize]) -> Tensor {
        match self {
            Views::Fresh { pictures, side, .. } => {
                to_batch(&indices.iter().map(|&i| pictures[i].as_slice()).collect::<Vec<_>>(), *side)
            }
            Views::Cached { plain, .. } => {
                let at: Vec<i64> = indices.iter().map(|&i| i as i64).collect();
                plain.index_select(0, &Tensor::from_slice(&at))
            }
        }
    }

    /// Cached embeddings scaled to mean 0 and deviation 1 over the views of `training`, and the scale.
    ///
    /// Only embeddings `[n, features]` can be scaled: other views come back as `None`.
    pub fn standardised(&self, training: &[usize]) -> Option<(Views<'a>, Scale)> {
        let Views::Cached { weak, plain, views } = self else { return None };
        if plain.dim() != 2 {
            return None;
        }
        let rows: Vec<i64> =
            training.iter().flat_map(|&i| Range { start: (i * views) as i64, end: ((i + 1) * views) as i64 }).collect();
        let seen = weak.index_select(0, &Tensor::from_slice(&rows));
        let mean = seen.mean_dim(0i64, false, None);
        let std = seen.std_dim(0i64, false, false).clamp_min(1e-3);
        let scale = |x: &Tensor| (x - &mean) / &std;
        Some((Views::Cached { weak: scale(weak), plain: scale(plain), views: *views }, Scale { mean, std }))
    }
}

/// Mean and deviation per feature, `[features]` each.
#[derive(Debug)]
pub struct Scale {
    mean: Tensor,
    std: Tensor,
}

impl Scale {
    /// Turns a head for scaled embeddings into the equal head for raw ones: `W/σ`, `b − (W/σ) μ`.
    pub fn fold_into(&self, model: &mut Model) {
        no_grad(|| {
            let weight = &model.params["head.weight"] / &self.std;
            let bias = &model.params["head.bias"] - weight.matmul(&self.mean);
            model.params.insert("head.weight".into(), weight);
            model.params.insert("head.bias".into(), bias);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use beltsight::nets;
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn a_folded_head_says_the_same_of_raw_embeddings() {
        tch::manual_seed(1);
        let float = (Kind::Float, Device::Cpu);
        let mut model = Model::random(&nets::by_name("small", None).unwrap(), 3, 1);
        model.params.insert("head.weight".into(), Tensor::randn([3, 128], float));
        let raw = Tensor::randn([6, 128], float) * 3.0 + 1.0;
        let views = Views::Cached { weak: raw.shallow_clone(), plain: raw.shallow_clone(), views: 1 };
        let (scaled, scale) = views.standardised(&[0, 1, 2, 3]).unwrap();
        let wanted = model.head(&scaled.plain(&[4, 5]), None);
        scale.fold_into(&mut model);
        let found = model.head(&raw.narrow(0, 4, 2), None);
        assert!((wanted - found).abs().max().double_value(&[]) < 1e-4);
    }

    #[test]
    fn cached_views_are_the_frozen_part_of_the_same_views() {
        let model = Model::random(&nets::by_name("small", None).unwrap(), 3, 1);
        let pictures: Vec<Vec<u8>> =
            (0..3).map(|p| (0..64 * 64 * 3).map(|i| ((i * 7 + p * 40) % 256) as u8).collect()).collect();
        let cached = Views::cached(&model, 4, &pictures, (Weak::PHOTO, 2, 9), |_| true).unwrap();
        let fresh = Views::Fresh { pictures: &pictures, side: 64, weak: Weak::PHOTO, seed: 9 };
        // Picture 1 starts at view 1: epoch 1 shows it view 0 again, as `Fresh` does in epoch 0.
        let wanted = model.blocks(&fresh.batch(0, &[1]), 0..4, false);
        let found = cached.batch(1, &[1]);
        assert!((wanted - found).abs().max().double_value(&[]) < 1e-4);
        assert!(Views::cached(&model, 4, &pictures, (Weak::PHOTO, 2, 9), |_| false).is_none());
    }
}
