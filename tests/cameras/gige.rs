//! GigE Vision, from Aravis' own camera.

use std::{
    thread,
    time::{Duration, Instant},
};

use beltsight::{domain::Raw, line::camera::CameraEvent};

use crate::watched::{Watched, python_camera};

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
        ("width = 320\nheight = 240\nframe_rate = 5000.0", "5000 pictures per second were asked for"),
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
    server.signal("-STOP");
    let (at, why) = camera.lost();
    println!("a stall was noticed after {:?}: {why}", at - stalls);
    assert!(why.contains("no picture within 700ms") && at - stalls < Duration::from_millis(1500), "{why}");
    server.signal("-CONT");
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
