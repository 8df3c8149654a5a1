//! The service's side of the rounds: starts them, watches the line beside them, takes a proven candidate over, and takes
//! it back when it does harm.
//!
//! Invariant: learning gives way. A round that endangers the line's deadline is killed and goes on later; at every moment
//! the student that serves is one that the registry names.

use std::{
    fs, io,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    process::Child,
    sync::{broadcast, mpsc, oneshot, watch},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    AGAIN, End, Folder, Outcome, Plan, Settings, Stage,
    probation::{Probation, Terms},
    run,
    window::Belt,
};
use crate::{
    domain::{Spread, Verdict, time::rfc3339_now},
    files::FolderDraft,
    line::{
        shadow::Shadow,
        swap::{LoadError, Swapper},
    },
    metrics::Metrics,
    rounds::gate::{self, Ruling},
    store::Store,
    student::registry::{Registry, RegistryError},
};

/// How often it looks at everything.
const TICK: Duration = Duration::from_millis(500);
/// Looks between two countings of labels.
const COUNT_EVERY: u32 = 6;
/// Share of the newest belt items that may be late while a round runs.
const LATE: f64 = 0.02;
/// Times a round's process may die before the round is given up.
const TRIES: u32 = 5;

/// An order, who gave it, and where the answer goes.
type Asked = (Order, String, oneshot::Sender<Result<(), OrderError>>);

/// What a person orders.
#[derive(Clone, Debug)]
pub enum Order {
    /// Start a round now.
    Start,
    /// End the round that runs.
    Stop,
    /// Let the waiting candidate serve.
    Approve,
}

/// Why an order can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// A round runs already.
    #[error("round {0} runs already")]
    Runs(u32),
    /// None runs.
    #[error("no round runs")]
    None,
    /// No candidate waits for approval.
    #[error("no candidate waits for approval")]
    NotWaiting,
    /// It can't be started or ended.
    #[error("{0}")]
    Failed(String),
}

/// What the keeper does at present.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Status {
    /// The round that runs; `null` when none does.
    pub round: Option<u32>,
    /// What it does.
    pub stage: Option<Stage>,
    /// The stages that it goes through, in order; empty when none runs.
    pub steps: Vec<Stage>,
    /// How far the stage is, 0 to 1, where it can be told.
    pub progress: Option<f64>,
    /// Seconds until the stage is done, where it can be told.
    pub seconds_left: Option<u64>,
    /// What started it.
    pub trigger: Option<String>,
    /// Labeled items in the store.
    pub labels: usize,
    /// Labels since the last round began.
    pub new_labels: usize,
    /// Mean novelty of the newest belt items; `null` before there are enough of them.
    pub novelty: Option<f32>,
    /// Their brightness, beside what was learned.
    pub brightness: Option<Compared>,
    /// Their sharpness, likewise.
    pub sharpness: Option<Compared>,
    /// The version in probation.
    pub probation: Option<String>,
}

/// A quantity of the newest belt items beside the same of the training pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Compared {
    /// Its mean over the newest belt items.
    pub now: f32,
    /// What the serving student was trained on, where its folder says it.
    pub learned: Option<Spread>,
}

/// How to give orders and follow the rounds; clones share it.
#[derive(Clone)]
pub struct Handle {
    orders: mpsc::Sender<Asked>,
    /// Changes every half second at most.
    pub status: watch::Receiver<Status>,
    /// The store's folder, where the rounds lie.
    pub store: PathBuf,
}

impl Handle {
    /// Gives `order` in the name of `by`.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn order(&self, order: Order, by: &str) -> Result<(), OrderError> {
        let gone = |_| OrderError::Failed("the service is stopping".into());
        let (reply, answer) = oneshot::channel();
        self.orders.send((order, by.into(), reply)).await.map_err(|e| gone(e.to_string()))?;
        answer.await.map_err(|e| gone(e.to_string()))?
    }
}

/// What the keeper needs of the service.
pub struct Parts {
    /// When and how.
    pub settings: Settings,
    /// Labels and frames.
    pub store: Store,
    /// Its folder.
    pub folder: PathBuf,
    /// What serves.
    pub registry: Registry,
    /// Loads students.
    pub swapper: Arc<Swapper>,
    /// All metrics.
    pub metrics: Metrics,
    /// Committed verdicts.
    pub recorded: broadcast::Receiver<Arc<Verdict>>,
    /// Capture to verdict.
    pub deadline: Duration,
}

/// Starts the keeper.
pub fn start(parts: Parts, stop: CancellationToken) -> (Handle, tokio::task::JoinHandle<()>) {
    let (orders, inbox) = mpsc::channel(4);
    let (status, reader) = watch::channel(Status::default());
    let handle = Handle { orders, status: reader, store: parts.folder.clone() };
    let keeper = Keeper {
        parts,
        now: Now::Idle,
        belt: Belt::default(),
        probation: None,
        idle: Idle::default(),
        status,
        seen: 0,
        labels: 0,
        ticks: 0,
        unwritten: Vec::new(),
    };
    (handle, tokio::spawn(keeper.keep(inbox, stop)))
}

/// What the round does.
enum Now {
    Idle,
    Child { folder: Folder, child: Child, began: Instant, tries: u32 },
    Paused { folder: Folder, until: Instant, tries: u32 },
    Shadow { folder: Folder, ruling: Ruling, shadow: Shadow },
    Approval { folder: Folder, ruling: Ruling },
}

impl Now {
    fn folder(&self) -> Option<&Folder> {
        match self {
            Now::Idle => None,
            Now::Child { folder, .. }
            | Now::Paused { folder, .. }
            | Now::Shadow { folder, .. }
            | Now::Approval { folder, .. } => Some(folder),
        }
    }
}

/// How long no round has run: since the last one ended, or, before the first one, since the service started.
struct Idle {
    since: Instant,
    /// Told by the wall clock when the service started; from then on the monotonic one counts.
    before: Duration,
}

impl Default for Idle {
    fn default() -> Self {
        Self { since: Instant::now(), before: Duration::ZERO }
    }
}

impl Idle {
    /// Since the end of the last of `rounds`, so that a restart does not put the next one off.
    fn since_last(rounds: &[Folder], now: OffsetDateTime) -> Self {
        let outcome = rounds.iter().rev().find_map(|round| round.read::<Outcome>("outcome.json"));
        let ended = outcome.and_then(|outcome| OffsetDateTime::parse(&outcome.at, &Rfc3339).ok());
        let before = ended.and_then(|ended| Duration::try_from(now - ended).ok()); // none: the clock was set back
        Self { before: before.unwrap_or_default(), ..Self::default() }
    }

    fn elapsed(&self) -> Duration {
        self.before + self.since.elapsed()
    }
}

struct Keeper {
    parts: Parts,
    now: Now,
    belt: Belt,
    probation: Option<Probation>,
    idle: Idle,
    status: watch::Sender<Status>,
    /// Labels when the last round began.
    seen: usize,
    /// Labels when they were last counted.
    labels: usize,
    ticks: u32,
    /// Ends of rounds that could not be written yet, for want of room.
    unwritten: Vec<(Folder, Outcome)>,
}

impl Keeper {
    async fn keep(mut self, mut inbox: mpsc::Receiver<Asked>, stop: CancellationToken) {
        let rounds = Folder::all(&self.parts.folder).unwrap_or_default(); // an unreadable folder fails when one begins
        // Labels when the last round began, so that a restart forgets none that are new.
        self.seen = rounds.last().and_then(|round| round.read::<Plan>("plan.json")).map_or(0, |plan| plan.labels);
        self.idle = Idle::since_last(&rounds, OffsetDateTime::now_utc());
        let (serving, span) = (self.parts.swapper.infer.card().version.clone(), self.parts.settings.probation);
        self.probation = Probation::resume(&rounds, &serving, span, OffsetDateTime::now_utc());
        self.labels = self.count_labels().await;
        if let Err(e) = self.go_on() {
            tracing::error!("the round that was interrupted can't go on: {e}");
        }
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some((order, by, reply)) = inbox.recv() => {
                    let _ = reply.send(self.follow(order, &by).await); // the asker may have gone
                }
                verdict = self.parts.recorded.recv() => match verdict {
                    Ok(verdict) => self.see(&verdict),
                    Err(broadcast::error::RecvError::Lagged(_)) => {} // a window that misses some still tells
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                _ = ticks.tick() => self.tick().await,
            }
        }
        if let Now::Child { child, .. } = &mut self.now {
            let _ = child.kill().await; // it goes on when the service does
        }
    }

    fn see(&mut self, verdict: &Verdict) {
        self.belt.add(verdict, self.parts.deadline);
        if let Some(probation) = &mut self.probation {
            probation.see(verdict, self.parts.deadline);
        }
    }

    async fn count_labels(&self) -> usize {
        self.parts.store.labeled_items().await.unwrap_or_else(|e| {
            tracing::warn!("labels can't be counted: {e}");
            self.labels
        })
    }

    async fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(COUNT_EVERY) {
            self.labels = self.count_labels().await;
        }
        let labels = self.labels;
        self.unwritten.retain(|(folder, outcome)| folder.write("outcome.json", outcome).is_err());
        self.watch_probation().await;
        match std::mem::replace(&mut self.now, Now::Idle) {
            Now::Idle => {
                if let Some(trigger) = self.trigger(labels)
                    && let Err(e) = self.begin(&trigger, labels)
                {
                    tracing::error!("a round could not begin: {e}");
                    self.idle = Idle::default(); // not again at once
                }
            }
            Now::Child { folder, child, began, tries } => self.watch_child(folder, child, began, tries).await,
            Now::Paused { folder, until, tries } if Instant::now() >= until => self.spawn(folder, tries),
            Now::Shadow { folder, ruling, shadow } => self.watch_shadow(folder, ruling, shadow).await,
            waiting => self.now = waiting,
        }
        self.publish(labels);
    }

    fn trigger(&self, labels: usize) -> Option<String> {
        let settings = &self.parts.settings;
        if labels < settings.min_labels || self.probation.is_some() {
            return None;
        }
        let idle = self.idle.elapsed();
        let new = labels.saturating_sub(self.seen);
        if settings.new_labels > 0 && new >= settings.new_labels {
            Some("labels".into())
        } else if !settings.every.is_zero() && idle >= settings.every {
            Some("schedule".into())
        } else if settings.drift > 0.0
            && idle >= settings.pause
            && new > 0 // without a new label the round would only repeat the last one
            && self.belt.novelty().is_some_and(|novelty| novelty >= settings.drift)
        {
            Some("drift".into())
        } else {
            None
        }
    }

    async fn follow(&mut self, order: Order, by: &str) -> Result<(), OrderError> {
        let running = self.now.folder().map(|folder| folder.number);
        match order {
            Order::Start => {
                if let Some(number) = running {
                    return Err(OrderError::Runs(number));
                }
                self.labels = self.count_labels().await;
                let labels = self.labels;
                self.begin(by, labels).map_err(|e| OrderError::Failed(e.to_string()))?;
                self.publish(labels);
                Ok(())
            }
            Order::Stop => {
                let now = std::mem::replace(&mut self.now, Now::Idle);
                let Some(folder) = now.folder().cloned() else { return Err(OrderError::None) };
                if let Now::Child { mut child, .. } = now {
                    let _ = child.kill().await; // it may have ended by itself
                }
                self.end(&folder, End::Stopped, format!("stopped by {by}"), None);
                Ok(())
            }
            Order::Approve => match std::mem::replace(&mut self.now, Now::Idle) {
                Now::Approval { folder, ruling } => {
                    self.take_over(folder, ruling, by).await;
                    Ok(())
                }
                other => {
                    self.now = other;
                    Err(OrderError::NotWaiting)
                }
            },
        }
    }

    /// Writes the plan of a new round and starts its process.
    fn begin(&mut self, trigger: &str, labels: usize) -> io::Result<()> {
        let parts = &self.parts;
        let last = Folder::all(&parts.folder)?.last().map_or(0, |round| round.number);
        let settings = &parts.settings;
        let absolute = |path: &PathBuf| std::path::absolute(path);
        let plan = Plan {
            number: last + 1,
            trigger: trigger.into(),
            started: rfc3339_now(),
            labels,
            store: absolute(&parts.folder)?,
            incumbent: absolute(&parts.registry.root.join(&parts.swapper.infer.card().version))?,
            train: settings.train.clone(),
            distill: settings.distill.clone(),
            base: settings.base.as_ref().map(absolute).transpose()?,
            held_out: settings.held_out.as_ref().map(absolute).transpose()?,
            held_out_share: settings.held_out_share,
            unlabeled: settings.unlabeled,
            memory: settings.memory,
            gate: settings.gate.clone(),
        };
        let folder = Folder::new(&parts.folder, plan.number);
        folder.write("plan.json", &plan)?;
        tracing::info!(round = plan.number, trigger, labels, "a round begins");
        self.seen = labels;
        self.spawn(folder, 0);
        Ok(())
    }

    /// Goes on with a round that the service's last stop or crash interrupted.
    fn go_on(&mut self) -> io::Result<()> {
        let rounds = Folder::all(&self.parts.folder)?;
        let Some(folder) = rounds.into_iter().find(|round| !round.path.join("outcome.json").is_file()) else {
            return Ok(());
        };
        tracing::info!(round = folder.number, "an interrupted round goes on");
        self.spawn(folder, 0); // a finished child ends at once
        Ok(())
    }

    fn spawn(&mut self, folder: Folder, tries: u32) {
        let spawned = || {
            let log = fs::File::options().create(true).append(true).open(folder.path.join("round.log"))?;
            let settings = &self.parts.settings;
            let mut own = Command::new("taskset");
            own.arg("--cpu-list").arg(run::cpus(settings.spare_cores)?);
            own.arg(std::env::current_exe()?).arg("round").arg(&folder.path);
            let mut command = run::capped(&own, settings.memory);
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            tokio::process::Command::from(command).kill_on_drop(true).spawn()
        };
        match spawned() {
            Ok(child) => self.now = Now::Child { folder, child, began: Instant::now(), tries: tries + 1 },
            Err(e) => self.end(&folder, End::Failed, format!("its process can't be started: {e}"), None),
        }
    }

    async fn watch_child(&mut self, folder: Folder, mut child: Child, began: Instant, tries: u32) {
        let settings = &self.parts.settings;
        match child.try_wait() {
            Ok(None) => {
                let late = self.belt.share(|seen| seen.late);
                if self.belt.full() && late > LATE {
                    let _ = child.kill().await; // it may have ended this moment
                    self.belt = Belt::default();
                    let (percent, pause) = (late * 100.0, settings.pause);
                    tracing::warn!(round = folder.number, "{percent:.1} % of the belt items are late: learning rests");
                    self.parts.metrics.rounds_paused.inc();
                    self.now = Now::Paused { folder, until: Instant::now() + pause, tries };
                } else if began.elapsed() > settings.timeout {
                    let _ = child.kill().await; // as above
                    self.end(&folder, End::Failed, format!("it took longer than {:?}", settings.timeout), None);
                } else if began.elapsed() > settings.stall && folder.still_for() > settings.stall {
                    // A program that finds no memory for a thread of its own may wait for that thread for ever.
                    let _ = child.kill().await; // as above
                    let why = format!("nothing happened for {:?}", settings.stall);
                    if tries < TRIES {
                        tracing::warn!(round = folder.number, "{why}: its process was ended, it goes on in a new one");
                        self.spawn(folder, tries);
                    } else {
                        self.end(&folder, End::Failed, why, None);
                    }
                } else {
                    self.now = Now::Child { folder, child, began, tries };
                }
            }
            Ok(Some(status)) if status.success() => self.examined(folder).await,
            Ok(Some(status)) if status.code().is_none_or(|code| code == i32::from(AGAIN)) && tries < TRIES => {
                tracing::warn!(round = folder.number, "its process ended with {status}: it goes on in a new one");
                self.spawn(folder, tries);
            }
            Ok(Some(status)) => {
                let log = fs::read_to_string(folder.path.join("round.log")).unwrap_or_default();
                // The learning program's own words, then those of the process that ran it.
                let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
                let last = lines[lines.len().saturating_sub(2)..].join("; ");
                self.end(&folder, End::Failed, format!("its process ended with {status}: {last}"), None);
            }
            Err(e) => self.end(&folder, End::Failed, format!("its process is lost: {e}"), None),
        }
    }

    async fn examined(&mut self, folder: Folder) {
        let Some(ruling) = folder.read::<Ruling>("ruling.json") else {
            return self.end(&folder, End::Failed, "its process left no ruling".into(), None);
        };
        let metrics = &self.parts.metrics;
        for (who, accuracy) in ["incumbent", "candidate"].into_iter().zip(ruling.accuracy) {
            metrics.held_out_accuracy.with_label_values(&[who]).set(accuracy);
        }
        if !ruling.promote {
            return self.hold(&folder, ruling);
        }
        if self.parts.swapper.infer.card().version == folder.version() {
            return self.end(&folder, End::Promoted, "it had taken over when the service stopped".into(), Some(ruling));
        }
        let (candidate, infer) = (folder.candidate(), self.parts.swapper.infer.clone());
        match spawn_blocking(move || Shadow::start(&candidate, &infer)).await {
            Ok(Ok(shadow)) => self.now = Now::Shadow { folder, ruling, shadow },
            Ok(Err(e)) => self.end(&folder, End::Held, format!("it is refused: {e}"), Some(ruling)),
            Err(e) => self.end(&folder, End::Failed, e.to_string(), Some(ruling)),
        }
    }

    async fn watch_shadow(&mut self, folder: Folder, ruling: Ruling, shadow: Shadow) {
        let tally = shadow.tally();
        let limits = &self.parts.settings.gate;
        self.parts.metrics.shadow_items.set(tally.items as i64);
        if tally.items < limits.shadow_items && tally.faults == 0 {
            self.now = Now::Shadow { folder, ruling, shadow };
            return;
        }
        let _ = spawn_blocking(move || drop(shadow)).await; // waits for its thread
        let seen = gate::Shadow { items: tally.items, apart: tally.apart, faults: tally.faults };
        let ruling = gate::with_shadow(ruling, seen, limits);
        if !ruling.promote {
            self.hold(&folder, ruling);
        } else if self.parts.settings.automatic {
            self.take_over(folder, ruling, "gate").await;
        } else {
            tracing::info!(round = folder.number, "the candidate passed every check and waits for approval");
            self.now = Now::Approval { folder, ruling };
        }
    }

    fn hold(&mut self, folder: &Folder, ruling: Ruling) {
        for check in ruling.checks.iter().filter(|check| !check.passed) {
            self.parts.metrics.gate_failures.with_label_values(&[&check.name]).inc();
        }
        self.end(folder, End::Held, ruling.reasons(), Some(ruling));
    }

    /// Puts the candidate among the models, hands the line over to it, and watches it from then on.
    async fn take_over(&mut self, folder: Folder, ruling: Ruling, by: &str) {
        let (registry, swapper) = (self.parts.registry.clone(), self.parts.swapper.clone());
        let (from, version, by) = (folder.candidate(), folder.version(), by.to_string());
        let found = ruling.checks.iter().find(|check| check.name == "better");
        let why = found.map_or_else(String::new, |check| check.found.clone());
        let reason = why.clone();
        let taken = spawn_blocking(move || -> Result<(), TakeOverError> {
            install(&from, &registry.root, &version)?;
            let turn = swapper.turn();
            swapper.load(&version, &turn)?;
            Ok(registry.promote(&version, &by, &reason)?)
        });
        let taken = taken.await.unwrap_or_else(|e| Err(TakeOverError::Files(io::Error::other(e))));
        match taken {
            Ok(()) => {
                let expected = ruling.disagreement.max(self.shadow_share(&ruling));
                let terms =
                    Terms { began: OffsetDateTime::now_utc(), before: self.belt.share(|seen| !seen.passed), expected };
                self.probation = Some(Probation::begin(&folder, terms, self.parts.settings.probation));
                self.end(&folder, End::Promoted, why, Some(ruling));
            }
            Err(e) => self.end(&folder, End::Failed, format!("it could not take over: {e}"), Some(ruling)),
        }
    }

    /// Share of the shadow run's items on which the candidate differed.
    fn shadow_share(&self, ruling: &Ruling) -> f64 {
        ruling.shadow.map_or(0.0, |shadow| shadow.apart as f64 / shadow.items.max(1) as f64)
    }

    async fn watch_probation(&mut self) {
        let Some(mut probation) = self.probation.take() else { return };
        if self.parts.swapper.infer.card().version != probation.version {
            return; // somebody changed it meanwhile
        }
        if let Err(e) = probation.read_tests(&self.parts.store).await {
            tracing::warn!("challenge tests can't be looked at: {e}"); // the next look may succeed
        }
        if let Some(why) = probation.trouble() {
            tracing::error!("{} is taken back: {why}", probation.version);
            let (registry, swapper) = (self.parts.registry.clone(), self.parts.swapper.clone());
            let back = spawn_blocking(move || -> Result<(), TakeOverError> {
                let turn = swapper.turn();
                let version = registry.rollback("probation", &why)?;
                swapper.load(&version, &turn)?;
                Ok(())
            });
            match back.await {
                Ok(Ok(())) => self.parts.metrics.rollbacks.inc(),
                Ok(Err(e)) => tracing::error!("it could not be taken back: {e}"),
                Err(e) => tracing::error!("{e}"),
            }
        } else if probation.over() {
            tracing::info!("{} has passed its probation", probation.version);
        } else {
            self.probation = Some(probation);
        }
    }

    fn end(&mut self, folder: &Folder, end: End, why: String, ruling: Option<Ruling>) {
        tracing::info!(round = folder.number, end = end.name(), "the round is over: {why}");
        self.parts.metrics.rounds.with_label_values(&[end.name()]).inc();
        let outcome = Outcome { end, why, at: rfc3339_now(), ruling };
        if let Err(e) = folder.write("outcome.json", &outcome) {
            tracing::error!("round {} can't be closed now: {e}", folder.number); // a restart would go on with it
            self.unwritten.push((folder.clone(), outcome));
        }
        self.idle = Idle::default();
        self.now = Now::Idle;
    }

    fn publish(&self, labels: usize) {
        let novelty = self.belt.novelty();
        let card = self.parts.swapper.infer.card();
        let reference = card.reference.as_deref();
        let brightness = self.belt.mean(|seen| Some(seen.optics?.brightness));
        let sharpness = self.belt.mean(|seen| Some(seen.optics?.sharpness));
        let (stage, progress, left) = match &self.now {
            Now::Idle => (None, None, None),
            Now::Paused { until, .. } => {
                (Some(Stage::Paused), None, Some(until.saturating_duration_since(Instant::now()).as_secs()))
            }
            Now::Approval { .. } => (Some(Stage::Approval), None, None),
            Now::Shadow { shadow, .. } => {
                let share = shadow.tally().items as f64 / self.parts.settings.gate.shadow_items.max(1) as f64;
                (Some(Stage::Shadow), Some(share.min(1.0)), None)
            }
            Now::Child { folder, began, .. } => {
                let (stage, progress) = folder.stage();
                let left =
                    progress.filter(|p| *p > 0.02).map(|p| (began.elapsed().as_secs_f64() * (1.0 - p) / p) as u64);
                (Some(stage), progress, left)
            }
        };
        let metrics = &self.parts.metrics;
        for known in Stage::ALL {
            metrics.round_stage.with_label_values(&[known.name()]).set(i64::from(stage == Some(known)));
        }
        metrics.round_progress.set(progress.unwrap_or(0.0));
        metrics.labels_new.set(labels.saturating_sub(self.seen) as i64);
        let folder = self.now.folder();
        let plan = folder.and_then(|f| f.read::<Plan>("plan.json"));
        self.status.send_replace(Status {
            round: folder.map(|f| f.number),
            stage,
            steps: plan.as_ref().map(|plan| plan.steps(self.parts.settings.automatic)).unwrap_or_default(),
            progress,
            seconds_left: left,
            trigger: plan.map(|plan| plan.trigger),
            labels,
            new_labels: labels.saturating_sub(self.seen),
            novelty,
            brightness: brightness.map(|now| Compared { now, learned: reference.and_then(|r| r.brightness) }),
            sharpness: sharpness.map(|now| Compared { now, learned: reference.and_then(|r| r.sharpness) }),
            probation: self.probation.as_ref().map(|p| p.version.clone()),
        });
    }
}

#[derive(Debug, thiserror::Error)]
enum TakeOverError {
    #[error(transparent)]
    Files(#[from] io::Error),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Copies a model folder to `root/version`; it appears there whole or not at all.
fn install(from: &std::path::Path, root: &std::path::Path, version: &str) -> io::Result<()> {
    let draft = FolderDraft::begin(&root.join(version))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), draft.path().join(entry.file_name()))?;
    }
    draft.replace() // what is there is left of a take-over that broke off before the registry named it
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_does_not_put_the_next_round_off() {
        let folder = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let hours = |n: i64| now + time::Duration::hours(n);
        let ended = |number: u32, at: OffsetDateTime| {
            let round = Folder::new(folder.path(), number);
            let at = at.format(&Rfc3339).unwrap();
            round.write("outcome.json", &Outcome { end: End::Held, why: String::new(), at, ruling: None }).unwrap();
            round
        };
        let idle = |rounds: &[Folder]| Idle::since_last(rounds, now).elapsed().as_secs() / 3600;
        assert_eq!(idle(&[]), 0, "before the first round it counts from the start of the service");
        let rounds = [ended(1, hours(-30)), ended(2, hours(-7))];
        assert_eq!(idle(&rounds), 7);
        assert_eq!(idle(&[rounds[0].clone(), Folder::new(folder.path(), 3)]), 30, "one that was broken off has no end");
        assert_eq!(idle(&[ended(4, hours(5))]), 0, "the clock was set back");
    }
}
