//! The kinds of work, each killed at random moments.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::{
    KillKind, KillsPlan,
    acknowledged::{Acknowledged, Seen, clients, pictures_missing, told},
};
use crate::{
    archive,
    bench::service::{MeasuredService, free_port},
    store::{Store, make_earlier, verify},
};

/// A busy belt whose pictures are small, so that items come soon.
const BELT: &str = "[line]\ndeadline = '500ms'\n[[camera]]\nname = 'belt'\nsource = 'simulated'\n\
    belt = { speed = 1650.0, items_per_minute = 300.0, empty_share = 0.0, frame_rate = 10.0 }";
/// The newest version of the store that [`make_earlier`] knows.
const NEWEST: usize = 7;
/// Verdicts of a store for each kill, up to ten kills; a tenth of them has a picture. Retention is let loose on three times as
/// many.
const VERDICTS: i64 = 1000;
/// With fewer pictures than this left, retention gets a new store.
const FEW: usize = 100;
/// The longest that a service is at work before it is killed, in milliseconds.
const LONGEST: u64 = 2500;

pub(super) struct Trial<'p> {
    plan: &'p KillsPlan,
    folder: TempDir,
    random: ChaCha8Rng,
    seen: Seen,
    pub midway: u32,
    pub lost: usize,
    pub findings: usize,
}

impl<'p> Trial<'p> {
    pub(super) fn new(plan: &'p KillsPlan, kind: KillKind) -> Result<Self> {
        let random = ChaCha8Rng::seed_from_u64(plan.seed * KillKind::ALL.len() as u64 + kind as u64);
        let (folder, seen) = (tempfile::tempdir()?, Arc::default());
        Ok(Self { plan, folder, random, seen, midway: 0, lost: 0, findings: 0 })
    }

    pub(super) fn acknowledged(&self) -> Acknowledged {
        told(&self.seen).clone()
    }

    pub(super) async fn run(&mut self, kind: KillKind) -> Result<()> {
        match kind {
            KillKind::Work => self.work().await,
            KillKind::Archive => self.archive().await,
            KillKind::Retention => self.retention().await,
            KillKind::Restore => self.restore().await,
            KillKind::Migration => self.migration().await,
        }
    }

    async fn work(&mut self) -> Result<()> {
        let data = self.path("data");
        for _ in 0..self.plan.kills {
            let mut service = self.serve(BELT)?;
            service.ready().await?;
            let clients = clients(&service.at(""), &self.seen);
            self.wait(Duration::from_millis(LONGEST)).await;
            self.kill(service.child())?;
            for client in clients {
                client.await?;
            }
            self.check(&data).await?;
        }
        Ok(())
    }

    async fn archive(&mut self) -> Result<()> {
        let mut service = self.serve(BELT)?;
        service.ready().await?;
        let clients = clients(&service.at(""), &self.seen);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let backup = self.path("backup");
        let took = self.whole(&self.archived("first.tar.zst")?).await?;
        for n in 0..self.plan.kills {
            let name = format!("{n}.tar.zst");
            let mut child = self.spawn(&self.archived(&name)?)?;
            self.wait(took).await;
            self.kill(&mut child)?;
            if backup.join(&name).exists() {
                let restored = self.path("restored");
                let report = archive::restore(&backup.join(&name), &restored).await?;
                self.findings += report.verification.findings.len();
                fs::remove_dir_all(restored)?;
            }
        }
        // What is there stays whole, and the next one holds all that was acknowledged before it began.
        let before = self.acknowledged();
        self.whole(&self.archived("last.tar.zst")?).await?;
        for (name, promised) in [("first", Acknowledged::default()), ("last", before)] {
            let to = self.path(name);
            let report = archive::restore(&backup.join(format!("{name}.tar.zst")), &to).await?;
            self.findings += report.verification.findings.len();
            self.lost += promised.missing(&to.join("data")).await?;
        }
        service.child().kill()?;
        for client in clients {
            client.await?;
        }
        self.check(&self.path("data")).await
    }

    async fn retention(&mut self) -> Result<()> {
        let (data, mut promised) = (self.path("data"), 0);
        for _ in 0..self.plan.kills {
            let mut left = pictures(&data);
            if left.len() < FEW {
                let _ = fs::remove_dir_all(&data);
                *told(&self.seen) = Acknowledged::default(); // of a box that is no more
                make_earlier(&data, NEWEST, 3 * self.verdicts()).await?;
                left = pictures(&data);
                let old = SystemTime::now() - Duration::from_secs(86_400);
                left.iter().try_for_each(|path| File::open(path)?.set_modified(old))?;
                let store = Store::open(&data).await?;
                promised = Acknowledged::of(&store).await?.verdicts.len();
                store.close().await;
            }
            let mut service = self.serve("[retention]\npictures_bytes = 1")?;
            service.ready().await?;
            let clients = clients(&service.at(""), &self.seen);
            self.wait(Duration::from_millis(LONGEST / 5)).await;
            // Retention is at it as long as pictures are left: none of them is labeled but the first two.
            self.kill(service.child())?;
            for client in clients {
                client.await?;
            }
            self.check(&data).await?;
            let store = Store::open_to_read(&data).await?;
            self.lost += promised.saturating_sub(Acknowledged::of(&store).await?.verdicts.len());
            store.close().await;
        }
        Ok(())
    }

    async fn restore(&mut self) -> Result<()> {
        let data = self.path("data");
        make_earlier(&data, NEWEST, self.verdicts()).await?;
        self.configure("")?;
        let store = Store::open(&data).await?;
        *told(&self.seen) = Acknowledged::of(&store).await?;
        store.close().await;
        self.whole(&self.archived("box.tar.zst")?).await?;
        let (from, to) = (self.path("backup/box.tar.zst"), self.path("new"));
        let command = ["restore", text(&from)?, "--to", text(&to)?].map(String::from).to_vec();
        let took = self.whole(&command).await?;
        for _ in 0..self.plan.kills {
            fs::remove_dir_all(&to)?;
            let mut child = self.spawn(&command)?;
            self.wait(took).await;
            self.kill(&mut child)?;
            if !to.exists() {
                self.whole(&command).await?;
            }
            self.check(&to.join("data")).await?;
            Store::open(&to.join("data")).await?.close().await; // it goes on
            self.check(&to.join("data")).await?;
        }
        Ok(())
    }

    async fn migration(&mut self) -> Result<()> {
        let data = self.path("data");
        let config = self.configure("")?;
        let nothing = self.path("nothing.csv");
        fs::write(&nothing, "verdict,class,by,at\n")?;
        // It opens the store to write, and has nothing to write.
        let command = ["labels", "import", text(&nothing)?, "--config", text(&config)?].map(String::from).to_vec();
        make_earlier(&data, 1, self.verdicts()).await?;
        let took = self.whole(&command).await?;
        for n in 0..self.plan.kills {
            fs::remove_dir_all(&data)?;
            make_earlier(&data, 1 + n as usize % NEWEST, self.verdicts()).await?;
            let mut child = self.spawn(&command)?;
            self.wait(took).await;
            self.kill(&mut child)?;
            let store = Store::open(&data).await?;
            let all = Acknowledged::of(&store).await?;
            store.close().await;
            self.lost += (self.verdicts() as usize).saturating_sub(all.verdicts.len());
            *told(&self.seen) = all;
            self.check(&data).await?;
        }
        Ok(())
    }

    /// How many verdicts a store begins with.
    fn verdicts(&self) -> i64 {
        VERDICTS * i64::from(self.plan.kills.min(10))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration of the box, with more lines at its end.
    fn configure(&self, rest: &str) -> Result<PathBuf> {
        self.configured(free_port()?, rest)
    }

    fn configured(&self, port: u16, rest: &str) -> Result<PathBuf> {
        let model = self.plan.model.canonicalize()?;
        let (root, version) = (model.parent().context("no parent")?, model.file_name().context("no name")?);
        let config = self.path("beltsight.toml");
        let lines = format!(
            "[server]\nlisten = '127.0.0.1:{port}'\n[model]\nroot = '{}'\nversion = '{}'\ndevice = 'cpu'\n[store]\nfolder = '{}'\n{rest}\n",
            root.display(),
            version.to_string_lossy(),
            self.path("data").display(),
        );
        fs::write(&config, lines)?;
        Ok(config)
    }

    fn serve(&self, rest: &str) -> Result<MeasuredService> {
        let port = free_port()?;
        MeasuredService::start(&self.configured(port, rest)?, port)
    }

    /// The command that archives the box.
    fn archived(&self, name: &str) -> Result<Vec<String>> {
        let (config, backup) = (self.path("beltsight.toml"), self.path("backup"));
        fs::create_dir_all(&backup)?;
        let out = backup.join(name);
        Ok(["archive", "--config", text(&config)?, "--out", text(&out)?, "--with", "key"].map(String::from).to_vec())
    }

    fn spawn(&self, arguments: &[String]) -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        Ok(command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    /// Runs a command to its end; how long it took.
    async fn whole(&self, arguments: &[String]) -> Result<Duration> {
        let started = Instant::now();
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        let done = command.args(arguments).output().await?;
        ensure!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(started.elapsed())
    }

    /// Waits for a random part of `longest`.
    async fn wait(&mut self, longest: Duration) {
        let part = self.random.random_range(0.05..1.0);
        tokio::time::sleep(longest.mul_f64(part)).await;
    }

    /// Ends it at once, and counts whether it was still at it.
    fn kill(&mut self, child: &mut Child) -> Result<()> {
        self.midway += u32::from(child.try_wait()?.is_none());
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Verifies the record in `data`, and looks for all that was acknowledged.
    async fn check(&mut self, data: &Path) -> Result<()> {
        let found = verify(data, None, None).await?;
        let missing = self.acknowledged().missing(data).await? + pictures_missing(data).await?;
        if !found.findings.is_empty() || missing > 0 {
            eprintln!("{missing} missing in {}: {found}", data.display());
        }
        self.findings += found.findings.len();
        self.lost += missing;
        Ok(())
    }
}

/// The kept pictures of the store in `data`.
fn pictures(data: &Path) -> Vec<PathBuf> {
    let days = fs::read_dir(data.join(crate::store::FRAMES)).into_iter().flatten().flatten();
    let files = days.flat_map(|day| fs::read_dir(day.path()).into_iter().flatten().flatten());
    files.map(|file| file.path()).collect()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no UTF-8")
}
