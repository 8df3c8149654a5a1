//! A V4L2 camera through nokhwa, over a capture backend of our own (`backend.rs`, which says why).
//!
//! Invariant: a camera that is unplugged, busy, stalled or broken is marked lost and reopened, for ever; no call here
//! lasts longer than the timeout.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use nokhwa::{
    Buffer, Camera, NokhwaError,
    utils::{ApiBackend, CameraFormat, CameraIndex, FrameFormat, Resolution},
};

use super::{CameraEvent, FrameSink, PixelFormat, ago};
use crate::domain::{Picture, Raw};

mod backend;

/// What the camera must deliver, exactly.
#[derive(Clone, Copy)]
pub(super) struct StreamRequest {
    pub format: PixelFormat,
    pub width: u32,
    pub height: u32,
    pub frame_rate: u32,
    pub timeout: Duration,
}

impl StreamRequest {
    fn camera_format(self) -> CameraFormat {
        let format = match self.format {
            PixelFormat::Mjpg => FrameFormat::MJPEG,
            PixelFormat::Yuyv => FrameFormat::YUYV,
        };
        CameraFormat::new(Resolution::new(self.width, self.height), format, self.frame_rate)
    }
}

pub(super) fn run(device: &str, request: StreamRequest, sink: &FrameSink<'_>) {
    sink.keep_open(device, |sequence| match open(device, request) {
        Ok((mut camera, counter)) => {
            sink.tell(CameraEvent::Opened);
            drain(&mut camera, &counter, request, sequence, sink)
        }
        Err(error) => Some(error.to_string()),
    });
}

fn open(device: &str, request: StreamRequest) -> Result<(Camera, Arc<AtomicU32>), NokhwaError> {
    let path = find(device, request)?;
    let counter = Arc::new(AtomicU32::new(0));
    let backend = backend::Backend::open(&path, request.camera_format(), request.timeout, counter.clone())?;
    let index = CameraIndex::String(path.display().to_string());
    let mut camera = Camera::with_custom(index, ApiBackend::Video4Linux, Box::new(backend));
    camera.open_stream()?;
    Ok((camera, counter))
}

/// A path is taken as it is. Anything else is looked for in model name and bus address of every node that offers the
/// wanted format; UVC cameras have a second node, for metadata, which offers none.
fn find(device: &str, request: StreamRequest) -> Result<PathBuf, NokhwaError> {
    if device.starts_with('/') {
        return Ok(device.into());
    }
    let missing = |why: String| NokhwaError::OpenDeviceError(device.to_string(), why);
    let entries = fs::read_dir("/dev").map_err(|error| missing(error.to_string()))?;
    let mut nodes: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_video(path)).collect();
    nodes.sort();
    let format = request.camera_format().format();
    nodes
        .into_iter()
        .find(|path| backend::describe(path, format).is_some_and(|names| names.iter().any(|n| n.contains(device))))
        .ok_or_else(|| missing("no camera of that name offers the format; is it plugged in?".into()))
}

fn is_video(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("video"))
}

/// Hands frames over until the camera fails; why it failed, `None` when told to stop.
fn drain(
    camera: &mut Camera,
    counter: &AtomicU32,
    request: StreamRequest,
    sequence: &mut u64,
    sink: &FrameSink<'_>,
) -> Option<String> {
    let mut last = None;
    while !sink.stopped() {
        let taken = camera.frame();
        if taken.is_err() && !camera.is_stream_open() {
            return taken.err().map(|error| error.to_string());
        }
        // The driver counts what it lost, so gaps in its count become gaps in ours.
        let count = counter.load(Ordering::Relaxed);
        let step = last.map_or(1, |last| count.wrapping_sub(last).max(1));
        last = Some(count);
        *sequence += u64::from(step - 1);
        if step > 1 {
            sink.tell(CameraEvent::Skipped(step - 1));
        }
        match taken.map_err(|error| error.to_string()).and_then(|buffer| Ok((picture(&buffer, request)?, buffer))) {
            Ok((raw, buffer)) => sink.shot(*sequence, captured(buffer.capture_timestamp()), raw),
            Err(why) => sink.tell(CameraEvent::BadFrame(why)),
        }
        *sequence += 1;
    }
    None
}

/// The driver's monotonic timestamp as an [`Instant`].
fn captured(stamp: Option<Duration>) -> Instant {
    ago(stamp.and_then(|stamp| monotonic()?.checked_sub(stamp)))
}

/// The clock that V4L2 stamps buffers with; std reads the same one, but does not show its value.
#[allow(unsafe_code)] // clock_gettime writes to the struct it is given and does nothing else
fn monotonic() -> Option<Duration> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (done == 0).then(|| Duration::new(now.tv_sec as u64, now.tv_nsec as u32))
}

fn picture(buffer: &Buffer, request: StreamRequest) -> Result<Raw, String> {
    match request.format {
        PixelFormat::Mjpg if buffer.buffer().starts_with(&[0xff, 0xd8]) => Ok(Raw::Jpeg(buffer.buffer_bytes())),
        PixelFormat::Mjpg => Err("the frame does not start as a JPEG".into()),
        PixelFormat::Yuyv => {
            rgb_from_yuyv(buffer.buffer(), request.width, request.height).map(|picture| Raw::Rgb(Arc::new(picture)))
        }
    }
}

/// BT.601, limited range, in 8.8 fixed point.
fn rgb_from_yuyv(yuyv: &[u8], width: u32, height: u32) -> Result<Picture, String> {
    let expected = width as usize * height as usize * 2;
    if yuyv.len() != expected {
        return Err(format!("the frame has {} bytes instead of {expected}", yuyv.len()));
    }
    let mut rgb = Vec::with_capacity(expected / 2 * 3);
    for pair in yuyv.chunks_exact(4) {
        let (u, v) = (i32::from(pair[1]) - 128, i32::from(pair[3]) - 128);
        for y in [pair[0], pair[2]] {
            let y = 298 * (i32::from(y) - 16) + 128;
            let channel = |value: i32| (value >> 8).clamp(0, 255) as u8;
            rgb.extend_from_slice(&[channel(y + 409 * v), channel(y - 100 * u - 208 * v), channel(y + 516 * u)]);
        }
    }
    Ok(Picture { width, height, rgb })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn yuyv_becomes_the_colours_of_bt_601() {
        let white_black = rgb_from_yuyv(&[235, 128, 16, 128], 2, 1).unwrap();
        assert_eq!(white_black.rgb, [255, 255, 255, 0, 0, 0]);
        let red = rgb_from_yuyv(&[81, 90, 81, 240], 2, 1).unwrap();
        assert!(red.at(0, 0)[0] > 250 && red.at(0, 0)[1] < 4 && red.at(0, 0)[2] < 4, "{:?}", red.at(0, 0));
    }

    #[test]
    fn a_short_frame_is_refused() {
        let why = rgb_from_yuyv(&[0; 100], 10, 10).unwrap_err();
        assert_eq!(why, "the frame has 100 bytes instead of 200");
    }
}
