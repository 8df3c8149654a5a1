//! Overload beside a running belt, and a long soak.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde::Serialize;

use super::{
    classify::Service,
    client::{self, Outcomes},
    machine, quantile, resident,
};
use crate::domain::ms;

const BELT: &str = "[[camera]]\nname = 'belt'\nsource = 'simulated'\n[line]\ndeadline = '200ms'";

/// What an overload did.
#[derive(Debug, Serialize)]
pub struct Overload {
    /// Requests a second at concurrency 8, the belt running.
    pub capacity: f64,
    /// Requests a second offered.
    pub offered: f64,
    /// Answers by status.
    pub answers: std::collections::BTreeMap<u16, usize>,
    /// p99 and slowest of the 429 answers.
    pub refused_p99_ms: f64,
    /// The slowest 429 answer.
    pub refused_max_ms: f64,
    /// The belt's capture→verdict p99 without HTTP load, from the service's histogram.
    pub belt_p99_alone_ms: f64,
    /// The same under overload.
    pub belt_p99_ms: f64,
    /// Belt verdicts with a fault, under overload.
    pub belt_faults: f64,
}

/// Offers `factor` times the capacity for `span` beside a running simulated belt.
///
/// # Errors
/// When the service can't be started or its metrics read.
pub async fn overload(model: &std::path::Path, pictures: Vec<Bytes>, factor: f64, span: Duration) -> Result<Overload> {
    println!("machine: {}", machine());
    let pictures = Arc::new(pictures);
    let service = Service::with_config(model, "", BELT)?;
    service.ready().await?;
    tokio::time::sleep(Duration::from_secs(5)).await; // the belt's background model settles
    let before = Scrape::take(&service).await?;
    tokio::time::sleep(span).await;
    let alone = Scrape::take(&service).await?;
    let capacity =
        client::closed_loop(&service.url, pictures.clone(), 8, Duration::from_secs(10), usize::MAX).await?.rate();
    let start = Scrape::take(&service).await?;
    let out = client::open_loop(&service.url, pictures, capacity * factor, span).await?;
    let end = Scrape::take(&service).await?;
    let refused = out.times(429);
    let report = Overload {
        capacity,
        offered: out.all.len() as f64 / span.as_secs_f64(),
        answers: answers(&out),
        refused_p99_ms: ms(quantile(&refused, 0.99)),
        refused_max_ms: ms(refused.last().copied().unwrap_or_default()),
        belt_p99_alone_ms: alone.belt_p99_ms(&before),
        belt_p99_ms: end.belt_p99_ms(&start),
        belt_faults: end.belt_faults - start.belt_faults,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(report)
}

fn answers(out: &Outcomes) -> std::collections::BTreeMap<u16, usize> {
    out.all.iter().fold(Default::default(), |mut counts, o| {
        *counts.entry(o.status).or_default() += 1;
        counts
    })
}

/// What the service's `/metrics` say about the belt.
struct Scrape {
    buckets: Vec<(f64, f64)>,
    belt_faults: f64,
}

impl Scrape {
    async fn take(service: &Service) -> Result<Self> {
        let text = reqwest::get(service.at("/metrics")).await?.text().await?;
        let mut buckets = Vec::new();
        let mut belt_faults = 0.0;
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            if series.starts_with("beltsight_verdict_seconds_bucket{") && series.contains("source=\"belt\"") {
                let le =
                    series.split("le=\"").nth(1).and_then(|s| s.split('"').next()).context("a bucket without le")?;
                buckets.push((le.replace("+Inf", "inf").parse()?, value.parse()?));
            } else if series.starts_with("beltsight_faults_total{") && series.contains("source=\"belt\"") {
                belt_faults += value.parse::<f64>()?;
            }
        }
        Ok(Self { buckets, belt_faults })
    }

    /// p99 between two scrapes, interpolated inside its bucket as Prometheus does.
    fn belt_p99_ms(&self, before: &Scrape) -> f64 {
        let counts: Vec<(f64, f64)> =
            self.buckets.iter().zip(&before.buckets).map(|(now, then)| (now.0, now.1 - then.1)).collect();
        let wanted = 0.99 * counts.last().map_or(0.0, |b| b.1);
        let (mut low, mut below) = (0.0, 0.0);
        for (le, count) in counts {
            if count >= wanted && count > below {
                return 1e3 * if le.is_finite() { low + (le - low) * (wanted - below) / (count - below) } else { low };
            }
            (low, below) = (le, count);
        }
        f64::NAN
    }
}

/// Sends `requests` and reports resident memory after the first 5,000 and at the end.
///
/// # Errors
/// When the service can't be started or a request fails.
pub async fn soak(model: &std::path::Path, pictures: Vec<Bytes>, requests: usize) -> Result<()> {
    println!("machine: {}", machine());
    let pictures = Arc::new(pictures);
    let service = Service::with_config(model, "", "")?;
    println!("start to ready: {:.0} ms", ms(service.ready().await?));
    let forever = Duration::from_secs(24 * 3600);
    client::closed_loop(&service.url, pictures.clone(), 8, forever, requests.min(5_000)).await?;
    let settled = resident(service.pid())?;
    println!("resident after {}: {:.1} MB", requests.min(5_000), settled as f64 / 1e6);
    let out = client::closed_loop(&service.url, pictures, 8, forever, requests.saturating_sub(5_000)).await?;
    let end = resident(service.pid())?;
    let growth = (end as f64 - settled as f64) / 1e6;
    println!(
        "resident after {requests}: {:.1} MB, growth {growth:+.1} MB, answers {:?}, {:.0} requests/s",
        end as f64 / 1e6,
        answers(&out),
        out.rate()
    );
    Ok(())
}
