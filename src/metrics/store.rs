//! What is recorded, what is lost of it, what is kept and labeled.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::register::{LATENCY, counter, counters, float_gauge, gauge, gauges, histogram};

/// See the help text of each in [`StoreMetrics::register`].
#[allow(missing_docs)] // each field's help text stands beside its name
pub struct StoreMetrics {
    pub record_dropped: IntCounterVec,
    pub recorded: IntCounter,
    pub challenges: IntCounterVec,
    pub challenge_overdue: IntGaugeVec,
    pub corrective_open: IntGauge,
    pub retention_held: IntGaugeVec,
    pub errors: IntCounter,
    pub free_bytes: IntGauge,
    pub retention_last: IntGauge,
    pub commit_seconds: Histogram,
    pub kept: IntCounterVec,
    pub labels: IntCounterVec,
    pub label_queue: IntGauge,
    pub label_kappa: Gauge,
    pub anchors: IntCounterVec,
    pub anchor_down: IntGaugeVec,
}

impl StoreMetrics {
    /// Registers them and starts at 0 what has labels from a closed set: a counter that was never touched is absent, and an
    /// alert on an absent series never fires.
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            record_dropped: counters(
                r,
                "record_dropped_total",
                "Records given up because the store was behind.",
                &["kind"],
            )?,
            recorded: counter(r, "recorded_total", "Verdicts committed to the store.")?,
            challenges: counters(r, "challenges_total", "Challenge tests, by outcome.", &["outcome"])?,
            challenge_overdue: gauges(
                r,
                "challenge_overdue",
                "1 while a camera's last found challenge is longer ago than challenge.every.",
                &["camera"],
            )?,
            corrective_open: gauge(r, "corrective_actions_open", "Corrective actions that nobody has closed.")?,
            retention_held: gauges(
                r,
                "retention_held",
                "Reasons for which the last pass of retention left what is over its time, by kind: clock, budget, changed.",
                &["why"],
            )?,
            errors: counter(r, "store_errors_total", "Failed store operations.")?,
            free_bytes: gauge(r, "store_free_bytes", "Bytes that may still be written to the store's disk.")?,
            retention_last: gauge(
                r,
                "retention_last_timestamp_seconds",
                "When retention last ran to its end, in seconds since 1970; the start of the service before that.",
            )?,
            commit_seconds: histogram(r, "store_commit_seconds", "Time of one commit.", &LATENCY)?,
            kept: counters(
                r,
                "kept_frames_total",
                "Items whose frame was chosen to be kept, by why: taken_off, doubtful, novel, audit, random.",
                &["why"],
            )?,
            labels: counters(
                r,
                "labels_total",
                "Labels that people gave, by class; cant_tell where they could not.",
                &["class"],
            )?,
            label_queue: gauge(r, "label_queue_items", "Kept items among the newest 5,000 that nobody has labeled.")?,
            label_kappa: float_gauge(
                r,
                "label_kappa_ratio",
                "Cohen's kappa over items that two people labeled; NaN while there are too few.",
            )?,
            anchors: counters(
                r,
                "anchors_total",
                "Attempts to leave the record's head elsewhere, by where and outcome.",
                &["target", "outcome"],
            )?,
            anchor_down: gauges(
                r,
                "anchor_down",
                "1 while the record's head can't be left there: the last attempt failed.",
                &["target"],
            )?,
        };
        for target in ["file", "mqtt", "syslog", "tsa"] {
            metrics.anchor_down.with_label_values(&[target]).set(0);
            for outcome in ["written", "failed"] {
                metrics.anchors.with_label_values(&[target, outcome]);
            }
        }
        for why in ["taken_off", "doubtful", "novel", "audit", "random"] {
            metrics.kept.with_label_values(&[why]);
        }
        for kind in ["verdict", "frame", "event"] {
            metrics.record_dropped.with_label_values(&[kind]);
        }
        for why in ["clock", "budget", "changed"] {
            metrics.retention_held.with_label_values(&[why]);
        }
        for outcome in ["found", "missed"] {
            metrics.challenges.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }
}
