//! What every step shows, drawn ahead of the loop on a thread of its own.
//!
//! Invariant: a step's pictures are a function of (seed, step), so a resumed run sees what an unbroken one would.

use rand::seq::SliceRandom;

use crate::{
    methods::Wanted,
    pictures::{
        augment::generator,
        views::{Camera, Pick},
    },
};

/// Steps that show every one of `labeled` pictures once; the rest that fills no batch is left out (it is another one each
/// time).
pub fn steps_per_pass(labeled: usize, batch: usize) -> usize {
    (labeled / batch).max(1)
}

/// Endless shuffled passes over a pool, cut into batches; a function of (seed, step).
pub struct Order<'a> {
    /// Indices; may repeat some.
    pub pool: &'a [usize],
    /// Pictures per step.
    pub batch: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Tells the pools of a run apart.
    pub stream: u64,
}

impl Order<'_> {
    /// The batch of a step: of a pool smaller than a batch several passes go into it.
    fn picks(&self, step: usize) -> Vec<Pick> {
        if self.pool.is_empty() || self.batch == 0 {
            return Vec::new();
        }
        let per_pass = steps_per_pass(self.pool.len(), self.batch);
        let passes = self.batch.div_ceil(self.pool.len());
        let (first, place) = if passes > 1 { (step * passes, 0) } else { (step / per_pass, step % per_pass) };
        let mut picks = Vec::with_capacity(passes * self.pool.len());
        for pass in first..first + passes {
            let mut order = self.pool.to_vec();
            order.shuffle(&mut generator(self.seed, pass as u64, self.stream));
            picks.extend(order.into_iter().map(|picture| Pick { picture, pass }));
        }
        picks.into_iter().skip(place * self.batch).take(self.batch).collect()
    }
}

/// What a step shows.
pub struct Shown {
    /// Labeled pictures.
    pub labeled: Vec<Pick>,
    /// Unlabeled pictures.
    pub unlabeled: Vec<Pick>,
    /// Fresh views in the order in which they go through the network; none where they are cached.
    pub drawn: Option<Vec<Vec<u8>>>,
}

/// Draws steps.
pub struct Feed<'a> {
    /// What the method wants to see.
    pub wanted: Wanted,
    /// Labeled pictures.
    pub labeled: Order<'a>,
    /// Unlabeled pictures.
    pub unlabeled: Order<'a>,
    /// Where fresh views come from; none where views are cached.
    pub camera: Option<Camera<'a>>,
}

impl Feed<'_> {
    /// The step's pictures.
    pub fn show(&self, step: usize) -> Shown {
        let (labeled, unlabeled) = (self.labeled.picks(step), self.unlabeled.picks(step));
        let drawn = self.camera.map(|camera| {
            let mut all = camera.draw_all(self.wanted.labeled, &labeled);
            for &view in self.wanted.unlabeled {
                all.extend(camera.draw_all(view, &unlabeled));
            }
            all
        });
        Shown { labeled, unlabeled, drawn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_comes_once_a_pass_and_a_small_pool_fills_the_batch_evenly() {
        let pool: Vec<usize> = (0..10).collect();
        let order = Order { pool: &pool, batch: 5, seed: 1, stream: 0 };
        let mut seen: Vec<usize> = [2, 3].map(|step| order.picks(step)).concat().iter().map(|p| p.picture).collect();
        seen.sort_unstable();
        assert_eq!(seen, pool);
        assert!(order.picks(2).iter().all(|p| p.pass == 1));
        let few = Order { pool: &pool[..4], batch: 8, ..order }.picks(3);
        assert_eq!(few.iter().map(|p| p.pass).collect::<Vec<_>>(), [6, 6, 6, 6, 7, 7, 7, 7]);
        assert!((0..4).all(|picture| few.iter().filter(|p| p.picture == picture).count() == 2));
    }
}
