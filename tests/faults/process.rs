//! A process that is killed, and one that can't start.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use beltsight::{
    domain::{Picture, Verdict},
    picture::pixels,
};

use crate::{
    common::{
        process::{beltsight, fails},
        served::{Served, configured, shipped},
    },
    line::verdicts,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_no_recorded_verdict_and_leaves_no_half_frame() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen: BTreeMap<i64, Verdict> = BTreeMap::new();
    for round in 0..5u8 {
        let mut service = Served::start(&configured(folder.path(), &shipped(), "", ""), &[]).unwrap();
        // What a client once saw as recorded is still there, word for word.
        let kept = verdicts(&service).await;
        assert!(seen.iter().all(|(id, verdict)| kept.get(id) == Some(verdict)), "round {round}");
        for verdict in kept.values() {
            let Some(key) = &verdict.frame else { continue };
            let frame = service.ask(&format!("/frames/{key}")).await;
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
            seen = verdicts(&service).await;
        }
        service.process.kill(); // in the middle of requests
        sender.await.unwrap();
    }
    assert!(seen.len() >= 150);
}

#[test]
fn a_device_that_cannot_run_fails_the_start_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("beltsight.toml");
    std::fs::write(&config, format!("[model]\nroot = '{}'\ndevice = 'cuda:7'\n", shipped().display())).unwrap();
    let said = fails(beltsight().args(["serve", "--config"]).arg(&config));
    assert!(said.contains("device cuda:7 can't be used here"), "{said}");
}
