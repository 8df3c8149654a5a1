//! Overload beside a running belt, a long soak, and many swaps of the serving student.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    client::{self, Outcomes},
    machine, quantile, resident,
    service::{MeasuredService, ON_CPU},
    stolen,
};
use crate::domain::{Timings, ms};

/// A belt as full as it can be without fish that touch, so that a minute's p99 rests on hundreds of items.
const BELT: &str = "[[camera]]\nname = 'belt'\nsource = 'simulated'
belt = { speed = 1650.0, items_per_minute = 300.0, empty_share = 0.0 }\n[line]\ndeadline = '200ms'";

/// A full belt, drawn small so that drawing it costs little beside the work that is measured.
const FAST_BELT: &str = "[[camera]]\nname = 'belt'\nsource = 'simulated'
belt = { width = 320, height = 180, frame_rate = 60.0, speed = 2200.0, items_per_minute = 800.0, empty_share = 0.0 }
[line]\ndeadline = '200ms'";

/// What an overload did.
#[derive(Debug, Serialize)]
pub struct OverloadReport {
    /// Requests per second at concurrency 8, the belt running.
    pub capacity: f64,
    /// Requests per second offered.
    pub offered: f64,
    /// Answers by status; 0: no whole answer.
    pub answers: BTreeMap<u16, usize>,
    /// Why there was no whole answer.
    pub failures: BTreeMap<String, usize>,
    /// p99 and slowest of the 429 answers.
    pub refused_p99_ms: f64,
    /// The slowest 429 answer.
    pub refused_max_ms: f64,
    /// Verdicts that were not recorded for want of room, and camera frames not looked at, over the whole run.
    pub dropped: BTreeMap<String, f64>,
    /// The belt without HTTP load.
    pub belt_alone: BeltSpan,
    /// The same under overload.
    pub belt: BeltSpan,
}

/// What many swaps did.
#[derive(Debug, Serialize)]
pub struct SwapsReport {
    /// Where it was measured.
    pub machine: String,
    /// How many.
    pub swaps: usize,
    /// Swaps that the service refused.
    pub refused: usize,
    /// Answers after a swap that name the student before it.
    pub wrong: usize,
    /// A swap, from the order to the answer: median.
    pub p50_ms: f64,
    /// p99.
    pub p99_ms: f64,
    /// Answers to the 8 clients beside it by status; 0: no whole answer.
    pub answers: BTreeMap<u16, usize>,
    /// Answers per second.
    pub rate: f64,
    /// Their p99.
    pub answers_p99_ms: f64,
    /// Resident memory in MB after each tenth of the swaps.
    pub resident_mb: Vec<f64>,
    /// The belt beside the same clients without swaps.
    pub belt_before: BeltSpan,
    /// The belt while students were swapped.
    pub belt: BeltSpan,
}

/// Recorded verdicts of the belt in one span.
#[derive(Debug, Serialize)]
pub struct BeltSpan {
    /// How many.
    pub items: usize,
    /// How many of them with a fault.
    pub faults: usize,
    /// Capture to verdict: median.
    pub p50_ms: f64,
    /// p99.
    pub p99_ms: f64,
    /// Where the time of the slowest went.
    pub slowest: Timings,
    /// Milliseconds that the machine's host kept from its cores meanwhile.
    pub stolen_ms: f64,
}

/// Offers `factor` times the capacity for `span` beside a running simulated belt.
///
/// # Errors
/// When the service can't be started or its verdicts read.
pub async fn overload(
    model: &std::path::Path,
    pictures: Vec<Bytes>,
    factor: f64,
    span: Duration,
) -> Result<OverloadReport> {
    println!("machine: {}", machine());
    let pictures = Arc::new(pictures);
    let service = MeasuredService::with_config(model, ON_CPU, BELT)?;
    service.ready().await?;
    tokio::time::sleep(Duration::from_secs(5)).await; // the belt's background model settles
    let start = (OffsetDateTime::now_utc(), stolen()?);
    tokio::time::sleep(span).await;
    let belt_alone = BeltSpan::since(start, &service).await?;
    let capacity =
        client::closed_loop(&service.url, pictures.clone(), 8, Duration::from_secs(10), usize::MAX).await?.rate();
    let start = (OffsetDateTime::now_utc(), stolen()?);
    let out = client::open_loop(&service.url, pictures, capacity * factor, span).await?;
    let belt = BeltSpan::since(start, &service).await?;
    let refused = out.times(429);
    let metrics = reqwest::get(service.at("/metrics")).await?.text().await?;
    let lost = ["beltsight_record_dropped_total", "beltsight_frames_dropped_total"];
    let dropped = metrics
        .lines()
        .filter(|l| lost.iter().any(|name| l.starts_with(name)))
        .filter_map(|l| l.rsplit_once(' ').and_then(|(name, n)| Some((name.to_string(), n.parse().ok()?))))
        .collect();
    let mut failures = BTreeMap::new();
    for why in out.all.iter().filter_map(|o| o.failure.clone()) {
        *failures.entry(why).or_default() += 1;
    }
    let report = OverloadReport {
        capacity,
        offered: out.all.len() as f64 / span.as_secs_f64(),
        answers: answers(&out),
        failures,
        dropped,
        refused_p99_ms: ms(quantile(&refused, 0.99)),
        refused_max_ms: ms(refused.last().copied().unwrap_or_default()),
        belt_alone,
        belt,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(report)
}

/// Swaps the serving student `swaps` times between two copies of `model`, beside a running belt and 8 requests at once.
/// After each swap a picture must be judged by the student that was loaded.
///
/// # Errors
/// When the service can't be started.
pub async fn swaps(model: &std::path::Path, pictures: Vec<Bytes>, swaps: usize) -> Result<SwapsReport> {
    let root = tempfile::tempdir()?;
    for name in ["a", "b"] {
        super::copy_model(model, &root.path().join(name))?;
    }
    let service = MeasuredService::with_config(&root.path().join("a"), ON_CPU, FAST_BELT)?;
    service.ready().await?;
    tokio::time::sleep(Duration::from_secs(5)).await; // the belt's background model settles
    let (url, pictures) = (service.url.clone(), Arc::new(pictures));
    let first = pictures[0].clone();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let load = tokio::spawn(async move {
        let mut all = Outcomes::default();
        while !stopped.is_cancelled() {
            let some = client::closed_loop(&url, pictures.clone(), 8, Duration::from_secs(5), usize::MAX).await?;
            all.wall += some.wall;
            all.all.extend(some.all);
        }
        Ok::<_, anyhow::Error>(all)
    });
    let start = (OffsetDateTime::now_utc(), stolen()?);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let belt_before = BeltSpan::since(start, &service).await?;
    let http = reqwest::Client::new();
    let start = (OffsetDateTime::now_utc(), stolen()?);
    let (mut times, mut wrong, mut refused, mut resident_mb) = (Vec::new(), 0, 0, Vec::new());
    for n in 0..swaps {
        let name = ["b", "a"][n % 2];
        let began = Instant::now();
        let loaded = http.post(service.at(&format!("/v2/repository/models/{name}/load"))).send().await?;
        times.push(began.elapsed());
        refused += usize::from(!loaded.status().is_success());
        // The load keeps every place taken at times: then 429 is the right answer, and the picture is sent again.
        let judged = loop {
            let answer = http.post(&service.url).body(first.clone()).send().await?;
            if answer.status().as_u16() != 429 {
                break answer.json::<serde_json::Value>().await?;
            }
        };
        wrong += usize::from(!judged["model"].as_str().is_some_and(|m| m.starts_with(&format!("{name}@"))));
        if (n + 1) % (swaps / 10).max(1) == 0 {
            resident_mb.push(resident(service.pid())? as f64 / 1e6);
        }
    }
    stop.cancel();
    let out = load.await??;
    times.sort();
    let report = SwapsReport {
        machine: machine(),
        swaps,
        refused,
        wrong,
        p50_ms: ms(quantile(&times, 0.5)),
        p99_ms: ms(quantile(&times, 0.99)),
        answers: answers(&out),
        rate: out.rate(),
        answers_p99_ms: ms(quantile(&out.times(200), 0.99)),
        resident_mb,
        belt_before,
        belt: BeltSpan::since(start, &service).await?,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(report)
}

fn answers(out: &Outcomes) -> BTreeMap<u16, usize> {
    out.all.iter().fold(Default::default(), |mut counts, o| {
        *counts.entry(o.status).or_default() += 1;
        counts
    })
}

impl BeltSpan {
    /// What the service recorded about items captured since `start`: then, and what had been stolen until then.
    async fn since((start, before): (OffsetDateTime, Duration), service: &MeasuredService) -> Result<Self> {
        let stolen_ms = ms(stolen()?.saturating_sub(before));
        tokio::time::sleep(Duration::from_secs(1)).await; // the last ones are still being recorded
        let found = service.verdicts_since(start).await?;
        let mut times: Vec<Duration> =
            found.iter().filter_map(|v| Duration::try_from_secs_f64(v.timings.total_ms / 1e3).ok()).collect();
        times.sort();
        Ok(Self {
            items: found.len(),
            faults: found.iter().filter(|v| v.fault.is_some()).count(),
            p50_ms: ms(quantile(&times, 0.5)),
            p99_ms: ms(quantile(&times, 0.99)),
            slowest: found
                .iter()
                .map(|v| v.timings)
                .max_by(|a, b| a.total_ms.total_cmp(&b.total_ms))
                .unwrap_or_default(),
            stolen_ms,
        })
    }
}

/// Sends `requests` and reports resident memory after the first 5,000 and at the end.
///
/// # Errors
/// When the service can't be started or a request fails.
pub async fn soak(model: &std::path::Path, pictures: Vec<Bytes>, requests: usize) -> Result<()> {
    println!("machine: {}", machine());
    let pictures = Arc::new(pictures);
    let service = MeasuredService::with_config(model, ON_CPU, "")?;
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
