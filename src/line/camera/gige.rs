//! A GenICam camera, GigE Vision in the first place, through Aravis.
//!
//! What the camera can't do is refused with the reason, and what was set is read back: some take a setting and give
//! another. The death of a camera is told at once; the library's parting words to it, which nobody answers, take seconds
//! and are said only when it is reopened.
//!
//! Invariant: only whole pictures are handed on; a camera that sends none for `timeout` is lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aravis::{
    AcquisitionMode, Buffer, BufferStatus, Camera, GvStream, GvStreamOption, GvStreamSocketBuffer, Stream,
    glib::prelude::*, prelude::*,
};
use time::OffsetDateTime;

use super::{CameraEvent, FrameSink, ago};
use crate::domain::{Picture, Raw};

/// Buffers that the camera may fill while one is looked at.
const BUFFERS: usize = 4;
/// Bytes of packets that the kernel is asked to hold; it grants `net.core.rmem_max` at most.
const SOCKET: i32 = 16 << 20;
/// Longest wait until the next look whether to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Formats that are understood, the best first, by their names in the GenICam standard (PFNC).
const FORMATS: [(&str, BufferFormat); 7] = [
    ("RGB8", BufferFormat::Rgb),
    ("RGB8Packed", BufferFormat::Rgb), // before PFNC
    ("BayerRG8", BufferFormat::Bayer([0, 1, 1, 2])),
    ("BayerGR8", BufferFormat::Bayer([1, 0, 2, 1])),
    ("BayerGB8", BufferFormat::Bayer([1, 2, 0, 1])),
    ("BayerBG8", BufferFormat::Bayer([2, 1, 1, 0])),
    ("Mono8", BufferFormat::Mono),
];

/// How pixels lie in a buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum BufferFormat {
    /// Red, green and blue.
    Rgb,
    /// One colour a pixel; which channel the four of a cell are, row by row. A cell becomes one pixel: nothing is made
    /// up between pixels, and a picture has half the width and half the height.
    Bayer([usize; 4]),
    /// Grey.
    Mono,
}

/// What the camera must deliver, exactly.
#[derive(Clone, Copy)]
pub(super) struct StreamRequest {
    pub width: u32,
    pub height: u32,
    pub frame_rate: f64,
    pub timeout: Duration,
}

/// An open camera that sends. Dropping it takes seconds when the camera is gone.
struct OpenCamera {
    camera: Camera,
    stream: Stream,
    format: BufferFormat,
}

impl Drop for OpenCamera {
    fn drop(&mut self) {
        let _ = self.camera.stop_acquisition(); // it may be gone
    }
}

pub(super) fn run(device: &str, request: StreamRequest, sink: &FrameSink<'_>) {
    let mut last = None;
    sink.keep_open(device, |sequence| {
        drop(last.take());
        match open(device, request) {
            Ok(opened) => {
                sink.tell(CameraEvent::Opened);
                drain(last.insert(opened), request, sequence, sink)
            }
            Err(why) => Some(why),
        }
    });
}

fn open(device: &str, request: StreamRequest) -> Result<OpenCamera, String> {
    let StreamRequest { width, height, frame_rate, .. } = request;
    let said = |error: aravis::glib::Error| error.message().to_owned();
    let camera = Camera::new(Some(device)).map_err(said)?;
    // What it offers depends on what was set before: of an offset that somebody left, less width; of the size, the rate.
    camera.set_region(0, 0, -1, -1).map_err(said)?;
    for (what, wanted, (least, most), step) in [
        ("width", width, camera.width_bounds().map_err(said)?, camera.width_increment().map_err(said)?),
        ("height", height, camera.height_bounds().map_err(said)?, camera.height_increment().map_err(said)?),
    ] {
        let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
        if !(least..=most).contains(&wanted) || (wanted - least) % step.max(1) != 0 {
            return Err(format!(
                "{what} {wanted} was asked for; the camera offers {least} to {most} in steps of {step}"
            ));
        }
    }
    let offered = camera.dup_available_pixel_formats_as_strings().map_err(said)?;
    let found = FORMATS.iter().find(|(name, _)| offered.iter().any(|offer| offer.as_str() == *name));
    let Some((name, format)) = found else {
        let understood: Vec<&str> = FORMATS.iter().map(|(name, _)| *name).collect();
        return Err(format!("the camera offers {offered:?}; understood are {understood:?}"));
    };
    camera.set_pixel_format_from_string(name).map_err(said)?;
    camera.set_region(0, 0, width as i32, height as i32).map_err(said)?;
    camera.set_acquisition_mode(AcquisitionMode::Continuous).map_err(said)?;
    let (least, most) = camera.frame_rate_bounds().map_err(said)?;
    if !(least..=most).contains(&frame_rate) {
        return Err(format!("{frame_rate} pictures per second were asked for; the camera offers {least} to {most}"));
    }
    camera.set_frame_rate(frame_rate).map_err(said)?;
    let (_, _, got_width, got_height) = camera.region().map_err(said)?;
    let got_rate = camera.frame_rate().map_err(said)?;
    if (got_width, got_height) != (width as i32, height as i32) || (got_rate / frame_rate - 1.0).abs() > 0.02 {
        return Err(format!(
            "{width}×{height} at {frame_rate} per second was asked for and {got_width}×{got_height} at {got_rate} given"
        ));
    }
    if camera.is_gv_device() {
        // Its other way, raw packets past the kernel's UDP, is for root alone, and over loopback nothing comes through it.
        camera.gv_set_stream_options(GvStreamOption::PACKET_SOCKET_DISABLED);
        let _ = camera.gv_auto_packet_size(); // the camera's own size does too
    }
    let stream = camera.create_stream().map_err(said)?;
    if let Some(stream) = stream.downcast_ref::<GvStream>() {
        // A picture comes as a burst of packets. The library's own choice, as many bytes as a picture has, holds a fraction of
        // it, since the kernel counts more for a packet than what it carries.
        stream.set_socket_buffer(GvStreamSocketBuffer::Fixed);
        stream.set_socket_buffer_size(SOCKET);
    }
    let payload = camera.payload().map_err(said)? as usize;
    for _ in 0..BUFFERS {
        stream.push_buffer(Buffer::new_allocate(payload));
    }
    camera.start_acquisition().map_err(said)?;
    tracing::info!(device, format = name, width, height, frame_rate, "the camera was set");
    Ok(OpenCamera { camera, stream, format: *format })
}

/// Hands frames over until the camera fails; why it failed, `None` when told to stop.
fn drain(open: &OpenCamera, request: StreamRequest, sequence: &mut u64, sink: &FrameSink<'_>) -> Option<String> {
    let timeout = request.timeout;
    let (mut limit, mut last) = (Instant::now() + timeout, None);
    while !sink.stopped() {
        let left = limit.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(format!("no picture within {timeout:?}"));
        }
        let Some(buffer) = open.stream.timeout_pop_buffer(left.min(LOOK).as_micros() as u64) else { continue };
        // The camera counts its pictures, so gaps in its count become gaps in ours; it starts again after 65,535.
        let count = buffer.frame_id();
        let step = last.map_or(1, |last| count.checked_sub(last).unwrap_or(1).max(1));
        last = Some(count);
        *sequence += step - 1;
        match picture(&buffer, open.format, request) {
            Ok(picture) => {
                limit = Instant::now() + timeout;
                sink.shot(*sequence, captured(buffer.system_timestamp()), Raw::Rgb(Arc::new(picture)));
            }
            Err(why) => sink.tell(CameraEvent::BadFrame(why)),
        }
        *sequence += 1;
        open.stream.push_buffer(buffer);
    }
    None
}

fn picture(buffer: &Buffer, format: BufferFormat, request: StreamRequest) -> Result<Picture, String> {
    match buffer.status() {
        BufferStatus::Success => {}
        BufferStatus::Timeout | BufferStatus::MissingPackets => return Err("packets of the picture were lost".into()),
        other => return Err(format!("the picture is not whole: {other:?}")),
    }
    let size = (buffer.image_width() as usize, buffer.image_height() as usize);
    if size != (request.width as usize, request.height as usize) {
        return Err(format!("a picture of {}×{} came", size.0, size.1));
    }
    if buffer.image_padding().0 != 0 {
        return Err("there are bytes between the picture's rows, which are not understood".into());
    }
    rgb(&buffer.image_data(), size, format).ok_or_else(|| "the picture is shorter than its size says".into())
}

/// The pixels of a buffer, row after row without padding, as a picture.
fn rgb(data: &[u8], (width, height): (usize, usize), format: BufferFormat) -> Option<Picture> {
    let picture = |width: usize, height: usize, rgb| Picture { width: width as u32, height: height as u32, rgb };
    match format {
        BufferFormat::Rgb => Some(picture(width, height, data.get(..width * height * 3)?.to_vec())),
        BufferFormat::Mono => {
            let grey = data.get(..width * height)?;
            Some(picture(width, height, grey.iter().flat_map(|&grey| [grey; 3]).collect()))
        }
        BufferFormat::Bayer(channels) => {
            let data = data.get(..width * height)?;
            let mut rgb = Vec::with_capacity((width / 2) * (height / 2) * 3);
            for (y, x) in (0..height / 2).flat_map(|y| (0..width / 2).map(move |x| (y, x))) {
                let at = |n: usize| u16::from(data[(2 * y + n / 2) * width + 2 * x + n % 2]);
                let mut cell = [0; 3];
                (0..4).for_each(|n| cell[channels[n]] += at(n));
                cell[1] /= 2; // two of the four are green
                rgb.extend(cell.map(|value| value as u8));
            }
            Some(picture(width / 2, height / 2, rgb))
        }
    }
}

/// When the first packet of a picture came, in nanoseconds of this machine's wall clock, as an [`Instant`].
fn captured(stamp: u64) -> Instant {
    let age = OffsetDateTime::now_utc().unix_timestamp_nanos() - i128::from(stamp);
    ago(u64::try_from(age).ok().map(Duration::from_nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_shows_the_same_colour() {
        // A cell of red 200, green 100 and 110, blue 50.
        for (name, data) in [
            ("BayerRG8", [200, 100, 110, 50]),
            ("BayerGR8", [100, 200, 50, 110]),
            ("BayerGB8", [100, 50, 200, 110]),
            ("BayerBG8", [50, 100, 110, 200]),
        ] {
            let format = FORMATS.iter().find(|(known, _)| *known == name).map(|(_, format)| *format);
            let picture = format.and_then(|format| rgb(&data, (2, 2), format));
            let expected = Picture { width: 1, height: 1, rgb: vec![200, 105, 50] };
            assert!(picture.as_ref() == Some(&expected), "{name}: {:?}", picture.map(|p| p.rgb));
        }
        // An odd last column is left out.
        let row = rgb(&[200, 100, 9, 110, 50, 9], (3, 2), BufferFormat::Bayer([0, 1, 1, 2])).map(|p| (p.width, p.rgb));
        assert_eq!(row, Some((1, vec![200, 105, 50])));
        assert_eq!(rgb(&[7, 8], (2, 1), BufferFormat::Mono).map(|p| p.rgb), Some(vec![7, 7, 7, 8, 8, 8]));
        assert_eq!(rgb(&[1, 2, 3], (1, 1), BufferFormat::Rgb).map(|p| p.rgb), Some(vec![1, 2, 3]));
        for format in [BufferFormat::Rgb, BufferFormat::Mono, BufferFormat::Bayer([0, 1, 1, 2])] {
            assert!(rgb(&[1, 2, 3], (2, 2), format).is_none(), "{format:?} of a short buffer");
        }
    }
}
