//! Labeled pictures from a folder, and splits of them.
//!
//! Invariant: pictures of one group (one fish, one tile) never stand on both sides of a split.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::ensure;
use beltsight::picture::dataset;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::pictures::picture_set::PictureSet;

/// Labeled pictures.
#[derive(Debug)]
pub struct Dataset {
    /// Class names, sorted.
    pub classes: Vec<String>,
    /// Classes that the table marks good.
    pub accept: Vec<String>,
    /// File names relative to the folder.
    pub files: Vec<String>,
    /// Class index per picture.
    pub labels: Vec<usize>,
    /// Group number per picture.
    pub groups: Vec<usize>,
    /// `side * side * 3` bytes per picture; after those of `files` may come unlabeled ones.
    pub pictures: PictureSet,
    /// Hash of the data snapshot.
    pub sha256: String,
}

/// Reads a data set (see [`dataset::read`]), every picture fitted to `side` as serving does it; what is fitted lies in the
/// folder `scratch`. The classes `known` are among its own, with pictures or without.
///
/// # Errors
/// One unreadable or unlabeled picture fails the whole, because a silent hole would change the figures; so does a
/// single class.
pub fn read(root: &Path, side: u32, known: &[String], scratch: &Path) -> anyhow::Result<Dataset> {
    let list = dataset::read(root)?;
    let classes: BTreeSet<&String> = list.classes.iter().chain(known).collect();
    let mut classes: Vec<String> = classes.into_iter().cloned().collect();
    ensure!(classes.len() > 1, "{}: at least two classes of pictures are needed", root.display());
    let mut numbers = BTreeMap::new();
    let groups = list
        .samples
        .iter()
        .map(|sample| {
            let next = numbers.len();
            *numbers.entry(sample.group.as_str()).or_insert(next)
        })
        .collect();
    let (labels, accept) = (list.truth(&mut classes), list.good.clone());
    let files = list.samples.iter().map(|s| s.file.clone()).collect();
    let mut pictures = PictureSet::new(side as usize, scratch)?;
    let sha256 = pictures.add(list)?;
    pictures.fit()?;
    Ok(Dataset { labels, classes, accept, files, groups, pictures, sha256 })
}

impl Dataset {
    /// Adds every picture below `root`, unlabeled. The hash then covers them too. They are decoded when they are asked for,
    /// or fitted by [`PictureSet::fit`].
    ///
    /// # Errors
    /// One unreadable picture fails the whole.
    pub fn add_unlabeled(&mut self, root: &Path) -> anyhow::Result<()> {
        let hash = self.pictures.add(dataset::read_unlabeled(root)?)?;
        self.sha256 = beltsight::domain::hash::sha256(format!("{}\n{hash}\n", self.sha256).as_bytes());
        Ok(())
    }

    /// Class per picture; none for the unlabeled ones.
    pub fn known(&self) -> Vec<Option<usize>> {
        let unlabeled = self.pictures.len() - self.labels.len();
        self.labels.iter().map(|&class| Some(class)).chain(std::iter::repeat_n(None, unlabeled)).collect()
    }
}

/// Chooses `each` pictures of every class from `candidates`, from as many groups as there are; gives the chosen and the
/// rest. With one seed a smaller choice is part of a larger one.
///
/// # Errors
/// When a class has fewer.
pub fn few(
    labels: &[usize],
    groups: &[usize],
    candidates: &[usize],
    each: usize,
    seed: u64,
) -> Result<(Vec<usize>, Vec<usize>), String> {
    let classes = candidates.iter().map(|&i| labels[i]).max().map_or(0, |c| c + 1);
    let mut order = candidates.to_vec();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    // How many of its group come before a picture: first one of every group, then the second ones.
    let mut met: BTreeMap<usize, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, usize)> = Vec::new();
    for &picture in &order {
        let before = met.entry(groups[picture]).or_default();
        ranked.push((*before, picture));
        *before += 1;
    }
    ranked.sort_by_key(|(before, _)| *before);
    let mut chosen = Vec::new();
    for class in 0..classes {
        let of_class: Vec<usize> =
            ranked.iter().map(|(_, picture)| *picture).filter(|&i| labels[i] == class).take(each).collect();
        if of_class.len() < each {
            return Err(format!("class {class} has {} pictures to choose {each} from", of_class.len()));
        }
        chosen.extend(of_class);
    }
    chosen.sort_unstable();
    let rest = candidates.iter().copied().filter(|i| chosen.binary_search(i).is_err()).collect();
    Ok((chosen, rest))
}

/// Fold of a picture that no student is asked about: every one trains on it.
pub const NEVER_HELD_OUT: usize = usize::MAX;

/// Assigns every picture to one of `count` folds: groups stay whole, every class is spread as evenly as groups allow. The
/// only group of a class is [`NEVER_HELD_OUT`]: a student that never saw the class says nothing of one that did.
///
/// Greedy: groups from large to small (shuffled by `seed` within a size) go where their class is rarest, then where
/// fewest pictures are.
///
/// # Errors
/// When there are fewer groups than folds.
pub fn folds(labels: &[usize], groups: &[usize], count: usize, seed: u64) -> Result<Vec<usize>, String> {
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (picture, group) in groups.iter().enumerate() {
        members.entry(*group).or_default().push(picture);
    }
    if count < 2 || members.len() < count {
        return Err(format!("{} groups of pictures can't be split into {count} folds", members.len()));
    }
    let mut members: Vec<Vec<usize>> = members.into_values().collect();
    members.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    members.sort_by_key(|pictures| std::cmp::Reverse(pictures.len()));
    let classes = labels.iter().max().map_or(0, |c| c + 1);
    let mut of_class = vec![vec![0; classes]; count];
    let mut fold_of = vec![NEVER_HELD_OUT; labels.len()];
    let mut groups_of = vec![0; classes];
    members.iter().for_each(|pictures| groups_of[labels[pictures[0]]] += 1);
    for pictures in members {
        let class = labels[pictures[0]];
        if groups_of[class] == 1 {
            continue;
        }
        let fold = (0..count).min_by_key(|&f| (of_class[f][class], of_class[f].iter().sum::<usize>())).unwrap_or(0);
        for picture in pictures {
            of_class[fold][labels[picture]] += 1;
            fold_of[picture] = fold;
        }
    }
    Ok(fold_of)
}

/// Groups of the class that has fewest, of those that have any.
pub fn fewest_groups(labels: &[usize], groups: &[usize]) -> usize {
    let mut groups_of: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (&label, &group) in labels.iter().zip(groups) {
        groups_of.entry(label).or_default().insert(group);
    }
    groups_of.values().map(BTreeSet::len).min().unwrap_or(0)
}

/// Indices outside and inside `fold`: training and validation.
pub fn split(fold_of: &[usize], fold: usize) -> (Vec<usize>, Vec<usize>) {
    (0..fold_of.len()).partition(|&picture| fold_of[picture] != fold)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_of_few_is_even_spread_over_groups_and_nested() {
        // 2 classes of 12 pictures; groups of 4.
        let labels: Vec<usize> = (0..24).map(|i| i / 12).collect();
        let groups: Vec<usize> = (0..24).map(|i| i / 4).collect();
        let candidates: Vec<usize> = (0..24).filter(|i| i % 12 != 0).collect();
        let choose = |each| few(&labels, &groups, &candidates, each, 7).unwrap();
        let (three, rest) = choose(3);
        assert_eq!((three.len(), rest.len()), (6, 16));
        assert!((0..6).all(|group| three.iter().filter(|&&i| groups[i] == group).count() == 1));
        assert!(three.iter().all(|i| choose(5).0.contains(i) && candidates.contains(i) && !rest.contains(i)));
        assert!(few(&labels, &groups, &candidates, 12, 7).unwrap_err().contains("11 pictures"));
    }

    #[test]
    fn no_group_stands_on_both_sides_and_classes_are_even() {
        // 3 classes of 40 pictures; every group has 1 to 3 pictures.
        let labels: Vec<usize> = (0..120).map(|i| i / 40).collect();
        let groups: Vec<usize> = (0..120).map(|i| i / 40 * 100 + (i % 40) * (i % 40) / 60).collect();
        let fold_of = folds(&labels, &groups, 5, 3).unwrap();
        for fold in 0..5 {
            let (train, validation) = split(&fold_of, fold);
            assert_eq!(train.len() + validation.len(), 120);
            assert!(train.iter().all(|&t| validation.iter().all(|&v| groups[t] != groups[v])));
            for class in 0..3 {
                let n = validation.iter().filter(|&&v| labels[v] == class).count();
                assert!((6..=10).contains(&n), "fold {fold} has {n} of class {class}");
            }
        }
        assert_eq!(fold_of, folds(&labels, &groups, 5, 3).unwrap());
        assert_ne!(fold_of, folds(&labels, &groups, 5, 4).unwrap());
        assert!(folds(&labels[..4], &groups[..4], 5, 3).is_err());
    }

    #[test]
    fn the_only_one_of_its_class_is_learned_by_every_student() {
        // 9 pictures of class 0, one of class 1, two of class 2.
        let labels = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 2];
        let groups: Vec<usize> = (0..12).collect();
        let fold_of = folds(&labels, &groups, 5, 3).unwrap();
        assert_eq!(fold_of[4], NEVER_HELD_OUT);
        for fold in 0..5 {
            let (training, held_out) = split(&fold_of, fold);
            assert!(training.contains(&4) && !held_out.contains(&4));
            assert!(training.iter().any(|&i| labels[i] == 2), "fold {fold} knows class 2");
        }
        let held_out: usize = (0..5).map(|fold| split(&fold_of, fold).1.len()).sum();
        assert_eq!(held_out, 11, "each of the others once");
        assert_eq!((fewest_groups(&labels, &groups), fewest_groups(&[0, 2, 2, 0], &[1, 2, 2, 3])), (1, 1));
    }
}
