//! `/classify` against the same work in a plain loop, and against a Python service on the same cores.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde::Serialize;

use super::{client, machine, quantile};
use crate::{
    domain::ms,
    picture::pixels,
    student::{
        engine::{Device, Engine, cores, stack},
        manifest::Manifest,
    },
};

/// What `beltsight bench classify` measures.
pub struct Plan {
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

/// One round's figures: requests a second and milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// decode + resize + inference in one loop, operator threads = cores: a second.
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
pub async fn run(plan: Plan) -> Result<Vec<Round>> {
    let manifest = Manifest::read(&plan.model)?;
    let onnx = manifest.onnx(&plan.model, "float32")?;
    let pictures = Arc::new(plan.pictures);
    println!("machine: {}", machine());
    let device = plan.device;
    println!(
        "model: {} float32, {device}, {} pictures, {:?} a measurement\n",
        manifest.version,
        pictures.len(),
        plan.span
    );
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        let times = direct(&onnx, &pictures, plan.span, device, cores())?;
        let loops_rate = std::thread::scope(|scope| -> Result<f64> {
            let one = || direct(&onnx, &pictures, plan.span, device, 1);
            let loops: Vec<_> = (0..cores()).map(|_| scope.spawn(one)).collect();
            let mut done = 0;
            for l in loops {
                done += l.join().map_err(|_| anyhow::anyhow!("a loop panicked"))??.len();
            }
            Ok(done as f64 / plan.span.as_secs_f64())
        })?;
        let service = Service::ours(&plan.model, device)?;
        service.ready().await?;
        client::closed_loop(&service.url, pictures.clone(), 8, Duration::from_secs(2), usize::MAX).await?;
        let busy = client::closed_loop(&service.url, pictures.clone(), 8, plan.span, usize::MAX).await?;
        let alone = client::closed_loop(&service.url, pictures.clone(), 1, plan.span, usize::MAX).await?;
        drop(service);
        if busy.times(200).len() != busy.all.len() {
            bail!("{} of {} requests failed", busy.all.len() - busy.times(200).len(), busy.all.len());
        }
        let python = match &plan.python {
            None => None,
            Some(python) => {
                let service = Service::python(python, &plan.model, &manifest)?;
                service.ready().await?;
                client::closed_loop(&service.url, pictures.clone(), 8, Duration::from_secs(2), usize::MAX).await?;
                let out = client::closed_loop(&service.url, pictures.clone(), 8, plan.span, usize::MAX).await?;
                Some((out.rate(), ms(quantile(&out.times(200), 0.99))))
            }
        };
        let round = Round {
            loop_rate: times.len() as f64 / plan.span.as_secs_f64(),
            loops_rate,
            loop_p50_ms: ms(quantile(&times, 0.5)),
            rate: busy.rate(),
            p50_ms: ms(quantile(&busy.times(200), 0.5)),
            p99_ms: ms(quantile(&busy.times(200), 0.99)),
            alone_p50_ms: ms(quantile(&alone.times(200), 0.5)),
            python,
        };
        println!("{}", serde_json::to_string(&round)?);
        rounds.push(round);
    }
    summary(&rounds);
    Ok(rounds)
}

fn summary(rounds: &[Round]) {
    let median = |f: &dyn Fn(&Round) -> f64| {
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
        let python = |r: &Round| r.python.unwrap_or_default();
        println!("  Python service, 8 at once            {:>8.1} requests/s", median(&|r| python(r).0));
        println!("    throughput, ours over Python       {:>8.2}", median(&|r| r.rate / python(r).0));
        println!("    p99, ours over Python              {:>8.2}", median(&|r| r.p99_ms / python(r).1));
    }
}

/// decode + resize + inference in a loop: the time of each picture.
fn direct(onnx: &[u8], pictures: &[Bytes], span: Duration, device: Device, threads: usize) -> Result<Vec<Duration>> {
    let mut engine = Engine::open(onnx, device, threads)?;
    crate::line::infer::warm_up(&mut engine, 1)?;
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

/// `[model]` of every service that is measured beside a belt.
pub const ON_CPU: &str = "device = 'cpu'";

/// A service in a process of its own, killed when dropped.
pub struct Service {
    child: Child,
    /// Address of its `/classify`.
    pub url: String,
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be gone already
        let _ = self.child.wait();
    }
}

impl Service {
    /// Our service on the float32 file of `model`, without a camera.
    ///
    /// # Errors
    /// The system's.
    pub fn ours(model: &Path, device: Device) -> Result<Self> {
        Self::with_config(model, &format!("device = '{device}'\nprecision = 'float32'"), "")
    }

    /// Our service with more lines in the configuration: `model_lines` inside `[model]`, `rest` at the end.
    ///
    /// # Errors
    /// The system's.
    pub fn with_config(model: &Path, model_lines: &str, rest: &str) -> Result<Self> {
        let port = free_port()?;
        let folder = tempfile::tempdir()?;
        let model = model.canonicalize()?;
        let (root, version) = (model.parent().context("no parent")?, model.file_name().context("no name")?);
        let text = format!(
            "[server]\nlisten = '127.0.0.1:{port}'\n[model]\nroot = '{}'\nversion = '{}'\n{model_lines}\n[store]\nfolder = '{}'\n{rest}\n",
            root.display(),
            version.to_string_lossy(),
            folder.path().display(),
        );
        let config = folder.path().join("beltsight.toml");
        std::fs::write(&config, text)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--config"])
            .arg(&config)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, url: format!("http://127.0.0.1:{port}/classify"), _folder: Some(folder) })
    }

    fn python(python: &Path, model: &Path, manifest: &Manifest) -> Result<Self> {
        let port = free_port()?;
        let child = Command::new(python)
            .arg("deploy/bench/service.py")
            .arg(model.join(&manifest.files["float32"].name))
            .args([port.to_string(), manifest.input.side.to_string()])
            .spawn()
            .with_context(|| format!("{} could not be started", python.display()))?;
        Ok(Self { child, url: format!("http://127.0.0.1:{port}/classify"), _folder: None })
    }

    /// Process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address of another path.
    pub fn at(&self, path: &str) -> String {
        self.url.replace("/classify", path)
    }

    /// Waits until `/readyz` answers 200; returns how long it took.
    ///
    /// # Errors
    /// When it does not within 30 s.
    pub async fn ready(&self) -> Result<Duration> {
        let started = Instant::now();
        let url = self.at("/readyz");
        while started.elapsed() < Duration::from_secs(30) {
            if reqwest::get(&url).await.is_ok_and(|r| r.status().is_success()) {
                return Ok(started.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("{url} was not ready within 30 s")
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
