//! What `beltsight bench belt` counts.

use crate::{
    common::{
        process::{beltsight, succeeds},
        served::shipped,
    },
    line::ALONE,
};

#[test]
fn the_bench_counts_one_verdict_for_every_item_of_a_fast_belt() {
    let _alone = ALONE.blocking_lock();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("belt.json");
    let mut bench = beltsight();
    bench.args(["bench", "belt", "--seconds", "8", "--seed", "3", "--model"]).arg(shipped().join("belt-small"));
    succeeds(bench.arg("--out").arg(&out));
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
