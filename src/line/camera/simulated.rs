//! The simulated belt as a camera: picture `n` at `n / frame_rate` seconds; pictures that cannot be drawn in time are
//! skipped, as a camera's would be lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{CameraEvent, FrameSink, SimulatedEncoder};
use crate::{
    belt::{Belt, BeltConfig},
    domain::{Frame, Raw},
};

/// `encoder` comes with what a pixel is in mm.
pub(super) fn run(config: &BeltConfig, encoder: Option<(&SimulatedEncoder, f64)>, sink: &FrameSink<'_>) {
    sink.keep_open("the simulated belt", |_| watch(config, encoder, sink).err());
}

/// Runs the belt until it is told to stop.
fn watch(config: &BeltConfig, encoder: Option<(&SimulatedEncoder, f64)>, sink: &FrameSink<'_>) -> Result<(), String> {
    let drawn = || Belt::new(config.clone()).map_err(|e| e.to_string());
    let (mut belt, start) = (drawn()?, Instant::now());
    let _serving = match encoder {
        Some((encoder, scale)) => {
            let served = encoder.serve(drawn()?, scale, start);
            Some(served.map_err(|e| format!("its encoder can't listen on {}: {e}", encoder.listen))?)
        }
        None => None,
    };
    sink.tell(CameraEvent::Opened);
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
    Ok(())
}
