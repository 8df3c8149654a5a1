//! Cameras, and clients that send pictures: what they deliver, what is lost of it, and the belt as their pictures show it.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Registry};

use super::register::{counters, float_gauges, gauges};

/// See the help text of each in [`CameraMetrics::register`].
#[allow(missing_docs)] // each field's help text stands beside its name
pub struct CameraMetrics {
    pub frames: IntCounterVec,
    pub frames_dropped: IntCounterVec,
    pub up: IntGaugeVec,
    pub frozen: IntGaugeVec,
    pub reconnects: IntCounterVec,
    pub belt_seen: GaugeVec,
    pub pictures_cleaned: IntCounterVec,
}

impl CameraMetrics {
    /// Registers them and starts at 0 what has labels from a closed set: a counter that was never touched is absent, and an
    /// alert on an absent series never fires.
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            frames: counters(r, "frames_total", "Frames received from a camera.", &["camera"])?,
            frames_dropped: counters(r, "frames_dropped_total", "Frames lost, by reason.", &["camera", "reason"])?,
            up: gauges(r, "camera_up", "1 while a camera's pictures are searched for items.", &["camera"])?,
            frozen: gauges(
                r,
                "camera_frozen",
                "1 while a camera sends the very same picture over and over.",
                &["camera"],
            )?,
            reconnects: counters(r, "camera_reconnects_total", "Times a camera was lost.", &["camera"])?,
            belt_seen: float_gauges(
                r,
                "belt_seen_pixels_per_second",
                "The belt's speed in the camera's pictures, below 0 towards smaller x; NaN while it can't be told.",
                &["camera"],
            )?,
            pictures_cleaned: counters(
                r,
                "pictures_cleaned_total",
                "JPEGs that were used without stray bytes in or behind them, by where they came from (the camera is empty for http).",
                &["source", "camera"],
            )?,
        };
        metrics.pictures_cleaned.with_label_values(&["http", ""]);
        Ok(metrics)
    }

    /// Starts what is counted of a camera at 0.
    pub(super) fn begin(&self, camera: &str) {
        self.up.with_label_values(&[camera]).set(0);
        self.frozen.with_label_values(&[camera]).set(0);
        self.frames.with_label_values(&[camera]);
        self.reconnects.with_label_values(&[camera]);
        self.pictures_cleaned.with_label_values(&["belt", camera]);
        for reason in ["stale", "driver", "damaged", "frozen", "size", "late"] {
            self.frames_dropped.with_label_values(&[camera, reason]);
        }
    }
}
