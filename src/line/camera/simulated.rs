//! The simulated belt as a camera: picture `n` at `n / frame_rate` seconds; pictures that cannot be drawn in time are
//! skipped, as a camera's would be lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{CameraEvent, FrameSink};
use crate::{
    belt::{Belt, BeltConfig},
    domain::{Frame, Raw},
};

pub(super) fn run(config: &BeltConfig, sink: &FrameSink<'_>) {
    let mut belt = match Belt::new(config.clone()) {
        Ok(belt) => belt,
        Err(error) => return sink.tell(CameraEvent::Lost(error.to_string())),
    };
    sink.tell(CameraEvent::Opened);
    let start = Instant::now();
    let mut n: u64 = 0;
    while !sink.stopped() {
        let captured = start + Duration::from_secs_f64(belt.taken(n) + belt.delay(n));
        sink.sleep_until(captured);
        let wall = OffsetDateTime::now_utc() - captured.elapsed(); // of the capture, however late this thread woke
        let (picture, truths) = belt.frame(n);
        sink.put(Frame {
            camera: sink.name.clone(),
            sequence: n,
            captured,
            wall,
            raw: Raw::Rgb(Arc::new(picture)),
            truth: truths.into(),
        });
        let now = ((start.elapsed().as_secs_f64() - belt.delay(n)) * config.frame_rate) as u64;
        n = (n + 1).max(now);
    }
}
