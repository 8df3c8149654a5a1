//! What a verdict does to the metrics; belt and HTTP count in this one place.

use std::time::Duration;

use crate::{
    domain::{Fault, Optics, Source, Verdict},
    metrics::Metrics,
};

/// Counts one verdict: action, reason, class, probabilities, total time and the stages decode and locate (queue and
/// infer are measured by the worker). `fault` is the fault the verdict answers, if any.
pub fn observe(metrics: &Metrics, verdict: &Verdict, fault: Option<&Fault>) {
    let source = verdict.source.name();
    let decision = &verdict.decision;
    metrics.line.verdicts.with_label_values(&[source, &verdict.camera, decision.action.name()]).inc();
    metrics.line.reasons.with_label_values(&[source, decision.reason.name()]).inc();
    if let Some(class) = &decision.class {
        metrics.line.classes.with_label_values(&[source, class]).inc();
    }
    if let Some(Optics { brightness, sharpness }) = verdict.optics {
        for (of, value) in [("brightness", brightness), ("sharpness", sharpness)] {
            metrics.line.optics.with_label_values(&[verdict.camera.as_str(), of]).observe(value.into());
        }
    }
    if let Some(novelty) = verdict.novelty {
        metrics.line.novelty.observe(novelty.into());
    }
    if let Some(fault) = fault {
        faulted(metrics, verdict.source, &verdict.camera, fault);
    } else {
        metrics.line.accept_probability.with_label_values(&[source]).observe(decision.accept_probability.into());
        if verdict.scores.len() > 1 {
            metrics.line.margin.observe(verdict.margin().into());
        }
    }
    let seconds = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default().as_secs_f64();
    metrics.line.verdict_seconds.with_label_values(&[source]).observe(seconds(verdict.timings.total_ms));
    for (stage, ms) in [("decode", verdict.timings.decode_ms), ("locate", verdict.timings.locate_ms)] {
        metrics.line.stage_seconds.with_label_values(&[source, stage]).observe(seconds(ms));
    }
}

/// Counts a picture that came with stray bytes; `camera` is empty for HTTP.
pub fn cleaned(metrics: &Metrics, source: Source, camera: &str, strays: usize) {
    if strays > 0 {
        metrics.camera.pictures_cleaned.with_label_values(&[source.name(), camera]).inc();
    }
}

/// Counts a fault, also one that no verdict answers: an HTTP request that ends in an error. `camera` is empty for HTTP.
pub fn faulted(metrics: &Metrics, source: Source, camera: &str, fault: &Fault) {
    metrics.line.faults.with_label_values(&[source.name(), camera, fault.name()]).inc();
}
