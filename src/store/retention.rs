//! How long what is kept is kept, by class: pictures of accepted items, pictures of the others, verdicts; and how many bytes
//! of it.
//!
//! The record's entries are never removed: they are what proves that the rest is whole. When a verdict's document goes,
//! its entry stays, and an entry of the kind `verdicts_removed` says up to where documents were removed, so that verifying
//! tells what was removed by rule from what somebody took away.
//!
//! A limit of bytes needs no clock: the oldest go first in the order in which they were recorded, pictures before verdicts.
//! Ages need one that somebody vouches for ([`super::Clock`]), and remove at most twice what came in the same time, so that
//! even a clock that is wrong by years leaves days to notice it.
//!
//! Invariants: what a person labeled stays, picture and verdict: students are made of it. Nothing goes by what a document says
//! before the entry that holds it proved that it says so; what is not proven stays, and is told.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use serde::Deserialize;
use sqlx::{QueryBuilder, Sqlite};
use time::{Date, OffsetDateTime};

use super::{
    Store, StoreError,
    frames::Stored,
    record::{
        chain::{self, extend, no_head, tail},
        event::{Entry, Event},
    },
    tallies::Counted,
};

/// Documents removed in one transaction, so that the writer waits little.
const BATCH: i64 = 2000;
/// Documents removed before the bytes are counted again.
const STEP: u64 = 256;
/// Passes, an hour each, in which what goes is weighed against what came.
const PASSES: usize = 24;
/// So many times what came may go by age.
const TIMES: u64 = 2;
/// Reasons told at most.
const TOLD: usize = 20;

/// Which of `files` have to go, in the order of their places, so that the rest takes at most `most` bytes: those that are
/// `labeled` and those without a place never, even if then too much stays.
fn surplus(files: Vec<Stored>, places: &HashMap<String, i64>, labeled: &HashSet<String>, most: u64) -> Vec<Stored> {
    let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let free = |file: Stored| Some((*places.get(&file.key)?, file)).filter(|(_, file)| !labeled.contains(&file.key));
    let mut files: Vec<(i64, Stored)> = files.into_iter().filter_map(free).collect();
    files.sort_by(|a, b| (a.0, &a.1.key).cmp(&(b.0, &b.1.key)));
    let mut going = Vec::new();
    for (_, file) in files {
        if bytes <= most {
            break;
        }
        bytes -= file.bytes;
        going.push(file);
    }
    going
}

/// Ages at which things go, and how many bytes stay; zero keeps them for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Pictures in which every item was accepted.
    #[serde(with = "humantime_serde")]
    pub accepted_pictures: Duration,
    /// Pictures with a rejected or diverted item.
    #[serde(with = "humantime_serde")]
    pub other_pictures: Duration,
    /// Verdicts.
    #[serde(with = "humantime_serde")]
    pub verdicts: Duration,
    /// Most bytes of pictures; the oldest go first. 0 sets no limit.
    pub pictures_bytes: u64,
    /// Most bytes of pictures and database; the oldest pictures go first, then the oldest verdicts. 0 sets no limit.
    pub bytes: u64,
}

/// What was removed, or came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Pictures.
    pub pictures: u64,
    /// Verdicts.
    pub verdicts: u64,
}

/// Why something stays whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldBack {
    /// Nobody vouches for the clock.
    Clock,
    /// Twice what came in a day has gone.
    Budget,
    /// A document is not what its entry holds.
    Changed,
}

impl HeldBack {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Clock, Self::Budget, Self::Changed];

    /// Closed set of names for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Budget => "budget",
            Self::Changed => "changed",
        }
    }
}

/// What retention knows from one pass to the next.
#[derive(Debug, Default)]
pub struct RetentionState {
    /// The id of the newest verdict at the last pass.
    seen: i64,
    /// What came and what age removed in the newest passes.
    passes: VecDeque<(Removed, Removed)>,
    /// Pictures that no verdict named at the last pass: their verdicts may be on their way, until the next pass.
    unnamed: HashSet<String>,
    /// Why something stays although its time is over, as the last pass found, in words.
    pub held: BTreeMap<HeldBack, Vec<String>>,
}

impl RetentionState {
    /// That of a service that starts: nothing came yet.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn starting(store: &Store) -> Result<Self, StoreError> {
        Ok(Self { seen: store.highest_verdict().await?, ..Self::default() })
    }

    fn hold(&mut self, why: HeldBack, words: impl Into<String>) {
        let (held, words) = (self.held.entry(why).or_default(), words.into());
        if held.len() < TOLD && !held.contains(&words) {
            held.push(words);
        }
    }

    /// What age may remove now.
    fn allowed(&self) -> Removed {
        let sum = |of: fn(&Removed) -> u64| {
            let came: u64 = self.passes.iter().map(|(came, _)| of(came)).sum();
            let gone: u64 = self.passes.iter().map(|(_, gone)| of(gone)).sum();
            (TIMES * came).saturating_sub(gone)
        };
        Removed { pictures: sum(|n| n.pictures), verdicts: sum(|n| n.verdicts) }
    }
}

/// What retention reads of a document.
#[derive(Deserialize)]
struct Dated {
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
    action: String,
}

impl Store {
    /// Removes what is over the limits of bytes, and, if `vouched_for`, what is older at `now` than it has to be kept; tells
    /// the record. To be called once an hour with the same `state`.
    ///
    /// # Errors
    /// The store's; what was removed until then is removed, and what is left is found again.
    pub async fn retain(
        &self,
        rules: &Retention,
        now: OffsetDateTime,
        vouched_for: bool,
        state: &mut RetentionState,
    ) -> Result<Removed, StoreError> {
        state.held.clear();
        self.count_intake(state).await?;
        let mut removed = self.keep_bytes(rules, state).await?;
        let ages = [rules.accepted_pictures, rules.other_pictures, rules.verdicts];
        if !vouched_for && ages.iter().any(|age| !age.is_zero()) {
            state.hold(HeldBack::Clock, "nobody vouches for the clock: nothing is removed by its age");
        }
        if vouched_for {
            let gone = self.keep_ages(rules, now, state).await?;
            (removed.pictures, removed.verdicts) = (removed.pictures + gone.pictures, removed.verdicts + gone.verdicts);
        }
        if removed.pictures > 0 {
            self.append(Event::PicturesRemoved { pictures: removed.pictures }).await?;
        }
        if removed != Removed::default() {
            self.window.lock().await.forget();
        }
        Ok(removed)
    }

    /// The highest id that a verdict ever had.
    async fn highest_verdict(&self) -> Result<i64, StoreError> {
        let tail = tail(&mut *self.database.acquire().await?).await?;
        Ok(tail.map_or(0, |tail| tail.last_verdict))
    }

    /// Counts what came since the last pass, by places and not by times.
    async fn count_intake(&self, state: &mut RetentionState) -> Result<(), StoreError> {
        let newest = self.highest_verdict().await?;
        let pictures: i64 = sqlx::query_scalar(
            "SELECT count(DISTINCT frame) FROM verdicts WHERE id > ? AND id <= ? AND frame IS NOT NULL",
        )
        .bind(state.seen)
        .bind(newest)
        .fetch_one(&self.database)
        .await?;
        let came = Removed { pictures: pictures as u64, verdicts: (newest - state.seen) as u64 };
        state.seen = newest;
        state.passes.push_back((came, Removed::default()));
        if state.passes.len() > PASSES {
            state.passes.pop_front();
        }
        Ok(())
    }

    async fn keep_ages(
        &self,
        rules: &Retention,
        now: OffsetDateTime,
        state: &mut RetentionState,
    ) -> Result<Removed, StoreError> {
        let before = |age: Duration| (!age.is_zero()).then(|| now - age);
        let allowed = state.allowed();
        let mut gone = Removed::default();
        let (accepted, other) = (before(rules.accepted_pictures), before(rules.other_pictures));
        if accepted.is_some() || other.is_some() {
            gone.pictures = self.remove_pictures(accepted, other, allowed.pictures, state).await?;
        }
        if let Some(before) = before(rules.verdicts) {
            gone.verdicts = self.remove_verdicts(|time| time < before, allowed.verdicts, state).await?;
        }
        if let Some((_, of_this_pass)) = state.passes.back_mut() {
            *of_this_pass = gone;
        }
        Ok(gone)
    }

    /// Whole days only: a day's folder is looked at when its last moment is old enough. At most `most` go.
    async fn remove_pictures(
        &self,
        accepted: Option<OffsetDateTime>,
        other: Option<OffsetDateTime>,
        most: u64,
        state: &mut RetentionState,
    ) -> Result<u64, StoreError> {
        let over = |day: Date, before: Option<OffsetDateTime>| {
            before.is_some_and(|before| day.next_day().is_some_and(|next| next.midnight().assume_utc() <= before))
        };
        let mut removed = 0;
        for day in self.frame_days().await? {
            let (accepted, other) = (over(day, accepted), over(day, other));
            if !accepted && !other {
                continue;
            }
            for key in self.frame_keys(day).await? {
                let Some(taken_off) = self.unlabeled_picture(&key, state).await? else { continue };
                if !(if taken_off { other } else { accepted }) {
                    continue;
                }
                if removed == most {
                    state.hold(HeldBack::Budget, format!("{removed} pictures went, twice as many as came in a day"));
                    return Ok(removed);
                }
                self.remove_frame(&key).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Whether an item of the picture was rejected or diverted, by documents that are proven; `None` where it must stay: for
    /// its labels, or because a document is not what its entry holds.
    async fn unlabeled_picture(&self, key: &str, state: &mut RetentionState) -> Result<Option<bool>, StoreError> {
        let items: Vec<(i64, String, bool)> = sqlx::query_as(
            "SELECT id, body, EXISTS (SELECT 1 FROM labels WHERE verdict = v.id) FROM verdicts AS v WHERE frame = ?",
        )
        .bind(key)
        .fetch_all(&self.database)
        .await?;
        // One that no verdict names is left by a crash, or its verdicts are gone: it goes with the last.
        let mut taken_off = items.is_empty();
        for (id, document, labeled) in items {
            if labeled {
                return Ok(None);
            }
            let read: Result<Dated, _> = serde_json::from_str(&document);
            match read {
                Ok(read) if self.is_proven(id, &document).await? => taken_off |= read.action != "accept",
                _ => {
                    let what = format!("picture {key} stays: verdict {id} about it is not as its entry holds it");
                    state.hold(HeldBack::Changed, what);
                    return Ok(None);
                }
            }
        }
        Ok(Some(taken_off))
    }

    /// Removes what is over the limits of bytes: pictures, then verdicts, each in the order of their places.
    async fn keep_bytes(&self, rules: &Retention, state: &mut RetentionState) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        if rules.pictures_bytes == 0 && rules.bytes == 0 {
            return Ok(removed);
        }
        let mut files = Vec::new();
        for day in self.frame_days().await? {
            files.extend(self.frame_files(day).await?);
        }
        let mut pictures: u64 = files.iter().map(|file| file.bytes).sum();
        let limit = |bytes: u64| if bytes == 0 { u64::MAX } else { bytes };
        let places = self.picture_places(&files, state).await?;
        let labeled: Vec<(String,)> = sqlx::query_as(
            // From the labels on, which are few, not from all pictures.
            "SELECT DISTINCT v.frame FROM labels AS l CROSS JOIN verdicts AS v ON v.id = l.verdict
             WHERE l.id > 0 AND +v.frame IS NOT NULL",
        )
        .fetch_all(&self.database)
        .await?;
        let labeled = labeled.into_iter().map(|(key,)| key).collect();
        loop {
            // Asked again each time: that a picture is gone takes place in the database, too.
            let left_to_pictures = limit(rules.bytes).saturating_sub(self.database_bytes().await?);
            let going = surplus(files.clone(), &places, &labeled, limit(rules.pictures_bytes).min(left_to_pictures));
            if going.is_empty() {
                break;
            }
            for file in &going {
                if self.unlabeled_picture(&file.key, state).await?.is_none() {
                    continue;
                }
                self.remove_frame(&file.key).await?;
                (pictures, removed.pictures) = (pictures - file.bytes, removed.pictures + 1);
            }
            let gone: HashSet<&str> = going.iter().map(|file| file.key.as_str()).collect();
            files.retain(|file| !gone.contains(file.key.as_str()));
        }
        while rules.bytes > 0 && pictures + self.database_bytes().await? > rules.bytes {
            let gone = self.remove_verdicts(|_| true, STEP, state).await?;
            removed.verdicts += gone;
            if gone == 0 {
                break;
            }
        }
        state.held.remove(&HeldBack::Budget); // a step is no budget
        Ok(removed)
    }

    /// Where each picture stands: at the first verdict that names it. One that none named at the last pass either was left by
    /// a crash, and stands before all.
    async fn picture_places(
        &self,
        files: &[Stored],
        state: &mut RetentionState,
    ) -> Result<HashMap<String, i64>, StoreError> {
        let named: Vec<(String, i64)> =
            sqlx::query_as("SELECT frame, min(id) FROM verdicts WHERE frame IS NOT NULL GROUP BY frame")
                .fetch_all(&self.database)
                .await?;
        let mut places: HashMap<String, i64> = named.into_iter().collect();
        let unnamed = files.iter().map(|file| &file.key).filter(|key| !places.contains_key(*key));
        let unnamed: HashSet<String> = unnamed.cloned().collect();
        places.extend(unnamed.intersection(&state.unnamed).map(|key| (key.clone(), 0)));
        state.unnamed = unnamed;
        Ok(places)
    }

    /// Bytes of the database that hold something; what was removed leaves pages that are used again.
    async fn database_bytes(&self) -> Result<u64, StoreError> {
        let mut connection = self.database.acquire().await?;
        let mut number = [0; 3];
        for (number, pragma) in number.iter_mut().zip(["page_count", "freelist_count", "page_size"]) {
            *number =
                sqlx::query_scalar(sqlx::AssertSqlSafe(format!("PRAGMA {pragma}"))).fetch_one(&mut *connection).await?;
        }
        let [pages, free, size]: [i64; 3] = number;
        Ok(((pages - free) * size) as u64)
    }

    /// Removes the oldest documents of unlabeled verdicts that `may_go` by their times, `most` at most. Ids rise with commits,
    /// so the first one that may not ends what may go.
    async fn remove_verdicts(
        &self,
        may_go: impl Fn(OffsetDateTime) -> bool,
        most: u64,
        state: &mut RetentionState,
    ) -> Result<u64, StoreError> {
        let (mut removed, mut after) = (0, 0);
        loop {
            // One more than may go, to tell whether one is held back.
            let left = most - removed;
            let some = i64::try_from(left).map_or(BATCH, |left| BATCH.min(left.saturating_add(1)));
            let Some(oldest) = self.oldest_documents(after, some).await? else { break };
            after = oldest.last;
            for what in oldest.findings {
                state.hold(HeldBack::Changed, format!("{what}: it stays"));
            }
            let goes = |(id, document): &(i64, String)| {
                let read: Dated = serde_json::from_str(document).ok()?;
                may_go(read.time).then_some(*id)
            };
            let mut going: Vec<i64> = oldest.proven.iter().map_while(goes).collect();
            let all = going.len() == oldest.proven.len();
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            if going.len() > left {
                going.truncate(left);
                state.hold(HeldBack::Budget, format!("{most} verdicts went, twice as many as came in a day"));
            }
            let cut = going.len() == left;
            if !going.is_empty() {
                removed += self.remove_documents(&going).await?;
            }
            if !all || cut {
                break;
            }
        }
        Ok(removed)
    }

    /// Removes these documents, in order of their ids, and tells the record in the same step.
    async fn remove_documents(&self, going: &[i64]) -> Result<u64, StoreError> {
        let Some(&last) = going.last() else { return Ok(0) };
        let mut transaction = self.begin().await?;
        // What stayed at first may go behind what went before it: the place up to which documents are gone never falls.
        let to = match chain::last_of(&mut transaction, &["verdicts_removed"]).await? {
            Some(Entry { event: Event::VerdictsRemoved { to, .. }, .. }) => to.max(last),
            _ => last,
        };
        let mut delete = QueryBuilder::<Sqlite>::new(
            "DELETE FROM verdicts WHERE NOT EXISTS (SELECT 1 FROM labels WHERE verdict = verdicts.id) AND id IN (",
        );
        let mut ids = delete.separated(", ");
        for id in going {
            ids.push_bind(id);
        }
        // What is counted is what goes: both are seen by this transaction alone.
        delete.push(") RETURNING id, body");
        let documents: Vec<(i64, String)> = delete.build_query_as().fetch_all(&mut *transaction).await?;
        let (done, mut counted) = (documents.len() as u64, Counted::default());
        for (id, document) in documents {
            counted.read(id, document.as_bytes()).map_err(|e| StoreError::Row { id, why: e.to_string() })?;
        }
        counted.remove(&mut transaction).await?;
        let lots = counted.by_lot().into_iter().collect();
        let entry = [chain::event(Event::VerdictsRemoved { to, verdicts: done, lots })?];
        let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
        extend(&mut transaction, self.signer()?, tail, &entry).await?;
        transaction.commit().await?;
        Ok(done)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        domain::{Action, Verdict, testing::verdict},
        store::{Ask, ItemPage, Page, QueueOrder, frame_key, verify},
    };

    #[test]
    fn the_oldest_by_place_go_until_the_rest_fits_and_the_labeled_and_unplaced_never() {
        let file = |key: &str| Stored { key: key.into(), bytes: 100, written: 0 };
        // The days are those of a clock that was wrong: places alone count.
        let files = || ["20261103-c", "20360101-a", "20261101-b", "19700102-d", "20261104-e"].map(file).to_vec();
        let places = [("20360101-a", 1), ("20261101-b", 2), ("19700102-d", 3), ("20261103-c", 4)];
        let places = places.map(|(key, place)| (key.to_owned(), place)).into();
        let labeled = HashSet::from(["20261101-b".to_owned()]);
        let going = |most| surplus(files(), &places, &labeled, most).into_iter().map(|f| f.key).collect::<Vec<_>>();
        assert_eq!(going(500), Vec::<String>::new());
        assert_eq!(going(499), ["20360101-a"]);
        assert_eq!(going(250), ["20360101-a", "19700102-d", "20261103-c"]);
        assert_eq!(going(0).len(), 3, "the labeled one stays although nothing should, and one on its way");
    }

    #[tokio::test]
    async fn pictures_over_the_limit_are_gone_from_queue_and_gallery_but_not_the_labeled_and_disputed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let now = OffsetDateTime::now_utc();
        for n in 0..6u8 {
            let (time, jpeg) = (now - DAY * (10 - u32::from(n)), bytes::Bytes::from(vec![n; 1000]));
            let key = frame_key(&jpeg, time);
            store.put_frame(&key, jpeg).await.unwrap();
            store.insert(&[Verdict { time, frame: Some(key), ..verdict(Action::Reject) }]).await.unwrap();
        }
        store.add_label(1, Some("salmon"), "Ada", now).await.unwrap();
        store.add_label(3, Some("salmon"), "Ada", now).await.unwrap();
        store.add_label(3, Some("cod"), "Ben", now).await.unwrap();
        // One whose verdict is on its way stays.
        let coming = frame_key(b"coming", now - DAY * 99);
        store.put_frame(&coming, bytes::Bytes::from_static(b"coming")).await.unwrap();
        let rules = Retention { pictures_bytes: 4_006, ..Retention::default() };
        let mut state = RetentionState::default();
        let gone = store.retain(&rules, now, false, &mut state).await.unwrap();
        assert_eq!(gone, Removed { pictures: 2, verdicts: 0 }, "without a clock");
        assert_eq!(store.retain(&rules, now, false, &mut state).await.unwrap(), Removed::default());
        assert!(store.has_frame(&coming).await.unwrap());
        // None came within an hour: a crash left it.
        let rules = Retention { pictures_bytes: 4_000, ..Retention::default() };
        assert_eq!(store.retain(&rules, now, false, &mut state).await.unwrap(), Removed { pictures: 1, verdicts: 0 });
        assert!(!store.has_frame(&coming).await.unwrap());
        let page = ItemPage { limit: 10, ..ItemPage::default() };
        let there: Vec<i64> = store.items(&page).await.unwrap().iter().map(|i| i.verdict.id).collect();
        assert_eq!(there, [6, 5, 3, 1]);
        let ask =
            Ask { by: "Cleo".into(), limit: 10, order: QueueOrder::Useful, second_share: 0.0, busy: HashSet::new() };
        let mut asked: Vec<i64> = store.queue(ask).await.unwrap().items.iter().map(|v| v.id).collect();
        asked.sort_unstable();
        assert_eq!((asked, store.unlabeled().await.unwrap()), (vec![5, 6], 2));

        // The same picture comes again: its new verdict has it, the old one's stays gone.
        let jpeg = bytes::Bytes::from(vec![1; 1000]);
        let old = store.verdict(2).await.unwrap().unwrap();
        store.put_frame(old.frame.as_deref().unwrap(), jpeg).await.unwrap();
        store.insert(&[old]).await.unwrap();
        let there: Vec<i64> = store.items(&page).await.unwrap().iter().map(|i| i.verdict.id).collect();
        assert_eq!(there, [7, 6, 5, 3, 1]);
    }

    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test]
    async fn each_class_goes_at_its_age_and_the_record_still_verifies() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let now = OffsetDateTime::now_utc();
        let mut keys = Vec::new();
        for (n, (action, days)) in [
            (Action::Accept, 40),
            (Action::Reject, 40),
            (Action::Accept, 5),
            (Action::Reject, 400),
            (Action::Accept, 401),
        ]
        .into_iter()
        .enumerate()
        {
            let time = now - DAY * days;
            let jpeg = bytes::Bytes::from(vec![n as u8; 100]);
            let key = frame_key(&jpeg, time);
            store.put_frame(&key, jpeg).await.unwrap();
            keys.push((key.clone(), days));
            store.insert(&[Verdict { time, frame: Some(key), ..verdict(action) }]).await.unwrap();
        }
        store.add_label(5, Some("salmon"), "Ada", now).await.unwrap();
        let rules = Retention {
            accepted_pictures: DAY * 30,
            other_pictures: DAY * 365,
            verdicts: DAY * 60,
            ..Retention::default()
        };
        let mut state = RetentionState::default(); // all came in this hour: twice as much may go
        // Verdicts are in the order of their commits; an old one behind a young one waits for it.
        assert_eq!(store.retain(&rules, now, true, &mut state).await.unwrap(), Removed { pictures: 2, verdicts: 0 });
        let mut left = Vec::new();
        for (key, _) in &keys {
            left.push(store.frame(key).await.unwrap().is_some());
        }
        assert_eq!(left, [false, true, true, false, true], "accepted at 40 days, rejected at 400; labeled never");
        assert_eq!(
            store.retain(&rules, now + DAY * 30, true, &mut state).await.unwrap(),
            Removed { pictures: 1, verdicts: 2 }
        );
        assert_eq!(store.retain(&rules, now + DAY * 30, true, &mut state).await.unwrap(), Removed::default());
        let page = Page { limit: 10, ..Page::default() };
        let ids: Vec<i64> = store.verdicts(page).await.unwrap().iter().map(|v| v.id).collect();
        assert_eq!(ids, [5, 4, 3]);
        let found = verify(folder.path(), None, None).await.unwrap();
        assert_eq!((found.findings.len(), found.verdicts, found.removed), (0, 5, 2), "{found}");
        // One more taken away is no retention.
        sqlx::query("DELETE FROM verdicts WHERE id = 4").execute(&store.writer).await.unwrap();
        assert!(!verify(folder.path(), None, None).await.unwrap().findings.is_empty());
    }

    /// A store with so many verdicts, one a day, the oldest first and 100 days ago.
    async fn daily(folder: &std::path::Path, verdicts: u32) -> (Store, OffsetDateTime) {
        let store = Store::open(folder).await.unwrap();
        let now = OffsetDateTime::now_utc();
        for n in 0..verdicts {
            let time = now - DAY * (100 - n);
            store.insert(&[Verdict { time, track: n.into(), ..verdict(Action::Reject) }]).await.unwrap();
        }
        (store, now)
    }

    async fn left(store: &Store) -> Vec<i64> {
        store.verdicts(Page { limit: 500, ..Page::default() }).await.unwrap().iter().rev().map(|v| v.id).collect()
    }

    #[tokio::test]
    async fn a_clock_that_is_years_ahead_removes_at_most_twice_what_came_in_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let (store, now) = daily(folder.path(), 90).await;
        let (rules, ahead) = (Retention { verdicts: DAY * 30, ..Retention::default() }, now + DAY * 3650);
        let mut state = RetentionState::starting(&store).await.unwrap();
        // Nobody vouches for it: nothing goes, and that is told.
        assert_eq!(store.retain(&rules, ahead, false, &mut state).await.unwrap(), Removed::default());
        assert_eq!(state.held.keys().collect::<Vec<_>>(), [&HeldBack::Clock]);
        // Somebody does, and is wrong.
        assert_eq!(store.retain(&rules, ahead, true, &mut state).await.unwrap(), Removed::default());
        assert_eq!(state.held.keys().collect::<Vec<_>>(), [&HeldBack::Budget]);
        let mut gone = Vec::new();
        for came in [3, 0, 1] {
            store.insert(&vec![Verdict { time: now, ..verdict(Action::Accept) }; came]).await.unwrap();
            gone.push(store.retain(&rules, ahead, true, &mut state).await.unwrap().verdicts);
        }
        assert_eq!(gone, [6, 0, 2]);
        assert_eq!(left(&store).await.len(), 90 + 4 - 8);
        assert_eq!(verify(folder.path(), None, None).await.unwrap().findings, []);
    }

    #[tokio::test]
    async fn a_document_with_a_forged_time_stays_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (store, now) = daily(folder.path(), 90).await;
        sqlx::query("DROP TRIGGER verdicts_stay").execute(&store.writer).await.unwrap();
        let forged =
            "UPDATE verdicts SET body = json_replace(body, '$.time', '2001-01-01T00:00:00Z') WHERE id IN (2, 85)";
        sqlx::query(forged).execute(&store.writer).await.unwrap();
        let rules = Retention { verdicts: DAY * 30, ..Retention::default() };
        let mut state = RetentionState::default();
        assert_eq!(store.retain(&rules, now, true, &mut state).await.unwrap().verdicts, 69);
        let wanted: Vec<i64> = [2].into_iter().chain(71..=90).collect();
        assert_eq!(left(&store).await, wanted, "the young one stays as much as the old one: neither is proven");
        let told = &state.held[&HeldBack::Changed];
        assert!(told.len() == 2 && told[0].starts_with("verdict 2 is not as entry"), "{told:?}");
        let mut found: Vec<_> = verify(folder.path(), None, None).await.unwrap().findings;
        found.retain(|found| found.entry > 0); // the trigger is away, too
        assert_eq!(
            found.iter().map(|f| f.what.as_str()).collect::<Vec<_>>(),
            ["verdict 2 was changed", "verdict 85 was changed"]
        );
    }

    #[tokio::test]
    async fn a_picture_whose_verdict_was_changed_stays_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let now = OffsetDateTime::now_utc();
        for n in 0..2u8 {
            let (time, jpeg) = (now - DAY * 40, bytes::Bytes::from(vec![n; 10]));
            let key = frame_key(&jpeg, time);
            store.put_frame(&key, jpeg).await.unwrap();
            store.insert(&[Verdict { time, frame: Some(key), ..verdict(Action::Reject) }]).await.unwrap();
        }
        // Who would have a picture go first: an earlier verdict names it, too.
        let newest = store.verdict(2).await.unwrap().unwrap().frame.unwrap();
        sqlx::query("DROP TRIGGER verdicts_stay").execute(&store.writer).await.unwrap();
        let named = format!("UPDATE verdicts SET body = json_replace(body, '$.frame', '{newest}') WHERE id = 1");
        let before = store.verdict(1).await.unwrap().unwrap().frame.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(named.clone())).execute(&store.writer).await.unwrap();
        let rules = Retention { pictures_bytes: 10, ..Retention::default() };
        let mut state = RetentionState::default();
        assert_eq!(store.retain(&rules, now, false, &mut state).await.unwrap(), Removed::default());
        assert!(state.held[&HeldBack::Changed][0].contains("verdict 1 about it"), "{:?}", state.held);
        assert!(store.has_frame(&newest).await.unwrap());
        sqlx::query(sqlx::AssertSqlSafe(named.replace(&newest, &before))).execute(&store.writer).await.unwrap();
        // Who would have pictures of rejects go as early as those of accepted items.
        let forged = "UPDATE verdicts SET body = json_replace(body, '$.action', 'accept') WHERE id = 1";
        sqlx::query(forged).execute(&store.writer).await.unwrap();
        let rules = Retention { accepted_pictures: DAY * 30, other_pictures: DAY * 365, ..Retention::default() };
        let mut state = RetentionState::default();
        assert_eq!(store.retain(&rules, now, true, &mut state).await.unwrap(), Removed::default());
        assert!(state.held[&HeldBack::Changed][0].contains("verdict 1 about it"), "{:?}", state.held);
    }

    #[tokio::test]
    async fn a_limit_of_bytes_needs_no_clock_and_takes_pictures_before_verdicts() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        for n in 0..40u8 {
            // A clock that runs backwards, by years.
            let time = OffsetDateTime::UNIX_EPOCH + DAY * (40_000 - u32::from(n) * 900);
            let jpeg = bytes::Bytes::from(vec![n; 4096]);
            let key = frame_key(&jpeg, time);
            store.put_frame(&key, jpeg).await.unwrap();
            store.insert(&vec![Verdict { time, frame: Some(key), ..verdict(Action::Accept) }; 50]).await.unwrap();
        }
        let database = store.database_bytes().await.unwrap();
        let mut state = RetentionState::starting(&store).await.unwrap();
        let mut retain = async |bytes| {
            let rules = Retention { bytes, ..Retention::default() };
            store.retain(&rules, OffsetDateTime::UNIX_EPOCH, false, &mut state).await.unwrap()
        };
        assert_eq!(retain(database + 40 * 4096).await, Removed::default());
        let some = retain(database + 30 * 4096).await;
        assert_eq!((some.verdicts, some.pictures >= 10), (0, true), "{some:?}");
        let first = store.verdicts(Page { limit: 1, before: Some(2), ..Page::default() }).await.unwrap().remove(0);
        let last = store.verdicts(Page { limit: 1, ..Page::default() }).await.unwrap().remove(0);
        assert!(!store.has_frame(first.frame.as_deref().unwrap()).await.unwrap(), "the first that came");
        assert!(store.has_frame(last.frame.as_deref().unwrap()).await.unwrap(), "the last that came");
        let rest = retain(database / 2).await;
        assert!(rest.verdicts > 0 && some.pictures + rest.pictures == 40, "{rest:?}");
        assert!(store.verdicts(Page { limit: 1, before: Some(2), ..Page::default() }).await.unwrap().is_empty());
        assert_eq!(store.verdict(2000).await.unwrap().map(|v| v.id), Some(2000), "the last one");
        assert_eq!(verify(folder.path(), None, None).await.unwrap().findings, []);
    }
}
