//! Rounds beside a running service: labels in, a proven student out, whatever happens to the learning process.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use beltsight::{domain::Picture, picture::pixels};
use common::{
    disk::Disk,
    kills,
    process::{asked_until, beltsight, succeeds},
    served::{Served, configured},
    server::{CLASSES, test_model_folder},
};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

struct Service {
    served: Served,
    root: PathBuf,
    store: PathBuf,
    /// Items sent to `/classify` since the store was new.
    sent: AtomicI64,
}

/// A service with a student of random weights; `rounds` is added to `[rounds]`. Beside a share of the labeled items 45
/// others are held out: a handful, which ones by chance, could not prove a gain in every run.
fn serve(folder: &Path, rounds: &str) -> Service {
    let (root, store, held_out) = (folder.join("models"), folder.join("data"), folder.join("held_out"));
    if !root.is_dir() {
        test_model_folder(&root, "first", 1);
        for n in 9000..9045 {
            let class = held_out.join(CLASSES[n % 3]);
            std::fs::create_dir_all(&class).unwrap();
            std::fs::write(class.join(format!("{n}.jpg")), jpeg(n)).unwrap();
        }
    }
    let rest = format!(
        "[record]\nkeep_share = 1.0\nkeep_per_hour = 100000\naudit_per_day = 100000000\n\
         [rounds]\nmin_labels = 20\nprobation = '1s'\nheld_out = '{}'\nheld_out_share = 0.2\n\
         train = ['thresholded-pseudo-label', '--net', 'small', '--input', '32', '--steps', '60', '--batch', '16', '--lr', '0.05']\n\
         {rounds}\n\
         [rounds.gate]\nshadow_items = 20\ncalibration_error = 1.0\nslower = 4.0\n\
         significance = 0.025\nescape_cost = 1.0\nmore_false_accepts = 0.3\nmore_false_rejects = 0.3\n",
        held_out.display(),
    );
    let config = configured(folder, &root, "", &rest);
    let served = Served::start(&config, &[("BELTSIGHT_MODEL_VERSION", "first"), ("RUST_BACKTRACE", "1")]).unwrap();
    Service { served, root, store, sent: AtomicI64::new(0) }
}

/// Item `n`: a class has its own colour and texture, every item its own shade.
fn jpeg(n: usize) -> Vec<u8> {
    let mut picture = Picture::filled(64, 64, [20, 30, 60]);
    let colour = [[230, 120, 100], [120, 200, 120], [110, 130, 230]][n % 3];
    for (i, pixel) in picture.rgb.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (x, y) = (i % 64, i / 64);
        let wave = (x * (1 + n % 3) + y + n * 7) % 23 + (n * 13) % 20;
        for (value, base) in pixel.iter_mut().zip(colour) {
            *value = (base as usize - 40 + wave) as u8;
        }
    }
    pixels::encode_jpeg(&picture, 90).unwrap()
}

impl Service {
    async fn get(&self, path: &str) -> Value {
        self.served.get(path).await
    }

    async fn post(&self, path: &str, body: Value) -> u16 {
        self.served.post(path, body.to_string()).await.status().as_u16()
    }

    /// Sends item `n`, which must be answered; gives the class that was named.
    async fn classify(&self, n: usize) -> String {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let response = self.served.post("/classify", jpeg(n)).await;
        assert_eq!(response.status(), 200, "item {n}");
        let verdict: Value = response.json().await.unwrap();
        verdict["verdicts"][0]["class"].as_str().unwrap().to_string()
    }

    /// Sends items `from..to` and labels each of them truly, once it is recorded: the verdict's number is then that of
    /// items sent so far.
    async fn label(&self, from: usize, to: usize) {
        for n in from..to {
            self.classify(n).await;
            let sent = self.sent.load(Ordering::Relaxed);
            let newest = async || self.get("/verdicts?limit=1").await["verdicts"][0]["id"].as_i64();
            asked_until("the item is recorded", Duration::from_secs(30), newest, |id| *id == Some(sent)).await;
            let label = json!({"verdict": sent, "class": CLASSES[n % 3], "by": "Ann"});
            assert!(self.post("/labels", label).await < 300);
        }
    }

    /// Keeps the line busy until round `number` is over, approving where that is asked for; gives its story.
    async fn ended(&self, number: u32, mut beside: impl FnMut(&Value)) -> Value {
        let patience = Instant::now();
        let mut n = 1000;
        loop {
            n += 1;
            self.classify(n).await; // panics when the line does not answer
            let story = self.get("/rounds").await;
            let round = story["rounds"].as_array().unwrap().iter().find(|round| round["number"] == number).cloned();
            if let Some(round) = round.filter(|round| !round["end"].is_null()) {
                return round;
            }
            if story["now"]["stage"] == "approval" {
                assert_eq!(self.post("/rounds/approve", json!({"by": "Bea"})).await, 202);
            }
            beside(&story);
            assert!(patience.elapsed() < Duration::from_secs(150), "{story}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Keeps the line busy until no round runs, though there may be no room to say how it ended; the stages that it went
    /// through.
    async fn over(&self) -> Vec<String> {
        let (mut stages, patience) = (Vec::new(), Instant::now());
        for n in 1000.. {
            self.classify(n).await; // panics when the line does not answer
            let story = self.get("/rounds").await;
            let Some(stage) = story["now"]["stage"].as_str() else { break };
            stages.push(stage.to_owned());
            assert!(patience.elapsed() < Duration::from_secs(100), "{story}");
        }
        stages.dedup();
        stages
    }

    async fn accuracy(&self) -> f64 {
        let mut right = 0;
        for n in 5000..5060 {
            right += usize::from(self.classify(n).await == CLASSES[n % 3]);
        }
        right as f64 / 60.0
    }
}

/// Process ids of `beltsight round` and `beltsight-learn` for the rounds in `store`.
fn learning(store: &Path) -> Vec<u32> {
    let mine = store.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_round = |pid: &u32| {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (words.contains("beltsight\0round") || words.contains("beltsight-learn\0")) && words.contains(&mine)
    };
    pids.filter(of_round).collect()
}

/// Every model folder that can be seen is whole.
fn all_whole(root: &Path) {
    succeeds(beltsight().args(["models", "--root"]).arg(root).arg("verify"));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_become_a_better_student_that_a_person_lets_serve_and_an_equal_one_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let service = serve(folder.path(), "automatic = false");
    let before = service.accuracy().await;
    assert!(before < 0.7, "a student of random weights is right by chance: {before}");
    assert_eq!(service.post("/rounds/approve", json!({"by": "Bea"})).await, 409, "nothing waits");
    service.label(0, 66).await;
    assert_eq!(service.post("/rounds", json!({"by": "Ann"})).await, 202);
    assert_eq!(service.post("/rounds", json!({"by": "Ann"})).await, 409, "one at a time");
    let round = service.ended(1, |_| ()).await;
    assert_eq!((&round["end"], &round["trigger"]), (&json!("promoted"), &json!("Ann")), "{round}");
    let checks = round["checks"].as_array().unwrap();
    assert!(checks.len() == 10 && checks.iter().all(|check| check["passed"] == true), "{round}");
    let models = service.get("/models").await;
    let first = models["serving"].as_str().unwrap();
    assert!(first.starts_with("round-0001-") && models["history"][0]["by"] == "Bea", "{models}");
    let after = service.accuracy().await;
    assert!(after > 0.9, "{after} after, {before} before");
    all_whole(&service.root);

    // The same again can't be better: it is held, in words, and what serves goes on serving.
    service.label(66, 72).await;
    assert_eq!(service.post("/rounds", json!({"by": "Ann"})).await, 202);
    let round = service.ended(2, |_| ()).await;
    assert_eq!(round["end"], "held", "{round}");
    assert!(round["why"].as_str().unwrap().contains("better: "), "{round}");
    assert_eq!(service.get("/models").await["serving"], first);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_a_round_goes_on_and_the_line_does_not_notice() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = serve(folder.path(), "");
    service.accuracy().await; // items that nobody labels
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let (mut done, mut number, mut labeled) = (0, 0, 0);
    while done < kills(4) {
        number += 1;
        let more = if number == 1 { 60 } else { 6 };
        service.label(labeled, labeled + more).await;
        labeled += more;
        assert_eq!(service.post("/rounds", json!({"by": "Ann"})).await, 202);
        let (store, root) = (service.store.clone(), service.root.clone());
        let (mut here, mut last) = (0, Instant::now());
        let mut pause = Duration::from_millis(random.random_range(20..1700));
        let mut stages = Vec::new();
        let round = service
            .ended(number, |story| {
                // A round whose process died five times is given up.
                if here < 4 && done < kills(4) && last.elapsed() > pause {
                    let learning = learning(&store);
                    for pid in &learning {
                        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
                    }
                    if !learning.is_empty() {
                        (here, done) = (here + 1, done + 1);
                        stages.push(story["now"]["stage"].as_str().unwrap_or_default().to_owned());
                    }
                    pause = Duration::from_millis(random.random_range(20..1700));
                    last = Instant::now();
                    all_whole(&root);
                }
            })
            .await;
        println!("round {number}: {} after kills in {stages:?}", round["end"]);
        let end = round["end"].as_str().unwrap();
        assert!(end == "promoted" || number > 1 && end == "held", "{round}");
        assert!(here > 0, "the round was too short to be killed");
    }

    // The service itself dies in the middle of a round; the next one goes on with it.
    let serving = service.get("/models").await["serving"].clone();
    service.label(labeled, labeled + 6).await;
    assert_eq!(service.post("/rounds", json!({"by": "Ann"})).await, 202);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    service.served.process.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(learning(&service.store), Vec::<u32>::new(), "learning dies with its service");
    let service = serve(folder.path(), "");
    assert_eq!(service.get("/models").await["serving"], serving);
    let round = service.ended(number + 1, |_| ()).await;
    assert!(["held", "promoted"].contains(&round["end"].as_str().unwrap()), "{round}");
    all_whole(&service.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_at_any_moment_a_round_ends_in_words_and_what_serves_goes_on() {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(8);
    for n in 0..kills(4).div_ceil(2) {
        // The least starts no process at all, the most is enough for the whole round.
        let limit = if n == 0 { 4 } else { random.random_range(20..700) };
        let folder = tempfile::tempdir().unwrap();
        let service = serve(folder.path(), &format!("memory = {limit}_000_000"));
        service.label(0, 30).await;
        assert_eq!(service.post("/rounds", json!({"by": "Ann"})).await, 202);
        let mut stages = Vec::new();
        let round = service.ended(1, |story| stages.extend(story["now"]["stage"].as_str().map(str::to_owned))).await;
        stages.dedup();
        println!("{limit} MB: {} after {stages:?}: {}", round["end"], round["why"]);
        all_whole(&service.root);
        let models = service.get("/models").await;
        let versions = models["versions"].as_array().unwrap().len();
        if round["end"] == "failed" {
            let why = round["why"].as_str().unwrap();
            assert!(why.contains("its process ended"), "{round}");
            assert_eq!((&models["serving"], versions), (&json!("first"), 1), "no half student is to be seen");
        } else {
            assert!(n > 0 && ["held", "promoted"].contains(&round["end"].as_str().unwrap()), "{round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_on_a_full_disk_fails_is_closed_when_there_is_room_and_the_next_one_runs() {
    let folder = tempfile::tempdir().unwrap();
    let rounds = folder.path().join("data/rounds");
    let Some(disk) = Disk::mount(&rounds, "64m") else { return };
    let service = serve(folder.path(), "");
    service.label(0, 60).await;
    assert_eq!(service.post("/rounds", json!({"by": "Ann"})).await, 202);
    let filler = rounds.join("filler");
    let (mut n, patience) = (1000, Instant::now());
    loop {
        n += 1;
        service.classify(n).await; // panics when the line does not answer
        let story = service.get("/rounds").await;
        if story["now"]["stage"] == "train" && !filler.exists() {
            disk.fill();
        }
        if filler.exists() && story["now"]["stage"].is_null() {
            assert_eq!(story["rounds"][0]["end"], Value::Null, "there is no room to say how it ended: {story}");
            break;
        }
        assert!(patience.elapsed() < Duration::from_secs(100), "{story}");
    }
    let refused = service.post("/rounds", json!({"by": "Ann"})).await;
    assert!(refused >= 400, "a round that can't be planned is refused: {refused}");
    all_whole(&service.root);
    assert_eq!(service.get("/models").await["versions"].as_array().unwrap().len(), 1, "no half student is to be seen");
    std::fs::remove_file(filler).unwrap();
    let round = service.ended(1, |_| ()).await;
    assert_eq!(round["end"], "failed", "{round}");
    assert_eq!(service.post("/rounds", json!({"by": "Ann"})).await, 202);
    let round = service.ended(2, |_| ()).await;
    assert_eq!(round["end"], "promoted", "{round}");
    all_whole(&service.root);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_that_is_full_at_any_moment_a_round_ends_and_the_next_one_runs() {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(9);
    for _ in 0..kills(4).div_ceil(4) {
        let kilobytes = f64::exp(random.random_range(f64::ln(20.0)..f64::ln(8000.0))) as u32;
        let folder = tempfile::tempdir().unwrap();
        let rounds = folder.path().join("data/rounds");
        let Some(_disk) = Disk::mount(&rounds, &format!("{kilobytes}k")) else { return };
        let service = serve(folder.path(), "");
        service.label(0, 60).await;
        let asked = service.post("/rounds", json!({"by": "Ann"})).await;
        let stages = if asked == 202 { service.over().await } else { Vec::new() };
        all_whole(&service.root);
        let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&rounds).status().unwrap();
        assert!(grown.success());
        let first = if asked == 202 { service.ended(1, |_| ()).await["end"].clone() } else { json!("refused") };
        println!("{kilobytes} kB: answered {asked}, {first} after {stages:?}");
        assert!(["refused", "failed", "promoted"].contains(&first.as_str().unwrap()), "{first}");
        if first != "promoted" {
            service.label(60, 66).await;
            assert_eq!(service.post("/rounds", json!({"by": "Ann"})).await, 202);
            let number = service.get("/rounds").await["rounds"][0]["number"].as_u64().unwrap();
            assert_eq!(service.ended(number as u32, |_| ()).await["end"], "promoted");
        }
        all_whole(&service.root);
    }
}
