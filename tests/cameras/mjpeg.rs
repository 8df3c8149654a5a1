//! MJPEG over HTTP, from a camera written for the test.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use beltsight::{
    domain::{Frame, Picture, Raw},
    line::camera::{CameraConfig, CameraEvent},
    picture::pixels,
};

use crate::{common::process::free_port, watched::Watched};

/// What the cameras under test take for silence.
const TIMEOUT: Duration = Duration::from_millis(700);

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
pub enum Mood {
    /// 25 pictures a second, each another.
    Well,
    /// Every second picture is cut in half.
    Cuts,
    /// Every second part is no picture.
    Garbage,
    /// Every picture is cut and has an end all the same.
    Damaged,
    /// Every second picture is cut and has an end all the same.
    Stumbles,
    /// Every picture comes with bytes that do not belong to it: behind its head, before its end and behind that.
    Strays,
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
pub struct Mjpeg {
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    sent: Arc<Mutex<Instant>>,
}

impl Mjpeg {
    pub fn start() -> Self {
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

    pub fn is(&self, mood: Mood) -> Instant {
        *self.mood.lock().unwrap() = mood;
        Instant::now()
    }

    pub fn config(&self, more: &str) -> String {
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
            Mood::Damaged | Mood::Stumbles if now == Mood::Damaged || n.is_multiple_of(2) => {
                let cut = [&picture[..picture.len() * 2 / 3], &[0xff, 0xd9]].concat();
                part(&cut, cut.len())?
            }
            Mood::Strays => {
                let (end, stray) = (picture.len() - 2, [0; 5]);
                let dirty = [&picture[..20], &stray, &picture[20..end], &stray, &picture[end..], b"ESP32"].concat();
                part(&dirty, dirty.len())?
            }
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
    // Nobody listens there.
    let nowhere = format!("127.0.0.1:{}", free_port());
    let camera = Watched::start(&wrong.replace(&eye.address.to_string(), &nowhere));
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
