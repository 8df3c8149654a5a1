//! How many verdicts are alike, kept beside them: a page about a lot of any size reads a few rows.
//!
//! Invariant: the tables say what counting all verdicts again would. They change in the transaction that writes or
//! removes the verdicts, and `record verify` counts again from the documents that the entries hold.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use serde::{Deserialize, de::Error as _};
use sqlx::{Row, SqliteConnection, SqliteTransaction};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::StoreError;
use crate::domain::Verdict;

/// Ids whose times share a row of `spans`.
pub(in crate::store) const BLOCK: i64 = 1024;
/// Documents read at once where an older store is counted.
const READ: i64 = 2000;

/// What verdicts have in common that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::store) struct Alike {
    /// 0 for none.
    pub lot: i64,
    pub action: String,
    pub class: Option<String>,
    pub model: String,
    pub thresholds: String,
}

/// Verdicts that were counted.
#[derive(Debug, Default)]
pub(in crate::store) struct Counted {
    pub alike: HashMap<Alike, i64>,
    /// First and last time by block of ids, in milliseconds since 1970.
    pub spans: BTreeMap<i64, (i64, i64)>,
}

/// The part of a verdict's document that is counted.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow)]
    class: Option<Cow<'a, str>>,
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow, default)]
    thresholds: Cow<'a, str>,
    #[serde(default)]
    lot: Option<i64>,
}

impl Counted {
    /// Counts a verdict that is about to be written under `id`.
    pub fn add(&mut self, id: i64, verdict: &Verdict) {
        let alike = Alike {
            lot: verdict.lot.unwrap_or(0),
            action: verdict.decision.action.name().into(),
            class: verdict.decision.class.clone(),
            model: verdict.model.clone(),
            thresholds: verdict.thresholds.clone(),
        };
        self.count(id, verdict.time, alike);
    }

    /// Counts a verdict by its document.
    ///
    /// # Errors
    /// When it is no verdict's.
    pub fn read(&mut self, id: i64, document: &[u8]) -> Result<(), serde_json::Error> {
        let read: Document = serde_json::from_slice(document)?;
        let time = OffsetDateTime::parse(&read.time, &Rfc3339).map_err(serde_json::Error::custom)?;
        let alike = Alike {
            lot: read.lot.unwrap_or(0),
            action: read.action.into(),
            class: read.class.map(Cow::into_owned),
            model: read.model.into(),
            thresholds: read.thresholds.into(),
        };
        self.count(id, time, alike);
        Ok(())
    }

    fn count(&mut self, id: i64, time: OffsetDateTime, alike: Alike) {
        *self.alike.entry(alike).or_default() += 1;
        let at = milliseconds(time);
        let span = self.spans.entry(id / BLOCK).or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
    }

    /// Adds what was counted elsewhere.
    pub fn extend(&mut self, other: Self) {
        for (alike, n) in other.alike {
            *self.alike.entry(alike).or_default() += n;
        }
        for (block, (first, last)) in other.spans {
            let span = self.spans.entry(block).or_insert((first, last));
            *span = (span.0.min(first), span.1.max(last));
        }
    }

    /// How many verdicts of each lot.
    pub fn by_lot(&self) -> BTreeMap<i64, i64> {
        let mut lots = BTreeMap::new();
        for (alike, n) in &self.alike {
            *lots.entry(alike.lot).or_default() += n;
        }
        lots
    }

    fn by_action(&self) -> BTreeMap<&str, i64> {
        let mut actions = BTreeMap::new();
        for (alike, n) in &self.alike {
            *actions.entry(alike.action.as_str()).or_default() += n;
        }
        actions
    }

    /// These verdicts are written in this transaction.
    pub async fn write(&self, transaction: &mut SqliteTransaction<'_>) -> Result<(), sqlx::Error> {
        self.change(transaction, 1).await?;
        for (block, (first, last)) in &self.spans {
            sqlx::query(
                "INSERT INTO spans (block, first, last) VALUES (?, ?, ?) ON CONFLICT (block) \
                 DO UPDATE SET first = min(first, excluded.first), last = max(last, excluded.last)",
            )
            .bind(block)
            .bind(first)
            .bind(last)
            .execute(&mut **transaction)
            .await?;
        }
        Ok(())
    }

    /// These verdicts are removed in this transaction, by retention. Spans stay: wider ones find the same.
    pub async fn remove(&self, transaction: &mut SqliteTransaction<'_>) -> Result<(), sqlx::Error> {
        self.change(transaction, -1).await?;
        for (lot, n) in self.by_lot() {
            sqlx::query("DELETE FROM tallies WHERE lot = ? AND verdicts = 0")
                .bind(lot)
                .execute(&mut **transaction)
                .await?;
            sqlx::query(
                "INSERT INTO lots_removed (lot, verdicts) VALUES (?, ?) ON CONFLICT (lot) \
                 DO UPDATE SET verdicts = verdicts + excluded.verdicts",
            )
            .bind(lot)
            .bind(n)
            .execute(&mut **transaction)
            .await?;
        }
        Ok(())
    }

    async fn change(&self, transaction: &mut SqliteTransaction<'_>, by: i64) -> Result<(), sqlx::Error> {
        for (alike, n) in &self.alike {
            let Alike { lot, action, class, model, thresholds } = alike;
            let update = "UPDATE tallies SET verdicts = verdicts + ? \
                 WHERE lot = ? AND action = ? AND class IS ? AND model = ? AND thresholds = ?";
            // A new row begins at 0, so that removing what was never counted shows.
            let insert =
                "INSERT INTO tallies (verdicts, lot, action, class, model, thresholds) VALUES (?, ?, ?, ?, ?, ?)";
            for sql in [update, insert] {
                let query = sqlx::query(sql).bind(n * by).bind(lot).bind(action).bind(class);
                let done = query.bind(model).bind(thresholds).execute(&mut **transaction).await?;
                if done.rows_affected() > 0 {
                    break;
                }
            }
        }
        for (action, n) in self.by_action() {
            sqlx::query(
                "INSERT INTO counts (action, verdicts) VALUES (?, ?) ON CONFLICT (action) \
                 DO UPDATE SET verdicts = verdicts + excluded.verdicts",
            )
            .bind(action)
            .bind(n * by)
            .execute(&mut **transaction)
            .await?;
        }
        Ok(())
    }

    /// What the tables say.
    ///
    /// # Errors
    /// SQLite's; a value of another kind than it must be.
    pub async fn told(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let mut told = Self::default();
        let rows = sqlx::query("SELECT lot, action, class, model, thresholds, verdicts FROM tallies")
            .fetch_all(&mut *connection)
            .await?;
        for row in rows {
            let alike = Alike {
                lot: row.try_get(0)?,
                action: row.try_get(1)?,
                class: row.try_get(2)?,
                model: row.try_get(3)?,
                thresholds: row.try_get(4)?,
            };
            *told.alike.entry(alike).or_default() += row.try_get::<i64, _>(5)?;
        }
        let spans: Vec<(i64, i64, i64)> =
            sqlx::query_as("SELECT block, first, last FROM spans").fetch_all(connection).await?;
        told.spans = spans.into_iter().map(|(block, first, last)| (block, (first, last))).collect();
        Ok(told)
    }
}

/// Since 1970, rounded down.
pub(in crate::store) fn milliseconds(time: OffsetDateTime) -> i64 {
    time.unix_timestamp() * 1000 + i64::from(time.millisecond())
}

/// The lots' verdicts that retention removed, as its entries up to the place `to` tell.
///
/// Entries of older versions do not name the lots: of those the place counts, between a lot's opening and its closing.
pub(in crate::store) async fn removed_by_lot(
    connection: &mut SqliteConnection,
    to: i64,
) -> Result<BTreeMap<i64, i64>, sqlx::Error> {
    let named: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT json_extract(l.value, '$[0]'), sum(json_extract(l.value, '$[1]')) FROM record AS r, json_each(r.body, '$.lots') AS l
         WHERE r.verdict IS NULL AND r.kind = 'verdicts_removed' AND r.seq <= ? GROUP BY 1",
    )
    .bind(to)
    .fetch_all(&mut *connection)
    .await?;
    let older: Option<i64> = sqlx::query_scalar(
        "SELECT max(json_extract(body, '$.to')) FROM record WHERE verdict IS NULL AND kind = 'verdicts_removed'
         AND seq <= ? AND json_type(body, '$.lots') IS NULL",
    )
    .bind(to)
    .fetch_one(&mut *connection)
    .await?;
    let mut lots: BTreeMap<i64, i64> = BTreeMap::new();
    for (lot, n) in named {
        *lots.entry(lot).or_default() += n;
    }
    let Some(older) = older else { return Ok(lots) };
    let placed: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT coalesce((SELECT o.seq FROM record AS o WHERE o.verdict IS NULL AND o.kind IN ('lot_opened', 'lot_closed')
                 AND o.seq < r.seq ORDER BY o.seq DESC LIMIT 1), 0), count(*)
         FROM record AS r WHERE r.verdict <= ? AND r.seq <= ? AND NOT EXISTS (SELECT 1 FROM verdicts WHERE id = r.verdict)
         GROUP BY 1",
    )
    .bind(older)
    .bind(to)
    .fetch_all(&mut *connection)
    .await?;
    for (place, n) in placed {
        let opened: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM record WHERE seq = ? AND kind = 'lot_opened')")
                .bind(place)
                .fetch_one(&mut *connection)
                .await?;
        *lots.entry(if opened { place } else { 0 }).or_default() += n;
    }
    Ok(lots)
}

/// Counts the verdicts of a store that an older version wrote, once.
pub(in crate::store) async fn adopt(transaction: &mut SqliteTransaction<'_>) -> Result<(), StoreError> {
    let counted: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM counts) OR EXISTS (SELECT 1 FROM lots_removed)
             OR (SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'verdicts'), 0)) = 0",
    )
    .fetch_one(&mut **transaction)
    .await?;
    if counted {
        return Ok(());
    }
    tracing::info!(
        "counting the verdicts of a store that an older version wrote, once: ten million take a minute or two"
    );
    let (mut all, mut last) = (Counted::default(), i64::MIN);
    loop {
        let some: Vec<(i64, String)> = sqlx::query_as("SELECT id, body FROM verdicts WHERE id > ? ORDER BY id LIMIT ?")
            .bind(last)
            .bind(READ)
            .fetch_all(&mut **transaction)
            .await?;
        let Some((id, _)) = some.last() else { break };
        last = *id;
        for (id, document) in &some {
            all.read(*id, document.as_bytes()).map_err(|e| StoreError::Row { id: *id, why: e.to_string() })?;
        }
    }
    all.write(transaction).await?;
    for (lot, n) in removed_by_lot(transaction, i64::MAX).await? {
        sqlx::query("INSERT INTO lots_removed (lot, verdicts) VALUES (?, ?)")
            .bind(lot)
            .bind(n)
            .execute(&mut **transaction)
            .await?;
    }
    tracing::info!("counted");
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        domain::{Action, testing::verdict},
        store::{Counts, Retention, Store, forger::edit, verify},
    };

    /// A store with two lots and verdicts of none; the first lot's are so old that retention takes them.
    async fn shift(store: &Store) -> [i64; 2] {
        let old = OffsetDateTime::now_utc() - Duration::from_secs(86_400 * 90);
        let of = |lot, action, time| Verdict { lot, time, ..verdict(action) };
        let first = store.begin_lot("A", "plc").await.unwrap();
        let some = [Action::Accept, Action::Accept, Action::Reject].map(|action| of(Some(first), action, old));
        store.insert(&some).await.unwrap();
        let second = store.begin_lot("B", "plc").await.unwrap();
        let now = OffsetDateTime::now_utc();
        let late = of(Some(first), Action::Divert, old); // it waited for the store
        let fault =
            Verdict { decision: crate::domain::Decision { class: None, ..late.decision.clone() }, ..late.clone() };
        store.insert(&[late, fault, of(Some(second), Action::Reject, now)]).await.unwrap();
        store.insert(&vec![of(None, Action::Accept, now); 5000]).await.unwrap();
        [first, second]
    }

    async fn counted(folder: &std::path::Path) -> (Vec<String>, Counts) {
        let store = Store::open(folder).await.unwrap();
        let rows = sqlx::query_scalar(
            "SELECT lot || ' ' || action || ' ' || coalesce(class, '') || ' ' || verdicts FROM tallies UNION ALL
             SELECT 'removed ' || lot || ' ' || verdicts FROM lots_removed UNION ALL
             SELECT 'span ' || block || ' ' || (last - first < 8000000000) FROM spans ORDER BY 1",
        );
        let rows = rows.fetch_all(&store.database).await.unwrap();
        let counts = store.counts().await.unwrap();
        store.close().await;
        (rows, counts)
    }

    #[tokio::test]
    async fn counts_follow_what_is_written_and_removed_and_an_older_store_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let [first, second] = shift(&store).await;
        let alike: Vec<_> = store.tallies(first).await.unwrap();
        assert_eq!(alike.iter().map(|t| t.verdicts).collect::<Vec<_>>(), [2, 1, 1, 1], "{alike:?}");
        store.close().await;
        let before = counted(folder.path()).await;
        assert_eq!(before.1, Counts { verdicts: 5006, accept: 5002, reject: 2, divert: 2 });
        edit(folder.path(), "DELETE FROM tallies; DELETE FROM counts; DELETE FROM spans").await;
        assert_eq!(counted(folder.path()).await, before, "as if an older version had written it");

        let store = Store::open(folder.path()).await.unwrap();
        let rules = Retention { verdicts: Duration::from_secs(86_400 * 30), ..Retention::default() };
        let mut state = crate::store::RetentionState::default();
        assert_eq!(store.retain(&rules, OffsetDateTime::now_utc(), true, &mut state).await.unwrap().verdicts, 5);
        let lot = store.lot(first).await.unwrap().unwrap();
        assert_eq!(store.removed_of(&lot).await.unwrap().map(|removed| removed.verdicts), Some(5));
        assert!(store.tallies(first).await.unwrap().is_empty());
        assert_eq!(store.tallies(second).await.unwrap().len(), 1);
        store.close().await;
        assert_eq!(verify(folder.path(), None, None).await.unwrap().findings, []);
        let before = counted(folder.path()).await;
        let all = "DELETE FROM tallies; DELETE FROM counts; DELETE FROM spans; DELETE FROM lots_removed";
        edit(folder.path(), all).await;
        let mut again = counted(folder.path()).await;
        again.1 = before.1; // nothing is left of an action that all verdicts of were removed
        assert_eq!(again.0, before.0);
    }

    #[tokio::test]
    async fn what_the_counts_say_and_the_verdicts_do_not_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        shift(&store).await;
        store.add_label(1, Some("cod"), "anna", OffsetDateTime::UNIX_EPOCH).await.unwrap();
        store.close().await;
        for (forged, undone) in [
            ("UPDATE tallies SET action = 'accept' WHERE action = 'reject' AND lot > 0", ""),
            (
                "UPDATE tallies SET verdicts = verdicts - 1 WHERE lot = 0",
                "UPDATE tallies SET verdicts = 5000 WHERE lot = 0",
            ),
            ("UPDATE tallies SET model = 'other@0' WHERE lot = 0", ""),
            ("DELETE FROM tallies WHERE lot = 0", ""),
            ("INSERT INTO tallies VALUES (99, 'accept', 'cod', 'm', 't', 7)", "DELETE FROM tallies WHERE lot = 99"),
            (
                "UPDATE counts SET verdicts = 1 WHERE action = 'reject'",
                "UPDATE counts SET verdicts = 2 WHERE action = 'reject'",
            ),
            ("INSERT INTO lots_removed VALUES (2, 1)", "DELETE FROM lots_removed"),
            (
                "UPDATE spans SET first = first + 10000000000 WHERE block = 0",
                "UPDATE spans SET first = first - 10000000000 WHERE block = 0",
            ),
            ("UPDATE spans SET last = 0 WHERE block = 0", ""),
            ("UPDATE label_counts SET items = items + 1 WHERE labeler = 'anna'", ""),
            ("DELETE FROM label_counts WHERE labeler = ''", ""),
            ("DELETE FROM spans WHERE block = 2", ""),
        ] {
            let copy = tempfile::tempdir().unwrap();
            for file in ["verdicts.sqlite", "record.key", "record.pub"] {
                std::fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
            }
            assert!(edit(copy.path(), forged).await > 0, "{forged}");
            let found = verify(copy.path(), None, None).await.unwrap();
            assert!(!found.findings.is_empty(), "not found: {forged}");
            if !undone.is_empty() {
                edit(copy.path(), undone).await;
                let found = verify(copy.path(), None, None).await.unwrap();
                assert_eq!(found.findings, [], "undone: {undone}");
            }
        }
    }
}
