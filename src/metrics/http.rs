//! Requests and who was let in.

use prometheus::{HistogramVec, IntCounter, IntCounterVec, Registry};

use super::register::{LATENCY, counter, counters, histograms};

/// See the help text of each in [`HttpMetrics::register`].
#[allow(missing_docs)] // each field's help text stands beside its name
pub struct HttpMetrics {
    pub requests: IntCounterVec,
    pub seconds: HistogramVec,
    pub refused: IntCounterVec,
    pub bad_input: IntCounterVec,
    pub access_refused: IntCounterVec,
    pub audit_lost: IntCounter,
}

impl HttpMetrics {
    /// Registers them and starts at 0 what has labels from a closed set: a counter that was never touched is absent, and an
    /// alert on an absent series never fires.
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            requests: counters(r, "http_requests_total", "HTTP requests, by route and status.", &["route", "status"])?,
            seconds: histograms(r, "http_request_seconds", "Time to answer a request.", &["route"], &LATENCY)?,
            refused: counters(r, "refused_total", "Requests answered 429 because a queue was full.", &["route"])?,
            bad_input: counters(r, "bad_input_total", "Requests refused for what they carried, by kind.", &["kind"])?,
            access_refused: counters(r, "access_refused_total", "Requests not let in, by reason.", &["reason"])?,
            audit_lost: counter(r, "audit_lost_total", "Changes that are missing in the audit log.")?,
        };
        for kind in [
            "empty",
            "unknown_format",
            "too_large",
            "unsupported",
            "damaged",
            "body_too_large",
            "shape",
            "not_finite",
            "malformed",
        ] {
            metrics.bad_input.with_label_values(&[kind]);
        }
        for reason in
            ["no_token", "unknown_token", "expired_token", "role", "other_name", "cross_site", "host", "no_rule"]
        {
            metrics.access_refused.with_label_values(&[reason]);
        }
        for route in ["/classify", "/v2/models/{model}/infer"] {
            metrics.refused.with_label_values(&[route]);
        }
        Ok(metrics)
    }
}
