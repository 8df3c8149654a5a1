//! When the heartbeat counts: only while every camera with gates is looked at and the worker answers.

use std::{
    io::Write,
    net::TcpStream,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use beltsight::{
    domain::Source,
    line::{
        eject::output::alive::LineAlive,
        outage::{CameraOutage, OutageSettings},
        probe,
    },
    store::{Event, Store},
};

use crate::{
    bench,
    common::{
        pictures::jpeg,
        process::{Running, asked_until, free_port, until},
        served::{Served, configured, shipped},
        server,
    },
    modbus::plc,
};

/// A service whose camera plays the pictures of `folder/pictures`, and a gate behind the PLC on `port`.
pub fn line(folder: &Path, port: u16) -> Served {
    let rest = format!(
        "[[camera]]\nname = 'belt'\nsource = 'folder'\npath = '{}'\nframe_rate = 10.0\n[line]\ndeadline = '500ms'\n\
         [eject]\n[[eject.gate]]\nname = 'out'\ncamera = 'belt'\nactions = ['reject', 'divert']\nspeed = '0.5m/s'\n\
         scale = '1.0mm/px'\ndistance = '600mm'\ncoil = 0\n\
         [[eject.output]]\nkind = 'modbus'\naddress = '127.0.0.1:{port}'\npulse = '30ms'\nheartbeat = 100\n\
         every = '100ms'\nstop_line = 3\ntolerance = '100ms'\non_late = 'stop_line'",
        folder.join("pictures").display()
    );
    Served::start(&configured(folder, &shipped(), "", &rest), &[]).unwrap()
}

/// Pictures that a folder's camera plays.
pub fn pictures(folder: &Path) {
    std::fs::create_dir(folder.join("pictures")).unwrap();
    std::fs::write(folder.join("pictures/1.jpg"), jpeg(96, 1)).unwrap();
}

fn beats(plc: &Running) -> usize {
    plc.count("register 100 ")
}

fn counts(plc: &Running) {
    let before = beats(plc);
    until("the heart beats", Duration::from_secs(20), || beats(plc) > before + 5);
}

/// The heart stands still for a second, after `patience`.
fn stands(plc: &Running, patience: Duration) {
    thread::sleep(patience);
    let before = beats(plc);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(beats(plc), before, "the heart beats");
}

async fn why(service: &Served) -> String {
    service.get("/readyz").await["lines"][0]["why"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_begins_with_the_first_searched_picture_and_ends_with_the_camera() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let Some(plc) = plc(port) else { return };
    let mut service = line(folder.path(), port);
    stands(&plc, Duration::from_millis(500));
    let said = why(&service).await;
    assert!(said.contains("pictures"), "it says what is wrong: {said}");
    assert_eq!(service.ask("/readyz").await.status(), 200, "HTTP goes on");
    pictures(folder.path());
    counts(&plc);
    assert_eq!(why(&service).await, "");
    std::fs::remove_dir_all(folder.path().join("pictures")).unwrap();
    stands(&plc, Duration::from_millis(1500));
    assert!(why(&service).await.contains("pictures"));
    pictures(folder.path());
    counts(&plc);
    service.stop();
    let store = Store::open(&folder.path().join("data")).await.unwrap();
    let kinds = ["started", "camera_began", "camera_lost", "camera_back", "camera_ended", "stopped"];
    let told: Vec<Event> = store.events(&kinds, None).await.unwrap().into_iter().map(|entry| entry.event).collect();
    let camera = || "belt".to_owned();
    let [
        Event::Started { .. },
        Event::CameraLost { .. },
        Event::CameraBack { .. },
        Event::CameraBegan { .. },
        Event::CameraLost { .. },
        Event::CameraBack { .. },
        ended,
        Event::Stopped,
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(*ended, Event::CameraEnded { camera: camera() });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heartbeat_ends_first_of_all_at_a_shutdown() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let Some(plc) = plc(port) else { return };
    pictures(folder.path());
    let mut service = line(folder.path(), port);
    counts(&plc);
    // A request that never ends keeps the server, and with it the cameras, for five seconds.
    let address = service.url.trim_start_matches("http://");
    let mut slow = TcpStream::connect(address).unwrap();
    write!(slow, "POST /classify HTTP/1.1\r\nHost: {address}\r\nContent-Length: 1000\r\n\r\nbegun").unwrap();
    thread::sleep(Duration::from_millis(500));
    service.process.signal("-TERM");
    let stopped = Instant::now();
    stands(&plc, Duration::from_millis(250));
    let lasts = !service.process.silent();
    println!("after {:?} the service still ends: {lasts}", stopped.elapsed());
    assert!(lasts, "the heart stood still before the rest ended");
    assert!(service.process.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_hangs_in_the_system_is_noticed_from_outside_and_keeps_nobody_from_stopping() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let Some(plc) = plc(port) else { return };
    pictures(folder.path());
    for n in 2..30 {
        std::fs::write(folder.path().join(format!("pictures/{n:02}.jpg")), jpeg(96, n)).unwrap();
    }
    // Opening it for reading never returns as long as nobody writes.
    assert!(Command::new("mkfifo").arg(folder.path().join("pictures/99.jpg")).status().unwrap().success());
    let mut service = line(folder.path(), port);
    counts(&plc);
    until("the last picture is shown", Duration::from_secs(10), || {
        let before = beats(&plc);
        thread::sleep(Duration::from_millis(500));
        beats(&plc) == before
    });
    until("the line is to be stopped", Duration::from_secs(2), || plc.count("coil 3 1") > 0);
    assert!(why(&service).await.contains("no picture was handed over"), "{}", why(&service).await);
    let began = Instant::now();
    service.stop();
    println!("stopped after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20) && service.log().contains("camera-belt did not end"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_is_asked_for_a_known_answer_while_no_item_comes_and_its_silence_ends_the_heartbeat() {
    let server = server::start().await;
    let alive = LineAlive::new([("belt".to_owned(), true, Duration::from_secs(60))].into_iter());
    alive.searched("belt", Instant::now());
    assert!(alive.why_not().unwrap().contains("worker"));
    tokio::spawn(probe::run(server.infer.clone(), alive.clone(), server.metrics.clone()));
    let limit = Duration::from_secs(5);
    asked_until("it answers", limit, async || alive.why_not(), |why| why.is_none()).await;
    let shown = async || server.metrics.line.alive.get();
    asked_until("it is shown", limit, shown, |alive| *alive == 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(alive.why_not(), None, "it is asked again");
    assert!(!server.infer.belt_runs(), "a probe is no item");
    let stage = server.metrics.line.stage_seconds.with_label_values(&[Source::Belt.name(), "infer"]);
    assert_eq!(stage.get_sample_count(), 0);
    server.infer.stop();
    let why = asked_until("it is silent", limit, async || alive.why_not(), |why| why.is_some()).await;
    assert!(why.unwrap().contains("worker"));
    alive.stop();
    asked_until("it is shown", limit, shown, |alive| *alive == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_went_on_unjudged_are_told_together_and_are_as_bad_as_late_commands() {
    let server = server::start().await;
    let text = bench::settings(
        "coil = 0",
        "kind = 'modbus'\naddress = '127.0.0.1:1'\npulse = '30ms'\nheartbeat = 100\nstop_line = 3\n\
         tolerance = '8ms'\non_late = 'stop_line'",
    );
    let (ejector, running) = bench::start(&text, &server.metrics);
    let asked = server.metrics.eject.line_asked.with_label_values(&["modbus", "stop_line"]);
    let settings = OutageSettings { stalled_after: Duration::from_secs(60), ask_again: Duration::ZERO };
    let (view, metrics) = (server.camera.clone(), server.metrics.clone());
    let outage =
        CameraOutage::new(server.recorder.clone(), Some(ejector), view, metrics, LineAlive::default(), settings);
    outage.passed(0);
    assert_eq!(asked.get(), 0);
    for items in [2, 1, 3] {
        outage.passed(items);
        outage.look();
    }
    assert_eq!(asked.get(), 1, "at once, and once");
    thread::sleep(Duration::from_millis(1100));
    outage.look();
    outage.passed(1);
    assert_eq!(asked.get(), 2);
    outage.end();
    let told = async || server.store.events(&["passed_unjudged"], None).await.unwrap();
    let told = asked_until("both are told", Duration::from_secs(5), told, |told| told.len() == 2).await;
    let items: Vec<u64> = told
        .iter()
        .map(|entry| match &entry.event {
            Event::PassedUnjudged { camera, items, .. } if camera == "belt" => *items,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(items, [6, 1]);
    tokio::task::spawn_blocking(|| running.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_what_lay_before_the_gates_is_led_aside_until_it_has_passed_and_told() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let Some(plc) = plc(port) else { return };
    let rest = format!(
        "[[camera]]\nname = 'belt'\nsource = 'simulated'\n\
         belt = {{ salmon_share = 0.0, empty_share = 0.0, width = 320, height = 180 }}\n[line]\ndeadline = '200ms'\n\
         [eject]\n[[eject.gate]]\nname = 'out'\ncamera = 'belt'\nactions = ['reject', 'divert']\nspeed = '0.24m/s'\n\
         scale = '1.0mm/px'\ndistance = '600mm'\ncoil = 0\n\
         [[eject.output]]\nkind = 'modbus'\naddress = '127.0.0.1:{port}'\npulse = '30ms'\nheartbeat = 100\n\
         every = '100ms'\ndivert = 4\ntolerance = '100ms'\non_late = 'alarm'"
    );
    let config = configured(folder.path(), &shipped(), "", &rest);
    let mut service = Served::start(&config, &[]).unwrap();
    let rejected = async || service.get("/verdicts").await["verdicts"].as_array().unwrap().len();
    asked_until("items are judged", Duration::from_secs(60), rejected, |judged| *judged >= 3).await;
    assert_eq!(plc.count("coil 4 "), 0, "a first start flushes nothing");
    service.process.kill();
    let mut service = Served::start(&config, &[]).unwrap();
    until("everything is led aside", Duration::from_secs(5), || plc.count("coil 4 1") == 1);
    let began = plc.said("coil 4 1")[0];
    until("it has passed", Duration::from_secs(20), || plc.count("coil 4 0") == 1);
    let took = plc.said("coil 4 0")[0] - began;
    println!("led aside for {took:?}");
    assert!((2.5..5.0).contains(&took.as_secs_f64()), "600 mm at 0.24 m/s, and a fifth: {took:?}");
    service.stop();
    let mut service = Served::start(&config, &[]).unwrap();
    thread::sleep(Duration::from_secs(1));
    service.stop();
    assert_eq!(plc.count("coil 4 1"), 1, "after a stop in order nothing is flushed");
    let store = Store::open(&folder.path().join("data")).await.unwrap();
    let told: Vec<Event> =
        store.events(&["flush_asked", "flush_over"], None).await.unwrap().into_iter().map(|e| e.event).collect();
    let [Event::FlushAsked { gate, camera, under_way, led_to }, Event::FlushOver] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((&**gate, &**camera, &**led_to), ("out", "belt", "divert"));
    println!("under way: {under_way:?}");
    assert!(!under_way.is_empty() && under_way.len() < 10);
}
