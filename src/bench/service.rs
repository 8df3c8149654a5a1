//! The service that is measured: a process of its own, as in a factory; whoever measures is its client.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use time::OffsetDateTime;

use crate::{
    domain::Verdict,
    student::{engine::Device, manifest::Manifest},
};

/// `[model]` of every service that is measured beside a belt.
pub const ON_CPU: &str = "device = 'cpu'";

/// A service in a process of its own, killed when dropped.
pub struct MeasuredService {
    child: Child,
    /// Address of its `/classify`.
    pub url: String,
    _folder: Option<tempfile::TempDir>,
}

impl Drop for MeasuredService {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be gone already
        let _ = self.child.wait();
    }
}

impl MeasuredService {
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
        let mut service = Self::start(&config, port)?;
        service._folder = Some(folder);
        Ok(service)
    }

    /// Our service with the configuration `config`, in which it listens on `port`.
    ///
    /// # Errors
    /// The system's.
    pub fn start(config: &Path, port: u16) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--config"])
            .arg(config)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, url: format!("http://127.0.0.1:{port}/classify"), _folder: None })
    }

    /// Its process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The Python service on the float32 file of `model`.
    ///
    /// # Errors
    /// The system's.
    pub fn python(python: &Path, model: &Path, manifest: &Manifest) -> Result<Self> {
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

    /// Every belt verdict about an item captured since `start`, newest first.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn verdicts_since(&self, start: OffsetDateTime) -> Result<Vec<Verdict>> {
        let (mut found, mut before) = (Vec::<Verdict>::new(), String::new());
        loop {
            let page = reqwest::get(self.at(&format!("/verdicts?source=belt&limit=500{before}"))).await?;
            let page: serde_json::Value = page.error_for_status()?.json().await?;
            let verdicts: Vec<Verdict> = serde_json::from_value(page["verdicts"].clone())?;
            let older = verdicts.last().is_none_or(|v| v.time < start);
            found.extend(verdicts.into_iter().filter(|v| v.time >= start));
            match page["next"].as_i64() {
                Some(next) if !older => before = format!("&before={next}"),
                _ => return Ok(found),
            }
        }
    }
}

/// A port on which nobody listens.
///
/// # Errors
/// The system's.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
