//! What is to serve, as the record has it: one row a change that the service saw, each held by an entry.
//!
//! The registry (`serving.json`) and the manifests are files that people and programs write beside the store. Whoever writes
//! them says what judges from then on, so what they say is compared with the newest row: by the service when it starts and
//! while it runs, and by `record verify`.

use sqlx::SqliteExecutor;

use super::{
    Store, StoreError,
    record::rows::{self, HeldTable},
};
use crate::{
    domain::time::rfc3339_now,
    student::{
        registry::{Change, RegistryEntry},
        to_serve::{Deciding, ToServe},
    },
};

/// Changes told one by one; of more, the newest.
const MOST: usize = 100;

/// A change of what is to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingChange {
    /// `promote` or `rollback`, by the registry; `first`; `edited` where nothing explains it.
    pub change: &'static str,
    /// When it was made, by the registry.
    pub at: String,
    /// Who made it, by the registry.
    pub who: String,
    /// Why.
    pub why: String,
    /// The version before; empty for none.
    pub before: String,
    /// The version from then on.
    pub version: String,
}

/// The newest row, as far as it is compared.
pub(super) struct ServingRow {
    pub version: String,
    pub model: String,
    pub changes: i64,
    pub history: String,
    pub root: String,
}

impl ServingRow {
    pub(super) async fn newest(from: impl SqliteExecutor<'_>) -> Result<Option<Self>, sqlx::Error> {
        let query = "SELECT version, model, changes, history, root FROM serving ORDER BY id DESC LIMIT 1";
        let row = sqlx::query_as(query).fetch_optional(from).await?;
        Ok(row.map(|(version, model, changes, history, root)| Self { version, model, changes, history, root }))
    }

    /// Whether the registry's first changes are still those of this row.
    pub(super) fn continued_by(&self, now: &ToServe) -> bool {
        let changes = usize::try_from(self.changes).unwrap_or_default();
        changes <= now.history.len() && now.history_sha256(changes) == self.history
    }

    /// What is unlike it in `now`, whose registry has no more changes than it; in words.
    pub(super) fn unlike(&self, now: &ToServe) -> Option<String> {
        if !self.continued_by(now) {
            return Some("the registry's changes are not those that the record has".into());
        }
        if now.version != self.version {
            return Some(format!("{} is to serve without a change that says so", now.version));
        }
        match &now.model {
            None => (!self.model.is_empty()).then(|| format!("the manifest of {} can't be read", now.version)),
            Some(model) if model.sha256 != self.model => {
                Some(format!("the manifest of {} was changed: its thresholds, classes or files", now.version))
            }
            Some(_) => None,
        }
    }
}

impl Store {
    /// Compares what is to serve with the newest row and adds a row for each change since; `start`: the service was down
    /// before. What the registry explains comes as it has it, everything else as `edited`. None where nothing changed.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then nothing was added.
    pub async fn note_serving(&self, now: &ToServe, start: bool) -> Result<Vec<ServingChange>, StoreError> {
        let mut transaction = self.begin().await?;
        let last = ServingRow::newest(&mut *transaction).await?;
        let changes = changes_since(last.as_ref(), now);
        let (time, seen) = (rfc3339_now(), if start { "start" } else { "running" });
        for (change, model, entries) in &changes {
            let (model, thresholds) = match model {
                Some(model) => (&*model.sha256, serde_json::to_string(&model.thresholds).unwrap_or_default()),
                None => ("", String::new()),
            };
            let done = sqlx::query(
                "INSERT INTO serving (time, seen, change, at, who, why, before, version, model, thresholds, changes,
                     history, root) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            );
            let done = done.bind(&time).bind(seen).bind(change.change).bind(&change.at).bind(&change.who);
            let done = done.bind(&change.why).bind(&change.before).bind(&change.version).bind(model).bind(thresholds);
            let done = done.bind(*entries as i64).bind(now.history_sha256(*entries));
            let done = done.bind(now.root.to_string_lossy()).execute(&mut *transaction).await?;
            let row = done.last_insert_rowid().to_string();
            rows::hold(&mut transaction, self.signer()?, HeldTable::Serving, &row, None).await?;
        }
        transaction.commit().await?;
        Ok(changes.into_iter().map(|(change, ..)| change).collect())
    }
}

/// A change, what decided from then on, and how many changes the registry had then.
type Noted = (ServingChange, Option<Deciding>, usize);

fn changes_since(last: Option<&ServingRow>, now: &ToServe) -> Vec<Noted> {
    let all = now.history.len();
    let one = |change, why: String, before: &str| {
        let [at, who] = [String::new(), String::new()];
        let (before, version) = (before.to_owned(), now.version.clone());
        vec![(ServingChange { change, at, who, why, before, version }, now.model.clone(), all)]
    };
    let Some(last) = last else { return one("first", String::new(), "") };
    let known = usize::try_from(last.changes).unwrap_or_default();
    if !last.continued_by(now) || known == all {
        return last.unlike(now).map_or(Vec::new(), |why| one("edited", why, &last.version));
    }
    let from = known.max(all.saturating_sub(MOST));
    let befores = std::iter::once(&last.version).chain(now.history[from..].iter().map(|entry| &entry.version));
    let numbered = now.history.iter().enumerate().skip(from).zip(befores);
    numbered.map(|((n, entry), before)| noted(entry, before, now, n + 1)).collect()
}

fn noted(entry: &RegistryEntry, before: &str, now: &ToServe, changes: usize) -> Noted {
    let RegistryEntry { change, version, at, by, why } = entry.clone();
    let change = match change {
        Change::Promote => "promote",
        Change::Rollback => "rollback",
    };
    let model = if changes == now.history.len() { now.model.clone() } else { now.deciding(&version) };
    (ServingChange { change, at, who: by, why, before: before.into(), version }, model, changes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        store::{forger::edit, verify, verify_serving},
        student::registry::{Registry, tests::student},
    };

    async fn note(store: &Store, registry: &Registry, start: bool) -> Vec<(&'static str, String, String)> {
        let noted = store.note_serving(&ToServe::read(registry).unwrap(), start).await.unwrap();
        noted.into_iter().map(|change| (change.change, change.before, change.version)).collect()
    }

    async fn found(folder: &Path) -> Vec<String> {
        let found = verify_serving(folder, None).await.unwrap().1;
        found.into_iter().map(|finding| finding.what).collect()
    }

    fn replace(path: &Path, from: &str, to: &str) {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    #[tokio::test]
    async fn what_is_to_serve_and_every_edit_of_it_by_hand_stands_in_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let (data, models) = (folder.path().join("data"), folder.path().join("models"));
        ["a", "b", "c"].iter().for_each(|version| student(&models, version));
        let registry = Registry { root: models.clone(), first: "a".into() };
        let store = Store::open(&data).await.unwrap();
        assert_eq!(found(&data).await, [""; 0], "nobody said yet what is to serve");
        assert_eq!(note(&store, &registry, true).await, [("first", String::new(), "a".into())]);
        assert_eq!(note(&store, &registry, true).await, [], "once");
        registry.promote("b", "gate", "better").unwrap();
        assert_eq!(note(&store, &registry, false).await, [("promote", "a".into(), "b".into())]);
        assert_eq!(found(&data).await, [""; 0]);

        // While the service is down: by the command, told at the next start in its own words …
        registry.promote("c", "Ann", "").unwrap();
        registry.rollback("Ann", "").unwrap();
        let down = "2 changes of what is to serve are in no entry; a service that starts tells of them";
        assert_eq!(found(&data).await, [down]);
        let told = [("promote", "b".into(), "c".into()), ("rollback", "c".into(), "b".into())];
        assert_eq!(note(&store, &registry, true).await, told);
        assert_eq!(found(&data).await, [""; 0]);

        // … by hand: thresholds, graph, history, another version.
        let edited = [("edited", "b".into(), "b".into())];
        replace(&models.join("b/manifest.toml"), "accept_from = 0.9", "accept_from = 0.6");
        assert_eq!(found(&data).await, ["the manifest of b was changed: its thresholds, classes or files"]);
        assert_eq!(note(&store, &registry, true).await, edited);
        replace(&models.join("b/student.onnx"), "b", "c");
        assert!(found(&data).await[0].contains("SHA-256"), "{:?}", found(&data).await);
        replace(&models.join("b/student.onnx"), "c", "b");
        replace(&models.join("serving.json"), "Ann", "gate");
        assert_eq!(found(&data).await, ["the registry's changes are not those that the record has"]);
        assert_eq!(note(&store, &registry, true).await, edited);
        fs::remove_file(models.join("serving.json")).unwrap();
        assert_eq!(note(&store, &registry, true).await, [("edited", "b".into(), "a".into())]);
        let other = Registry { first: "c".into(), ..registry };
        assert_eq!(note(&store, &other, true).await, [("edited", "a".into(), "c".into())]);
        store.close().await;

        // What the record says is held.
        assert_eq!(verify(&data, None, None).await.unwrap().findings, []);
        assert_eq!(edit(&data, "UPDATE serving SET who = 'gate' WHERE who = 'Ann'").await, 2);
        let told = verify(&data, None, None).await.unwrap().findings;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].what.ends_with("of serving was changed"), "{told:?}");
        fs::rename(&models, folder.path().join("elsewhere")).unwrap();
        assert_eq!(found(&data).await, [""; 0], "beside a copy there is nothing to compare");
        assert_eq!(verify_serving(&data, Some(&models)).await.unwrap().1.len(), 1, "but where it is named");
    }
}
