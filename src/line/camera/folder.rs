//! A folder of pictures as a camera.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{CameraEvent, FrameSink};
use crate::{
    domain::Raw,
    picture::pixels::{self, PixelLimits},
};

const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(super) fn run(path: &Path, frame_rate: f64, sink: &FrameSink<'_>) {
    if !(frame_rate > 0.0 && frame_rate <= 1000.0) {
        return sink.tell(CameraEvent::Lost(format!("frame_rate is {frame_rate}; it must be above 0, at most 1000")));
    }
    let mut sequence = 0;
    while !sink.stopped() {
        match pictures(path) {
            Ok(files) => {
                sink.tell(CameraEvent::Opened);
                play(&files, frame_rate, &mut sequence, sink);
            }
            Err(why) => {
                sink.tell(CameraEvent::Lost(why));
                sink.sleep_until(Instant::now() + LOOK_AGAIN);
            }
        }
    }
}

/// The folder's pictures by name; an error when there are none.
fn pictures(path: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let is_picture = |file: &PathBuf| {
        let end = file.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        ["jpg", "jpeg", "png", "webp"].contains(&end.as_str())
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_picture).collect();
    files.sort();
    if files.is_empty() {
        return Err(format!("{} holds no JPEG, PNG or WebP file", path.display()));
    }
    Ok(files)
}

fn play(files: &[PathBuf], frame_rate: f64, sequence: &mut u64, sink: &FrameSink<'_>) {
    let mut due = Instant::now();
    for file in files {
        sink.sleep_until(due);
        if sink.stopped() {
            return;
        }
        match read(file) {
            Ok(raw) => sink.shot(*sequence, Instant::now(), raw),
            Err(why) => sink.tell(CameraEvent::BadFrame(why)),
        }
        *sequence += 1;
        due += Duration::from_secs_f64(1.0 / frame_rate);
    }
    sink.sleep_until(due);
}

/// JPEGs are handed on undecoded, as a camera's would be.
fn read(file: &Path) -> Result<Raw, String> {
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let bytes = fs::read(file).map_err(|error| said(&error))?;
    if bytes.starts_with(&[0xff, 0xd8]) {
        return Ok(Raw::Jpeg(bytes.into()));
    }
    let picture = pixels::decode(&bytes, PixelLimits::default()).map_err(|error| said(&error))?;
    Ok(Raw::Rgb(Arc::new(picture)))
}
