//! Which pictures are near-identical to one that was seen before.
//!
//! Invariant: the index finds exactly what comparing with every picture finds.

use std::collections::HashMap;

use crate::{
    domain::Picture,
    picture::pixels::{self, PixelError},
};

/// Most of the 64 comparisons that may differ between near-identical pictures.
const BITS: u32 = 4;
/// Largest sum of differences between the 81 grays of near-identical pictures: 4 of 255 in the mean.
const GRAYS: u32 = 4 * 81;
/// Where the parts of a difference hash begin: one more part than bits that may differ, so one part at least is equal
/// (multi-index hashing, Norouzi et al. 2012, arXiv:1307.2982, §3.1).
const PARTS: [u32; BITS as usize + 2] = [0, 13, 26, 39, 52, 64];

/// A picture in 9 × 9 grays, to tell near-identical ones by.
#[derive(Clone, Debug)]
pub struct Thumbnail {
    grays: [u8; 81],
    /// Difference hash: for 8 × 8 places, whether the right neighbour is brighter.
    differences: u64,
}

impl Thumbnail {
    /// # Errors
    /// [`PixelError::Damaged`] for a picture without pixels.
    pub fn of(picture: &Picture) -> Result<Self, PixelError> {
        let small = pixels::fit(picture, None, 9)?;
        let mut grays = [0; 81];
        for (gray, p) in grays.iter_mut().zip(small.chunks_exact(3)) {
            *gray = ((2 * u32::from(p[0]) + 5 * u32::from(p[1]) + u32::from(p[2])) / 8) as u8;
        }
        Ok(Self::of_grays(grays))
    }

    fn of_grays(grays: [u8; 81]) -> Self {
        let places = (0..8).flat_map(|y| (0..8).map(move |x| y * 9 + x));
        let differences = places.fold(0, |hash, i| hash << 1 | u64::from(grays[i] < grays[i + 1]));
        Self { grays, differences }
    }

    /// Whether two pictures are near-identical: at most 4 of 64 bits of their difference hashes differ, and their grays
    /// by at most 4 of 255 in the mean (hashes alone would take two even pictures of any brightness for one). Of the
    /// 79,800 pairs of 400 different fish on the simulated belt none is.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.differences ^ other.differences).count_ones() <= BITS
            && self.grays.iter().zip(&other.grays).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>() <= GRAYS
    }

    /// The sum of the grays in steps of [`GRAYS`]: of near-identical pictures equal, or neighbours.
    fn brightness(&self) -> u32 {
        self.grays.iter().map(|gray| u32::from(*gray)).sum::<u32>() / GRAYS
    }

    /// The parts of the difference hash, numbered.
    fn parts(&self) -> impl Iterator<Item = (usize, u64)> {
        let hash = self.differences;
        PARTS.windows(2).map(move |ends| hash >> ends[0] & ((1 << (ends[1] - ends[0])) - 1)).enumerate()
    }
}

/// Thumbnails, found by a part of their hash and their brightness.
#[derive(Default)]
pub struct ThumbnailIndex {
    thumbnails: Vec<Thumbnail>,
    /// Number and value of a part, and the brightness → indices.
    places: HashMap<(usize, u64, u32), Vec<u32>>,
}

impl ThumbnailIndex {
    /// Whether one in it is near-identical to `thumbnail`.
    pub fn has_like(&self, thumbnail: &Thumbnail) -> bool {
        let brightness = thumbnail.brightness();
        thumbnail.parts().any(|(part, value)| {
            (brightness.saturating_sub(1)..=brightness + 1)
                .filter_map(|near| self.places.get(&(part, value, near)))
                .flatten()
                .any(|&at| self.thumbnails[at as usize].is_like(thumbnail))
        })
    }

    /// Adds one.
    pub fn add(&mut self, thumbnail: Thumbnail) {
        let (at, brightness) = (self.thumbnails.len() as u32, thumbnail.brightness());
        for (part, value) in thumbnail.parts() {
            self.places.entry((part, value, brightness)).or_default().push(at);
        }
        self.thumbnails.push(thumbnail);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// `count` thumbnails of 9 × 9 shades around a few scenes, with some that come again a little changed.
    fn thumbnails(count: usize, seed: u64) -> Vec<Thumbnail> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut all: Vec<Thumbnail> = Vec::new();
        for i in 0..count {
            let mut grays = [0; 81];
            if i > 0 && random.random_bool(0.5) {
                grays = all[random.random_range(0..i)].grays;
                let strength = random.random_range(0..14u8); // around 4 of 255 in the mean
                grays.iter_mut().for_each(|gray| *gray = gray.saturating_add(random.random_range(0..=strength)));
            } else {
                let (floor, contrast) = (random.random_range(0..200u8), random.random_range(1..56u8));
                grays.iter_mut().for_each(|gray| *gray = floor + random.random_range(0..contrast));
            }
            all.push(Thumbnail::of_grays(grays));
        }
        all
    }

    /// Which of `all` are kept when near-identical ones are taken once.
    fn kept(all: &[Thumbnail]) -> Vec<usize> {
        let (mut index, mut kept) = (ThumbnailIndex::default(), Vec::new());
        for (i, thumbnail) in all.iter().enumerate() {
            if !index.has_like(thumbnail) {
                index.add(thumbnail.clone());
                kept.push(i);
            }
        }
        kept
    }

    /// The same by comparing with every one, by mean differences as they were told before there was an index.
    fn kept_by_comparing(all: &[Thumbnail]) -> Vec<usize> {
        let alike = |one: &Thumbnail, other: &Thumbnail| {
            let differences = one.grays.iter().zip(&other.grays).map(|(a, b)| f32::from(a.abs_diff(*b)));
            let grays = differences.sum::<f32>() / 81.0;
            (one.differences ^ other.differences).count_ones() <= 4 && grays <= 4.0
        };
        let mut kept = Vec::<usize>::new();
        for (i, thumbnail) in all.iter().enumerate() {
            if !kept.iter().any(|&other| alike(&all[other], thumbnail)) {
                kept.push(i);
            }
        }
        kept
    }

    #[test]
    fn the_index_finds_what_comparing_with_every_picture_finds() {
        for seed in 0..4 {
            let all = thumbnails(2000, seed);
            let wanted = kept_by_comparing(&all);
            assert!((1100..1900).contains(&wanted.len()), "{} of 2,000: too easy", wanted.len());
            assert_eq!(kept(&all), wanted);
        }
    }

    /// Even but for blocks of seeded grays.
    fn picture(seed: u32) -> Picture {
        let mut picture = Picture::filled(96, 64, [0; 3]);
        for (i, value) in picture.rgb.iter_mut().enumerate() {
            let (x, y) = ((i / 3 % 96 / 6) as u32, (i / 3 / 96 / 6) as u32);
            *value = (((x * 31 + y * 17 + seed).wrapping_mul(2_654_435_761) >> 13) % 200) as u8;
        }
        picture
    }

    #[test]
    fn near_identical_is_the_same_scene_a_moment_later_and_nothing_else() {
        let thumbnail = |seed| Thumbnail::of(&picture(seed)).unwrap();
        let mut brighter = picture(1);
        brighter.rgb.iter_mut().for_each(|v| *v = v.saturating_add(2));
        assert!(thumbnail(1).is_like(&Thumbnail::of(&brighter).unwrap()));
        assert!((2..60).all(|seed| !thumbnail(1).is_like(&thumbnail(seed))));
        let even = |gray| Thumbnail::of(&Picture::filled(20, 20, [gray; 3])).unwrap();
        assert!(even(90).is_like(&even(92)) && !even(90).is_like(&even(120)));
    }

    #[test]
    fn of_twenty_thousand_pictures_each_is_compared_with_a_few() {
        let (all, mut index, mut compared) = (thumbnails(20_000, 9), ThumbnailIndex::default(), 0);
        for thumbnail in all {
            let brightness = thumbnail.brightness();
            let places = thumbnail.parts().flat_map(|(part, value)| {
                (brightness.saturating_sub(1)..=brightness + 1).map(move |near| (part, value, near))
            });
            compared += places.filter_map(|place| index.places.get(&place)).map(Vec::len).sum::<usize>();
            index.add(thumbnail);
        }
        assert!(compared < 20_000 * 20, "{} each", compared / 20_000);
    }
}
