//! `beltsight serve` with cameras.

use std::{
    io::Write,
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use beltsight::{
    domain::Picture,
    line::camera::CameraConfig,
    picture::pixels,
    store::{Event, Page, Store},
};

use crate::{
    common::{
        process::asked_until,
        served::{Served, configured, shipped},
    },
    mjpeg::{Mjpeg, Mood},
    watched::PATIENCE,
};

/// `beltsight serve` with cameras, in a folder of its own.
pub fn serve(folder: &Path, cameras: &str) -> Served {
    let rest = format!("[line]\ndeadline = '2s'\n{cameras}");
    Served::start(&configured(folder, &shipped(), "", &rest), &[]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_camera_counts_as_lost_in_metrics_and_record() {
    let eye = Mjpeg::start();
    let folder = tempfile::tempdir().unwrap();
    let mut service = serve(folder.path(), &format!("[[camera]]\n{}", eye.config("frozen_after = '1s'")));
    let (up, frozen) = ("beltsight_camera_up{camera=\"line-1\"}", "beltsight_camera_frozen{camera=\"line-1\"}");
    service.until(up, |value| value == 1.0).await;
    assert_eq!(service.metrics().await.value(frozen), Some(0.0));
    eye.is(Mood::Frozen);
    service.until(frozen, |value| value == 1.0).await;
    assert_eq!(service.metrics().await.value(up), Some(0.0));
    service.until("beltsight_frames_dropped_total{camera=\"line-1\",reason=\"frozen\"}", |value| value > 3.0).await;
    eye.is(Mood::Well);
    service.until(up, |value| value == 1.0).await;
    assert_eq!(service.metrics().await.value(frozen), Some(0.0));
    eye.is(Mood::Garbage);
    service.until("beltsight_frames_dropped_total{camera=\"line-1\",reason=\"driver\"}", |value| value > 0.0).await;
    eye.is(Mood::Stalls);
    service.until("beltsight_camera_reconnects_total{camera=\"line-1\"}", |value| value > 0.0).await;
    assert_eq!(service.metrics().await.value(up), Some(0.0));
    service.stop();
    let store = Store::open(&folder.path().join("data")).await.unwrap();
    let entries = store.events(&["camera_lost", "camera_back"], None).await.unwrap();
    let told: Vec<&Event> = entries.iter().map(|entry| &entry.event).collect();
    let [Event::CameraLost { why: first, .. }, Event::CameraBack { .. }, Event::CameraLost { why: second, .. }] =
        told[..]
    else {
        panic!("{told:?}")
    };
    assert!(first.starts_with("frozen") && second.contains("no whole picture"), "{told:?}");
}

/// One gate of 64 pixels' width for the MJPEG camera, with an output that says what it is asked.
fn gated(eye: &Mjpeg, line: &str) -> String {
    format!(
        "{line}\n[[camera]]\n{}\n[[eject.gate]]\nname = 'out'\ncamera = 'line-1'\nactions = ['reject', 'divert']\n\
         speed = '1m/s'\nscale = '1mm/px'\ndistance = '2500mm'\n[[eject.output]]\nkind = 'log'\ntolerance = '8ms'\n\
         on_late = 'alarm'\n",
        eye.config("")
    )
}

/// The outages in the record of a service that was stopped.
async fn outages(folder: &Path) -> Vec<Event> {
    let store = Store::open(&folder.join("data")).await.unwrap();
    let entries = store.events(&["camera_lost", "camera_back"], None).await.unwrap();
    entries.into_iter().map(|entry| entry.event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_with_stray_bytes_are_judged_and_counted() {
    let eye = Mjpeg::start();
    eye.is(Mood::Strays);
    let folder = tempfile::tempdir().unwrap();
    let service = serve(folder.path(), &format!("[[camera]]\n{}", eye.config("")));
    let frames = "beltsight_frames_total{camera=\"line-1\"}";
    service.until(frames, |frames| frames >= 20.0).await;
    let metrics = service.metrics().await;
    let lost = metrics.sum("beltsight_frames_dropped_total", "reason=\"damaged\"");
    assert_eq!(lost, 0.0, "of {:?} frames", metrics.value(frames));
    let cleaned = "beltsight_pictures_cleaned_total{camera=\"line-1\",source=\"belt\"}";
    service.until(cleaned, |cleaned| cleaned >= 20.0).await;
    let clean = pixels::encode_jpeg(&Picture::filled(64, 48, [90; 3]), 90).unwrap();
    let dirty = [&clean[..20], b"stray", &clean[20..], b"\xff"].concat();
    for body in [clean, dirty] {
        assert_eq!(service.post("/classify", body).await.status(), 200);
    }
    let metrics = service.metrics().await;
    assert_eq!(metrics.value("beltsight_pictures_cleaned_total{camera=\"\",source=\"http\"}"), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_whose_every_picture_is_damaged_is_lost_until_one_can_be_searched() {
    let eye = Mjpeg::start();
    let folder = tempfile::tempdir().unwrap();
    let mut service = serve(folder.path(), &gated(&eye, ""));
    let up = "beltsight_camera_up{camera=\"line-1\"}";
    service.until(up, |value| value == 1.0).await;
    eye.is(Mood::Damaged);
    let damaged = "beltsight_frames_dropped_total{camera=\"line-1\",reason=\"damaged\"}";
    service.until(damaged, |frames| frames >= 60.0).await;
    assert_eq!(service.metrics().await.value(up), Some(0.0));
    let camera = service.get("/cameras").await[0].clone();
    assert_eq!(camera["state"], "lost", "{camera}");
    assert!(camera["why"].as_str().unwrap().contains("no picture could be searched for 700ms"), "{camera}");
    assert_eq!(service.ask("/readyz").await.status(), 200, "the other lines go on");
    let log = service.log();
    assert_eq!(log.matches("gates unjudged").count(), 1, "{log}");
    eye.is(Mood::Well);
    service.until(up, |value| value == 1.0).await;
    assert_eq!(service.get("/cameras").await[0]["state"], "up");
    service.stop();
    let told = outages(folder.path()).await;
    assert!(
        matches!(&told[..], [Event::CameraLost { why, .. }, Event::CameraBack { .. }] if why.contains("damaged")),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn single_damaged_pictures_are_no_outage() {
    let eye = Mjpeg::start();
    let folder = tempfile::tempdir().unwrap();
    let mut service = serve(folder.path(), &gated(&eye, ""));
    let damaged = "beltsight_frames_dropped_total{camera=\"line-1\",reason=\"damaged\"}";
    eye.is(Mood::Stumbles);
    service.until(damaged, |frames| frames >= 40.0).await;
    service.stop();
    assert_eq!(outages(folder.path()).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_camera_is_lost_the_gates_are_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let eye = Mjpeg::start();
    let line = gated(&eye, "ask_again = '500ms'").replace("geheim", "falsch"); // so that it never opens
    let mut service = serve(folder.path(), &line);
    let asked = async || service.log().matches("gates unjudged").count();
    asked_until("asked four times", PATIENCE, asked, |asked| *asked >= 4).await;
    service.stop();
    let told = outages(folder.path()).await;
    assert!(matches!(told[..], [Event::CameraLost { .. }]), "told once: {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_belt_is_looked_at_while_requests_at_hand_end() {
    let folder = tempfile::tempdir().unwrap();
    let camera = "[[camera]]\nname = 'line-1'\nsource = 'simulated'\nbelt = { width = 320, height = 180, \
         speed = 600.0, items_per_minute = 200.0, empty_share = 0.0, frame_rate = 20.0 }";
    let mut service = serve(folder.path(), camera);
    service.until("beltsight_camera_up{camera=\"line-1\"}", |value| value == 1.0).await;
    // A request that is not whole when the service is told to stop.
    let address = service.url.trim_start_matches("http://");
    let mut slow = TcpStream::connect(address).unwrap();
    write!(slow, "POST /classify HTTP/1.1\r\nHost: {address}\r\nContent-Length: 1000\r\n\r\nbegun").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let told = time::OffsetDateTime::now_utc();
    service.stop();
    let took = time::OffsetDateTime::now_utc() - told;
    assert!(took > Duration::from_secs(3), "the request held it up, for {took}");
    let store = Store::open(&folder.path().join("data")).await.unwrap();
    let page = store.verdicts(Page { limit: 1, ..Page::default() }).await.unwrap();
    let last = page.first().map(|verdict| verdict.time - told);
    assert!(last.is_some_and(|last| last > Duration::from_secs(2)), "the last item was seen {last:?} after, of {took}");
}

#[test]
fn settings_by_which_no_camera_can_run_are_refused_at_the_start() {
    let overlap = "source = 'simulated'\nname = 'line-7'\nbelt = { speed = 60, items_per_minute = 12 }";
    let still = "source = 'folder'\nname = 'line-7'\npath = '.'\nframe_rate = 0";
    for (camera, key) in [(overlap, "items_per_minute = 12"), (still, "frame_rate")] {
        let camera: CameraConfig = toml::from_str(camera).unwrap();
        let refused = camera.check(Duration::from_millis(50));
        let named = refused.as_ref().is_err_and(|why| why.contains("camera line-7") && why.contains(key));
        assert!(named, "{key}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_another_width_than_the_gates_were_measured_in_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, width) in [("a", 320), ("b", 160), ("c", 320)] {
        let jpeg = pixels::encode_jpeg(&Picture::filled(width, 90, [90, 100, 110]), 90).unwrap();
        std::fs::create_dir_all(folder.path().join("pictures")).unwrap();
        std::fs::write(folder.path().join(format!("pictures/{name}.jpg")), jpeg).unwrap();
    }
    let config = format!(
        "[[camera]]\nname = 'line-1'\nsource = 'folder'\npath = '{}'\nframe_rate = 20.0\n[[eject.gate]]\nname = 'out'\n\
         camera = 'line-1'\nactions = ['reject', 'divert']\nspeed = '1m/s'\nscale = '1mm/px'\nwidth = 320\n\
         distance = '2500mm'\n[[eject.output]]\nkind = 'log'\ntolerance = '8ms'\non_late = 'alarm'\n",
        folder.path().join("pictures").display()
    );
    let mut service = serve(folder.path(), &config);
    let refused = "beltsight_frames_dropped_total{camera=\"line-1\",reason=\"size\"}";
    service.until(refused, |frames| frames >= 3.0).await;
    let taken = service.metrics().await.value("beltsight_frames_total{camera=\"line-1\"}").unwrap();
    let refused = service.metrics().await.value(refused).unwrap();
    assert!(2.0 * refused < taken, "{refused} of {taken}: every third one");
    let log = service.log();
    assert!(log.contains("160 pixels wide, not 320") && log.contains("gates unjudged"), "{log}");
    service.stop();
    let told = outages(folder.path()).await;
    let [Event::CameraLost { why, .. }, Event::CameraBack { .. }, ..] = &told[..] else { panic!("{told:?}") };
    assert!(why.contains("160 pixels wide"), "{why}");
}

/// Two belts, one with salmon alone and one without any, each with a gate; and a camera that is not there.
const LINES: &str = "
[[camera]]
name = 'line-1'
source = 'simulated'
belt = { seed = 1, width = 320, height = 180, speed = 200.0, items_per_minute = 60.0, empty_share = 0.0, frame_rate = 8.0, salmon_share = 1.0 }
[[camera]]
name = 'line-2'
source = 'simulated'
belt = { seed = 2, width = 400, height = 224, speed = 250.0, items_per_minute = 60.0, empty_share = 0.0, frame_rate = 8.0, salmon_share = 0.0 }
[[camera]]
name = 'line-3'
source = 'mjpeg'
url = 'http://ada:geheim@127.0.0.1:9/video'
[[eject.gate]]
name = 'out-1'
camera = 'line-1'
actions = ['reject', 'divert']
speed = '0.4m/s'
scale = '2mm/px'
distance = '1200mm'
[[eject.gate]]
name = 'out-2'
camera = 'line-2'
actions = ['reject', 'divert']
speed = '0.4m/s'
scale = '2mm/px'
distance = '1200mm'
[[eject.gate]]
name = 'out-3'
camera = 'line-3'
actions = ['reject', 'divert']
speed = '0.4m/s'
scale = '2mm/px'
distance = '1200mm'
[[eject.output]]
kind = 'log'
tolerance = '10s'
on_late = 'alarm'
";

#[tokio::test(flavor = "multi_thread")]
async fn two_lines_in_one_service_keep_to_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let service = serve(folder.path(), LINES);
    let verdicts = |camera: &str, action: &str| {
        format!("beltsight_verdicts_total{{action=\"{action}\",camera=\"{camera}\",source=\"belt\"}}")
    };
    service.until(&verdicts("line-2", "reject"), |items| items >= 5.0).await;
    service.until(&verdicts("line-1", "accept"), |items| items >= 5.0).await;
    let good = service.metrics().await.value(&verdicts("line-1", "accept")).unwrap();
    let bad = service.metrics().await.value(&verdicts("line-2", "accept")).unwrap();
    assert!(good > 2.0 * bad, "{good} accepted among salmon, {bad} where there is none");

    // Each camera has a picture of its own.
    for (query, size) in [("", (320, 180)), ("?camera=line-1", (320, 180)), ("?camera=line-2", (400, 224))] {
        let jpeg = service.ask(&format!("/live.jpg{query}")).await.bytes().await.unwrap();
        let picture = pixels::decode(&jpeg, pixels::PixelLimits::default()).unwrap();
        assert_eq!((picture.width, picture.height), size, "{query}");
    }
    let answer = service.ask("/live.jpg?camera=line-3").await;
    assert_eq!(answer.status(), 404);

    // One that is lost is said to be, and the service is ready for the others.
    let cameras = service.get("/cameras").await;
    let states: Vec<_> = (0..3).map(|n| (cameras[n]["name"].as_str(), cameras[n]["state"].as_str())).collect();
    assert_eq!(
        states,
        [(Some("line-1"), Some("up")), (Some("line-2"), Some("up")), (Some("line-3"), Some("lost"))],
        "{cameras}"
    );
    assert!(!cameras.to_string().contains("geheim"), "{cameras}");
    let log = service.log();
    assert!(log.contains("camera lost") && !log.contains("geheim"), "{log}");
    let blind: Vec<&str> = log.lines().filter(|line| line.contains("gates unjudged")).collect();
    assert!(matches!(&blind[..], [line] if line.contains("line-3") && line.contains("alarm")), "{blind:?}");
    assert_eq!(service.ask("/readyz").await.status(), 200);

    // Each gate moves for its own camera.
    let start = Instant::now();
    loop {
        let log = service.log();
        let commands: Vec<&str> = log.lines().filter(|line| line.contains("gate=")).collect();
        for line in &commands {
            let line = line.replace('"', "");
            let own =
                (1..=3).any(|n| line.contains(&format!("gate=out-{n}")) && line.contains(&format!("camera=line-{n}")));
            assert!(own, "{line}");
        }
        if commands.iter().any(|line| line.contains("line-2")) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "no gate moved: {log}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
