//! A camera that runs beside the test, and what was seen of it.

#[cfg(any(feature = "rtsp", feature = "gige"))]
use std::{
    path::Path,
    process::{Command, Stdio},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use beltsight::{
    domain::Frame,
    line::{
        camera::{self, CameraConfig, CameraEvent},
        handover::Handover,
    },
};

#[cfg(any(feature = "rtsp", feature = "gige"))]
use crate::common::{
    missing,
    process::{Running, until},
};

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A camera that runs beside the test, with all that it says.
pub struct Watched {
    pub frames: Arc<Handover>,
    pub events: mpsc::Receiver<(Instant, CameraEvent)>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watched {
    pub fn start(config: &str) -> Self {
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
    pub fn until(&self, wanted: impl Fn(&CameraEvent) -> bool) -> (Instant, Vec<CameraEvent>) {
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
    pub fn lost(&self) -> (Instant, String) {
        loop {
            match self.events.recv_timeout(PATIENCE).expect("the camera is lost") {
                (at, CameraEvent::Lost(why)) => return (at, why),
                _ => continue,
            }
        }
    }

    /// Waits for the next frame that is handed over.
    pub fn frame(&self) -> Frame {
        self.frames.take(PATIENCE).expect("a frame comes")
    }

    /// Forgets what was handed over so far.
    pub fn drain(&self) {
        while self.frames.take(Duration::ZERO).is_some() {}
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// A camera in a Python program of `tests/`, killed when dropped, once it says `ready`; `None` where what it needs is not
/// installed.
#[cfg(any(feature = "rtsp", feature = "gige"))]
pub fn python_camera(script: &str, words: &[&str]) -> Option<Running> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let python = Path::new("/usr/bin/python3"); // Debian's own, for which its packages are
    if python.exists() {
        let camera = Running::start(Command::new(python).arg(path).args(words).stdout(Stdio::piped()));
        until("the camera is ready or has given up", PATIENCE, || camera.count("ready") > 0 || camera.silent());
        if camera.count("ready") > 0 {
            return Some(camera);
        }
    }
    missing(&format!("a library of Debian's Python for tests/{script}"));
    None
}
