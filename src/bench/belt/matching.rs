//! Which item each verdict is about: the one that lay where and when the verdict says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use time::OffsetDateTime;

use crate::{
    belt::{Belt, BeltConfig, Species},
    domain::Verdict,
};

fn seconds_of(time: OffsetDateTime) -> f64 {
    (time - OffsetDateTime::UNIX_EPOCH).as_seconds_f64()
}

/// Where on the belt of picture 0, taken at `start`, the item of `verdict` lies.
fn belt_position(verdict: &Verdict, start: f64, speed: f64) -> f64 {
    let centre = verdict.region.map_or(0.0, |region| f64::from(region.centre().0));
    (seconds_of(verdict.time) - start) * speed - centre
}

/// Which item each verdict is about.
pub(super) struct ItemMatching<'a> {
    config: BeltConfig,
    /// Where each item lies on the belt.
    positions: Vec<f64>,
    /// When picture 0 was taken.
    start: f64,
    /// Of each item, in the order in which they came.
    pub verdicts: BTreeMap<usize, Vec<&'a Verdict>>,
    /// Verdicts whose place is that of another item.
    pub misplaced: usize,
}

impl<'a> ItemMatching<'a> {
    /// `verdicts` of one camera since the service started, the oldest first; `began`: when picture 0 was taken, where
    /// that is known.
    pub(super) fn of(verdicts: &[&'a Verdict], config: BeltConfig, began: Option<f64>) -> Result<Self> {
        let (Some(first), Some(last)) = (verdicts.first(), verdicts.last()) else { bail!("no verdicts") };
        let belt = Belt::new(config.clone())?;
        let seconds = seconds_of(last.time) - began.unwrap_or(seconds_of(first.time));
        let places = 0..(seconds * config.items_per_minute / 60.0) as u64 + 100;
        let items: Vec<(f64, Species)> = places.filter_map(|i| Some((belt.position(i)?, belt.species(i)?))).collect();
        if let Some(began) = began {
            return Ok(Self::with(verdicts, &config, &items, began));
        }
        // Which item the first verdict is about is told by the species that follow.
        let some = &verdicts[..verdicts.len().min(200)];
        let start = |item: usize| (belt_position(first, 0.0, config.speed) - items[item].0) / config.speed;
        let best = (0..40).map(start).min_by_key(|start| Self::with(some, &config, &items, *start).misplaced);
        Ok(Self::with(verdicts, &config, &items, best.context("no place fits")?))
    }

    fn with(verdicts: &[&'a Verdict], config: &BeltConfig, items: &[(f64, Species)], start: f64) -> Self {
        let quarter = config.speed * 60.0 / config.items_per_minute / 4.0;
        let mut matching = Self {
            positions: items.iter().map(|(position, _)| *position).collect(),
            start,
            config: config.clone(),
            verdicts: BTreeMap::new(),
            misplaced: 0,
        };
        for &verdict in verdicts {
            let position = belt_position(verdict, matching.start, config.speed);
            let next = matching.positions.partition_point(|p| *p < position).min(items.len() - 1);
            let item = match next.checked_sub(1) {
                Some(before) if position - matching.positions[before] < matching.positions[next] - position => before,
                _ => next,
            };
            let off = position - matching.positions[item];
            // The wall clock may run a little faster or slower than the one that moves the belt.
            matching.start += 0.05 * off / config.speed;
            let right = verdict.truth.as_ref().map_or(off.abs() < quarter, |truth| truth == items[item].1.name());
            matching.misplaced += usize::from(!right);
            matching.verdicts.entry(item).or_default().push(verdict);
        }
        matching
    }

    /// The items that came into the picture and left it between `from` and `to`.
    pub(super) fn passed(&self, from: OffsetDateTime, to: OffsetDateTime) -> BTreeSet<usize> {
        let (from, to) = (seconds_of(from), seconds_of(to));
        let (speed, width) = (self.config.speed, f64::from(self.config.width));
        let half = 0.225 * width; // of the longest item
        let whole = |position: f64| {
            let comes = self.start + (position - half) / speed;
            comes >= from && comes + (width + 2.0 * half) / speed <= to
        };
        (0..self.positions.len()).filter(|item| whole(self.positions[*item])).collect()
    }
}
