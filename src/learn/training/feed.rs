//! The batches of a run, drawn ahead of the loop on a thread of its own.
//!
//! Invariant: a batch is a function of (seed, step), so a resumed run sees what an unbroken one would.

use beltsight::picture::dataset::DataError;
use rand::seq::SliceRandom;

use crate::{
    methods::ViewRequest,
    pictures::views::{Augmenter, PicturePass},
    random::generator,
};

/// Steps that show every one of `labeled` pictures once; the rest that fills no batch is left out (it is another one each
/// time).
pub fn steps_per_pass(labeled: usize, batch: usize) -> usize {
    (labeled / batch).max(1)
}

/// Endless shuffled passes over a pool, cut into batches; a function of (seed, step).
pub struct PoolSampler<'a> {
    /// Indices; may repeat some.
    pub pool: &'a [usize],
    /// Pictures per step.
    pub batch: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Tells the pools of a run apart.
    pub stream: u64,
}

impl PoolSampler<'_> {
    /// The batch of a step: a pool smaller than a batch gives it several passes.
    fn batch_at(&self, step: usize) -> Vec<PicturePass> {
        if self.pool.is_empty() || self.batch == 0 {
            return Vec::new();
        }
        let per_pass = steps_per_pass(self.pool.len(), self.batch);
        let passes = self.batch.div_ceil(self.pool.len());
        let (first, place) = if passes > 1 { (step * passes, 0) } else { (step / per_pass, step % per_pass) };
        let mut showings = Vec::with_capacity(passes * self.pool.len());
        for pass in first..first + passes {
            let mut order = self.pool.to_vec();
            order.shuffle(&mut generator(self.seed, pass as u64, self.stream));
            showings.extend(order.into_iter().map(|picture| PicturePass { picture, pass }));
        }
        showings.into_iter().skip(place * self.batch).take(self.batch).collect()
    }
}

/// What one step is trained on.
pub struct Batch {
    /// Labeled pictures.
    pub labeled: Vec<PicturePass>,
    /// Unlabeled pictures.
    pub unlabeled: Vec<PicturePass>,
    /// Fresh views in the order in which they go through the network; none where they are cached.
    pub fresh_views: Option<Vec<Vec<u8>>>,
}

/// Draws the batches of a run.
pub struct BatchFeed<'a> {
    /// The views that the method asks for.
    pub request: ViewRequest,
    /// Labeled pictures.
    pub labeled: PoolSampler<'a>,
    /// Unlabeled pictures.
    pub unlabeled: PoolSampler<'a>,
    /// Where fresh views come from; none where views are cached.
    pub augmenter: Option<Augmenter<'a>>,
}

impl BatchFeed<'_> {
    /// The batch of a step.
    ///
    /// # Errors
    /// When a picture can't be read.
    pub fn batch(&self, step: usize) -> Result<Batch, DataError> {
        let (labeled, unlabeled) = (self.labeled.batch_at(step), self.unlabeled.batch_at(step));
        let fresh_views = self.augmenter.map(|augmenter| {
            let mut views = augmenter.draw_all(self.request.labeled, &labeled)?;
            for &view in self.request.unlabeled {
                views.extend(augmenter.draw_all(view, &unlabeled)?);
            }
            Ok(views)
        });
        Ok(Batch { labeled, unlabeled, fresh_views: fresh_views.transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_comes_once_a_pass_and_a_small_pool_fills_the_batch_evenly() {
        let pool: Vec<usize> = (0..10).collect();
        let sampler = PoolSampler { pool: &pool, batch: 5, seed: 1, stream: 0 };
        let mut drawn: Vec<usize> =
            [2, 3].map(|step| sampler.batch_at(step)).concat().iter().map(|p| p.picture).collect();
        drawn.sort_unstable();
        assert_eq!(drawn, pool);
        assert!(sampler.batch_at(2).iter().all(|p| p.pass == 1));
        let few = PoolSampler { pool: &pool[..4], batch: 8, ..sampler }.batch_at(3);
        assert_eq!(few.iter().map(|p| p.pass).collect::<Vec<_>>(), [6, 6, 6, 6, 7, 7, 7, 7]);
        assert!((0..4).all(|picture| few.iter().filter(|p| p.picture == picture).count() == 2));
    }
}
