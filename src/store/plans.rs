//! One test: no query that a page, a poll, an export or the writer makes walks through verdicts, record or labels.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Row};
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing_subscriber::{Layer, layer::SubscriberExt};

use super::*;
use crate::domain::{Action, Source, Verdict, testing::verdict};

/// Tables that stay small: a row per action, lot, 4,096 verdicts or migration.
const SMALL: [&str; 12] = [
    "head",
    "counts",
    "tallies",
    "spans",
    "sqlite_sequence",
    "sqlite_master", // as a plan calls sqlite_schema
    "sqlite_schema",
    "_sqlx_migrations",
    "json_each",
    "CONSTANT",
    "1",
    "4",
];
/// What runs once in a store's life, or looks through one lot's end.
const ONCE: [&str; 2] = ["PRAGMA", "count(*) FROM _sqlx_migrations"];

/// Every statement that sqlx runs.
#[derive(Clone, Default)]
struct Statements(Arc<Mutex<BTreeSet<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target() == "sqlx::query" {
            event.record(&mut Text(self));
        }
    }
}

struct Text<'a>(&'a Statements);

impl Visit for Text<'_> {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if ["summary", "db.statement"].contains(&field.name()) && !value.trim().is_empty() {
            self.0.0.lock().unwrap().insert(value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
}

/// Does once what services, pages and people do all day.
async fn all_day(store: &Store) {
    let now = OffsetDateTime::now_utc();
    let lot = store.begin_lot("A", "plc").await.unwrap();
    let kept = |action| Verdict {
        source: Source::Belt,
        camera: "belt".into(),
        lot: Some(lot),
        frame: Some("20261125-0123456789abcdef01234567".into()),
        ..verdict(action)
    };
    store.insert(&[kept(Action::Accept), kept(Action::Reject), verdict(Action::Divert)]).await.unwrap();
    let label = store.add_label(1, Some("cod"), "anna", now).await.unwrap();
    store.withdraw_label(label.id, "anna", now).await.unwrap();
    for (class, by) in [("cod", "anna"), ("bass", "ben")] {
        store.add_label(2, Some(class), by, now).await.unwrap();
    }
    let said = |within_s| Announcement {
        camera: "belt".into(),
        piece: "shoe".into(),
        class: None,
        within_s,
        by: "Ada".into(),
    };
    store.challenge(said(0.0)).await.unwrap();
    let challenge = store.challenges(None).await.unwrap().remove(0);
    let moved = |_: &TakenOff| GateResult::NoGate;
    store.decide_challenge(&challenge, now + Duration::from_secs(60), moved).await.unwrap();
    store.challenge(said(3600.0)).await.unwrap();
    store.insert(&[Verdict { time: OffsetDateTime::now_utc(), ..kept(Action::Reject) }]).await.unwrap();
    let again = store.challenges(None).await.unwrap().remove(1);
    assert_eq!(store.decide_challenge(&again, now, moved).await.unwrap(), Some(true));
    let action = store.corrective_actions(Some(lot)).await.unwrap().remove(0);
    store.close_corrective_action(action.action, "done", "Ada").await.unwrap();
    store.append(store.starting("1").await.unwrap()).await.unwrap();
    store.end_lot("plc").await.unwrap();
    store.sign_off(lot, "Ada", "").await.unwrap();
    let deed = Deed {
        id: 0,
        time: String::new(),
        name: "eve".into(),
        role: String::new(),
        address: String::new(),
        method: String::new(),
        path: String::new(),
        status: 200,
    };
    store.audit(&deed).await.unwrap();
    reads(store, lot).await;
    let rules = Retention {
        accepted_pictures: Duration::from_secs(1),
        other_pictures: Duration::from_secs(1),
        verdicts: Duration::from_secs(1),
        pictures_bytes: 1,
        bytes: 1,
    };
    store.put_frame("20261125-0123456789abcdef01234567", bytes::Bytes::from_static(b"x")).await.unwrap();
    let mut state = RetentionState::default();
    store.retain(&rules, now + Duration::from_secs(86_400 * 400), true, &mut state).await.unwrap();
}

/// What pages, polls and exports ask.
async fn reads(store: &Store, lot: i64) {
    let page = || Page { limit: 10, ..Page::default() };
    let actions = [None, Some(Action::Accept), Some(Action::Reject)];
    for (before, action) in [None, Some(9)].into_iter().flat_map(|before| actions.map(|action| (before, action))) {
        for (after, source, lot) in [(None, None, None), (Some(0), Some(Source::Belt), None), (None, None, Some(lot))] {
            store.verdicts(Page { before, after, action, source, lot, ..page() }).await.unwrap();
        }
        for labeled in [None, Some(true), Some(false)] {
            for class in [None, Some("cod".to_owned())] {
                store.items(&ItemPage { before, limit: 10, verdict: None, action, class, labeled }).await.unwrap();
            }
        }
    }
    store.items(&ItemPage { verdict: Some(1), limit: 1, ..ItemPage::default() }).await.unwrap();
    let one = store.verdict(1).await.unwrap().unwrap();
    store.verdict_named(VerdictName::Uid(one.uid)).await.unwrap();
    store.item_events(one.uid).await.unwrap();
    store.counts().await.unwrap();
    store.head().await.unwrap();
    store.newest_event().await.unwrap();
    store.deeds(None, 10).await.unwrap();
    for current in [false, true] {
        let some = LabelPage { limit: 10, current, ..LabelPage::default() };
        store.labels(&some).await.unwrap();
        store.labels(&LabelPage { by: Some("anna".into()), ..some.clone() }).await.unwrap();
        store.labels(&LabelPage { class: Some("cod".into()), ..some.clone() }).await.unwrap();
        store.labels(&LabelPage { verdict: Some(1), ..some }).await.unwrap();
    }
    store.one_label(1).await.unwrap();
    store.history(1).await.unwrap();
    store.labels_of("anna").await.unwrap();
    store.labeled_items().await.unwrap();
    store.agreement().await.unwrap();
    let order = QueueOrder::Useful;
    let ask = Ask { by: "anna".into(), limit: 10, order, second_share: 0.5, busy: HashSet::new() };
    store.queue(ask).await.unwrap();
    store.unlabeled().await.unwrap();
    store.lots(10).await.unwrap();
    store.lot_named("A").await.unwrap();
    let lot = store.lot(lot).await.unwrap().unwrap();
    store.challenges(Some(lot.lot)).await.unwrap();
    store.lot_events(lot.lot, i64::MAX, &["gap", "eject_late"]).await.unwrap();
    store.events_between(&["gap", "started"], 1, 5).await.unwrap();
    store.camera_states(9).await.unwrap();
    store.last_event("started", 9).await.unwrap();
    store.find_lots(Some(9), "a", 10).await.unwrap();
    store.verdicts_after(1, 10).await.unwrap();
    store.taken_off(lot.lot, 10).await.unwrap();
    let some = || Page { limit: 10, lot_name: Some("A".into()), class: Some("cod".into()), ..Page::default() };
    store.find(&some()).await.unwrap();
    store.find(&Page { from: Some(lot.opened), camera: Some("belt".into()), ..page() }).await.unwrap();
    store.tallies(lot.lot).await.unwrap();
    store.removed_of(&lot).await.unwrap();
    store.lot_entries(&lot, 0, i64::MAX, 10).await.unwrap();
    verify_lot(store.folder(), &lot).await.unwrap();
}

#[tokio::test]
async fn no_query_walks_through_verdicts_record_or_labels() {
    let statements = Statements::default();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let heard = tracing_subscriber::registry().with(statements.clone());
    tracing::subscriber::set_global_default(heard).expect("run alone, as nextest does");
    all_day(&store).await;
    let statements: Vec<String> = statements.0.lock().unwrap().iter().cloned().collect();
    assert!(statements.len() > 60, "{} statements were heard", statements.len());
    let mut walks = Vec::new();
    for statement in statements.iter().filter(|one| !ONCE.iter().any(|once| one.contains(once))) {
        if !["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"].iter().any(|verb| statement.starts_with(verb)) {
            continue;
        }
        if statement.ends_with('…') {
            continue; // its first words; it was heard in full too
        }
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let mut inner = HashSet::new(); // subqueries, which were planned before
        for row in sqlx::query(explain).fetch_all(&store.writer).await.unwrap() {
            let step: String = row.get("detail");
            let name = |step: &str| step.split_whitespace().nth(1).unwrap_or_default().to_owned();
            if ["CO-ROUTINE ", "MATERIALIZE "].iter().any(|made| step.starts_with(made)) {
                inner.insert(name(&step));
            }
            let walked = (step.starts_with("SCAN ") && !step.ends_with("VALUES CLAUSE")).then(|| name(&step));
            if walked.is_some_and(|table| !SMALL.contains(&table.as_str()) && !inner.contains(&table)) {
                walks.push(format!("{step}\n    of {statement}"));
            }
        }
    }
    assert!(walks.is_empty(), "{} walks:\n{}", walks.len(), walks.join("\n"));
}
