//! The promise of the live stream: what it shows is on disk, and stays there word for word.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use beltsight::{
    domain::Verdict,
    store::{Page, Store},
};
use tokio_stream::StreamExt;

/// Verdicts that the stream has shown so far, by their number.
pub type Shown = Arc<Mutex<BTreeMap<i64, Verdict>>>;

/// Remembers what the live stream shows until the service is gone.
pub async fn watch(url: String, shown: Shown) {
    let Ok(response) = reqwest::get(format!("{url}/verdicts/stream")).await else { return };
    let (mut bytes, mut text) = (response.bytes_stream(), String::new());
    while let Some(Ok(some)) = bytes.next().await {
        text.push_str(&String::from_utf8_lossy(&some));
        while let Some((event, rest)) = text.split_once("\n\n") {
            if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: "))
                && let Ok(verdict) = serde_json::from_str::<Verdict>(data)
            {
                shown.lock().unwrap().insert(verdict.id, verdict);
            }
            text = rest.to_string();
        }
    }
}

/// Checks that all that was shown is in the store; what was shown, and how many verdicts are kept.
pub async fn all_kept(shown: &Shown, store: &Store) -> (BTreeMap<i64, Verdict>, usize) {
    let (mut kept, mut page) = (BTreeMap::new(), Page { limit: 500, ..Page::default() });
    loop {
        let found = store.verdicts(page.clone()).await.unwrap();
        let Some(last) = found.last() else { break };
        page.before = Some(last.id);
        kept.extend(found.into_iter().map(|v| (v.id, v)));
    }
    let shown = std::mem::take(&mut *shown.lock().unwrap());
    for (id, verdict) in &shown {
        assert_eq!(kept.get(id), Some(verdict), "verdict {id} was shown, so it is there, word for word");
    }
    (shown, kept.len())
}
