//! What a box said that it has, over HTTP, and whether it still has it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use crate::{
    domain::Verdict,
    store::{ItemPage, LabelPage, Page, Store},
};

/// What was acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Acknowledged {
    /// Verdicts that the stream showed.
    pub verdicts: BTreeMap<i64, Verdict>,
    /// Labels that were answered 200: the verdict of each.
    pub labels: BTreeMap<i64, i64>,
    /// Lots that were answered 201: the name of each.
    pub lots: BTreeMap<i64, String>,
}

pub(super) type Seen = Arc<Mutex<Acknowledged>>;

impl Acknowledged {
    /// All that a store has.
    pub(super) async fn of(store: &Store) -> Result<Self> {
        let mut all = Self::default();
        let mut page = Page { limit: 500, ..Page::default() };
        loop {
            let found = store.verdicts(page.clone()).await?;
            let Some(last) = found.last() else { break };
            page.before = Some(last.id);
            all.verdicts.extend(found.into_iter().map(|verdict| (verdict.id, verdict)));
        }
        let mut page = LabelPage { limit: 500, ..LabelPage::default() };
        loop {
            let found = store.labels(&page).await?;
            let Some(last) = found.last() else { break };
            page.before = Some(last.id);
            all.labels.extend(found.into_iter().map(|label| (label.id, label.verdict)));
        }
        all.lots.extend(store.lots(usize::MAX).await?.into_iter().map(|lot| (lot.lot, lot.name)));
        Ok(all)
    }

    /// How much of it the store in `folder` does not have, word for word; the store is read, not continued.
    pub(super) async fn missing(&self, folder: &Path) -> Result<usize> {
        let store = Store::open_to_read(folder).await?;
        let there = Self::of(&store).await?;
        store.close().await;
        let verdicts = self.verdicts.iter().filter(|(id, verdict)| there.verdicts.get(id) != Some(verdict)).count();
        let labels = self.labels.iter().filter(|(id, of)| there.labels.get(id) != Some(of)).count();
        let lots = self.lots.iter().filter(|(lot, name)| there.lots.get(lot) != Some(name)).count();
        Ok(verdicts + labels + lots)
    }
}

/// Items of the store in `folder` whose picture is offered and not there.
pub(super) async fn pictures_missing(folder: &Path) -> Result<usize> {
    let store = Store::open_to_read(folder).await?;
    let (mut missing, mut page) = (0, ItemPage { limit: 500, ..ItemPage::default() });
    loop {
        let found = store.items(&page).await?;
        let Some(last) = found.last() else { break };
        page.before = Some(last.verdict.id);
        for key in found.iter().filter_map(|item| item.verdict.frame.as_deref()) {
            missing += usize::from(!store.has_frame(key).await?);
        }
    }
    store.close().await;
    Ok(missing)
}

/// Clients of the service at `base` until it is gone: one reads its stream, one labels and opens lots.
pub(super) fn clients(base: &str, seen: &Seen) -> [JoinHandle<()>; 2] {
    let (base, seen) = (base.to_owned(), seen.clone());
    [tokio::spawn(watch(base.clone(), seen.clone())), tokio::spawn(speak(base, seen))]
}

async fn watch(base: String, seen: Seen) {
    let Ok(response) = reqwest::get(format!("{base}/verdicts/stream")).await else { return };
    let (mut bytes, mut text) = (response.bytes_stream(), String::new());
    while let Some(Ok(some)) = bytes.next().await {
        text.push_str(&String::from_utf8_lossy(&some));
        while let Some((event, rest)) = text.split_once("\n\n") {
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            if let Some(verdict) = data.and_then(|data| serde_json::from_str::<Verdict>(data).ok()) {
                told(&seen).verdicts.insert(verdict.id, verdict);
            }
            text = rest.to_owned();
        }
    }
}

async fn speak(base: String, seen: Seen) {
    let client = reqwest::Client::new();
    for n in 0.. {
        let newest = told(&seen).verdicts.values().rfind(|verdict| verdict.frame.is_some()).map(|verdict| verdict.id);
        if let Some(verdict) = newest {
            let body = json!({ "verdict": verdict, "class": null, "by": "Ada" });
            let Ok(answer) = post(&client, format!("{base}/labels"), body).await else { return };
            if let Some(label) = answer["id"].as_i64() {
                told(&seen).labels.insert(label, verdict);
            }
        }
        let name = format!("K-{n}");
        let body = json!({ "name": name, "by": "Ada" });
        let Ok(answer) = post(&client, format!("{base}/lots"), body).await else { return };
        if let Some(lot) = answer["lot"].as_i64() {
            told(&seen).lots.insert(lot, name);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What was answered; nothing where it was refused.
async fn post(client: &reqwest::Client, url: String, body: Value) -> reqwest::Result<Value> {
    let answer = client.post(url).body(body.to_string()).send().await?;
    if answer.status().is_success() { answer.json().await } else { Ok(Value::Null) }
}

pub(super) fn told(seen: &Seen) -> std::sync::MutexGuard<'_, Acknowledged> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
