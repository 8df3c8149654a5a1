//! H.264 over RTSP, from GStreamer's server.

use std::{
    io::{BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use beltsight::{
    domain::{Frame, Raw},
    line::camera::CameraEvent,
};

use crate::{
    common::process::{Running, free_port},
    watched::{Watched, python_camera},
};

fn rtsp_server(port: u16) -> Option<Running> {
    python_camera("rtsp_server.py", &[&port.to_string()])
}

#[test]
fn an_rtsp_camera_is_decoded_and_found_again_after_its_death() {
    let port = free_port();
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

#[test]
fn an_rtsp_camera_that_refuses_us_says_so_without_the_password() {
    let port = free_port();
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
fn cable(camera: u16, keep: impl Fn() -> bool + Send + 'static) -> u16 {
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

#[test]
fn an_rtsp_camera_whose_packets_are_lost_shows_nothing_broken() {
    let port = free_port();
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
