//! `beltsight serve` as a process of its own, as a factory runs it.
#![allow(clippy::unwrap_used, dead_code)] // not every test binary uses everything

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

/// A process that ends with the test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The service.
pub struct Served {
    pub process: Running,
    /// Where it listens.
    pub url: String,
    log: Arc<Mutex<Vec<String>>>,
}

/// A configuration in `folder` that serves the models in `models` on a free port, with a store in `folder/data` and more
/// lines: those of `server` stand in `[server]`, those of `rest` at the end.
pub fn configured(folder: &Path, models: &Path, server: &str, rest: &str) -> PathBuf {
    let config = folder.join("beltsight.toml");
    let (models, store) = (models.display(), folder.join("data"));
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\n{server}\n[model]\nroot = '{models}'\ndevice = 'cpu'\n[store]\nfolder = '{}'\n{rest}\n",
        store.display()
    );
    std::fs::write(&config, text).unwrap();
    config
}

/// The models that are shipped.
pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

impl Served {
    /// Starts it and waits until it listens. What it said, when it does not start.
    pub fn start(config: &Path, environment: &[(&str, &str)]) -> Result<Self, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_beltsight"))
            .args(["serve", "--config"])
            .arg(config)
            .env("RUST_LOG", "info,ort=warn")
            .env("NO_COLOR", "1")
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut served = Self { process: Running(child), url: String::new(), log: Arc::default() };
        for line in lines.by_ref() {
            let url = line.split_once("listening on ").map(|(_, url)| url.trim().to_string());
            served.log.lock().unwrap().push(line);
            if let Some(url) = url {
                served.url = url;
                break;
            }
        }
        if served.url.is_empty() {
            let _ = served.process.0.wait();
            return Err(served.log());
        }
        let log = served.log.clone();
        // Reads on, so that the service never waits for a full pipe; a failed test shows what it said.
        std::thread::spawn(move || {
            for line in lines {
                println!("{line}");
                log.lock().unwrap().push(line);
            }
        });
        Ok(served)
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}
