//! A new student under watch: what shows that it must go.
//!
//! Invariant: the watch lasts as long as the configuration says, whatever restarts meanwhile: its terms lie in the round's
//! folder.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{RoundFolder, window::BeltWindow};
use crate::{
    domain::{Source, Verdict},
    store::{Challenge, Store, StoreError},
};

/// Belt items before a new student is judged.
const ITEMS: usize = 100;
/// Share by which rejects may change beyond what the shadow run showed.
const REJECT_JUMP: f64 = 0.15;
/// Share of faults that ends a probation.
const FAULTS: f64 = 0.05;
/// File name inside a round's folder.
const TERMS: &str = "probation.json";

/// What the student is measured by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ProbationTerms {
    /// When it took over, by the clock of the record.
    #[serde(with = "time::serde::rfc3339")]
    pub began: OffsetDateTime,
    /// Share of items that did not pass before.
    pub before: f64,
    /// Share of items on which the shadow run differed.
    pub expected: f64,
    /// Whether the watch ended and it stayed.
    #[serde(default)]
    pub passed: bool,
}

/// A new student under watch.
pub(super) struct Probation {
    pub version: String,
    folder: RoundFolder,
    terms: ProbationTerms,
    until: Instant,
    tests: ProbationTests,
    belt: BeltWindow,
    items: usize,
}

impl Probation {
    /// Begins the watch over the student of the round in `folder`, for `span`.
    pub fn begin(folder: &RoundFolder, terms: ProbationTerms, span: Duration) -> Self {
        if let Err(e) = folder.write(TERMS, &terms) {
            tracing::warn!("after a restart {} will not be watched: {e}", folder.version());
        }
        Self::new(folder, terms, span)
    }

    /// Goes on with the watch over the student `serving`, if it came from one of `rounds` and has not passed it yet; of
    /// the time `span` what is left at `now`.
    pub fn resume(rounds: &[RoundFolder], serving: &str, span: Duration, now: OffsetDateTime) -> Option<Self> {
        let folder = rounds.iter().rev().find(|round| round.version() == serving)?;
        let terms: ProbationTerms = folder.read(TERMS)?;
        let gone = Duration::try_from(now - terms.began).unwrap_or_default(); // negative: the clock was set back
        (!terms.passed).then(|| Self::new(folder, terms, span.saturating_sub(gone)))
    }

    fn new(folder: &RoundFolder, terms: ProbationTerms, left: Duration) -> Self {
        let (tests, belt) = (ProbationTests::default(), BeltWindow::default());
        let (version, folder) = (folder.version().to_string(), folder.clone());
        Self { version, folder, terms, until: Instant::now() + left, tests, belt, items: 0 }
    }

    /// Takes a verdict into account, if it is about a belt item and the student's own.
    pub fn see(&mut self, verdict: &Verdict, deadline: Duration) {
        if verdict.source == Source::Belt && verdict.model.split('@').next() == Some(&self.version) {
            self.belt.add(verdict, deadline);
            self.items += 1;
        }
    }

    /// Reads the challenge tests again if anything was written into the record meanwhile.
    ///
    /// # Errors
    /// The store's.
    pub async fn read_tests(&mut self, store: &Store) -> Result<(), StoreError> {
        let event = store.newest_event().await?;
        if event != self.tests.event {
            self.tests = ProbationTests::of(&store.challenges(None).await?, self.terms.began, event);
        }
        Ok(())
    }

    /// Why the student must go, if it must.
    pub fn trouble(&self) -> Option<String> {
        let (rejects, faults) = (self.belt.share(|item| !item.passed), self.belt.share(|item| item.fault));
        self.tests.missed.clone().or_else(|| troubled(self.items, &self.terms, rejects, faults))
    }

    /// Whether the time is over, enough items were judged to tell, and nothing is undecided: a belt that stands proves
    /// nothing.
    pub fn over(&self) -> bool {
        Instant::now() >= self.until && self.items >= ITEMS && !self.tests.undecided
    }

    /// Ends the watch: the student stays, after a restart too.
    pub fn pass(self) {
        let terms = ProbationTerms { passed: true, ..self.terms };
        if let Err(e) = self.folder.write(TERMS, &terms) {
            tracing::warn!("after a restart {} will be watched again: {e}", self.version);
        }
    }
}

/// Challenge tests that were announced since the student under watch took over.
#[derive(Debug, Default, PartialEq, Eq)]
struct ProbationTests {
    /// The newest event when they were read.
    event: i64,
    /// Whether one is not decided yet.
    undecided: bool,
    /// What is to be said about one that was missed.
    missed: Option<String>,
}

impl ProbationTests {
    fn of(challenges: &[Challenge], began: OffsetDateTime, event: i64) -> Self {
        let mut own = challenges.iter().filter(|challenge| challenge.announced >= began);
        let undecided = own.clone().any(|challenge| challenge.found.is_none());
        let missed = own.find(|challenge| challenge.found == Some(false));
        let missed = missed.map(|c| format!("challenge test {} ({} on {}) was missed", c.challenge, c.piece, c.camera));
        Self { event, undecided, missed }
    }
}

/// Why the student under watch must go, if it must. `items` were judged by it; `rejects` and `faults` are shares of the
/// newest of them.
fn troubled(items: usize, terms: &ProbationTerms, rejects: f64, faults: f64) -> Option<String> {
    if items < ITEMS {
        return None;
    }
    if faults > FAULTS {
        return Some(format!("{:.1} % of the items had no scores", faults * 100.0));
    }
    let change = rejects - terms.before;
    (change.abs() > terms.expected + REJECT_JUMP).then(|| {
        format!(
            "{:.1} % of the items were not let pass, {:.1} % before; the shadow run had shown a change of at most {:.1} %",
            rejects * 100.0,
            terms.before * 100.0,
            terms.expected * 100.0
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn terms(before: f64, expected: f64) -> ProbationTerms {
        ProbationTerms { began: OffsetDateTime::UNIX_EPOCH, before, expected, passed: false }
    }

    #[test]
    fn a_probation_ends_by_faults_or_by_a_jump_beyond_what_the_shadow_run_showed() {
        assert_eq!(troubled(99, &terms(0.1, 0.0), 0.9, 0.9), None, "too few items to tell");
        assert!(troubled(100, &terms(0.1, 0.0), 0.1, 0.06).is_some_and(|why| why.contains("no scores")));
        assert_eq!(troubled(100, &terms(0.1, 0.2), 0.4, 0.0), None, "the shadow run foretold it");
        assert!(troubled(100, &terms(0.1, 0.05), 0.4, 0.0).is_some_and(|why| why.contains("40.0 %")));
        assert!(troubled(100, &terms(0.5, 0.05), 0.1, 0.0).is_some(), "suddenly everything passes");
    }

    #[test]
    fn a_belt_that_stands_proves_nothing() {
        let store = tempfile::tempdir().unwrap();
        let mut watch = Probation::begin(&RoundFolder::new(store.path(), 1), terms(0.1, 0.05), Duration::ZERO);
        assert!(!watch.over(), "the time is over, yet nothing came");
        watch.items = ITEMS;
        assert!(watch.over());
    }

    #[test]
    fn a_restart_does_not_end_the_watch() {
        let store = tempfile::tempdir().unwrap();
        let (folder, span, began) =
            (RoundFolder::new(store.path(), 3), Duration::from_secs(600), OffsetDateTime::now_utc());
        let terms = ProbationTerms { began, ..terms(0.1, 0.05) };
        Probation::begin(&folder, terms.clone(), span);
        let rounds = [folder, RoundFolder::new(store.path(), 4)];
        let left = |serving: &str, after: i64| {
            let now = began + time::Duration::seconds(after);
            let watch = Probation::resume(&rounds, serving, span, now)?;
            assert_eq!((&*watch.version, &watch.terms), (serving, &terms));
            Some(watch.until.saturating_duration_since(Instant::now()).as_secs())
        };
        assert!(left("round-0003", 60).is_some_and(|left| (530..=540).contains(&left)));
        assert_eq!(left("round-0003", 601), Some(0), "the time is over, but no item proved anything");
        assert!(left("round-0003", -60).is_some_and(|left| left >= 590), "the clock was set back");
        assert_eq!(left("round-0004", 60), None, "never watched");
        assert_eq!(left("first", 60), None, "it was rolled back, or a person put another in its place");
        Probation::resume(&rounds, "round-0003", span, began).unwrap().pass();
        assert_eq!(left("round-0003", 60), None, "it has passed");
    }
}
