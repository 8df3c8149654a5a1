//! A clock that is set.

use std::path::Path;

use beltsight::store::Event;

use crate::{
    common::missing,
    line::{ALONE, BELT, Line, verdicts},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_by_an_hour_forward_and_back_moves_nothing_but_the_times() {
    let _alone = ALONE.lock().await;
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !Path::new(library).exists() {
        return missing("faketime");
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
    let found = verdicts(&line.service).await;
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
