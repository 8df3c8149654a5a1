//! How long each query takes that pages, exports, retention, labels, challenges and rounds make.
//!
//! The file's cache is dropped before each query's first run; the rest run with other arguments each, as people do.

use std::{
    collections::HashSet,
    future::Future,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;
use time::OffsetDateTime;

use super::fill::{CAMERAS, CLASSES, LOT, PEOPLE, SHIFT, taken};
use crate::{
    bench::{machine, quantile},
    domain::{Action, Source},
    export::{LotCsv, LotReport, taken_off},
    store::{
        Ask, GateResult, ItemPage, LabelPage, Lot, Page, QueueOrder, Retention, RetentionState, Store, StoreError,
        hash_share,
    },
};

/// Runs of a query at least, unless they take longer than [`LONGEST`] together.
const RUNS: usize = 100;
/// No query is run again after this.
const LONGEST: Duration = Duration::from_secs(20);

/// How long a query took.
#[derive(Debug, Serialize)]
pub struct QueryTime {
    /// Which.
    pub query: String,
    /// Verdicts in the store.
    pub verdicts: i64,
    /// How often it was run.
    pub runs: usize,
    /// Milliseconds of the first run, the file out of the cache.
    pub cold_ms: f64,
    /// Of the others.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// See `p50_ms`.
    pub max_ms: f64,
    /// Where.
    pub machine: String,
}

/// A store whose queries are timed.
pub(super) struct Pages<'a> {
    pub store: &'a Store,
    pub folder: &'a Path,
    pub verdicts: i64,
    /// Queries whose name contains this; empty: all.
    pub only: &'a str,
    pub times: Vec<QueryTime>,
}

impl Pages<'_> {
    async fn time<T, F>(&mut self, query: &str, ask: impl Fn(usize) -> F) -> Result<()>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        if !query.contains(self.only) {
            return Ok(());
        }
        forget(self.folder)?;
        let begun = Instant::now();
        ask(0).await?;
        let cold = begun.elapsed();
        let mut times = Vec::new();
        for run in 1..=RUNS {
            let started = Instant::now();
            ask(run).await?;
            times.push(started.elapsed());
            if begun.elapsed() > LONGEST {
                break;
            }
        }
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let of = |q| ms(quantile(&times, q));
        let time = QueryTime {
            query: query.into(),
            verdicts: self.verdicts,
            runs: times.len(),
            cold_ms: ms(cold),
            p50_ms: of(0.5),
            p99_ms: of(0.99),
            max_ms: of(1.0),
            machine: machine(),
        };
        println!("{}", serde_json::to_string(&time)?);
        self.times.push(time);
        Ok(())
    }

    /// Times all of them.
    pub(super) async fn run(&mut self) -> Result<()> {
        self.verdict_pages().await?;
        self.lot_pages().await?;
        self.label_pages().await?;
        self.others().await
    }

    async fn verdict_pages(&mut self) -> Result<()> {
        let (store, verdicts) = (self.store, self.verdicts);
        // A place in the store, another for each run.
        let place = move |n: usize| (hash_share(n as i64, 7) * verdicts as f64) as i64 + 1;
        let page = move |n: usize| Page { before: Some(place(n)), limit: 50, ..Page::default() };
        let find = async |page: Page| store.find(&page).await;
        self.time("verdicts, newest", |_| find(Page { before: None, ..page(0) })).await?;
        self.time("verdicts, anywhere", |n| find(page(n))).await?;
        let reject = move |n| Page { action: Some(Action::Reject), ..page(n) };
        let http = Some(Source::Http);
        self.time("verdicts of an action", |n| find(reject(n))).await?;
        self.time("verdicts of a source", |n| find(Page { source: http, ..page(n) })).await?;
        self.time("verdicts of an action and source", |n| find(Page { source: http, ..reject(n) })).await?;
        let class = move |n: usize| Some(CLASSES[n % CLASSES.len()].to_owned());
        let camera = move |n: usize| Some(CAMERAS[n % CAMERAS.len()].to_owned());
        self.time("verdicts of a class", |n| find(Page { class: class(n), ..page(n) })).await?;
        self.time("verdicts of a camera", |n| find(Page { camera: camera(n), ..page(n) })).await?;
        self.time("verdicts of class, camera, action and source", |n| {
            find(Page { class: class(n), camera: camera(n), source: http, ..reject(n) })
        })
        .await?;
        let hour = move |n: usize, page: Page| {
            let from = Some(taken(place(n)));
            Page { before: None, from, to: from.map(|from| from + time::Duration::HOUR), ..page }
        };
        self.time("verdicts of an hour", |n| find(hour(n, page(n)))).await?;
        self.time("verdicts of an hour, class and camera", |n| {
            find(hour(n, Page { class: class(n), camera: camera(n), ..page(n) }))
        })
        .await?;
        self.time("verdict", |n| store.verdict(place(n))).await?;
        self.time("counts", |_| store.counts()).await?;
        self.time("head", |_| store.head()).await
    }

    async fn lot_pages(&mut self) -> Result<()> {
        let (store, verdicts) = (self.store, self.verdicts);
        let lots = store.lots(usize::MAX).await?;
        let lot = |n: usize| lots[(hash_share(n as i64, 9) * lots.len() as f64) as usize].clone();
        let shift =
            lots.iter().find(|lot| lot.name == format!("2026-{:05}", SHIFT.0 / LOT)).unwrap_or(&lots[0]).clone();
        ensure!(verdicts > 0, "the store is empty");
        let page = |lot: &Lot| Page { lot: Some(lot.lot), limit: 50, ..Page::default() };
        let find = async |page: Page| store.find(&page).await;
        self.time("verdicts of a lot", |n| find(page(&lot(n)))).await?;
        self.time("verdicts of a lot and an action", |n| find(Page { action: Some(Action::Divert), ..page(&lot(n)) }))
            .await?;
        self.time("verdicts of a lot's name and a class", |n| {
            let class = Some(CLASSES[n % CLASSES.len()].to_owned());
            find(Page { lot_name: Some(lot(n).name), class, limit: 50, ..Page::default() })
        })
        .await?;
        self.time("lots, newest", |_| store.lots(500)).await?;
        self.time("lot by name", |n| async move { store.lot_named(&lot(n).name).await }).await?;
        self.time("lot's report", |n| LotReport::read(store, lot(n))).await?;
        self.time("shift's report", |_| LotReport::read(store, shift.clone())).await?;
        self.time("lot's items taken off", |n| taken_off(store, lot(n).lot)).await?;
        self.time("shift's items taken off", |_| taken_off(store, shift.lot)).await?;
        self.time("lot's CSV, first rows", |n| first_rows(store, lot(n))).await?;
        self.time("shift's CSV, first rows", |_| first_rows(store, shift.clone())).await?;
        self.time("lot's CSV, whole", |n| whole(store, lot(n))).await
    }

    async fn label_pages(&mut self) -> Result<()> {
        let (store, verdicts) = (self.store, self.verdicts);
        let place = move |n: usize| Some((hash_share(n as i64, 7) * verdicts as f64) as i64 + 1);
        let page = move |n: usize| ItemPage { before: place(n), limit: 50, ..ItemPage::default() };
        let items = async |page: ItemPage| store.items(&page).await;
        self.time("items, newest", |_| items(ItemPage { limit: 50, ..ItemPage::default() })).await?;
        self.time("items, anywhere", |n| items(page(n))).await?;
        self.time("items, labeled", |n| items(ItemPage { labeled: Some(true), ..page(n) })).await?;
        self.time("items, unlabeled", |n| items(ItemPage { labeled: Some(false), ..page(n) })).await?;
        let class = move |n: usize| ItemPage { class: Some(CLASSES[n % 11].into()), ..page(n) };
        self.time("items of a class", |n| items(class(n))).await?;
        self.time("items of a rare class", |n| items(ItemPage { class: Some(CLASSES[11].into()), ..page(n) })).await?;
        self.time("items of a class, labeled", |n| items(ItemPage { labeled: Some(true), ..class(n) })).await?;
        self.time("items of an action", |n| items(ItemPage { action: Some(Action::Divert), ..page(n) })).await?;
        let labels = async |page: LabelPage| store.labels(&LabelPage { limit: 50, ..page }).await;
        let all = LabelPage::default;
        let by = |n: usize| Some(PEOPLE[n % 3].to_owned());
        self.time("labels, newest", |_| labels(all())).await?;
        self.time("labels of a person", |n| labels(LabelPage { by: by(n), ..all() })).await?;
        self.time("labels of a class", |n| labels(LabelPage { class: Some(CLASSES[n % 12].into()), ..all() })).await?;
        self.time("labels, current", |_| labels(LabelPage { current: true, ..all() })).await?;
        self.time("labels of an item", |n| labels(LabelPage { verdict: place(n), ..all() })).await?;
        self.time("labels of a person, counted", |n| async move { store.labels_of(PEOPLE[n % 3]).await }).await?;
        self.time("labeled items, counted", |_| store.labeled_items()).await?;
        self.time("agreement", |_| store.agreement()).await?;
        let (order, second_share) = (QueueOrder::Useful, 0.1);
        let ask = |n: usize| Ask { by: PEOPLE[n % 3].into(), limit: 10, order, second_share, busy: HashSet::new() };
        self.time("queue of labels", |n| store.queue(ask(n))).await?;
        self.time("unlabeled, counted", |_| store.unlabeled()).await
    }

    async fn others(&mut self) -> Result<()> {
        let store = self.store;
        self.time("challenges", |_| store.challenges(None)).await?;
        self.time("corrective actions", |_| store.corrective_actions(None)).await?;
        self.time("audit log", |_| store.deeds(None, 50)).await?;
        self.time("start", |_| store.starting("1")).await?;
        self.time("newest event", |_| store.newest_event()).await?;
        let mut asked = store.challenges(None).await?;
        if let Some(mut last) = asked.pop() {
            last.within_s = 3600.0; // still under way
            last.camera = CAMERAS[0].into();
            let now = OffsetDateTime::now_utc();
            self.time("challenge, looked at", |_| store.decide_challenge(&last, now, |_| GateResult::NoGate)).await?;
        }
        let rules = Retention {
            accepted_pictures: Duration::from_secs(86_400 * 30),
            verdicts: Duration::from_secs(86_400 * 36_500),
            ..Retention::default()
        };
        let now = OffsetDateTime::now_utc();
        self.time("retention, nothing to remove", |_| async {
            store.retain(&rules, now, true, &mut RetentionState::starting(store).await?).await
        })
        .await
    }
}

/// The first piece with an entry in it.
async fn first_rows(store: &Store, lot: Lot) -> Result<Option<Vec<u8>>, StoreError> {
    let mut csv = LotCsv::new(store.clone(), lot).await?;
    csv.next().await?;
    csv.next().await
}

async fn whole(store: &Store, lot: Lot) -> Result<usize, StoreError> {
    let mut csv = LotCsv::new(store.clone(), lot).await?;
    let mut bytes = 0;
    while let Some(piece) = csv.next().await? {
        bytes += piece.len();
    }
    Ok(bytes)
}

/// Drops the store's database from the system's cache.
fn forget(folder: &Path) -> Result<()> {
    let file = format!("if={}", folder.join("verdicts.sqlite").display());
    let done = Command::new("dd").args([&file, "iflag=nocache", "count=0", "status=none"]).status()?;
    ensure!(done.success(), "dd can't drop the cache");
    Ok(())
}
