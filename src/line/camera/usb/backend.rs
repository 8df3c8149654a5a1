//! A capture backend for nokhwa's `Camera::with_custom`, over the `v4l` crate.
//!
//! nokhwa's own waits for ever on a stalled camera, hands on frames that the driver flagged as bad, and JPEGs with an
//! older frame's bytes after their end; this one has a deadline for every frame, cuts frames to the length that was
//! filled, refuses flagged ones, and refuses a size or format that the device does not deliver exactly. A frame rate may
//! be off by less than one, since many are fractions: 29.97, 12.5.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use nokhwa::{
    Buffer, NokhwaError,
    camera_traits::CaptureBackendTrait,
    utils::{
        ApiBackend, CameraControl, CameraFormat, CameraIndex, CameraInfo, ControlValueSetter, FrameFormat,
        KnownCameraControl, Resolution,
    },
};
use v4l::{
    Device, Format, FourCC,
    buffer::{Flags, Type},
    fraction::Fraction,
    io::{mmap::Stream, traits::CaptureStream},
    video::{Capture, capture::Parameters},
};

/// Buffers that the driver fills in turn.
const BUFFERS: u32 = 4;

pub(super) struct Backend {
    device: Device,
    /// Dropped on any error: after one, v4l 0.14 would queue the wrong buffer.
    stream: Option<Stream<'static>>,
    format: CameraFormat,
    info: CameraInfo,
    timeout: Duration,
    /// The driver's number of the last frame.
    counter: Arc<AtomicU32>,
}

impl Backend {
    pub fn open(
        path: &Path,
        format: CameraFormat,
        timeout: Duration,
        counter: Arc<AtomicU32>,
    ) -> Result<Self, NokhwaError> {
        let name = path.display().to_string();
        let device =
            Device::with_path(path).map_err(|error| NokhwaError::OpenDeviceError(name.clone(), error.to_string()))?;
        let caps = device.query_caps().map_err(|error| unreadable("capabilities", error))?;
        let info = CameraInfo::new(&caps.card, &caps.driver, &caps.bus, CameraIndex::String(name));
        let mut backend = Self { device, stream: None, format, info, timeout, counter };
        backend.set_camera_format(format)?;
        Ok(backend)
    }
}

/// Model name and bus address of the node at `path`, when it can be opened and offers `format`.
pub(super) fn describe(path: &Path, format: FrameFormat) -> Option<[String; 2]> {
    let device = Device::with_path(path).ok()?;
    let offered = device.enum_formats().ok()?;
    let caps = device.query_caps().ok()?;
    offered.iter().any(|f| Some(f.fourcc) == four_cc(format)).then_some([caps.card, caps.bus])
}

fn four_cc(format: FrameFormat) -> Option<FourCC> {
    match format {
        FrameFormat::MJPEG => Some(FourCC::new(b"MJPG")),
        FrameFormat::YUYV => Some(FourCC::new(b"YUYV")),
        _ => None,
    }
}

/// What the camera has taken for `asked` frames a second; `None` where it does not tell.
///
/// # Errors
/// The rate that it has taken, when that is another one.
fn rate_near(interval: Fraction, asked: u32) -> Result<Option<f64>, String> {
    if interval.numerator == 0 {
        return Ok(None);
    }
    let rate = f64::from(interval.denominator) / f64::from(interval.numerator);
    let near = (rate - f64::from(asked)).abs() < 1.0 && rate > 0.0;
    near.then_some(Some(rate)).ok_or_else(|| format!("the camera offers {rate:.2} frames a second"))
}

fn unreadable(property: &str, error: impl ToString) -> NokhwaError {
    NokhwaError::GetPropertyError { property: property.into(), error: error.to_string() }
}

impl CaptureBackendTrait for Backend {
    fn backend(&self) -> ApiBackend {
        ApiBackend::Video4Linux
    }

    fn camera_info(&self) -> &CameraInfo {
        &self.info
    }

    fn refresh_camera_format(&mut self) -> Result<(), NokhwaError> {
        Ok(()) // the format is always the one that was set
    }

    fn camera_format(&self) -> CameraFormat {
        self.format
    }

    fn set_camera_format(&mut self, wanted: CameraFormat) -> Result<(), NokhwaError> {
        let refused = |error: String| NokhwaError::SetPropertyError {
            property: "format".into(),
            value: wanted.to_string(),
            error,
        };
        self.stream = None;
        let code = four_cc(wanted.format()).ok_or_else(|| refused("only MJPG and YUYV are taken".into()))?;
        let got = Capture::set_format(&self.device, &Format::new(wanted.width(), wanted.height(), code))
            .map_err(|error| refused(error.to_string()))?;
        if (got.width, got.height, got.fourcc) != (wanted.width(), wanted.height(), code) {
            return Err(refused(format!("the camera offers {}x{} {}", got.width, got.height, got.fourcc)));
        }
        let rate = Capture::set_params(&self.device, &Parameters::with_fps(wanted.frame_rate()))
            .map_err(|error| refused(error.to_string()))?
            .interval;
        let (asked, rate) = (wanted.frame_rate(), rate_near(rate, wanted.frame_rate()).map_err(refused)?);
        let rate = rate.map_or("a rate that it does not tell".into(), |rate| format!("{rate:.2} frames/s"));
        tracing::info!(
            "{} sends {}x{} {code} at {rate}, asked for {asked}",
            self.info.human_name(),
            got.width,
            got.height
        );
        self.format = wanted;
        Ok(())
    }

    fn compatible_list_by_resolution(&mut self, _: FrameFormat) -> Result<HashMap<Resolution, Vec<u32>>, NokhwaError> {
        Err(unreadable("resolutions", "the configuration names the one that is used"))
    }

    fn compatible_fourcc(&mut self) -> Result<Vec<FrameFormat>, NokhwaError> {
        let offered = self.device.enum_formats().map_err(|error| unreadable("formats", error))?;
        let ours = [FrameFormat::MJPEG, FrameFormat::YUYV];
        Ok(ours.into_iter().filter(|f| offered.iter().any(|o| Some(o.fourcc) == four_cc(*f))).collect())
    }

    fn resolution(&self) -> Resolution {
        self.format.resolution()
    }

    fn set_resolution(&mut self, resolution: Resolution) -> Result<(), NokhwaError> {
        self.set_camera_format(CameraFormat::new(resolution, self.format.format(), self.format.frame_rate()))
    }

    fn frame_rate(&self) -> u32 {
        self.format.frame_rate()
    }

    fn set_frame_rate(&mut self, rate: u32) -> Result<(), NokhwaError> {
        self.set_camera_format(CameraFormat::new(self.format.resolution(), self.format.format(), rate))
    }

    fn frame_format(&self) -> FrameFormat {
        self.format.format()
    }

    fn set_frame_format(&mut self, format: FrameFormat) -> Result<(), NokhwaError> {
        self.set_camera_format(CameraFormat::new(self.format.resolution(), format, self.format.frame_rate()))
    }

    fn camera_control(&self, control: KnownCameraControl) -> Result<CameraControl, NokhwaError> {
        Err(unreadable(&control.to_string(), "set controls with v4l2-ctl"))
    }

    fn camera_controls(&self) -> Result<Vec<CameraControl>, NokhwaError> {
        Ok(Vec::new())
    }

    fn set_camera_control(&mut self, control: KnownCameraControl, _: ControlValueSetter) -> Result<(), NokhwaError> {
        Err(unreadable(&control.to_string(), "set controls with v4l2-ctl"))
    }

    fn open_stream(&mut self) -> Result<(), NokhwaError> {
        self.stream = None;
        let mut stream = Stream::with_buffers(&self.device, Type::VideoCapture, BUFFERS)
            .map_err(|error| NokhwaError::OpenStreamError(error.to_string()))?;
        stream.set_timeout(self.timeout);
        self.stream = Some(stream);
        Ok(())
    }

    fn is_stream_open(&self) -> bool {
        self.stream.is_some()
    }

    fn frame(&mut self) -> Result<Buffer, NokhwaError> {
        let read = |why: String| NokhwaError::ReadFrameError(why);
        let stream = self.stream.as_mut().ok_or_else(|| read("the stream is not open".into()))?;
        let (bytes, meta) = match stream.next() {
            Ok((bytes, meta)) => (bytes, *meta),
            Err(error) => {
                self.stream = None;
                let timed_out = error.kind() == std::io::ErrorKind::TimedOut;
                return Err(read(if timed_out {
                    format!("no frame for {} ms", self.timeout.as_millis())
                } else {
                    error.to_string()
                }));
            }
        };
        self.counter.store(meta.sequence, Ordering::Relaxed);
        let filled = (meta.bytesused as usize).min(bytes.len());
        if meta.flags.contains(Flags::ERROR) || filled == 0 {
            return Err(read(format!("frame {} was flagged as bad by the driver", meta.sequence)));
        }
        let monotonic = meta.flags & Flags::TIMESTAMP_MASK == Flags::TIMESTAMP_MONOTONIC;
        let stamp = monotonic.then(|| meta.timestamp.into());
        Ok(Buffer::with_timestamp(self.format.resolution(), &bytes[..filled], self.format.format(), stamp))
    }

    fn frame_raw(&mut self) -> Result<Cow<'_, [u8]>, NokhwaError> {
        self.frame().map(|buffer| Cow::Owned(buffer.buffer().to_vec()))
    }

    fn stop_stream(&mut self) -> Result<(), NokhwaError> {
        self.stream = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_may_be_a_fraction_and_no_other() {
        let near = |numerator, denominator, asked| rate_near(Fraction::new(numerator, denominator), asked);
        assert_eq!(near(1, 30, 30), Ok(Some(30.0)));
        assert_eq!(near(2, 25, 12), Ok(Some(12.5)));
        assert_eq!(near(1001, 30_000, 30).map(|rate| rate.map(|rate| (rate * 100.0) as u32)), Ok(Some(2997)));
        assert_eq!(near(0, 0, 30), Ok(None));
        assert_eq!(near(1, 15, 30), Err("the camera offers 15.00 frames a second".into()));
        assert!(near(1, 0, 1).is_err() && near(1, 31, 30).is_err());
    }
}
