//! What survives when the process does not, and the line beside a store, a clock, a model folder or a broker that fails.
//!
//! The tests that compare the line's times run one after the other, and alone where the runner can see to that.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/served.rs"]
mod served;

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use beltsight::{
    domain::{Picture, Verdict},
    picture::pixels,
    store::{Event, Page, Store, verify},
};
use served::{Served, configured, shipped};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tokio_stream::StreamExt;

async fn verdicts(url: &str) -> BTreeMap<i64, Verdict> {
    let mut all = BTreeMap::new();
    let mut before = String::new();
    loop {
        let page: serde_json::Value =
            reqwest::get(format!("{url}/verdicts?limit=500{before}")).await.unwrap().json().await.unwrap();
        let found: Vec<Verdict> = serde_json::from_value(page["verdicts"].clone()).unwrap();
        all.extend(found.into_iter().map(|v| (v.id, v)));
        match page["next"].as_i64() {
            Some(next) => before = format!("&before={next}"),
            None => return all,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_no_recorded_verdict_and_leaves_no_half_frame() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen: BTreeMap<i64, Verdict> = BTreeMap::new();
    for round in 0..5u8 {
        let mut service = Served::start(&configured(folder.path(), &shipped(), "", ""), &[]).unwrap();
        // What a client once saw as recorded is still there, word for word.
        let kept = verdicts(&service.url).await;
        assert!(seen.iter().all(|(id, verdict)| kept.get(id) == Some(verdict)), "round {round}");
        for verdict in kept.values() {
            let Some(key) = &verdict.frame else { continue };
            let frame = reqwest::get(format!("{}/frames/{key}", service.url)).await.unwrap();
            assert_eq!(frame.status(), 200, "the frame of verdict {} is there", verdict.id);
            assert!(pixels::decode(&frame.bytes().await.unwrap(), pixels::PixelLimits::default()).is_ok());
        }
        seen = kept;
        let sender = {
            let url = service.url.clone();
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                for n in (0..=u8::MAX).cycle() {
                    let picture = Picture::filled(96, 64, [n, round * 40, 200]);
                    let jpeg = pixels::encode_jpeg(&picture, 90).unwrap();
                    if client.post(format!("{url}/classify")).body(jpeg).send().await.is_err() {
                        return; // killed
                    }
                }
            })
        };
        let (wanted, patience) = (seen.len() + 30, Instant::now());
        while seen.len() < wanted {
            assert!(patience.elapsed() < Duration::from_secs(30), "verdicts are recorded");
            seen = verdicts(&service.url).await;
        }
        service.process.0.kill().unwrap(); // SIGKILL, in the middle of requests
        service.process.0.wait().unwrap();
        sender.await.unwrap();
    }
    assert!(seen.len() >= 150);
}

#[test]
fn a_device_that_cannot_run_fails_the_start_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("beltsight.toml");
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    std::fs::write(&config, format!("[model]\nroot = '{}'\ndevice = 'cuda:7'\n", models.display())).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_beltsight")).args(["serve", "--config"]).arg(&config).output().unwrap();
    assert!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("device cuda:7 can't be used here"), "{said}");
}

/// Held by the test whose line is being timed.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A belt of 600 items a minute; the deadline is for machines on which others work.
const BELT: &str = "[[camera]]\nname = 'belt'\nsource = 'simulated'
belt = { width = 320, height = 180, speed = 1620.0, items_per_minute = 600.0, empty_share = 0.0, frame_rate = 30.0 }
[line]
deadline = '200ms'";
/// How long the line is watched before a fault and, at least, within one.
const SPELL: Duration = Duration::from_secs(12);
/// Places in the record's queue where a fault is to outlast it.
const QUEUE: u64 = 64;

#[test]
fn the_bench_counts_one_verdict_for_every_item_of_a_fast_belt() {
    let _alone = ALONE.blocking_lock();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("belt.json");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_beltsight"));
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/belt-small");
    let bench = bench.args(["bench", "belt", "--seconds", "8", "--seed", "3", "--model"]).arg(models);
    let done = bench.arg("--out").arg(&out).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    println!("{report:#}");
    let run = &report["run"];
    let count = |name: &str| run[name].as_u64().unwrap();
    assert!((95..=107).contains(&count("items")), "8 s of 800 a minute, without those at both ends: {run}");
    let wrong = ["missed", "doubled", "misplaced", "faults", "not_recorded"].map(count);
    assert_eq!(wrong, [0; 5], "{run}");
    let commands = &run["commands"];
    let ended: u64 = commands["ended"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    let ordered = commands["ordered"].as_u64().unwrap();
    assert!(ordered > 30 && (ended..=ended + 20).contains(&ordered), "all but those on their way have ended: {run}");
    assert!(run["drawing_share"].as_f64().is_some_and(|share| share > 0.05 && share < 0.95), "{run}");
}

/// A service with a busy belt, and somebody who reads the stream of recorded verdicts.
struct Line {
    service: Served,
    folder: TempDir,
    shown: Arc<Mutex<BTreeMap<i64, Verdict>>>,
}

/// What the line did in a spell.
#[derive(Debug)]
struct Spell {
    items: f64,
    faults: f64,
    /// Capture to verdict, read from the histogram.
    p99_ms: f64,
}

impl Line {
    /// `folder` may hold a mounted `data`.
    fn start(folder: TempDir, rest: &str, environment: &[(&str, &str)]) -> Self {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let service = Served::start(&configured(folder.path(), &models, "", rest), environment).unwrap();
        let shown = Arc::default();
        tokio::spawn(read_stream(service.url.clone(), Arc::clone(&shown)));
        Self { service, folder, shown }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn metrics(&self) -> Metrics {
        Metrics(reqwest::get(format!("{}/metrics", self.service.url)).await.unwrap().text().await.unwrap())
    }

    async fn spell(&self) -> Spell {
        let before = self.metrics().await;
        tokio::time::sleep(SPELL).await;
        Spell::between(&before, &self.metrics().await)
    }

    /// Waits until a metric's sum is more than `least`.
    async fn until_more(&self, metric: &str, labels: &str, least: f64) {
        let patience = Instant::now();
        while self.metrics().await.sum(metric, labels) <= least {
            assert!(patience.elapsed() < Duration::from_secs(40), "{metric}{{{labels}}} stays at {least} or below");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the store has written everything that waited; gives what is counted then.
    async fn recovered(&self) -> Metrics {
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
    async fn end(mut self, kinds: &[&'static str]) -> Vec<Event> {
        let pid = self.service.process.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.service.process.0.wait().unwrap().success());
        let found = verify(&self.data(), None, None).await.unwrap();
        assert_eq!(found.findings, []);
        let store = Store::open_to_read(&self.data()).await.unwrap();
        let (mut kept, mut page) = (BTreeMap::new(), Page { limit: 500, ..Page::default() });
        loop {
            let found = store.verdicts(page).await.unwrap();
            let Some(last) = found.last() else { break };
            page.before = Some(last.id);
            kept.extend(found.into_iter().map(|v| (v.id, v)));
        }
        let shown = std::mem::take(&mut *self.shown.lock().unwrap());
        println!("{} verdicts shown, {} kept", shown.len(), kept.len());
        assert!(shown.len() > 100);
        for (id, verdict) in &shown {
            assert_eq!(kept.get(id), Some(verdict), "verdict {id} was shown, so it is there, word for word");
        }
        assert!(matches!(store.events(&["stopped"], None).await.unwrap()[..], [_]));
        store.events(kinds, None).await.unwrap().into_iter().map(|entry| entry.event).collect()
    }
}

/// Remembers what the live stream shows until the service is gone.
async fn read_stream(url: String, shown: Arc<Mutex<BTreeMap<i64, Verdict>>>) {
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

/// What `/metrics` says at one moment.
struct Metrics(String);

impl Metrics {
    /// The sum of a metric's series whose labels hold `labels`.
    fn sum(&self, metric: &str, labels: &str) -> f64 {
        let series = self.0.lines().filter_map(|line| line.strip_prefix(metric)?.rsplit_once(' '));
        let series = series.filter(|(rest, _)| (rest.is_empty() || rest.starts_with('{')) && rest.contains(labels));
        series.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }

    fn judged(&self) -> f64 {
        self.sum("beltsight_verdicts_total", "")
    }

    fn recorded(&self) -> f64 {
        self.sum("beltsight_recorded_total", "")
    }

    fn dropped(&self, kind: &str) -> f64 {
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
    fn between(before: &Metrics, after: &Metrics) -> Self {
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
    fn as_calm_as(&self, calm: &Spell) {
        assert!(self.items > 90.0 && calm.items > 90.0, "{self:?}, {calm:?} before");
        assert_eq!((self.faults, calm.faults), (0.0, 0.0), "{self:?}, {calm:?} before");
        assert!(self.p99_ms <= 2.0 * calm.p99_ms + 5.0, "{self:?}, {calm:?} before");
    }
}

/// What the entries about gaps say is missing: verdicts, pictures, events.
fn missing(events: &[Event]) -> [u64; 3] {
    events.iter().fold([0; 3], |sum, event| match event {
        Event::Gap { verdicts, pictures, events, from: Some(from), to: Some(to) } if from <= to => {
            [sum[0] + verdicts, sum[1] + pictures, sum[2] + events]
        }
        other => panic!("{other:?}"),
    })
}

/// A connection that keeps everybody else from writing until it is dropped or ends its transaction.
async fn lock(data: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(data.join("verdicts.sqlite"));
    let mut connection = SqliteConnection::connect_with(&options.busy_timeout(Duration::from_secs(30))).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
    connection
}

/// A small disk of its own for the store; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        if !done.as_ref().is_ok_and(|out| out.status.success()) {
            println!("skipped: a tmpfs can't be mounted here: {done:?}");
            return None;
        }
        Some(Self(at.into()))
    }

    /// Fills it to the last byte.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap()); // which could not be removed while this was mounted
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_the_record_what_it_says_and_the_line_nothing() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&folder.path().join("data"), "32m") else { return };
    let line = Line::start(folder, &format!("{BELT}\n[record]\nqueue = {QUEUE}"), &[]);
    line.until_more("beltsight_recorded_total", "", 5.0).await;
    let calm = line.spell().await;
    let filler = disk.fill();
    line.until_more("beltsight_record_dropped_total", "verdict", 0.0).await;
    let before = line.metrics().await;
    let full = line.spell().await;
    let during = line.metrics().await;
    assert_eq!(during.recorded(), before.recorded(), "nothing is told as recorded that is not");
    std::fs::remove_file(filler).unwrap();
    line.until_more("beltsight_recorded_total", "", during.recorded() + 200.0).await;
    full.as_calm_as(&calm);
    let after = line.recovered().await;
    let dropped = ["verdict", "frame", "event"].map(|kind| after.dropped(kind) as u64);
    println!("dropped: {dropped:?}");
    assert!(dropped[0] > 50, "the queue of {QUEUE} was too short for it");
    assert!(during.sum("beltsight_store_errors_total", "") > 0.0);
    assert_eq!(missing(&line.end(&["gap"]).await), dropped, "the record says what it lacks");
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_five_seconds_for_a_write_loses_nothing() {
    let _alone = ALONE.lock().await;
    let line = Line::start(tempfile::tempdir().unwrap(), BELT, &[]);
    line.until_more("beltsight_recorded_total", "", 5.0).await;
    let calm = line.spell().await;
    let data = line.data();
    let slow = tokio::spawn(async move {
        for _ in 0..3 {
            let locked = lock(&data).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            locked.close().await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let stormy = line.spell().await;
    slow.await.unwrap();
    stormy.as_calm_as(&calm);
    let judged = line.metrics().await.sum("beltsight_verdicts_total", "");
    line.until_more("beltsight_recorded_total", "", judged - 1.0).await; // every one of them
    let after = line.recovered().await;
    assert_eq!(["verdict", "frame", "event"].map(|kind| after.dropped(kind)), [0.0; 3]);
    assert_eq!(line.end(&["gap"]).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stays_locked_costs_what_finds_no_place_and_the_rest_is_written_when_it_is_free() {
    let _alone = ALONE.lock().await;
    let line = Line::start(tempfile::tempdir().unwrap(), &format!("{BELT}\n[record]\nqueue = {QUEUE}"), &[]);
    line.until_more("beltsight_recorded_total", "", 5.0).await;
    let calm = line.spell().await;
    let locked = lock(&line.data()).await;
    let locked_out = line.spell().await;
    line.until_more("beltsight_store_errors_total", "", 1.0).await; // two writes have waited their five seconds
    let waiting = line.metrics().await;
    locked.close().await.unwrap();
    line.until_more("beltsight_recorded_total", "", waiting.recorded() + QUEUE as f64 + 20.0).await;
    locked_out.as_calm_as(&calm);
    let after = line.recovered().await;
    let dropped = ["verdict", "frame", "event"].map(|kind| after.dropped(kind) as u64);
    println!("dropped: {dropped:?}");
    assert!(dropped[0] > 30);
    assert_eq!(missing(&line.end(&["gap"]).await), dropped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_is_told_nothing_and_goes_on_when_it_is_back() {
    let _alone = ALONE.lock().await;
    let line = Line::start(tempfile::tempdir().unwrap(), &format!("{BELT}\n[record]\nqueue = {QUEUE}"), &[]);
    line.until_more("beltsight_recorded_total", "", 5.0).await;
    let calm = line.spell().await;
    let away = line.folder.path().join("away");
    std::fs::rename(line.data(), &away).unwrap();
    line.until_more("beltsight_store_errors_total", "", 0.0).await;
    let before = line.metrics().await;
    let gone = line.spell().await;
    let during = line.metrics().await;
    assert_eq!(during.recorded(), before.recorded(), "SQLite would have gone on in the folder nobody finds");
    assert!(!line.data().exists(), "it is not begun anew either");
    let lot = reqwest::Client::new().post(format!("{}/lots", line.service.url)).body(r#"{"name": "K"}"#).send().await;
    assert_eq!(lot.unwrap().status(), 503, "nor is a lot opened that would be lost");
    std::fs::rename(&away, line.data()).unwrap();
    line.until_more("beltsight_recorded_total", "", during.recorded() + QUEUE as f64 + 20.0).await;
    gone.as_calm_as(&calm);
    let after = line.recovered().await;
    let dropped = ["verdict", "frame", "event"].map(|kind| after.dropped(kind) as u64);
    println!("dropped: {dropped:?}");
    assert!(dropped[0] > 30);
    assert_eq!(missing(&line.end(&["gap"]).await), dropped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_by_an_hour_forward_and_back_moves_nothing_but_the_times() {
    let _alone = ALONE.lock().await;
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !Path::new(library).exists() {
        println!("skipped: faketime is not installed; deploy/setup --test installs it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shift = folder.path().join("shift");
    std::fs::write(&shift, "+0\n").unwrap();
    let environment = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", shift.to_str().unwrap()),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    let line = Line::start(folder, BELT, &environment);
    line.until_more("beltsight_recorded_total", "", 5.0).await;
    let calm = line.spell().await;
    for set in ["+3600\n", "-3600\n"] {
        std::fs::write(&shift, set).unwrap();
        line.spell().await.as_calm_as(&calm);
    }
    let after = line.recovered().await;
    assert_eq!(["verdict", "frame", "event"].map(|kind| after.dropped(kind)), [0.0; 3]);
    let found = verdicts(&line.service.url).await;
    let times: Vec<_> = found.values().map(|verdict| verdict.time).collect(); // in the order of their ids
    let jumps: Vec<i64> =
        times.windows(2).map(|pair| (pair[1] - pair[0]).whole_seconds()).filter(|s| s.abs() > 2).collect();
    println!("jumps between verdicts: {jumps:?} s");
    assert!(matches!(jumps[..], [3595..=3605, -7205..=-7195]), "{jumps:?}");
    let told: Vec<_> = line.end(&["clock_set", "gap"]).await;
    let seconds: Vec<f64> = told
        .iter()
        .map(|event| if let Event::ClockSet { seconds } = event { *seconds } else { panic!("{event:?}") })
        .collect();
    assert!(
        seconds.len() == 2 && (seconds[0] - 3600.0).abs() < 2.0 && (seconds[1] + 7200.0).abs() < 2.0,
        "{seconds:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_folder_that_vanishes_is_refused_in_words_and_the_loaded_one_goes_on() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/belt-small");
    for name in ["belt-small", "two"] {
        beltsight::bench::copy_model(&shipped, &models.join(name)).unwrap();
    }
    let service = Served::start(&configured(folder.path(), &models, "", BELT), &[]).unwrap();
    let line = Line { service, folder, shown: Arc::default() };
    tokio::spawn(read_stream(line.service.url.clone(), line.shown.clone()));
    line.until_more("beltsight_recorded_total", "", 5.0).await;
    let calm = line.spell().await;

    let file = |version: &str| models.join(version).join("student.int8.onnx");
    let kept = std::fs::read(file("two")).unwrap();
    let before = line.metrics().await;
    for version in ["belt-small", "two"] {
        std::fs::remove_file(file(version)).unwrap();
    }
    let load = |version: &str| {
        let url = format!("{}/v2/repository/models/{version}/load", line.service.url);
        async move {
            let answer = reqwest::Client::new().post(url).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    };
    for version in ["belt-small", "two"] {
        let (status, said) = load(version).await;
        assert!(status == 422 && said.contains("student.int8.onnx"), "{status} {said}");
    }
    let mut promote = Command::new(env!("CARGO_BIN_EXE_beltsight"));
    let promote = promote.args(["models", "--root"]).arg(&models).args(["promote", "two", "--by", "Ann", "--config"]);
    let refused = promote.arg(line.folder.path().join("beltsight.toml")).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("student.int8.onnx"), "{said}");
    // Another service on the same models, as after a restart.
    let other = tempfile::tempdir().unwrap();
    let said = Served::start(&configured(other.path(), &models, "", ""), &[]).err().unwrap();
    assert!(said.contains("student.int8.onnx"), "{said}");

    tokio::time::sleep(SPELL).await;
    Spell::between(&before, &line.metrics().await).as_calm_as(&calm);
    std::fs::write(file("two"), kept).unwrap();
    let (status, said) = load("two").await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(line.end(&["gap"]).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_does_not_slow_the_line() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = folder.path().join("mosquitto.conf");
    std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")).unwrap();
    let Ok(mut broker) = Command::new("mosquitto").arg("-c").arg(config).stderr(Stdio::null()).spawn() else {
        println!("skipped: mosquitto is not installed; deploy/setup --test installs it");
        return;
    };
    let rest = format!(
        "{BELT}\n[eject]\n[[eject.gate]]\nname = 'out'\ncamera = 'belt'\nactions = ['reject', 'divert']\n\
         speed = '1.25m/s'\nscale = '0.578mm/px'\ndistance = '900mm'\n\
         [[eject.output]]\nkind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\n\
         tolerance = '60ms'\non_late = 'alarm'\n"
    );
    let line = Line::start(folder, &rest, &[]);
    line.until_more("beltsight_eject_commands_total", "acknowledged", 5.0).await;
    let calm = line.spell().await;
    broker.kill().unwrap(); // SIGKILL
    broker.wait().unwrap();
    let down = line.spell().await;
    down.as_calm_as(&calm);
    let metrics = line.metrics().await;
    assert!(
        metrics.sum("beltsight_eject_commands_total", "failed")
            + metrics.sum("beltsight_eject_commands_total", "unacknowledged")
            > 20.0
    );
    assert_eq!(metrics.sum("beltsight_output_down", "mqtt"), 1.0);
    let late = line.end(&["eject_late"]).await.len();
    assert!(late > 20, "each late command stands in the record: {late}");
}
