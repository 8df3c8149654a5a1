//! A busy line that is timed, in calm and beside a fault.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use beltsight::{
    domain::Verdict,
    store::{Event, Store, verify},
};
use tempfile::TempDir;

use crate::common::{
    process::asked_until,
    served::{Metrics, Served, configured, shipped},
    shown::{Shown, all_kept, watch},
};

/// Held by the test whose line is being timed.
pub static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A belt of 600 items a minute; the deadline is for machines on which others work.
pub const BELT: &str = "[[camera]]\nname = 'belt'\nsource = 'simulated'
belt = { width = 320, height = 180, speed = 1620.0, items_per_minute = 600.0, empty_share = 0.0, frame_rate = 30.0 }
[line]
deadline = '200ms'";
/// How long the line is watched before a fault and, at least, within one.
pub const SPELL: Duration = Duration::from_secs(12);
/// Places in the record's queue where a fault is to outlast it.
pub const QUEUE: u64 = 64;

/// All recorded verdicts, by their number.
pub async fn verdicts(service: &Served) -> BTreeMap<i64, Verdict> {
    let mut all = BTreeMap::new();
    let mut before = String::new();
    loop {
        let page = service.get(&format!("/verdicts?limit=500{before}")).await;
        let found: Vec<Verdict> = serde_json::from_value(page["verdicts"].clone()).unwrap();
        all.extend(found.into_iter().map(|v| (v.id, v)));
        match page["next"].as_i64() {
            Some(next) => before = format!("&before={next}"),
            None => return all,
        }
    }
}

/// A service with a busy belt, and somebody who reads the stream of recorded verdicts.
pub struct Line {
    pub service: Served,
    pub folder: TempDir,
    pub shown: Shown,
}

/// What the line did in a spell.
#[derive(Debug)]
pub struct Spell {
    items: f64,
    faults: f64,
    /// Capture to verdict, read from the histogram.
    p99_ms: f64,
}

impl Line {
    /// `folder` may hold a mounted `data`.
    pub fn start(folder: TempDir, rest: &str, environment: &[(&str, &str)]) -> Self {
        Self::serve(folder, &shipped(), rest, environment)
    }

    /// The same with other models than those that are shipped.
    pub fn serve(folder: TempDir, models: &Path, rest: &str, environment: &[(&str, &str)]) -> Self {
        let service = Served::start(&configured(folder.path(), models, "", rest), environment).unwrap();
        let shown = Shown::default();
        tokio::spawn(watch(service.url.clone(), shown.clone()));
        Self { service, folder, shown }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub async fn metrics(&self) -> Metrics {
        self.service.metrics().await
    }

    pub async fn spell(&self) -> Spell {
        let before = self.metrics().await;
        tokio::time::sleep(SPELL).await;
        Spell::between(&before, &self.metrics().await)
    }

    /// Waits until a metric's sum is more than `least`.
    pub async fn until_more(&self, metric: &str, labels: &str, least: f64) {
        let what = format!("{metric}{{{labels}}} is above {least}");
        let sum = async || self.metrics().await.sum(metric, labels);
        asked_until(&what, Duration::from_secs(40), sum, |sum| *sum > least).await;
    }

    /// Waits until the store has written everything that waited; gives what is counted then.
    pub async fn recovered(&self) -> Metrics {
        let patience = Instant::now();
        loop {
            let now = self.metrics().await;
            let open = now.judged() - now.recorded() - now.dropped("verdict");
            assert!(open >= 0.0, "{open}");
            if open <= 3.0 {
                return now;
            }
            assert!(patience.elapsed() < Duration::from_secs(30), "{open} verdicts are neither recorded nor given up");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops the service in order. Everything that was shown is there, word for word; the record is whole; gives its
    /// events of these kinds.
    pub async fn end(mut self, kinds: &[&'static str]) -> Vec<Event> {
        self.service.stop();
        let found = verify(&self.data(), None, None).await.unwrap();
        assert_eq!(found.findings, []);
        let store = Store::open_to_read(&self.data()).await.unwrap();
        let (shown, kept) = all_kept(&self.shown, &store).await;
        println!("{} verdicts shown, {kept} kept", shown.len());
        assert!(shown.len() > 100);
        assert!(matches!(store.events(&["stopped"], None).await.unwrap()[..], [_]));
        store.events(kinds, None).await.unwrap().into_iter().map(|entry| entry.event).collect()
    }
}

impl Metrics {
    fn judged(&self) -> f64 {
        self.sum("beltsight_verdicts_total", "")
    }

    pub fn recorded(&self) -> f64 {
        self.sum("beltsight_recorded_total", "")
    }

    pub fn dropped(&self, kind: &str) -> f64 {
        self.sum("beltsight_record_dropped_total", &format!("kind=\"{kind}\""))
    }

    /// Upper bounds in seconds and how many belt verdicts lie below each.
    fn times(&self) -> Vec<(f64, f64)> {
        let series = self.0.lines().filter_map(|line| line.strip_prefix("beltsight_verdict_seconds_bucket{"));
        let belt = series.filter(|line| line.contains("source=\"belt\""));
        belt.map(|line| {
            let (labels, count) = line.rsplit_once(' ').unwrap();
            let bound = labels.split("le=\"").nth(1).unwrap().split('"').next().unwrap();
            (bound.parse().unwrap_or(f64::INFINITY), count.parse().unwrap())
        })
        .collect()
    }
}

impl Spell {
    pub fn between(before: &Metrics, after: &Metrics) -> Self {
        let since = |metric: &str| after.sum(metric, "source=\"belt\"") - before.sum(metric, "source=\"belt\"");
        let times: Vec<_> = before.times().iter().zip(after.times()).map(|(b, a)| (a.0, a.1 - b.1)).collect();
        let wanted = 0.99 * times.last().unwrap().1;
        let at = times.iter().position(|(_, n)| *n >= wanted).unwrap();
        let (low, below) = if at == 0 { (0.0, 0.0) } else { times[at - 1] };
        let (high, within) = times[at];
        let p99 = low + (high - low) * (wanted - below) / (within - below);
        let spell = Self {
            items: since("beltsight_verdicts_total"),
            faults: since("beltsight_faults_total"),
            p99_ms: p99 * 1e3,
        };
        println!("{spell:?}");
        spell
    }

    /// Whether the line did not notice: a line that waits for what failed waits for seconds. The rest is for a machine
    /// on which others work.
    pub fn as_calm_as(&self, calm: &Spell) {
        assert!(self.items > 90.0 && calm.items > 90.0, "{self:?}, {calm:?} before");
        assert_eq!((self.faults, calm.faults), (0.0, 0.0), "{self:?}, {calm:?} before");
        assert!(self.p99_ms <= 2.0 * calm.p99_ms + 5.0, "{self:?}, {calm:?} before");
    }
}
