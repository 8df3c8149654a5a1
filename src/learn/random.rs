//! The one source of chance in training.
//!
//! Invariant: what is drawn depends on three numbers only, so that a resumed run draws what an unbroken one would.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator of one view, one step or one shuffle; `seed`, `epoch` and `index` tell it from all others.
pub fn generator(seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (slot, part) in key.as_chunks_mut::<8>().0.iter_mut().zip([seed, epoch, index]) {
        *slot = part.to_le_bytes();
    }
    ChaCha8Rng::from_seed(key)
}
