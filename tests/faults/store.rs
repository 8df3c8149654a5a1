//! A store that is full, slow, locked or gone.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use beltsight::store::Event;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::line::{ALONE, BELT, Line, QUEUE};

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
