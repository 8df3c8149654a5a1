//! The floor expert of a measured service: answers its labeling queue truly and orders rounds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::service::MeasuredService;
use crate::domain::Verdict;

/// Labels between two looks at the queue, which learns from each.
const AT_ONCE: usize = 5;
/// The longest that a round may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The name that the API gives an order of the queue.
pub fn order(useful: bool) -> &'static str {
    if useful { "useful" } else { "random" }
}

/// A client that knows the truth.
pub struct Expert {
    /// What it works with.
    pub service: MeasuredService,
    /// Labels given.
    pub labels: usize,
    client: reqwest::Client,
    useful: bool,
}

impl Expert {
    /// Starts its work; `useful` asks for labels by usefulness, otherwise by chance.
    pub fn new(service: MeasuredService, useful: bool) -> Self {
        Self { service, labels: 0, client: reqwest::Client::new(), useful }
    }

    async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.get(self.service.at(path)).send().await?.error_for_status()?.json().await?)
    }

    async fn post(&self, path: &str, body: Value) -> Result<()> {
        let response = self.client.post(self.service.at(path)).body(body.to_string()).send().await?;
        let status = response.status();
        ensure!(status.is_success(), "{path}: {status}: {}", response.text().await?);
        Ok(())
    }

    /// Labels `count` items of the queue with what `truth` says; those of which it says nothing are passed over.
    ///
    /// # Errors
    /// When the queue is empty before that, or the service refuses a label.
    pub async fn label(&mut self, count: usize, truth: impl Fn(&Verdict) -> Option<String>) -> Result<()> {
        let path = format!("/labels/queue?by=oracle&limit=50&order={}", order(self.useful));
        let mut left = count;
        while left > 0 {
            let items: Vec<Verdict> = serde_json::from_value(self.get(&path).await?["items"].take())?;
            let known: Vec<_> = items.iter().filter_map(|item| Some((item.id, truth(item)?))).collect();
            ensure!(!known.is_empty(), "the queue is empty, {left} labels before the end");
            for (id, class) in known.iter().take(AT_ONCE.min(left)) {
                self.post("/labels", json!({"verdict": id, "class": class, "by": "oracle"})).await?;
                left -= 1;
                self.labels += 1;
            }
        }
        Ok(())
    }

    /// Orders a round and waits for its end; gives its story.
    ///
    /// # Errors
    /// When it is refused or does not end within an hour.
    pub async fn round(&self, by: &str) -> Result<Value> {
        self.post("/rounds", json!({"by": by})).await?;
        let patience = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let story = self.get("/rounds").await?;
            let newest = &story["rounds"][0];
            if !newest["end"].is_null() {
                return Ok(newest.clone());
            }
            ensure!(patience.elapsed() < PATIENCE, "the round does not end: {story}");
        }
    }

    /// The version that serves.
    ///
    /// # Errors
    /// When the service does not say.
    pub async fn serving(&self) -> Result<String> {
        Ok(self.get("/models").await?["serving"].as_str().context("nothing serves")?.into())
    }
}
