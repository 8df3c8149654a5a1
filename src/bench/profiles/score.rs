//! What came of the items of a belt.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Least intersection over union of a look with the item's whole region.
const GOOD: f32 = 0.7;
/// Clumps among the first so many items are not scored: until then the item search has nothing to compare outlines with.
const KNOWN: u64 = 48;

/// One verdict's region, and what it says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LookScore {
    /// Intersection over union with the item's whole region.
    pub share: f32,
    /// It is marked as one that was never seen whole.
    pub partial: bool,
    /// It is marked as several.
    pub several: bool,
}

/// How an item lies to the one drawn against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clump {
    /// There is none, or it lies apart.
    #[default]
    No,
    /// They lie nearer together than items must to be told apart, but do not touch: one look or one each are right.
    Near,
    /// They touch: both together get one look.
    Touching,
}

/// What came of one item, or of one clump of items that touch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemPassage {
    /// Whether a picture showed it whole with some belt to both sides.
    pub whole: bool,
    /// Whether a picture showed it whole, perhaps right at the picture's end, where nothing tells that it is.
    pub at_end: bool,
    /// Whether it was still in the last picture.
    pub inside: bool,
    /// Whether it is a clump.
    pub clump: Clump,
    /// The looks at it.
    pub looks: Vec<LookScore>,
}

/// What came of a belt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProfileScore {
    /// Items that a picture showed whole and that left, clumps apart.
    pub items: usize,
    /// Of these, with exactly one look, and that good.
    pub once: usize,
    /// Without a look.
    pub missed: usize,
    /// With more than one; so are clumps and items that were never whole.
    pub doubles: usize,
    /// With one that is not good.
    pub poor: usize,
    /// Looks at no item.
    pub ghosts: usize,
    /// Items that a picture showed whole with a look that says it was not.
    pub partial: usize,
    /// Items that left and that no picture showed whole.
    pub cut: usize,
    /// Of these, with one look, that says so.
    pub cut_partial: usize,
    /// Items that lie so near the one before that one look at both and one each are right, and that left.
    #[serde(default)]
    pub near: usize,
    /// Of these pairs, with one or two looks.
    #[serde(default)]
    pub near_seen: usize,
    /// Clumps that a picture showed whole and that left.
    pub clumps: usize,
    /// Of these, with exactly one look, that is good and says that it shows several.
    pub clumps_as_one: usize,
    /// The worst single look.
    pub worst: Option<f32>,
}

impl ProfileScore {
    /// Scores passages and looks at nothing.
    pub fn of(passages: &BTreeMap<u64, ItemPassage>, ghosts: usize) -> Self {
        let mut score = Self { ghosts, ..Self::default() };
        for (item, passage) in passages.iter().filter(|(_, passage)| !passage.inside) {
            score.take(*item, passage);
        }
        score
    }

    fn take(&mut self, item: u64, passage: &ItemPassage) {
        if passage.clump == Clump::Near {
            self.near += 1;
            self.near_seen += usize::from((1..=2).contains(&passage.looks.len()));
            return;
        }
        self.doubles += usize::from(passage.looks.len() > 1);
        let clump = passage.clump == Clump::Touching;
        match passage.looks[..] {
            _ if clump && (item < KNOWN || !passage.whole) => {}
            [look] if clump => {
                self.clumps += 1;
                self.clumps_as_one += usize::from(look.share >= GOOD && look.several && !look.partial);
            }
            _ if clump => self.clumps += 1,
            _ if !passage.at_end => {
                self.cut += 1;
                self.cut_partial += usize::from(passage.looks.len() == 1 && passage.looks[0].partial);
            }
            _ if !passage.whole => {} // whole, but at the picture's end: either is right
            [] => {
                self.items += 1;
                self.missed += 1;
            }
            [look] => {
                self.items += 1;
                self.partial += usize::from(look.partial);
                *(if look.share >= GOOD { &mut self.once } else { &mut self.poor }) += 1;
                self.worst = Some(self.worst.map_or(look.share, |worst| worst.min(look.share)));
            }
            _ => self.items += 1,
        }
    }

    /// Both together.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            items: self.items + other.items,
            once: self.once + other.once,
            missed: self.missed + other.missed,
            doubles: self.doubles + other.doubles,
            poor: self.poor + other.poor,
            ghosts: self.ghosts + other.ghosts,
            partial: self.partial + other.partial,
            cut: self.cut + other.cut,
            cut_partial: self.cut_partial + other.cut_partial,
            near: self.near + other.near,
            near_seen: self.near_seen + other.near_seen,
            clumps: self.clumps + other.clumps,
            clumps_as_one: self.clumps_as_one + other.clumps_as_one,
            worst: [self.worst, other.worst].into_iter().flatten().min_by(f32::total_cmp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(shares: &[f32]) -> Vec<LookScore> {
        shares.iter().map(|share| LookScore { share: *share, partial: false, several: false }).collect()
    }

    /// A belt with one of every kind, planted.
    #[test]
    fn planted_misses_doubles_and_ghosts_are_counted() {
        let passage = |whole, inside, shares: &[f32]| ItemPassage {
            whole,
            at_end: whole,
            inside,
            clump: Clump::No,
            looks: looks(shares),
        };
        let mut cut = passage(false, false, &[0.3]);
        cut.looks[0].partial = true;
        let mut partial = passage(true, false, &[0.8]);
        partial.looks[0].partial = true;
        let passages = BTreeMap::from([
            (0, passage(true, false, &[0.9])),
            (1, passage(true, false, &[])),
            (2, passage(true, false, &[0.9, 0.8])),
            (3, passage(true, false, &[0.6])),
            (4, passage(true, true, &[])),
            (5, passage(false, false, &[])),
            (6, cut.clone()),
            (7, partial),
            (8, ItemPassage { at_end: true, ..cut }),
        ]);
        let score = ProfileScore::of(&passages, 2);
        let wanted = ProfileScore {
            items: 5,
            once: 2,
            missed: 1,
            doubles: 1,
            poor: 1,
            ghosts: 2,
            partial: 1,
            cut: 2,
            cut_partial: 1,
            worst: Some(0.6),
            ..ProfileScore::default()
        };
        assert_eq!(score, wanted);
    }

    #[test]
    fn planted_clumps_are_counted_apart() {
        let laid = |clump, several, shares: &[f32]| {
            let looks = looks(shares).into_iter().map(|look| LookScore { several, ..look }).collect();
            ItemPassage { whole: true, at_end: true, inside: false, clump, looks }
        };
        let clump = |several, shares| laid(Clump::Touching, several, shares);
        let near = |shares| laid(Clump::Near, false, shares);
        let passages = BTreeMap::from([
            (3, clump(true, &[0.9])),
            (50, clump(true, &[0.9])),
            (60, clump(false, &[0.9])),
            (70, clump(true, &[0.5])),
            (80, clump(true, &[0.9, 0.9])),
            (90, clump(true, &[])),
            (100, near(&[0.9])),
            (110, near(&[0.5, 0.5])),
            (120, near(&[])),
            (130, near(&[0.5, 0.5, 0.5])),
        ]);
        let score = ProfileScore::of(&passages, 0);
        assert_eq!(
            score,
            ProfileScore { clumps: 5, clumps_as_one: 1, doubles: 1, near: 4, near_seen: 2, ..ProfileScore::default() }
        );
    }
}
