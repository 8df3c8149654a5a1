//! A process that is killed, and one that can't start.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use beltsight::{
    domain::{Picture, Verdict},
    pixels,
};

use crate::{
    line::verdicts,
    served::{Served, configured, shipped},
};

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
            assert!(pixels::decode(&frame.bytes().await.unwrap(), pixels::Limits::default()).is_ok());
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
