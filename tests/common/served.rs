//! `beltsight serve` as a process of its own, as a factory runs it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;

use super::process::{Running, asked_until, beltsight};

/// The service.
pub struct Served {
    pub process: Running,
    /// Where it listens.
    pub url: String,
    pub client: reqwest::Client,
}

/// A configuration in `folder` that serves the models in `models` on a free port, with a store in `folder/data` and more
/// lines: those of `server` stand in `[server]`, those of `rest` at the end.
pub fn configured(folder: &Path, models: &Path, server: &str, rest: &str) -> PathBuf {
    let config = folder.join("beltsight.toml");
    let (models, store) = (models.display(), folder.join("data"));
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\n{server}\n[model]\nroot = '{models}'\ndevice = 'cpu'\n[store]\nfolder = '{}'\n{rest}\n",
        store.display()
    );
    std::fs::write(&config, text).unwrap();
    config
}

/// The models that are shipped.
pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// Copies the shipped student to `to`, whose name becomes its version.
pub fn copy_shipped(to: &Path) {
    beltsight::bench::copy_model(&shipped().join("belt-small"), to).unwrap();
}

impl Served {
    /// Starts it and waits until it listens. What it said, when it does not start.
    pub fn start(config: &Path, environment: &[(&str, &str)]) -> Result<Self, String> {
        let mut command = beltsight();
        command.args(["serve", "--config"]).arg(config).env("RUST_LOG", "info,ort=warn").env("NO_COLOR", "1");
        let mut process = Running::start(command.envs(environment.iter().copied()).stderr(Stdio::piped()));
        let url = loop {
            let ended = process.silent(); // asked first: then all that it said is looked at
            let lines = process.lines();
            if let Some((_, url)) = lines.iter().find_map(|line| line.split_once("listening on ")) {
                break url.trim().to_string();
            }
            if ended {
                process.wait();
                return Err(lines.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // Without connections that outlast a request: some tests stop the service, others count its places.
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).pool_max_idle_per_host(0);
        Ok(Self { process, url, client: client.build().unwrap() })
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        self.process.lines().join("\n")
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        self.process.signal("-TERM");
        assert!(self.process.wait().success());
    }

    /// The answer to GET.
    pub async fn ask(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    /// GET as JSON.
    pub async fn get(&self, path: &str) -> Value {
        self.ask(path).await.json().await.unwrap()
    }

    /// POST a body.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
        self.client.post(format!("{}{path}", self.url)).body(body).send().await.unwrap()
    }

    /// What `/metrics` says now.
    pub async fn metrics(&self) -> Metrics {
        Metrics(self.ask("/metrics").await.text().await.unwrap())
    }

    /// Waits until a series has a value that is wanted.
    pub async fn until(&self, series: &str, wanted: impl Fn(f64) -> bool) {
        let value = async || self.metrics().await.value(series);
        asked_until(series, Duration::from_secs(90), value, |value| value.is_some_and(&wanted)).await;
    }
}

/// What `/metrics` says at one moment.
pub struct Metrics(pub String);

impl Metrics {
    /// The value of a series, which is named with all its labels.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// The sum of a metric's series whose labels hold `labels`.
    pub fn sum(&self, metric: &str, labels: &str) -> f64 {
        let series = self.0.lines().filter_map(|line| line.strip_prefix(metric)?.rsplit_once(' '));
        let series = series.filter(|(rest, _)| (rest.is_empty() || rest.starts_with('{')) && rest.contains(labels));
        series.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }
}
