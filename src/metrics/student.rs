//! The student that serves and what it was trained on.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Registry};

use super::register::{counter, counters, float_gauges, gauges};

/// See the help text of each in [`StudentMetrics::register`].
#[allow(missing_docs)] // each field's help text stands beside its name
pub struct StudentMetrics {
    pub info: IntGaugeVec,
    pub loads: IntCounterVec,
    pub edits: IntCounter,
    pub reference_mean: GaugeVec,
    pub reference_deviation: GaugeVec,
}

impl StudentMetrics {
    /// Registers them and starts at 0 what has labels from a closed set: a counter that was never touched is absent, and an
    /// alert on an absent series never fires.
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            info: gauges(r, "model_info", "1 for the model that serves.", &["version", "precision", "provider"])?,
            loads: counters(r, "model_loads_total", "Attempts to load a model, by outcome.", &["outcome"])?,
            edits: counter(
                r,
                "model_edits_total",
                "Changes of what is to serve that the registry does not explain: files edited by hand.",
            )?,
            reference_mean: float_gauges(
                r,
                "reference_mean_ratio",
                "Mean of what the serving student was trained on; NaN where its folder does not say it.",
                &["of"],
            )?,
            reference_deviation: float_gauges(
                r,
                "reference_deviation_ratio",
                "Standard deviation of what the serving student was trained on; NaN likewise.",
                &["of"],
            )?,
        };
        for outcome in ["loaded", "refused"] {
            metrics.loads.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }
}
