//! The encoder that counts the belt's way.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::register::{LATENCY, counter, counters, float_gauge, gauge, gauges, histogram};

/// See the help text of each in [`EncoderMetrics::register`].
#[allow(missing_docs)] // each field's help text stands beside its name
pub struct EncoderMetrics {
    pub down: IntGauge,
    pub position: Gauge,
    pub readings: IntCounterVec,
    pub round_trip: Histogram,
    pub wraps: IntCounter,
    pub resets: IntCounter,
    pub reverses: IntCounter,
    pub silences: IntCounter,
    pub apart: IntGaugeVec,
}

impl EncoderMetrics {
    /// Registers them.
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            down: gauge(r, "encoder_down", "1 while a configured encoder tells no position.")?,
            position: float_gauge(r, "encoder_position_metres", "The belt's way, as the encoder counts it.")?,
            readings: counters(
                r,
                "encoder_readings_total",
                "Readings of the encoder: read, slow (the answer took too long to say when it was true), stale (no count, \
                 or older than another), failed.",
                &["outcome"],
            )?,
            round_trip: histogram(
                r,
                "encoder_round_trip_seconds",
                "From asking the encoder to its answer; its reading is stamped in the middle.",
                &LATENCY,
            )?,
            wraps: counter(r, "encoder_wraps_total", "Times the encoder's counter passed its end.")?,
            resets: counter(
                r,
                "encoder_resets_total",
                "Times the encoder's count jumped as no belt runs: what waited by it was late.",
            )?,
            reverses: counter(r, "encoder_reverses_total", "Times the belt began to run backwards.")?,
            silences: counter(r, "encoder_silences_total", "Times the encoder said nothing for more than 100 ms.")?,
            apart: gauges(
                r,
                "encoder_apart",
                "1 while the camera sees another way of the belt than the encoder counts, by more than a tenth over a second.",
                &["camera"],
            )?,
        };
        for outcome in ["read", "slow", "stale", "failed"] {
            metrics.readings.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }
}
