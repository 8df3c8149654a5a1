//! Items on their way from picture to verdict.

use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::register::{LATENCY, SHARES, counters, gauge, gauges, histogram, histograms};

/// See the help text of each in [`LineMetrics::register`].
#[allow(missing_docs)] // each field's help text stands beside its name
pub struct LineMetrics {
    pub alive: IntGauge,
    pub items_unjudged: IntCounterVec,
    pub verdicts: IntCounterVec,
    pub reasons: IntCounterVec,
    pub classes: IntCounterVec,
    pub faults: IntCounterVec,
    pub stage_seconds: HistogramVec,
    pub verdict_seconds: HistogramVec,
    pub accept_probability: HistogramVec,
    pub margin: Histogram,
    pub batch_size: Histogram,
    pub looks: Histogram,
    pub queue_depth: IntGaugeVec,
    pub novelty: Histogram,
    pub optics: HistogramVec,
}

impl LineMetrics {
    /// Registers them.
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            alive: gauge(
                r,
                "line_alive",
                "1 while every camera with gates is looked at and the worker answers: while heartbeats count.",
            )?,
            items_unjudged: counters(
                r,
                "items_unjudged_total",
                "What was followed on the belt and gone without having been judged; when the belt moves too far from one picture to the next, a part of what is missed.",
                &["camera"],
            )?,
            verdicts: counters(
                r,
                "verdicts_total",
                "Verdicts, by where the item came from (the camera is empty for http) and action.",
                &["source", "camera", "action"],
            )?,
            reasons: counters(r, "verdict_reasons_total", "Verdicts, by reason.", &["source", "reason"])?,
            classes: counters(r, "verdict_classes_total", "Verdicts, by most probable class.", &["source", "class"])?,
            faults: counters(r, "faults_total", "Items without scores, by fault.", &["source", "camera", "fault"])?,
            stage_seconds: histograms(
                r,
                "stage_seconds",
                "Time in a stage: decode, locate, queue, infer.",
                &["source", "stage"],
                &LATENCY,
            )?,
            verdict_seconds: histograms(
                r,
                "verdict_seconds",
                "From capture (belt) or arrival (http) to the verdict.",
                &["source"],
                &LATENCY,
            )?,
            accept_probability: histograms(
                r,
                "accept_probability_ratio",
                "Probability that an item may pass.",
                &["source"],
                &SHARES,
            )?,
            margin: histogram(r, "margin_ratio", "Gap between the two most probable classes.", &SHARES)?,
            batch_size: histogram(
                r,
                "batch_items",
                "Items in a micro-batch.",
                &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0],
            )?,
            looks: histogram(
                r,
                "item_looks",
                "Pictures of a belt item whose scores, or faults, its verdict comes from.",
                &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0],
            )?,
            queue_depth: gauges(r, "queue_items", "Items waiting in a queue: belt, http, record.", &["queue"])?,
            novelty: histogram(
                r,
                "novelty_ratio",
                "Distance of an item from what the serving student was trained on; 1 is the edge of that.",
                &[0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0],
            )?,
            optics: histograms(
                r,
                "optics_ratio",
                "Brightness and sharpness of the items' pictures, as the network is given them.",
                &["camera", "of"],
                &[0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0],
            )?,
        };
        metrics.begin_closed();
        Ok(metrics)
    }

    /// Starts at 0 what has labels from a closed set: a counter that was never touched is absent, and an alert on an absent
    /// series never fires.
    fn begin_closed(&self) {
        for source in ["belt", "http"] {
            for reason in ["accepted", "wrong_class", "unsure", "several", "partial", "unknown", "low_score", "fault"] {
                self.reasons.with_label_values(&[source, reason]);
            }
            for stage in ["decode", "locate", "queue", "infer"] {
                self.stage_seconds.with_label_values(&[source, stage]);
            }
            self.verdict_seconds.with_label_values(&[source]);
            self.accept_probability.with_label_values(&[source]);
        }
        for queue in ["belt", "http", "record"] {
            self.queue_depth.with_label_values(&[queue]);
        }
        self.begin_source("http", "");
    }

    /// Starts what is counted of a camera's items at 0.
    pub(super) fn begin(&self, camera: &str) {
        self.begin_source("belt", camera);
        self.items_unjudged.with_label_values(&[camera]);
        for of in ["brightness", "sharpness"] {
            self.optics.with_label_values(&[camera, of]);
        }
    }

    fn begin_source(&self, source: &str, camera: &str) {
        for action in ["accept", "reject", "divert"] {
            self.verdicts.with_label_values(&[source, camera, action]);
        }
        for fault in ["overloaded", "timeout", "decode", "no_model", "inference", "stopping"] {
            self.faults.with_label_values(&[source, camera, fault]);
        }
    }
}
