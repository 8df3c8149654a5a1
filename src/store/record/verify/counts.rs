//! What the tables of counts say against the documents that were verified.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::SqliteConnection;

use super::{Finding, finding};
use crate::store::{
    labels::counts::COUNTED,
    tallies::{Alike, BLOCK, Counted, removed_by_lot},
};

/// What the tables of counts say, read in one state with the head.
pub(super) struct ToldCounts {
    counted: Counted,
    /// Verdicts by action.
    actions: BTreeMap<String, i64>,
    /// Verdicts by lot that retention removed, and what its entries say.
    removed: BTreeMap<i64, i64>,
    removed_as_recorded: BTreeMap<i64, i64>,
    /// Items by labeler, and as counting finds them.
    labeled: BTreeMap<String, i64>,
    labeled_as_counted: BTreeMap<String, i64>,
    /// Rows that say nothing, which the program never leaves, or the same as another.
    idle: i64,
    /// Of the newest verdict.
    newest_block: i64,
}

impl ToldCounts {
    /// `None` in a store of a version that did not count.
    pub(super) async fn read(state: &mut SqliteConnection, head: i64) -> Result<Option<Self>, sqlx::Error> {
        let counts: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'tallies')")
            .fetch_one(&mut *state)
            .await?;
        if !counts {
            return Ok(None);
        }
        let actions: Vec<(String, i64)> =
            sqlx::query_as("SELECT action, verdicts FROM counts").fetch_all(&mut *state).await?;
        let removed: Vec<(i64, i64)> =
            sqlx::query_as("SELECT lot, verdicts FROM lots_removed").fetch_all(&mut *state).await?;
        let labeled: Vec<(String, i64)> =
            sqlx::query_as("SELECT labeler, items FROM label_counts").fetch_all(&mut *state).await?;
        let labeled_as_counted: Vec<(String, i64)> = sqlx::query_as(COUNTED).fetch_all(&mut *state).await?;
        let idle = "SELECT (SELECT count(*) FROM tallies WHERE verdicts < 1) + (SELECT count(*) FROM counts WHERE verdicts < 0)
                 + (SELECT count(*) FROM lots_removed WHERE verdicts < 1) + (SELECT count(*) FROM label_counts WHERE items < 0)
                 + (SELECT count(*) FROM tallies)
                 - (SELECT count(*) FROM (SELECT DISTINCT lot, action, class, model, thresholds FROM tallies))";
        let newest = "SELECT CAST(coalesce((SELECT verdict FROM record WHERE verdict IS NOT NULL ORDER BY seq DESC LIMIT 1), 0) AS INTEGER)";
        let newest: i64 = sqlx::query_scalar(newest).fetch_one(&mut *state).await?;
        Ok(Some(Self {
            newest_block: newest / BLOCK,
            idle: sqlx::query_scalar(idle).fetch_one(&mut *state).await?,
            labeled: labeled.into_iter().collect(),
            labeled_as_counted: labeled_as_counted.into_iter().collect(),
            counted: Counted::told(&mut *state).await?,
            actions: actions.into_iter().collect(),
            removed: removed.into_iter().collect(),
            removed_as_recorded: removed_by_lot(state, head).await?,
        }))
    }

    /// Findings where they differ from `there`, the verdicts that were verified. `since`: verdicts by lot that retention
    /// has removed after the counts were read; each may have been counted or not.
    pub(super) fn compare(&self, there: &Counted, since: &BTreeMap<i64, i64>) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.idle > 0 {
            findings.push(finding(0, format!("{} rows of the counts count nothing or are there twice", self.idle)));
        }
        if self.counted.spans.keys().any(|block| !(0..=self.newest_block).contains(block)) {
            findings.push(finding(0, "the times of verdicts are told that there can't be"));
        }
        let (told, found) = (self.counted.by_lot(), there.by_lot());
        for lot in told.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
            let of = |lots: &BTreeMap<i64, i64>| lots.get(lot).copied().unwrap_or(0);
            if !(of(&told) - of(since)..=of(&told)).contains(&of(&found)) {
                let what = format!("lot {lot} is told to hold {} verdicts, but holds {}", of(&told), of(&found));
                findings.push(finding(0, what));
            }
        }
        for (lot, n) in unlike(&self.removed, &self.removed_as_recorded) {
            findings.push(finding(0, format!("of lot {lot} another number was removed than its {n} told")));
        }
        for (labeler, n) in unlike(&self.labeled, &self.labeled_as_counted) {
            findings.push(finding(0, format!("{labeler:?} is told to have labeled {n} items, but has labeled others")));
        }
        for (block, (first, last)) in &there.spans {
            let span = self.counted.spans.get(block);
            if span.is_none_or(|span| span.0 > *first || span.1 < *last) {
                findings.push(finding(0, format!("the times of the verdicts of block {block} lie outside its span")));
            }
        }
        if since.is_empty() {
            findings.extend(self.compare_alike(there));
        }
        findings
    }

    fn compare_alike(&self, there: &Counted) -> Vec<Finding> {
        let sorted = |counted: &Counted| counted.alike.clone().into_iter().collect::<BTreeMap<Alike, i64>>();
        let (told, found) = (sorted(&self.counted), sorted(there));
        let mut findings = Vec::new();
        for (alike, n) in unlike(&told, &found) {
            let Alike { lot, action, class, .. } = alike;
            let (class, holds) = (class.as_deref().unwrap_or("no class"), found.get(alike).copied().unwrap_or(0));
            let what = format!("of lot {lot}, {n} verdicts are told to be {action} as {class}, but {holds} are");
            findings.push(finding(0, what));
        }
        let mut actions: BTreeMap<String, i64> = BTreeMap::new();
        for (alike, n) in &found {
            *actions.entry(alike.action.clone()).or_default() += n;
        }
        for (action, n) in unlike(&self.actions, &actions) {
            findings.push(finding(0, format!("{n} verdicts are told to be {action}, but other many are")));
        }
        findings
    }
}

/// What `told` says of each key where `found` says something else; nothing is as good as 0.
fn unlike<'a, K: Ord>(told: &'a BTreeMap<K, i64>, found: &'a BTreeMap<K, i64>) -> Vec<(&'a K, i64)> {
    let keys: BTreeSet<&K> = told.keys().chain(found.keys()).collect();
    let of = |map: &BTreeMap<K, i64>, key: &K| map.get(key).copied().unwrap_or(0);
    keys.into_iter().filter(|key| of(told, key) != of(found, key)).map(|key| (key, of(told, key))).collect()
}
