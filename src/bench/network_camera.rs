//! A network camera for measuring: the simulated belt as MJPEG over HTTP, drawn and compressed by this program, so that
//! the measured service has with it what it has with a real one.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use time::OffsetDateTime;

use crate::{
    belt::{Belt, BeltConfig},
    picture::pixels,
};

/// JPEG quality, as cameras have it.
const QUALITY: i32 = 85;

/// A camera that sends to one client after another, until this program ends.
pub struct NetworkCamera {
    /// Where it is asked.
    pub address: SocketAddr,
    /// When it took picture 0, in seconds since 1970. The belt runs on whether or not anybody looks.
    pub began: f64,
}

impl NetworkCamera {
    /// Starts it.
    ///
    /// # Errors
    /// When the belt can't be drawn or no port is free.
    pub fn start(config: BeltConfig) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let mut belt = Belt::new(config)?;
        let (start, wall) = (Instant::now(), OffsetDateTime::now_utc());
        thread::Builder::new().name("eye".into()).spawn(move || {
            for client in listener.incoming().flatten() {
                let _ = send(client, &mut belt, start); // ends when the client goes
            }
        })?;
        Ok(Self { address, began: (wall - OffsetDateTime::UNIX_EPOCH).as_seconds_f64() })
    }
}

fn send(mut client: TcpStream, belt: &mut Belt, start: Instant) -> Result<()> {
    let mut request = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if request.read_line(&mut line)? == 0 {
            return Ok(());
        }
    }
    client.set_nodelay(true)?;
    client.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=eye\r\n\r\n")?;
    let rate = belt.config().frame_rate;
    let mut n = 0;
    loop {
        // What can't be drawn in time is left out, as an overloaded camera does.
        n = (n + 1).max((start.elapsed().as_secs_f64() * rate).ceil() as u64);
        let (picture, _) = belt.frame(n);
        let jpeg = pixels::encode_jpeg(&picture, QUALITY)?;
        let due = Duration::from_secs_f64(n as f64 / rate);
        thread::sleep(due.saturating_sub(start.elapsed()));
        let head = format!("--eye\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len());
        client.write_all(&[head.as_bytes(), &jpeg, b"\r\n"].concat())?;
    }
}
