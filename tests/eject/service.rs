//! The whole service, with its log as the output.

use std::time::Duration;

use crate::common::{
    process::asked_until,
    served::{Served, configured, shipped},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_service_acts_on_the_verdicts_of_its_cameras() {
    let folder = tempfile::tempdir().unwrap();
    let line = "[[camera]]\nname = 'belt'\nsource = 'simulated'\n\
         belt = { salmon_share = 0.0, empty_share = 0.0, width = 320, height = 180 }\n\
         [eject]\n[[eject.gate]]\nname = 'out'\ncamera = 'belt'\nactions = ['reject', 'divert']\n\
         speed = '0.24m/s'\nscale = '1.0mm/px'\ndistance = '600mm'\nconfirm = { after = '1s', window = '900ms' }\n\
         [[eject.output]]\nkind = 'log'\ntolerance = '20ms'\non_late = 'alarm'";
    let mut service = Served::start(&configured(folder.path(), &shipped(), "", line), &[]).unwrap();
    let eject = |line: &String| line.contains(" eject ") && line.contains("late_us=");
    let ejected = |service: &Served| service.process.lines().into_iter().filter(eject).collect::<Vec<_>>();
    let five = async || ejected(&service).len();
    asked_until("five items are ejected", Duration::from_secs(60), five, |n| *n >= 5).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let confirm = async |gate: &str| service.post(&format!("/confirmations/{gate}"), "").await;
    let (known, unknown) = (confirm("out").await, confirm("another").await);
    assert_eq!((known.status().as_u16(), unknown.status().as_u16()), (204, 404));
    let uid = known.headers()["beltsight-uid"].to_str().unwrap().to_owned();
    assert!(ejected(&service).iter().any(|line| line.contains(&format!("uid={uid}"))), "{uid} is of no ejected item");
    let metrics = service.metrics().await;
    assert_eq!(metrics.value("beltsight_confirmations_total{result=\"confirmed\"}"), Some(1.0), "{}", metrics.0);
    service.stop();
    let (lines, all) = (ejected(&service), service.process.count(""));
    let field = |line: &str, name: &str| {
        let rest = line.split(&format!("{name}=")).nth(1)?;
        rest.split(' ').next()?.parse::<u64>().ok()
    };
    let ids: Vec<u64> = lines.iter().filter_map(|line| field(line, "id")).collect();
    assert_eq!(ids, (1..=lines.len() as u64).collect::<Vec<_>>(), "{lines:?}");
    let late: Vec<u64> = lines.iter().filter_map(|line| field(line, "late_us")).collect();
    println!("{} commands of {all} lines, µs late {late:?}", lines.len());
    assert!(late.iter().all(|late| *late < 20_000), "{late:?}");
    let said = service.log();
    assert!(!said.contains("a command is late"), "{said}");
}
