//! The service's side of the rounds: starts them, watches the line beside them, lets a proven candidate take over, and takes
//! it back when it does harm.
//!
//! A round goes through the states of [`RoundState`]: its process, then the shadow run, then a person's approval where one
//! is asked for. `due` says when the next one begins, `process` runs it, `succession` changes the student that serves,
//! `status` tells of it all.
//!
//! Invariant: learning gives way. A round that endangers the line's deadline is killed and goes on later; at every moment
//! the student that serves is one that the registry names.

mod due;
mod process;
mod prune;
mod status;
mod succession;

use std::{
    io, mem,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use self::{
    due::{IdleTime, tests_made},
    process::{ProcessState, RoundProcess},
};
use super::{
    RoundEnd, RoundFolder, RoundOutcome, RoundPlan, RoundSettings,
    gate::{self, PromotionGateRuling, ShadowRun},
    probation::Probation,
    window::BeltWindow,
};
use crate::{
    domain::{Verdict, time::rfc3339_now},
    line::{shadow::Shadow, swap::Swapper},
    metrics::Metrics,
    store::Store,
    student::registry::Registry,
};

pub use status::{Compared, RoundStatus};

/// How often it looks at everything.
const TICK: Duration = Duration::from_millis(500);
/// Looks between two countings of labels.
const COUNT_EVERY: u32 = 6;
/// Share of the newest belt items that may be late while a round runs.
const LATE: f64 = 0.02;

/// What a person orders.
#[derive(Clone, Debug)]
pub enum RoundOrder {
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

/// An order, who gave it, and where the answer goes.
struct OrderRequest {
    order: RoundOrder,
    by: String,
    reply: oneshot::Sender<Result<(), OrderError>>,
}

/// How to give orders and follow the rounds; clones share it.
#[derive(Clone)]
pub struct RoundsHandle {
    orders: mpsc::Sender<OrderRequest>,
    /// Changes every half second at most.
    pub status: watch::Receiver<RoundStatus>,
    /// The store's folder, where the rounds lie.
    pub store: PathBuf,
}

impl RoundsHandle {
    /// Gives `order` in the name of `by`.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn order(&self, order: RoundOrder, by: &str) -> Result<(), OrderError> {
        let stopping = || OrderError::Failed("the service is stopping".into());
        let (reply, answer) = oneshot::channel();
        let request = OrderRequest { order, by: by.into(), reply };
        self.orders.send(request).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// What the keeper needs of the service.
pub struct RoundKeeperParts {
    /// When and how.
    pub settings: RoundSettings,
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
pub fn start(parts: RoundKeeperParts, stop: CancellationToken) -> (RoundsHandle, tokio::task::JoinHandle<()>) {
    let (orders, inbox) = mpsc::channel(4);
    let (status, reader) = watch::channel(RoundStatus::default());
    let handle = RoundsHandle { orders, status: reader, store: parts.folder.clone() };
    let keeper = RoundKeeper {
        parts,
        state: RoundState::Idle,
        belt: BeltWindow::default(),
        probation: None,
        idle: IdleTime::default(),
        status,
        labels_before: 0,
        labels: 0,
        ticks: 0,
        unwritten: Vec::new(),
    };
    (handle, tokio::spawn(keeper.keep(inbox, stop)))
}

/// What the round does.
enum RoundState {
    /// None runs.
    Idle,
    /// Its process learns and examines.
    Process { folder: RoundFolder, process: RoundProcess },
    /// It rests, because the line was late.
    Paused { folder: RoundFolder, until: Instant, failures: u32 },
    /// Its candidate scores live items beside the incumbent.
    Shadow { folder: RoundFolder, ruling: PromotionGateRuling, shadow: Shadow },
    /// Its candidate waits for a person.
    Approval { folder: RoundFolder, ruling: PromotionGateRuling },
}

impl RoundState {
    fn folder(&self) -> Option<&RoundFolder> {
        match self {
            RoundState::Idle => None,
            RoundState::Process { folder, .. }
            | RoundState::Paused { folder, .. }
            | RoundState::Shadow { folder, .. }
            | RoundState::Approval { folder, .. } => Some(folder),
        }
    }
}

struct RoundKeeper {
    parts: RoundKeeperParts,
    state: RoundState,
    belt: BeltWindow,
    probation: Option<Probation>,
    idle: IdleTime,
    status: watch::Sender<RoundStatus>,
    /// Labels when the last round began.
    labels_before: usize,
    /// Labels when they were last counted.
    labels: usize,
    ticks: u32,
    /// Ends of rounds that could not be written yet, for want of room.
    unwritten: Vec<(RoundFolder, RoundOutcome)>,
}

impl RoundKeeper {
    async fn keep(mut self, mut inbox: mpsc::Receiver<OrderRequest>, stop: CancellationToken) {
        self.take_up().await;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(OrderRequest { order, by, reply }) = inbox.recv() => {
                    let _ = reply.send(self.follow(order, &by).await); // whoever asked may have gone
                }
                verdict = self.parts.recorded.recv() => match verdict {
                    Ok(verdict) => self.see(&verdict),
                    Err(broadcast::error::RecvError::Lagged(_)) => {} // a window that misses some still tells
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                _ = ticks.tick() => self.tick().await,
            }
        }
        if let RoundState::Process { process, .. } = &mut self.state {
            process.kill().await; // it goes on when the service does
        }
    }

    /// Takes up what the service left when it last stopped or crashed: labels, idle time, probation, a running round.
    async fn take_up(&mut self) {
        let rounds = RoundFolder::all(&self.parts.folder).unwrap_or_default(); // an unreadable folder fails when one begins
        let last_plan = rounds.last().and_then(|round| round.read::<RoundPlan>("plan.json"));
        self.labels_before = last_plan.map_or(0, |plan| plan.labels);
        self.idle = IdleTime::since_last(&rounds, OffsetDateTime::now_utc());
        let (serving, span) = (self.parts.swapper.infer.card().version.clone(), self.parts.settings.probation);
        self.probation = Probation::resume(&rounds, &serving, span, OffsetDateTime::now_utc());
        self.labels = self.count_labels().await;
        match RoundFolder::all(&self.parts.folder) {
            Ok(rounds) => {
                if let Some(folder) = rounds.into_iter().find(|round| !round.path.join("outcome.json").is_file()) {
                    tracing::info!(round = folder.number, "an interrupted round goes on");
                    self.spawn(folder, 0); // a finished process ends at once
                }
            }
            Err(e) => tracing::error!("the round that was interrupted can't go on: {e}"),
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

    /// Labels since the last round began.
    fn new_labels(&self) -> usize {
        self.labels.saturating_sub(self.labels_before)
    }

    async fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(COUNT_EVERY) {
            self.labels = self.count_labels().await;
        }
        self.unwritten.retain(|(folder, outcome)| folder.write("outcome.json", outcome).is_err());
        self.watch_probation().await;
        match mem::replace(&mut self.state, RoundState::Idle) {
            RoundState::Idle => self.begin_if_due(),
            RoundState::Process { folder, process } => self.watch_process(folder, process).await,
            RoundState::Paused { folder, until, failures } if Instant::now() >= until => self.spawn(folder, failures),
            RoundState::Shadow { folder, ruling, shadow } => self.watch_shadow(folder, ruling, shadow).await,
            waiting => self.state = waiting,
        }
        self.publish();
    }

    fn begin_if_due(&mut self) {
        if self.probation.is_some() {
            return;
        }
        let (settings, idle) = (&self.parts.settings, self.idle.elapsed());
        let trigger = due::trigger(settings, self.labels, self.new_labels(), idle, self.belt.novelty());
        if let Some(trigger) = trigger
            && let Err(e) = self.begin(trigger)
        {
            tracing::error!("a round could not begin: {e}");
            self.idle = IdleTime::default(); // not again at once
        }
    }

    async fn follow(&mut self, order: RoundOrder, by: &str) -> Result<(), OrderError> {
        match order {
            RoundOrder::Start => {
                if let Some(folder) = self.state.folder() {
                    return Err(OrderError::Runs(folder.number));
                }
                self.labels = self.count_labels().await;
                self.begin(by).map_err(|e| OrderError::Failed(e.to_string()))?;
                self.publish();
                Ok(())
            }
            RoundOrder::Stop => {
                let ended = mem::replace(&mut self.state, RoundState::Idle);
                let Some(folder) = ended.folder().cloned() else { return Err(OrderError::None) };
                if let RoundState::Process { mut process, .. } = ended {
                    process.kill().await;
                }
                self.end(&folder, RoundEnd::Stopped, format!("stopped by {by}"), None);
                Ok(())
            }
            RoundOrder::Approve => match mem::replace(&mut self.state, RoundState::Idle) {
                RoundState::Approval { folder, ruling } => {
                    self.take_over(folder, ruling, by).await;
                    Ok(())
                }
                other => {
                    self.state = other;
                    Err(OrderError::NotWaiting)
                }
            },
        }
    }

    /// Writes the plan of a new round and starts its process.
    fn begin(&mut self, trigger: &str) -> io::Result<()> {
        let RoundKeeperParts { folder, settings, registry, swapper, .. } = &self.parts;
        let last = RoundFolder::all(folder)?.last().map_or(0, |round| round.number);
        let plan = RoundPlan {
            number: last + 1,
            version: format!("round-{:04}-{:08x}", last + 1, rand::random::<u32>()),
            trigger: trigger.into(),
            labels: self.labels,
            tests_before: tests_made(&RoundFolder::all(folder)?),
            ..settings.plan(folder, &registry.root.join(&swapper.infer.card().version))?
        };
        let folder = RoundFolder::begin(folder, &plan)?;
        tracing::info!(round = plan.number, trigger, labels = plan.labels, "a round begins");
        self.labels_before = plan.labels;
        self.spawn(folder, 0);
        Ok(())
    }

    fn spawn(&mut self, folder: RoundFolder, failures: u32) {
        match RoundProcess::spawn(&folder, &self.parts.settings, failures) {
            Ok(process) => self.state = RoundState::Process { folder, process },
            Err(e) => self.end(&folder, RoundEnd::Failed, format!("its process can't be started: {e}"), None),
        }
    }

    async fn watch_process(&mut self, folder: RoundFolder, mut process: RoundProcess) {
        let late = self.belt.share(|item| item.late);
        let state = match process.state(&folder) {
            ProcessState::Runs if self.belt.full() && late > LATE => {
                process.kill().await;
                return self.pause(folder, late, process.failures);
            }
            ProcessState::Runs => process.end_if_overdue(&folder, &self.parts.settings).await,
            ended => ended,
        };
        match state {
            ProcessState::Runs => self.state = RoundState::Process { folder, process },
            ProcessState::Done => self.examined(folder).await,
            ProcessState::Interrupted(why) => {
                tracing::warn!(round = folder.number, "{why}: it goes on in a new process");
                self.spawn(folder, process.failures + 1);
            }
            ProcessState::Failed(why) => self.end(&folder, RoundEnd::Failed, why, None),
        }
    }

    fn pause(&mut self, folder: RoundFolder, late: f64, failures: u32) {
        tracing::warn!(round = folder.number, "{:.1} % of the belt items are late: learning rests", late * 100.0);
        self.belt = BeltWindow::default();
        self.parts.metrics.rounds.paused.inc();
        self.state = RoundState::Paused { folder, until: Instant::now() + self.parts.settings.pause, failures };
    }

    /// Its process is done: the ruling says whether the shadow run begins.
    async fn examined(&mut self, folder: RoundFolder) {
        let Some(ruling) = folder.read::<PromotionGateRuling>("ruling.json") else {
            return self.end(&folder, RoundEnd::Failed, "its process left no ruling".into(), None);
        };
        let metrics = &self.parts.metrics;
        for (who, accuracy) in ["incumbent", "candidate"].into_iter().zip(ruling.accuracy) {
            metrics.rounds.held_out_accuracy.with_label_values(&[who]).set(accuracy);
        }
        if self.parts.swapper.infer.card().version == folder.version() {
            let why = "it had taken over when the service stopped".into();
            return self.end(&folder, RoundEnd::Promoted, why, Some(ruling));
        }
        if !self.incumbent_serves(&folder) {
            return self.examine_again(folder);
        }
        if !ruling.promote {
            return self.hold(&folder, ruling);
        }
        let (candidate, infer) = (folder.candidate(), self.parts.swapper.infer.clone());
        match spawn_blocking(move || Shadow::start(&candidate, &infer)).await {
            Ok(Ok(shadow)) => self.state = RoundState::Shadow { folder, ruling, shadow },
            Ok(Err(e)) => self.end(&folder, RoundEnd::Held, format!("it is refused: {e}"), Some(ruling)),
            Err(e) => self.end(&folder, RoundEnd::Failed, e.to_string(), Some(ruling)),
        }
    }

    async fn watch_shadow(&mut self, folder: RoundFolder, ruling: PromotionGateRuling, shadow: Shadow) {
        if !self.incumbent_serves(&folder) {
            let _ = spawn_blocking(move || drop(shadow)).await;
            return self.examine_again(folder);
        }
        let tally = shadow.tally();
        let limits = &self.parts.settings.gate;
        self.parts.metrics.rounds.shadow_items.set(tally.items as i64);
        if tally.items < limits.shadow_items && tally.faults == 0 {
            self.state = RoundState::Shadow { folder, ruling, shadow };
            return;
        }
        let _ = spawn_blocking(move || drop(shadow)).await; // waits for its thread
        let run = ShadowRun { items: tally.items, apart: tally.apart, faults: tally.faults };
        let ruling = gate::with_shadow(ruling, run, limits);
        if !ruling.promote {
            self.hold(&folder, ruling);
        } else if self.parts.settings.automatic {
            self.take_over(folder, ruling, "gate").await;
        } else {
            tracing::info!(round = folder.number, "the candidate passed every check and waits for approval");
            self.state = RoundState::Approval { folder, ruling };
        }
    }

    fn hold(&mut self, folder: &RoundFolder, ruling: PromotionGateRuling) {
        for check in ruling.checks.iter().filter(|check| !check.passed) {
            self.parts.metrics.rounds.gate_failures.with_label_values(&[&check.name]).inc();
        }
        self.end(folder, RoundEnd::Held, ruling.reasons(), Some(ruling));
    }

    fn end(&mut self, folder: &RoundFolder, end: RoundEnd, why: String, ruling: Option<PromotionGateRuling>) {
        tracing::info!(round = folder.number, end = end.name(), "the round is over: {why}");
        self.parts.metrics.rounds.ended.with_label_values(&[end.name()]).inc();
        let outcome = RoundOutcome { end, why, at: rfc3339_now(), ruling };
        if let Err(e) = folder.write("outcome.json", &outcome) {
            tracing::error!("round {} can't be closed now: {e}", folder.number); // a restart would go on with it
            self.unwritten.push((folder.clone(), outcome));
        }
        let (store, keep, bytes) =
            (self.parts.folder.clone(), self.parts.settings.keep, self.parts.settings.keep_bytes);
        drop(spawn_blocking(move || {
            prune::prune(&store, keep, bytes)
                .unwrap_or_else(|e| tracing::warn!("old rounds can't be cleared away: {e}"));
        }));
        self.idle = IdleTime::default();
        self.state = RoundState::Idle;
    }
}
