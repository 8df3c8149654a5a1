//! A store that is full, slow, locked or gone.

use std::{path::Path, time::Duration};

use beltsight::store::Event;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    common::disk::Disk,
    line::{ALONE, BELT, Line, QUEUE},
};

/// What the entries about gaps say is missing: verdicts, pictures, events.
fn missing(events: &[Event]) -> [u64; 3] {
    events.iter().fold([0; 3], |sum, event| match event {
        Event::Gap { verdicts, pictures, events, from: Some(from), to: Some(to), .. } if from <= to => {
            [sum[0] + verdicts, sum[1] + pictures, sum[2] + events]
        }
        other => panic!("{other:?}"),
    })
}

/// Ends a line that has lost something: the record says what it lacks. Verdicts, pictures, events.
async fn told_losses(line: Line) -> [u64; 3] {
    let after = line.recovered().await;
    let dropped = ["verdict", "frame", "event"].map(|kind| after.dropped(kind) as u64);
    println!("dropped: {dropped:?}");
    assert_eq!(missing(&line.end(&["gap"]).await), dropped, "the record says what it lacks");
    dropped
}

/// A connection that keeps everybody else from writing until it is dropped or ends its transaction.
async fn lock(data: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(data.join("verdicts.sqlite"));
    let mut connection = SqliteConnection::connect_with(&options.busy_timeout(Duration::from_secs(30))).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
    connection
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
    assert!(during.sum("beltsight_store_errors_total", "") > 0.0);
    assert!(told_losses(line).await[0] > 50, "the queue of {QUEUE} was too short for it");
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
    assert!(told_losses(line).await[0] > 30);
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
    let lot = line.service.post("/lots", r#"{"name": "K"}"#).await;
    assert_eq!(lot.status(), 503, "nor is a lot opened that would be lost");
    std::fs::rename(&away, line.data()).unwrap();
    line.until_more("beltsight_recorded_total", "", during.recorded() + QUEUE as f64 + 20.0).await;
    gone.as_calm_as(&calm);
    assert!(told_losses(line).await[0] > 30);
}
