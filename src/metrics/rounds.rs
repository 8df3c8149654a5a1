//! Learning rounds, the promotion gate, shadow run and probation.

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::register::{counter, counters, float_gauge, float_gauges, gauge, gauges};

/// See the help text of each in [`RoundMetrics::register`].
#[allow(missing_docs)] // each field's help text stands beside its name
pub struct RoundMetrics {
    pub ended: IntCounterVec,
    pub paused: IntCounter,
    pub stage: IntGaugeVec,
    pub progress: Gauge,
    pub gate_failures: IntCounterVec,
    pub shadow_items: IntGauge,
    pub held_out_accuracy: GaugeVec,
    pub rollbacks: IntCounter,
    pub labels_new: IntGauge,
}

impl RoundMetrics {
    /// Registers them and starts at 0 what has labels from a closed set: a counter that was never touched is absent, and an
    /// alert on an absent series never fires.
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            ended: counters(r, "rounds_total", "Learning rounds that are over, by how they ended.", &["end"])?,
            paused: counter(r, "rounds_paused_total", "Times learning rested because the line ran late.")?,
            stage: gauges(r, "round_stage", "1 for what the running round does.", &["stage"])?,
            progress: float_gauge(r, "round_progress_ratio", "How far the running round's stage is.")?,
            gate_failures: counters(r, "gate_failures_total", "Checks that held a candidate.", &["check"])?,
            shadow_items: gauge(r, "shadow_items", "Live items that the candidate has scored beside the incumbent.")?,
            held_out_accuracy: float_gauges(
                r,
                "held_out_accuracy_ratio",
                "Accuracy on the held-out pictures of the last round, of incumbent and candidate.",
                &["student"],
            )?,
            rollbacks: counter(r, "rollbacks_total", "Students taken back in their probation.")?,
            labels_new: gauge(r, "labels_new", "Labeled items since the last round began.")?,
        };
        for end in ["promoted", "held", "stopped", "failed"] {
            metrics.ended.with_label_values(&[end]);
        }
        for check in [
            "classes",
            "answers",
            "escapes",
            "false rejects",
            "better",
            "every class",
            "calibrated",
            "robust",
            "fast enough",
            "tests",
            "shadow",
        ] {
            metrics.gate_failures.with_label_values(&[check]);
        }
        for student in ["incumbent", "candidate"] {
            metrics.held_out_accuracy.with_label_values(&[student]);
        }
        Ok(metrics)
    }
}
