//! How metrics get their names and buckets.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Buckets in seconds around a line's budget: 1 ms to 1 s.
pub(super) const LATENCY: [f64; 15] =
    [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.1, 0.25, 0.5, 1.0];

/// Buckets in seconds for what must happen at a millimetre: at 1.25 m/s a millisecond is 1.25 mm.
pub(super) const LATENESS: [f64; 17] =
    [0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.012, 0.015, 0.02, 0.03, 0.05, 0.1];

/// Buckets of a share, in twentieths.
pub(super) const SHARES: [f64; 20] =
    [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];

pub(super) fn name(short: &str) -> String {
    format!("beltsight_{short}")
}

pub(super) fn registered<C: prometheus::core::Collector + Clone + 'static>(
    r: &Registry,
    c: C,
) -> prometheus::Result<C> {
    r.register(Box::new(c.clone()))?;
    Ok(c)
}

pub(super) fn counter(r: &Registry, short: &str, help: &str) -> prometheus::Result<IntCounter> {
    registered(r, IntCounter::new(name(short), help)?)
}

pub(super) fn counters(r: &Registry, short: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    registered(r, IntCounterVec::new(Opts::new(name(short), help), labels)?)
}

pub(super) fn gauge(r: &Registry, short: &str, help: &str) -> prometheus::Result<IntGauge> {
    registered(r, IntGauge::new(name(short), help)?)
}

pub(super) fn gauges(r: &Registry, short: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    registered(r, IntGaugeVec::new(Opts::new(name(short), help), labels)?)
}

pub(super) fn float_gauge(r: &Registry, short: &str, help: &str) -> prometheus::Result<Gauge> {
    registered(r, Gauge::new(name(short), help)?)
}

pub(super) fn float_gauges(r: &Registry, short: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
    registered(r, GaugeVec::new(Opts::new(name(short), help), labels)?)
}

pub(super) fn histogram(r: &Registry, short: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
    registered(r, Histogram::with_opts(HistogramOpts::new(name(short), help).buckets(buckets.to_vec()))?)
}

pub(super) fn histograms(
    r: &Registry,
    short: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> prometheus::Result<HistogramVec> {
    registered(r, HistogramVec::new(HistogramOpts::new(name(short), help).buckets(buckets.to_vec()), labels)?)
}
