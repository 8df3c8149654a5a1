//! Cameras behind a network, with every fault that they have, and several of them in one service.
#![allow(clippy::unwrap_used)]

#[path = "common/served.rs"]
mod served;

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use beltsight::{
    domain::{Frame, Picture, Raw},
    line::{
        camera::{self, CameraConfig, Event as CameraEvent},
        handover::Handover,
    },
    picture::pixels,
    store::{Entry, Event, Store},
};
#[cfg(any(feature = "rtsp", feature = "gige"))]
use served::Running;
use served::{Served, configured, shipped};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the cameras under test take for silence.
const TIMEOUT: Duration = Duration::from_millis(700);

/// A camera that runs beside the test, with all that it says.
struct Watched {
    frames: Arc<Handover>,
    events: mpsc::Receiver<(Instant, CameraEvent)>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watched {
    fn start(config: &str) -> Self {
        let config: CameraConfig = toml::from_str(config).unwrap();
        let (sender, events) = mpsc::channel();
        let (frames, stop) = (Arc::new(Handover::default()), Arc::new(AtomicBool::new(false)));
        let (sink, stopped) = (frames.clone(), stop.clone());
        let thread = thread::spawn(move || {
            camera::run(&config, &sink, &stopped, &|event| drop(sender.send((Instant::now(), event))));
        });
        Self { frames, events, stop, thread: Some(thread) }
    }

    /// Waits for an event; when it came, and everything that came before it.
    fn until(&self, wanted: impl Fn(&CameraEvent) -> bool) -> (Instant, Vec<CameraEvent>) {
        let mut before = Vec::new();
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok((at, event)) if wanted(&event) => return (at, before),
                Ok((_, event)) => before.push(event),
                Err(_) => panic!("the event did not come; before: {before:?}"),
            }
        }
    }

    /// Waits until it is lost; when and why.
    fn lost(&self) -> (Instant, String) {
        loop {
            match self.events.recv_timeout(PATIENCE).expect("the camera is lost") {
                (at, CameraEvent::Lost(why)) => return (at, why),
                _ => continue,
            }
        }
    }

    /// Waits for the next frame that is handed over.
    fn frame(&self) -> Frame {
        self.frames.take(PATIENCE).expect("a frame comes")
    }

    /// Forgets what was handed over so far.
    fn drain(&self) {
        while self.frames.take(Duration::ZERO).is_some() {}
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// A JPEG whose middle has this shade.
fn jpeg(shade: u8) -> Vec<u8> {
    pixels::encode_jpeg(&Picture::filled(64, 48, [shade; 3]), 90).unwrap()
}

/// The shade in the middle of a frame.
fn shade(frame: &Frame) -> u8 {
    match &frame.raw {
        Raw::Jpeg(bytes) => pixels::decode(bytes, pixels::PixelLimits::default()).unwrap().at(32, 24)[0],
        Raw::Rgb(picture) => picture.at(picture.width / 2, picture.height / 2)[0],
    }
}

/// What the MJPEG camera does from now on; it looks before every picture.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    /// 25 pictures a second, each another.
    Well,
    /// Every second picture is cut in half.
    Cuts,
    /// Every second part is no picture.
    Garbage,
    /// A part of more bytes than any picture has, then well.
    Oversized,
    /// The same picture again and again.
    Frozen,
    /// The connection stands, nothing comes.
    Stalls,
    /// Sends half a picture and hangs up, again and again.
    Dies,
}

/// A camera written for the test: HTTP, multipart, and a mood. It wants a user and a password.
struct Mjpeg {
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    sent: Arc<Mutex<Instant>>,
}

impl Mjpeg {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let camera = Self {
            address: listener.local_addr().unwrap(),
            mood: Arc::new(Mutex::new(Mood::Well)),
            sent: Arc::new(Mutex::new(Instant::now())),
        };
        let (mood, sent) = (camera.mood.clone(), camera.sent.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = serve(stream, &mood, &sent); // a watcher that hangs up is no fault
            }
        });
        camera
    }

    fn is(&self, mood: Mood) -> Instant {
        *self.mood.lock().unwrap() = mood;
        Instant::now()
    }

    fn config(&self, more: &str) -> String {
        format!(
            "source = 'mjpeg'\nname = 'line-1'\nurl = 'http://ada:geheim@{}/video'\ntimeout = '700ms'\n{more}",
            self.address
        )
    }
}

fn serve(mut stream: TcpStream, mood: &Mutex<Mood>, sent: &Mutex<Instant>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    if !head.to_lowercase().contains("authorization: basic ywrhomdlagvpbq==") {
        return stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\n\r\n");
    }
    stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=\"--eye\"\r\n\r\n")?;
    let mut n = 0u8;
    loop {
        n = n.wrapping_add(1);
        let now = *mood.lock().unwrap();
        let picture = jpeg(if now == Mood::Frozen { 200 } else { n % 100 });
        let mut part = |body: &[u8], length: usize| {
            let head = format!("--eye\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n");
            *sent.lock().unwrap() = Instant::now();
            stream.write_all(&[head.as_bytes(), body, b"\r\n"].concat())
        };
        match now {
            Mood::Cuts if n.is_multiple_of(2) => part(&picture[..picture.len() / 2], picture.len())?,
            Mood::Garbage if n.is_multiple_of(2) => part(b"<html>busy</html>", 17)?,
            Mood::Oversized => {
                let flood = vec![7; 1 << 20];
                part(&picture[..100], 100 << 20)?;
                for _ in 0..40 {
                    part(&[b"x".as_slice(), &flood].concat(), usize::MAX)?;
                }
                *mood.lock().unwrap() = Mood::Well;
            }
            Mood::Stalls => {
                while *mood.lock().unwrap() == Mood::Stalls {
                    thread::sleep(Duration::from_millis(10));
                }
            }
            Mood::Dies => return part(&picture[..picture.len() / 2], picture.len()),
            _ => part(&picture, picture.len())?,
        }
        thread::sleep(Duration::from_millis(40));
    }
}

#[test]
fn an_mjpeg_camera_is_watched_through_every_fault_and_found_again() {
    let eye = Mjpeg::start();
    let camera = Watched::start(&eye.config(""));
    camera.until(|event| *event == CameraEvent::Opened);
    let mut ages = Vec::new();
    let mut last = None;
    for _ in 0..20 {
        let frame = camera.frame();
        ages.push(frame.captured.elapsed());
        assert!(last.is_none_or(|last| frame.sequence > last));
        last = Some(frame.sequence);
    }
    ages.sort();
    println!("frames are handed over {:?} (median) after their first byte", ages[10]);

    for (mood, word) in [(Mood::Cuts, "cut"), (Mood::Garbage, "does not begin"), (Mood::Oversized, "at most")] {
        eye.is(mood);
        let (_, before) = camera.until(|event| matches!(event, CameraEvent::BadFrame(why) if why.contains(word)));
        assert!(!before.iter().any(|event| matches!(event, CameraEvent::Lost(_))), "{mood:?}: {before:?}");
        camera.drain();
        shade(&camera.frame()); // the stream goes on with pictures that decode
    }

    let stalled = eye.is(Mood::Stalls);
    let (at, why) = camera.lost();
    assert!(why.contains("no whole picture within 700ms"), "{why}");
    let took = at - stalled;
    assert!(took >= TIMEOUT - Duration::from_millis(50), "{took:?}");
    println!("a stall was noticed after {took:?}, with a timeout of {TIMEOUT:?}");
    camera.drain();
    let back = eye.is(Mood::Well);
    camera.frame();
    println!("… and the next picture came {:?} after the end of the stall", back.elapsed());

    eye.is(Mood::Dies);
    camera.until(|event| matches!(event, CameraEvent::BadFrame(why) if why.contains("hung up")));
    let (_, why) = camera.lost();
    assert!(why.contains("hung up") || why.contains("body"), "{why}");
    thread::sleep(Duration::from_secs(1));
    camera.drain();
    let back = eye.is(Mood::Well);
    camera.frame();
    println!("a camera that died again and again was seen {:?} after it was well", back.elapsed());
}

#[test]
fn a_password_is_given_to_the_camera_and_to_nobody_else() {
    let eye = Mjpeg::start();
    let wrong = eye.config("").replace("geheim", "falsch");
    let camera = Watched::start(&wrong);
    let (_, why) = camera.lost();
    assert!(why.contains("Basic") && why.contains(&format!("http://{}/video", eye.address)), "{why}");
    assert!(!why.contains("falsch") && !why.contains("ada"), "{why}");
    let config: CameraConfig = toml::from_str(&wrong).unwrap();
    assert!(!format!("{config:?}").contains("falsch"), "{config:?}");
    drop(camera);
    // Nobody listens there any more.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let camera = Watched::start(&wrong.replace(&eye.address.to_string(), &free.to_string()));
    let (_, why) = camera.lost();
    assert!(why.contains("refused") && !why.contains("falsch") && !why.contains("ada"), "{why}");
}

#[test]
fn a_frozen_camera_is_said_once_and_dropped_until_its_picture_changes() {
    let eye = Mjpeg::start();
    let camera = Watched::start(&eye.config("frozen_after = '1s'"));
    camera.until(|event| *event == CameraEvent::Frame);
    let begun = eye.is(Mood::Frozen);
    let (at, _) = camera.until(|event| *event == CameraEvent::Frozen(Duration::from_secs(1)));
    assert!(at - begun >= Duration::from_millis(950), "{:?}", at - begun);
    println!("frozen was said {:?} after it began, with frozen_after = 1s", at - begun);
    thread::sleep(Duration::from_millis(500));
    camera.drain();
    assert!(camera.frames.take(Duration::from_millis(500)).is_none(), "the old picture is not judged again");
    eye.is(Mood::Well);
    assert!(shade(&camera.frame()) < 150, "the first picture handed over is a new one");
    let (_, before) = camera.until(|event| *event == CameraEvent::Frame);
    assert!(before.len() > 5 && before.iter().all(|event| *event == CameraEvent::Still), "{before:?}");
}

/// `beltsight serve` with cameras, in a folder of its own.
struct Service(Served);

impl Service {
    fn start(folder: &Path, cameras: &str) -> Self {
        let rest = format!("[line]\ndeadline = '5s'\n{cameras}");
        Self(Served::start(&configured(folder, &shipped(), "", &rest), &[]).unwrap())
    }

    /// Stops the service in order; what the record then holds about its cameras.
    async fn record(mut self, folder: &Path) -> Vec<Entry> {
        let pid = self.0.process.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.0.process.0.wait().unwrap().success());
        let store = Store::open(&folder.join("data")).await.unwrap();
        store.events(&["camera_lost", "camera_back"], None).await.unwrap()
    }

    async fn metric(&self, series: &str) -> Option<f64> {
        let text = reqwest::get(format!("{}/metrics", self.0.url)).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Waits until a series has a value that is wanted.
    async fn until(&self, series: &str, wanted: impl Fn(f64) -> bool) {
        let start = Instant::now();
        loop {
            let value = self.metric(series).await;
            if value.is_some_and(&wanted) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{series} is {value:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_camera_counts_as_lost_in_metrics_and_record() {
    let eye = Mjpeg::start();
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path(), &format!("[[camera]]\n{}", eye.config("frozen_after = '1s'")));
    let (up, frozen) = ("beltsight_camera_up{camera=\"line-1\"}", "beltsight_camera_frozen{camera=\"line-1\"}");
    service.until(up, |value| value == 1.0).await;
    assert_eq!(service.metric(frozen).await, Some(0.0));
    eye.is(Mood::Frozen);
    service.until(frozen, |value| value == 1.0).await;
    assert_eq!(service.metric(up).await, Some(0.0));
    service.until("beltsight_frames_dropped_total{camera=\"line-1\",reason=\"frozen\"}", |value| value > 3.0).await;
    eye.is(Mood::Well);
    service.until(up, |value| value == 1.0).await;
    assert_eq!(service.metric(frozen).await, Some(0.0));
    eye.is(Mood::Garbage);
    service.until("beltsight_frames_dropped_total{camera=\"line-1\",reason=\"driver\"}", |value| value > 0.0).await;
    eye.is(Mood::Stalls);
    service.until("beltsight_camera_reconnects_total{camera=\"line-1\"}", |value| value > 0.0).await;
    assert_eq!(service.metric(up).await, Some(0.0));
    let entries = service.record(folder.path()).await;
    let told: Vec<&Event> = entries.iter().map(|entry| &entry.event).collect();
    let [Event::CameraLost { why: first, .. }, Event::CameraBack { .. }, Event::CameraLost { why: second, .. }] =
        told[..]
    else {
        panic!("{told:?}")
    };
    assert!(first.starts_with("frozen") && second.contains("no whole picture"), "{told:?}");
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
         distance = '500mm'\n[[eject.output]]\nkind = 'log'\ntolerance = '8ms'\non_late = 'alarm'\n",
        folder.path().join("pictures").display()
    );
    let service = Service::start(folder.path(), &config);
    let refused = "beltsight_frames_dropped_total{camera=\"line-1\",reason=\"size\"}";
    service.until(refused, |frames| frames >= 3.0).await;
    let taken = service.metric("beltsight_frames_total{camera=\"line-1\"}").await.unwrap();
    let refused = service.metric(refused).await.unwrap();
    assert!(2.0 * refused < taken, "{refused} of {taken}: every third one");
    let log = service.0.log();
    assert!(log.contains("160 pixels wide, not 320") && log.contains("gates unjudged"), "{log}");
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
    let service = Service::start(folder.path(), LINES);
    let verdicts = |camera: &str, action: &str| {
        format!("beltsight_verdicts_total{{action=\"{action}\",camera=\"{camera}\",source=\"belt\"}}")
    };
    service.until(&verdicts("line-2", "reject"), |items| items >= 5.0).await;
    service.until(&verdicts("line-1", "accept"), |items| items >= 5.0).await;
    let good = service.metric(&verdicts("line-1", "accept")).await.unwrap();
    let bad = service.metric(&verdicts("line-2", "accept")).await.unwrap();
    assert!(good > 2.0 * bad, "{good} accepted among salmon, {bad} where there is none");

    // Each camera has a picture of its own.
    for (query, size) in [("", (320, 180)), ("?camera=line-1", (320, 180)), ("?camera=line-2", (400, 224))] {
        let jpeg = reqwest::get(format!("{}/live.jpg{query}", service.0.url)).await.unwrap().bytes().await.unwrap();
        let picture = pixels::decode(&jpeg, pixels::PixelLimits::default()).unwrap();
        assert_eq!((picture.width, picture.height), size, "{query}");
    }
    let answer = reqwest::get(format!("{}/live.jpg?camera=line-3", service.0.url)).await.unwrap();
    assert_eq!(answer.status(), 404);

    // One that is lost is said to be, and the service is ready for the others.
    let cameras: serde_json::Value =
        reqwest::get(format!("{}/cameras", service.0.url)).await.unwrap().json().await.unwrap();
    let states: Vec<_> = (0..3).map(|n| (cameras[n]["name"].as_str(), cameras[n]["state"].as_str())).collect();
    assert_eq!(
        states,
        [(Some("line-1"), Some("up")), (Some("line-2"), Some("up")), (Some("line-3"), Some("lost"))],
        "{cameras}"
    );
    assert!(!cameras.to_string().contains("geheim"), "{cameras}");
    let log = service.0.log();
    assert!(log.contains("camera lost") && !log.contains("geheim"), "{log}");
    let blind: Vec<&str> = log.lines().filter(|line| line.contains("gates unjudged")).collect();
    assert!(matches!(&blind[..], [line] if line.contains("line-3") && line.contains("alarm")), "{blind:?}");
    assert_eq!(reqwest::get(format!("{}/readyz", service.0.url)).await.unwrap().status(), 200);

    // Each gate moves for its own camera.
    let start = Instant::now();
    loop {
        let log = service.0.log();
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

/// A camera in a Python program of `tests/`, killed when dropped, once it says `ready`; `None`, with the reason printed,
/// where what it needs is not installed.
#[cfg(any(feature = "rtsp", feature = "gige"))]
fn python_camera(script: &str, words: &[&str]) -> Option<Running> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let child = Command::new("/usr/bin/python3").arg(&script).args(words).stdout(std::process::Stdio::piped()).spawn();
    let mut running = Running(child.ok()?);
    let mut said = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    if said.trim() == "ready" {
        return Some(running);
    }
    println!("skipped: {} lacks its library; deploy/setup --test installs it", script.display());
    None
}

#[cfg(feature = "rtsp")]
fn rtsp_server(port: u16) -> Option<Running> {
    python_camera("rtsp_server.py", &[&port.to_string()])
}

#[cfg(feature = "rtsp")]
#[test]
fn an_rtsp_camera_is_decoded_and_found_again_after_its_death() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(server) = rtsp_server(port) else { return };
    let config =
        format!("source = 'rtsp'\nname = 'line-1'\nurl = 'rtsp://ada:geheim@127.0.0.1:{port}/cam'\ntimeout = '3s'");
    let opened = Instant::now();
    let camera = Watched::start(&config);
    let first = camera.frame();
    println!("the first picture came {:?} after the start", opened.elapsed());
    let Raw::Rgb(picture) = &first.raw else { panic!("H.264 is decoded") };
    assert_eq!((picture.width, picture.height), (640, 360));

    // A white ball on black moves from picture to picture, and the pictures' times are those of the camera.
    let (mut last, mut moved, mut oldest) = (first, 0, Duration::ZERO);
    let mut steps = Vec::new();
    for _ in 0..30 {
        let frame = camera.frame();
        oldest = oldest.max(frame.captured.elapsed());
        let Raw::Rgb(picture) = &frame.raw else { panic!("H.264 is decoded") };
        assert!(picture.rgb.iter().any(|value| *value > 200) && picture.rgb.iter().any(|value| *value < 40));
        let Raw::Rgb(before) = &last.raw else { panic!("H.264 is decoded") };
        moved += usize::from(picture != before);
        let frames = (frame.sequence - last.sequence) as f64;
        steps.push((frame.captured - last.captured).as_secs_f64() / frames * 15.0);
        last = frame;
    }
    assert_eq!(moved, 30);
    steps.sort_by(f64::total_cmp);
    println!("30 pictures, the oldest {oldest:?} after its capture; steps between captures {steps:.2?} of 1/15 s");
    assert!((0.9..1.1).contains(&steps[15]), "{steps:?}");

    let dies = Instant::now();
    drop(server);
    let (at, why) = camera.lost();
    println!("its death was noticed after {:?}: {why}", at - dies);
    assert!(!why.contains("geheim"), "{why}");
    thread::sleep(Duration::from_secs(2));
    camera.drain();
    let back = Instant::now();
    let _server = rtsp_server(port).unwrap();
    let ready = Instant::now();
    camera.frame();
    println!(
        "after a restart the next picture came {:?} after the server was ready, {:?} after its start",
        ready.elapsed(),
        back.elapsed()
    );
}

#[cfg(feature = "rtsp")]
#[test]
fn an_rtsp_camera_that_refuses_us_says_so_without_the_password() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(_server) = rtsp_server(port) else { return };
    for (at, word) in [
        ("ada:falsch@127.0.0.1", "refuses this user and password"),
        ("127.0.0.1", "asks for a user and a password"),
        ("ada:geheim@nowhere.invalid", "Unable to connect"),
    ] {
        let camera = Watched::start(&format!(
            "source = 'rtsp'\nname = 'line-1'\nurl = 'rtsp://{at}:{port}/cam'\ntimeout = '3s'"
        ));
        let (_, why) = camera.lost();
        println!("{why}");
        assert!(why.contains(word), "{why}");
        assert!(!why.contains("falsch") && !why.contains("geheim"), "{why}");
    }
}

/// A cable between an RTSP camera and its watcher: what comes from the camera, packet by packet, unless `keep` says no.
/// It serves one connection after the other.
#[cfg(feature = "rtsp")]
fn cable(camera: u16, keep: impl Fn() -> bool + Send + 'static) -> u16 {
    use std::{io::Read, net::Shutdown};

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || -> std::io::Result<()> {
        for watcher in listener.incoming() {
            let mut watcher = watcher?;
            let eye = TcpStream::connect(("127.0.0.1", camera))?;
            let (mut asks, mut asked) = (watcher.try_clone()?, eye.try_clone()?);
            thread::spawn(move || {
                let _ = std::io::copy(&mut asks, &mut asked);
                asked.shutdown(Shutdown::Both)
            });
            let mut eye = BufReader::new(eye);
            // `$`, the channel, two bytes of length and an RTP packet; anything else is part of an answer in text.
            let mut first = [0; 1];
            while eye.read_exact(&mut first).is_ok() {
                let mut sent = first.to_vec();
                let mut kept = true;
                if first == *b"$" {
                    let mut head = [0; 3];
                    eye.read_exact(&mut head)?;
                    let mut packet = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
                    eye.read_exact(&mut packet)?;
                    sent.extend(head);
                    sent.extend(packet);
                    kept = head[0] != 0 || keep();
                }
                if kept && watcher.write_all(&sent).is_err() {
                    break;
                }
            }
            let _ = watcher.shutdown(Shutdown::Both);
        }
        Ok(())
    });
    port
}

#[cfg(feature = "rtsp")]
#[test]
fn an_rtsp_camera_whose_packets_are_lost_shows_nothing_broken() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(_server) = rtsp_server(port) else { return };
    let (lose, silent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (loses, is_silent) = (lose.clone(), silent.clone());
    let cable = cable(port, move || !loses.swap(false, Ordering::Relaxed) && !is_silent.load(Ordering::Relaxed));
    let camera = Watched::start(&format!(
        "source = 'rtsp'\nname = 'line-1'\nurl = 'rtsp://ada:geheim@127.0.0.1:{cable}/cam'\ntimeout = '3s'"
    ));
    // White pixels: always one whole ball.
    let white = |frame: &Frame| {
        let Raw::Rgb(picture) = &frame.raw else { panic!("H.264 is decoded") };
        picture.rgb.iter().filter(|value| **value > 128).count() as f64
    };
    let ball = white(&camera.frame());
    for round in 0..6 {
        // Not always as far from a key picture, of which there is one a second.
        thread::sleep(Duration::from_millis(1100 + 130 * round));
        camera.until(|event| *event == CameraEvent::Frame);
        while camera.events.try_recv().is_ok() {}
        camera.drain();
        lose.store(true, Ordering::Relaxed);
        let (_, before) = camera.until(|event| matches!(event, CameraEvent::BadFrame(_)));
        let (_, bad) = camera.until(|event| *event == CameraEvent::Frame);
        println!("{} pictures came before the loss was noticed, {} were dropped after it", before.len(), bad.len() + 1);
        assert!(before.len() <= 2 && before.iter().all(|event| *event != CameraEvent::Opened), "{before:?}");
        assert!(bad.len() < 16 && bad.iter().all(|event| matches!(event, CameraEvent::BadFrame(_))), "{bad:?}");
        for _ in 0..3 {
            let now = white(&camera.frame());
            assert!((0.8..1.25).contains(&(now / ball)), "{now} white values instead of {ball}");
        }
    }
    // Silence, with the connection standing, is a loss too.
    silent.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let (at, why) = camera.lost();
    println!("silence was noticed after {:?}, with a timeout of 3s: {why}", at - begun);
    assert!(why.contains("no picture within 3s") && at - begun >= Duration::from_millis(2900), "{why}");
    silent.store(false, Ordering::Relaxed);
    camera.until(|event| *event == CameraEvent::Frame);
}

#[cfg(feature = "gige")]
#[test]
fn a_gige_camera_is_set_watched_through_its_faults_and_found_again() {
    // GigE Vision has one port for all cameras of an address, so this one test does everything.
    let Some(server) = python_camera("gige_camera.py", &["T1"]) else { return };
    let config =
        |more: &str| format!("source = 'gige'\nname = 'line-1'\ndevice = 'Aravis-Fake-T1'\ntimeout = '700ms'\n{more}");
    let well = config("width = 320\nheight = 240\nframe_rate = 30.0");
    for (wrong, words) in [
        ("width = 4096\nheight = 240\nframe_rate = 30.0", "width 4096 was asked for; the camera offers 1 to 2048"),
        ("width = 320\nheight = 0\nframe_rate = 30.0", "height 0 was asked for"),
        ("width = 320\nheight = 240\nframe_rate = 5000.0", "5000 pictures a second were asked for"),
    ] {
        let (_, why) = Watched::start(&config(wrong)).lost();
        assert!(why.contains(words), "{why}");
    }
    let (_, why) = Watched::start(&well.replace("Fake-T1", "Fake-T9")).lost();
    println!("a camera that is not there: {why}");

    let opened = Instant::now();
    let camera = Watched::start(&well);
    let mut last = camera.frame();
    println!("the first picture came {:?} after the start", opened.elapsed());
    let (first, began) = (last.sequence, last.captured);
    let mut oldest = Duration::ZERO;
    for _ in 0..60 {
        let frame = camera.frame();
        oldest = oldest.max(frame.captured.elapsed());
        let (Raw::Rgb(picture), Raw::Rgb(before)) = (&frame.raw, &last.raw) else { panic!("pixels") };
        assert!(picture != before && frame.captured > last.captured);
        last = frame;
    }
    let Raw::Rgb(picture) = &last.raw else { panic!("pixels") };
    let rate = (last.sequence - first) as f64 / (last.captured - began).as_secs_f64();
    println!("{}×{}, {rate:.2} a second, the oldest {oldest:?} after its capture", picture.width, picture.height);
    assert!((27.0..33.0).contains(&rate), "{rate}");
    assert!(oldest < Duration::from_millis(300), "{oldest:?}");
    let usual = |event: &CameraEvent| matches!(event, CameraEvent::Opened | CameraEvent::Frame | CameraEvent::Dropped);
    let odd: Vec<CameraEvent> =
        camera.events.try_iter().map(|(_, event)| event).filter(|event| !usual(event)).collect();
    assert!(odd.len() <= 1, "the first picture alone may come without its beginning: {odd:?}");

    let stalls = Instant::now();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &server.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
    };
    signal("-STOP");
    let (at, why) = camera.lost();
    println!("a stall was noticed after {:?}: {why}", at - stalls);
    assert!(why.contains("no picture within 700ms") && at - stalls < Duration::from_millis(1500), "{why}");
    signal("-CONT");
    let goes_on = Instant::now();
    camera.drain();
    camera.frame();
    println!("it went on, and the next picture came after {:?}", goes_on.elapsed());

    let dies = Instant::now();
    drop(server);
    let (at, why) = camera.lost();
    println!("its death was noticed after {:?}: {why}", at - dies);
    assert!(at - dies < Duration::from_millis(1500));
    thread::sleep(Duration::from_secs(2));
    camera.drain();
    let lossy = python_camera("gige_camera.py", &["T1", "0.02"]).unwrap();
    let ready = Instant::now();
    let (_, before) = camera.until(|event| matches!(event, CameraEvent::BadFrame(_)));
    println!("found again; {:?} after it was ready a picture with lost packets was refused", ready.elapsed());
    assert!(before.contains(&CameraEvent::Opened), "{before:?}");
    let whole = camera.frame();
    let Raw::Rgb(picture) = &whole.raw else { panic!("pixels") };
    assert_eq!((picture.width, picture.height), (320, 240), "between them whole ones come");
    drop(lossy);
}
