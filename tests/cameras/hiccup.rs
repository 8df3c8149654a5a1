//! A camera whose pictures lie in a buffer for a while and then come all at once.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use beltsight::{
    domain::{Picture, Raw},
    line::camera::CameraEvent,
    picture::pixels,
};

use crate::watched::Watched;

/// From one picture to the next.
const INTERVAL: Duration = Duration::from_millis(40);
/// These lie in a buffer until the last of them was taken.
const BUFFERED: std::ops::Range<u32> = 40..50;
/// Pictures that are sent at all.
const ALL: u32 = 90;

/// Sends [`ALL`] pictures to the first who asks; each picture's shade is its number. When each was taken.
fn camera(stamps: bool) -> (SocketAddr, Arc<Mutex<Vec<Instant>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, taken) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let times = taken.clone();
    thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let _ = stream.read(&mut [0; 4096])?;
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=eye\r\n\r\n")?;
        let (start, mut buffer) = (Instant::now(), Vec::new());
        for n in 0..ALL {
            thread::sleep((start + n * INTERVAL).saturating_duration_since(Instant::now()));
            times.lock().unwrap().push(Instant::now());
            let jpeg = pixels::encode_jpeg(&Picture::filled(64, 48, [2 * n as u8; 3]), 95).unwrap();
            let stamp =
                if stamps { format!("X-Timestamp: {:.6}\r\n", start.elapsed().as_secs_f64()) } else { String::new() };
            let head = format!("--eye\r\nContent-Type: image/jpeg\r\n{stamp}Content-Length: {}\r\n\r\n", jpeg.len());
            buffer.extend([head.as_bytes(), &jpeg, b"\r\n"].concat());
            if !BUFFERED.contains(&(n + 1)) {
                stream.write_all(&buffer)?;
                buffer.clear();
            }
        }
        thread::sleep(Duration::from_secs(60));
        Ok(())
    });
    (address, taken)
}

/// By how much the time of each picture that was handed over is wrong, with its number; and how many were refused as late.
fn watched(stamps: bool) -> (Vec<(u32, Duration)>, usize) {
    let (address, taken) = camera(stamps);
    let camera =
        Watched::start(&format!("source = 'mjpeg'\nname = 'line-1'\nurl = 'http://{address}/'\ntimeout = '3s'"));
    let mut off = Vec::new();
    while off.last().is_none_or(|(n, _)| *n < ALL - 2) {
        let frame = camera.frame();
        let Raw::Jpeg(jpeg) = &frame.raw else { panic!("not a JPEG") };
        let shade = pixels::decode(jpeg, pixels::PixelLimits::default()).unwrap().at(32, 24)[0];
        let n = u32::from(shade).div_ceil(2);
        let taken = taken.lock().unwrap()[n as usize];
        off.push((n, frame.captured.max(taken) - frame.captured.min(taken)));
    }
    let late = camera.events.try_iter().filter(|(_, event)| *event == CameraEvent::Late).count();
    (off, late)
}

#[test]
fn pictures_that_come_in_a_burst_are_as_old_as_they_are_or_refused() {
    for stamps in [false, true] {
        let (off, late) = watched(stamps);
        let worst = off.iter().max_by_key(|(_, off)| *off).unwrap();
        println!("stamps {stamps}: {} pictures, {late} refused as late; worst {worst:?}", off.len());
        let most = if stamps { INTERVAL / 2 } else { INTERVAL + INTERVAL / 2 };
        assert!(worst.1 < most, "{off:?}");
        // Of those that lay in the buffer all but the last are older than an interval when they come, and must be refused. The
        // last is an interval old, give or take the machine's jitter. The one that is sent behind it was taken just now.
        let buffered = BUFFERED.len();
        assert!(if stamps { late == 0 } else { (buffered - 1..=buffered).contains(&late) }, "{late}");
        assert!(off.iter().any(|(n, _)| *n == BUFFERED.end - 1), "{off:?}");
    }
}
