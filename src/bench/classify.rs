//! `/classify` against the same work in a plain loop, and against a Python service on the same cores.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use bytes::Bytes;
use serde::Serialize;

use super::{
    client::{self, Outcomes},
    machine, quantile,
    service::MeasuredService,
};
use crate::{
    domain::ms,
    picture::pixels,
    student::{
        engine::{Device, Engine, cores, stack},
        manifest::Manifest,
    },
};

/// What `beltsight bench classify` measures.
pub struct ClassifyBenchPlan {
    /// Model folder; its float32 file is used, because the Python side runs that one too.
    pub model: PathBuf,
    /// Where it runs.
    pub device: Device,
    /// JPEGs to send.
    pub pictures: Vec<Bytes>,
    /// Length of each measurement.
    pub span: Duration,
    /// Rounds; the parts of a round follow each other, so that all see the same machine.
    pub rounds: usize,
    /// Python with fastapi, uvicorn, onnxruntime, pillow; none leaves that part out.
    pub python: Option<PathBuf>,
}

/// One round's figures: requests per second and milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct ClassifyRound {
    /// decode + resize + inference in one loop, operator threads = cores: pictures per second.
    pub loop_rate: f64,
    /// The same, as one loop per core with one operator thread each.
    pub loops_rate: f64,
    /// One picture in the first loop, p50.
    pub loop_p50_ms: f64,
    /// `/classify` at concurrency 8.
    pub rate: f64,
    /// p50 and p99 at concurrency 8.
    pub p50_ms: f64,
    /// p99 at concurrency 8.
    pub p99_ms: f64,
    /// p50 at concurrency 1.
    pub alone_p50_ms: f64,
    /// The Python service at concurrency 8: rate and p99.
    pub python: Option<(f64, f64)>,
}

/// Runs the plan and prints a table; returns the rounds.
///
/// # Errors
/// When a service can't be started or a request fails.
pub async fn run(mut plan: ClassifyBenchPlan) -> Result<Vec<ClassifyRound>> {
    let manifest = Manifest::read(&plan.model)?;
    let onnx = manifest.onnx(&plan.model, "float32")?;
    let pictures = Arc::new(std::mem::take(&mut plan.pictures));
    println!("machine: {}", machine());
    println!(
        "model: {} float32, {}, {} pictures, {:?} per measurement\n",
        manifest.version,
        plan.device,
        pictures.len(),
        plan.span
    );
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        let round = measure_round(&plan, &manifest, &onnx, &pictures).await?;
        println!("{}", serde_json::to_string(&round)?);
        rounds.push(round);
    }
    print_summary(&rounds);
    Ok(rounds)
}

async fn measure_round(
    plan: &ClassifyBenchPlan,
    manifest: &Manifest,
    onnx: &[u8],
    pictures: &Arc<Vec<Bytes>>,
) -> Result<ClassifyRound> {
    let (device, span) = (plan.device, plan.span);
    let times = run_directly(onnx, pictures, span, device, cores())?;
    let loops_rate = std::thread::scope(|scope| -> Result<f64> {
        let one = || run_directly(onnx, pictures, span, device, 1);
        let loops: Vec<_> = (0..cores()).map(|_| scope.spawn(one)).collect();
        let mut done = 0;
        for l in loops {
            done += l.join().map_err(|_| anyhow::anyhow!("a loop panicked"))??.len();
        }
        Ok(done as f64 / span.as_secs_f64())
    })?;
    let service = MeasuredService::ours(&plan.model, device)?;
    let busy = measure_busy(&service, pictures, span).await?;
    let alone = client::closed_loop(&service.url, pictures.clone(), 1, span, usize::MAX).await?;
    drop(service);
    if busy.times(200).len() != busy.all.len() {
        bail!("{} of {} requests failed", busy.all.len() - busy.times(200).len(), busy.all.len());
    }
    let python = match &plan.python {
        None => None,
        Some(python) => {
            let service = MeasuredService::python(python, &plan.model, manifest)?;
            let busy = measure_busy(&service, pictures, span).await?;
            Some((busy.rate(), ms(quantile(&busy.times(200), 0.99))))
        }
    };
    Ok(ClassifyRound {
        loop_rate: times.len() as f64 / span.as_secs_f64(),
        loops_rate,
        loop_p50_ms: ms(quantile(&times, 0.5)),
        rate: busy.rate(),
        p50_ms: ms(quantile(&busy.times(200), 0.5)),
        p99_ms: ms(quantile(&busy.times(200), 0.99)),
        alone_p50_ms: ms(quantile(&alone.times(200), 0.5)),
        python,
    })
}

/// Sends 8 requests at once for `span`, after two seconds that warm the service up.
async fn measure_busy(service: &MeasuredService, pictures: &Arc<Vec<Bytes>>, span: Duration) -> Result<Outcomes> {
    service.ready().await?;
    client::closed_loop(&service.url, pictures.clone(), 8, Duration::from_secs(2), usize::MAX).await?;
    client::closed_loop(&service.url, pictures.clone(), 8, span, usize::MAX).await
}

fn print_summary(rounds: &[ClassifyRound]) {
    let median = |f: &dyn Fn(&ClassifyRound) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(f).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!("\nmedian of {} rounds", rounds.len());
    println!("  direct loop                          {:>8.1} pictures/s", median(&|r| r.loop_rate));
    println!("  direct, a loop per core              {:>8.1} pictures/s", median(&|r| r.loops_rate));
    println!("  /classify, 8 at once                 {:>8.1} requests/s", median(&|r| r.rate));
    println!("    over the direct loop               {:>8.2}", median(&|r| r.rate / r.loop_rate));
    println!("    over a loop per core               {:>8.2}", median(&|r| r.rate / r.loops_rate));
    println!("    p50, p99                           {:>8.1} {:.1} ms", median(&|r| r.p50_ms), median(&|r| r.p99_ms));
    println!("  /classify alone, p50 over the loop's {:>8.2} ms", median(&|r| r.alone_p50_ms - r.loop_p50_ms));
    if rounds.iter().all(|r| r.python.is_some()) {
        let python = |r: &ClassifyRound| r.python.unwrap_or_default();
        println!("  Python service, 8 at once            {:>8.1} requests/s", median(&|r| python(r).0));
        println!("    throughput, ours over Python       {:>8.2}", median(&|r| r.rate / python(r).0));
        println!("    p99, ours over Python              {:>8.2}", median(&|r| r.p99_ms / python(r).1));
    }
}

/// decode + resize + inference in a loop: the time of each picture.
fn run_directly(
    onnx: &[u8],
    pictures: &[Bytes],
    span: Duration,
    device: Device,
    threads: usize,
) -> Result<Vec<Duration>> {
    let mut engine = Engine::open(onnx, device, threads)?;
    crate::student::open::warm_up(&mut engine, 1)?;
    let (started, mut times) = (Instant::now(), Vec::new());
    while started.elapsed() < span {
        let one = Instant::now();
        let picture = pixels::decode(&pictures[times.len() % pictures.len()], pixels::PixelLimits::default())?;
        let fitted = pixels::fit(&picture, None, engine.side() as u32)?;
        engine.run(stack(&[fitted], engine.side())?.view())?;
        times.push(one.elapsed());
    }
    times.sort();
    Ok(times)
}
