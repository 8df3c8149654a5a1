//! What moves the gates: one file per way of doing it, all on one thread of their own.
//!
//! Invariants: a command that reached nobody, or whose answer is doubtful, is never reported as done; nothing is sent
//! for a command after its `give_up`, because the gate would meet another item; every queue is bounded; every wait has
//! an end; an output whose task panics is down, is told of, and is served anew, and takes no other with it.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    domain::{Action, Verdict},
    line::eject::output::alive::LineAlive,
    metrics::Metrics,
};

pub mod alive;
mod broker;
mod log;
mod modbus;
mod mqtt;
mod numbered;
mod plc;
mod retained;
mod sparkplug;
mod tls;
mod webhook;

pub use broker::Mqtt;
use numbered::GivenCommands;
pub use numbered::NumberedTarget;
pub use plc::Modbus;
pub use webhook::Webhook;
use webhook::WebhookSender;

/// Commands that may wait for one output. At 800 items a minute more than a few means that it hangs.
const QUEUE: usize = 64;

/// A measured speed of the belt counts this long.
pub const SPEED_COUNTS: Duration = Duration::from_secs(2);

/// After `stop`, outputs whose commands' sender is gone have this long to lower what they raised.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// From an output's panic to its being served anew.
const RESTART: Duration = Duration::from_secs(1);

/// What outputs set to move a gate.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Modbus: a coil that is raised for a while.
    pub coil: Option<u16>,
    /// Modbus: a holding register that gets another number, 1 to 65535, with each command.
    pub register: Option<u16>,
    /// The PLC is told beforehand at which count of the encoder to move the gate, and does it by itself.
    pub command: Option<NumberedTarget>,
}

/// One output. In TOML `kind = "modbus" | "mqtt" | "webhook" | "log"` chooses it.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OutputSettings {
    /// A PLC over Modbus TCP.
    Modbus(Modbus),
    /// An MQTT broker.
    Mqtt(Mqtt),
    /// A receiver of signed HTTP requests.
    Webhook(Webhook),
    /// Lines in the service's log; moves nothing.
    Log {},
}

impl OutputSettings {
    /// What `kind` says: a closed set, and what an output without a name is called.
    pub fn kind(&self) -> &'static str {
        match self {
            OutputSettings::Modbus(_) => "modbus",
            OutputSettings::Mqtt(_) => "mqtt",
            OutputSettings::Webhook(_) => "webhook",
            OutputSettings::Log {} => "log",
        }
    }

    /// Whether it measures the belt's speed.
    pub fn measures_speed(&self) -> bool {
        match self {
            OutputSettings::Modbus(modbus) => modbus.speed.is_some(),
            OutputSettings::Mqtt(mqtt) => mqtt.speed.is_some(),
            OutputSettings::Webhook(_) | OutputSettings::Log {} => false,
        }
    }

    /// Whether it tells which lot is on the belt.
    pub fn tells_lot(&self) -> bool {
        match self {
            OutputSettings::Modbus(modbus) => modbus.lot.is_some(),
            OutputSettings::Mqtt(mqtt) => mqtt.lot.is_some(),
            OutputSettings::Webhook(_) | OutputSettings::Log {} => false,
        }
    }

    /// Whether it can stop the line, or lead everything aside.
    pub fn can(&self, action: LineAction) -> bool {
        match (self, action) {
            (OutputSettings::Modbus(modbus), LineAction::StopLine) => modbus.stop_line.is_some(),
            (OutputSettings::Modbus(modbus), LineAction::Divert) => modbus.divert.is_some(),
            (OutputSettings::Mqtt(_) | OutputSettings::Webhook(_), _) => true,
            (OutputSettings::Log {}, _) => false,
        }
    }

    /// Whether it can move a gate.
    ///
    /// # Errors
    /// What the gate lacks.
    pub fn check(&self, target: &Target) -> Result<(), String> {
        match self {
            OutputSettings::Modbus(modbus) => modbus.check(target),
            OutputSettings::Mqtt(mqtt) => mqtt.check(),
            _ if target.command.is_some() => Err(format!("{} can't carry out commands by itself", self.kind())),
            OutputSettings::Webhook(webhook) => webhook.check(),
            OutputSettings::Log {} => Ok(()),
        }
    }
}

/// The item that a command is about, as messages tell it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subject {
    /// Name of the gate.
    pub gate: Arc<str>,
    /// The item's uid, as in its verdict.
    pub uid: Uuid,
    /// Camera name.
    pub camera: String,
    /// Track number on its camera.
    pub track: u64,
    /// `reject` or `divert`.
    pub action: Action,
    /// The most probable class.
    pub class: Option<String>,
    /// When its picture was taken.
    #[serde(with = "time::serde::rfc3339")]
    pub captured: OffsetDateTime,
    /// The lot that was open when it was judged; for the record alone.
    #[serde(skip)]
    pub lot: Option<i64>,
}

impl Subject {
    /// What messages tell about `verdict`.
    pub fn new(gate: Arc<str>, verdict: &Verdict) -> Self {
        Self {
            gate,
            uid: verdict.uid,
            camera: verdict.camera.clone(),
            track: verdict.track,
            action: verdict.decision.action,
            class: verdict.decision.class.clone(),
            captured: verdict.time,
            lot: verdict.lot,
        }
    }
}

/// Move a gate now.
#[derive(Clone, Debug)]
pub struct EjectorCommand {
    /// Counts the commands since the service started; its report carries it.
    pub id: u64,
    /// What moves the gate.
    pub target: Target,
    /// Set where the other side moves the gate by itself, at this count of the encoder.
    pub count: Option<u32>,
    /// The gate stays open for so long from now on, where that depends on the item; zero: as long as it always does.
    pub hold: Duration,
    /// The moment it was for.
    pub due: Instant,
    /// Nothing is sent after this.
    pub give_up: Instant,
    /// The item.
    pub subject: Arc<Subject>,
}

/// How a command went.
#[derive(Clone, Debug)]
pub struct CommandReport {
    /// The command's.
    pub id: u64,
    /// Index of the output in the configuration.
    pub output: usize,
    /// When that was known.
    pub at: Instant,
    /// Acknowledged by the other side, or why not.
    pub result: Result<(), String>,
}

/// What an output tells about the line and its own commands.
#[derive(Clone, Debug)]
pub enum OutputNotice {
    /// The output's task panicked: the output is down, and what it was about to do is lost.
    Broke {
        /// Index of the output in the configuration.
        output: usize,
    },
    /// How a command went.
    Report(CommandReport),
    /// A command that the other side carries out by itself got a number.
    Numbered {
        /// Index of the output in the configuration.
        output: usize,
        /// The number at its gate.
        number: u16,
        /// The encoder's count at which the gate moves.
        target: u32,
        /// The item.
        subject: Arc<Subject>,
    },
    /// The sensor after this gate saw an item.
    Pulse {
        /// Name of the gate, as the other side says it.
        gate: String,
        /// When.
        at: Instant,
    },
    /// The belt's speed.
    Speed {
        /// In m/s, below 0 where the belt runs backwards; NaN where the other side talks nonsense.
        metres_per_second: f64,
        /// When.
        at: Instant,
    },
    /// Which lot is on the belt; told again at will.
    Lot {
        /// Its name; empty: none is.
        name: String,
        /// Who says so: the output's kind.
        by: &'static str,
    },
}

/// A gate with a sensor after it.
#[derive(Clone, Debug)]
pub struct SensedGate {
    /// Name of the gate.
    pub gate: Arc<str>,
    /// Modbus: the sensor's discrete input.
    pub input: Option<u16>,
}

/// A gate that the other side moves by itself.
#[derive(Clone, Debug)]
pub struct NumberedGate {
    /// Name of the gate.
    pub gate: Arc<str>,
    /// How it is told to.
    pub target: NumberedTarget,
}

/// What the line as a whole can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineAction {
    /// Stop.
    StopLine,
    /// Lead everything aside from now on.
    Divert,
}

impl LineAction {
    /// Closed set of names for metrics.
    pub fn name(self) -> &'static str {
        match self {
            LineAction::StopLine => "stop_line",
            LineAction::Divert => "divert",
        }
    }
}

/// How often the line was asked to stop or to lead everything aside: counts that only rise, so that no full queue loses
/// a request, and an output whose connection was broken makes it good.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineRequests {
    /// Times the line was to stop.
    pub stop: u64,
    /// Times everything was to be led aside.
    pub divert: u64,
    /// Why, the last time.
    pub why: String,
    /// Which divert is a flush, after how many seconds that is over where it is known, and whether it is.
    pub flush: Option<(u64, Option<f64>, bool)>,
}

/// What an output is given, besides its commands.
#[derive(Clone)]
struct Outlet {
    index: usize,
    /// Tells the commands of this run of the service from those of another.
    boot: i64,
    /// What it is called in metrics.
    name: Arc<str>,
    output: OutputSettings,
    requests: watch::Receiver<LineRequests>,
    /// How many of them the other side has acknowledged.
    acknowledged: LineRequests,
    sensed: Vec<SensedGate>,
    /// Heartbeats count while it is.
    alive: LineAlive,
    /// What the other side carries out by itself.
    given: GivenCommands,
    notify: Arc<dyn Fn(OutputNotice) + Send + Sync>,
    metrics: Metrics,
}

impl Outlet {
    fn connected(&self, up: bool) {
        self.metrics.eject.output_down.with_label_values(&[&*self.name]).set((!up).into());
    }

    /// The connection broke.
    fn lost(&self) {
        self.connected(false);
        self.metrics.eject.output_reconnects.with_label_values(&[&*self.name]).inc();
    }

    /// Serves the output until `serving` ends; true where it panicked and is to be served anew. Then it is down, that is
    /// told, and a moment has passed. It is not ended with the process: what broke it came from the other side, and would
    /// come again, while the other outputs do their work. The commands that it had taken are late by themselves.
    async fn broke(&self, serving: impl Future<Output = ()>) -> bool {
        let mut serving = pin!(serving);
        let caught = std::future::poll_fn(|context| {
            match catch_unwind(AssertUnwindSafe(|| serving.as_mut().poll(context))) {
                Ok(poll) => poll.map(|()| false),
                Err(_) => Poll::Ready(true), // the panic has said why
            }
        });
        let broke = caught.await;
        if broke {
            self.lost();
            (self.notify)(OutputNotice::Broke { output: self.index });
            tokio::time::sleep(RESTART).await;
        }
        broke
    }

    /// A command as a message: an id that no other command ever has, the item, and until when to act.
    fn message(&self, command: &EjectorCommand) -> Result<Value, String> {
        let left = command.give_up.saturating_duration_since(Instant::now());
        let expires = (OffsetDateTime::now_utc() + left).format(&Rfc3339).map_err(|e| e.to_string())?;
        let mut message = serde_json::to_value(&*command.subject).map_err(|e| e.to_string())?;
        message["event"] = "eject".into();
        message["id"] = format!("{}-{}", self.boot, command.id).into();
        message["expires"] = expires.into();
        if !command.hold.is_zero() {
            message["hold_ms"] = (command.hold.as_millis() as u64).into();
        }
        Ok(message)
    }

    /// What was asked of the line and is not acknowledged, and how many times in all: a stop first.
    fn open(&self) -> Option<(LineAction, u64)> {
        let (requests, done) = (self.requests.borrow(), &self.acknowledged);
        let counts =
            [(LineAction::StopLine, requests.stop, done.stop), (LineAction::Divert, requests.divert, done.divert)];
        let mut open = counts.into_iter().filter(|(action, asked, done)| asked > done && self.output.can(*action));
        open.next().map(|(action, asked, _)| (action, asked))
    }

    /// Whether the other side leads everything aside for a flush alone, which is over.
    fn flushed(&self) -> bool {
        let requests = self.requests.borrow();
        requests.divert == 1 && self.acknowledged.divert == 1 && matches!(requests.flush, Some((1, _, true)))
    }

    /// After how many seconds the first `upto` diverts are over, where they are a flush and that is known.
    fn flush_seconds(&self, action: LineAction, upto: u64) -> Option<f64> {
        self.requests.borrow().flush.filter(|(nth, ..)| action == LineAction::Divert && *nth == upto)?.1
    }

    /// The other side has acknowledged the first `upto` requests.
    fn acknowledge(&mut self, action: LineAction, upto: u64) {
        let done = match action {
            LineAction::StopLine => &mut self.acknowledged.stop,
            LineAction::Divert => &mut self.acknowledged.divert,
        };
        let more = upto.saturating_sub(*done);
        *done = upto;
        self.metrics.eject.line_acknowledged.with_label_values(&[&*self.name, action.name()]).inc_by(more);
    }

    fn report(&self, id: u64, result: Result<(), String>) {
        (self.notify)(OutputNotice::Report(CommandReport { id, output: self.index, at: Instant::now(), result }));
    }
}

/// Makes all outputs ready, each with its name; returns where each takes its commands, and the work of their thread, which
/// runs until `stop`. Heartbeats count while the line is `alive`. `notify` must be quick.
///
/// # Errors
/// A password, secret or certificate that can't be read; the system's.
pub fn start(
    outputs: Vec<(Arc<str>, OutputSettings)>,
    (sensed, numbered): (Vec<SensedGate>, Vec<NumberedGate>),
    requests: &watch::Receiver<LineRequests>,
    notify: impl Fn(OutputNotice) + Send + Sync + 'static,
    metrics: &Metrics,
    alive: &LineAlive,
    stop: CancellationToken,
) -> io::Result<(Vec<mpsc::Sender<EjectorCommand>>, impl FnOnce() + Send + 'static)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let notify: Arc<dyn Fn(OutputNotice) + Send + Sync> = Arc::new(notify);
    let boot = OffsetDateTime::now_utc().unix_timestamp();
    let mut senders = Vec::new();
    let begin = || {
        let mut tasks = Vec::new();
        for (index, (name, output)) in outputs.into_iter().enumerate() {
            metrics.eject.begin(&name);
            let (sender, commands) = mpsc::channel(QUEUE);
            senders.push(sender);
            let outlet = Outlet {
                index,
                boot,
                name,
                output: output.clone(),
                requests: requests.clone(),
                acknowledged: LineRequests::default(),
                sensed: sensed.clone(),
                alive: alive.clone(),
                given: GivenCommands::new(&numbered),
                notify: notify.clone(),
                metrics: metrics.clone(),
            };
            outlet.connected(false);
            tasks.push(match output {
                OutputSettings::Modbus(modbus) => runtime.spawn(modbus::run(modbus, outlet, commands)),
                OutputSettings::Mqtt(mqtt) => {
                    let options = mqtt.options().map_err(io::Error::other)?;
                    runtime.spawn(mqtt::run(mqtt, options, outlet, commands))
                }
                OutputSettings::Webhook(webhook) => {
                    let secret = webhook.secret().map_err(io::Error::other)?;
                    let client = webhook::client(&webhook).map_err(io::Error::other)?;
                    runtime.spawn(webhook::run(WebhookSender { settings: webhook, client, secret }, outlet, commands))
                }
                OutputSettings::Log {} => runtime.spawn(log::run(outlet, commands)),
            });
        }
        Ok(tasks)
    };
    let tasks = match begin() {
        Ok(tasks) => tasks,
        Err(e) => {
            runtime.shutdown_background(); // a task may not drop one
            return Err(e);
        }
    };
    let work = move || {
        runtime.block_on(async {
            stop.cancelled().await;
            let last = Instant::now() + LAST_WORDS;
            for task in tasks {
                let _ = tokio::time::timeout_at(last.into(), task).await;
            }
        });
        runtime.shutdown_background();
    };
    Ok((senders, work))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[tokio::test]
    async fn an_output_that_panics_is_down_is_told_of_and_is_served_anew_with_what_it_knows() {
        let (metrics, told) = (Metrics::new().unwrap(), Arc::<Mutex<Vec<usize>>>::default());
        let kept = told.clone();
        let outlet = Outlet {
            index: 3,
            boot: 0,
            name: "gates".into(),
            output: OutputSettings::Log {},
            requests: watch::channel(LineRequests::default()).1,
            acknowledged: LineRequests::default(),
            sensed: Vec::new(),
            alive: LineAlive::default(),
            given: GivenCommands::default(),
            notify: Arc::new(move |notice| match notice {
                OutputNotice::Broke { output } => kept.lock().unwrap_or_else(PoisonError::into_inner).push(output),
                other => panic!("{other:?}"),
            }),
            metrics: metrics.clone(),
        };
        outlet.connected(true);
        let down = || metrics.eject.output_down.with_label_values(&["gates"]).get();
        let (sender, mut commands) = mpsc::channel(4);
        (1..=4).for_each(|n: u32| sender.try_send(n).unwrap());
        drop(sender);
        let mut taken = Vec::new();
        let serve = async |taken: &mut Vec<u32>, commands: &mut mpsc::Receiver<u32>| {
            while let Some(command) = commands.recv().await {
                assert_eq!(down(), i64::from(!taken.is_empty()));
                taken.push(command);
                tokio::task::yield_now().await;
                assert_eq!(command % 2, 0, "a panic that this test is about");
            }
        };
        while outlet.broke(serve(&mut taken, &mut commands)).await {}
        assert_eq!((taken, down()), (vec![1, 2, 3, 4], 1));
        assert_eq!(*told.lock().unwrap(), [3, 3]);
        assert_eq!(metrics.eject.output_reconnects.with_label_values(&["gates"]).get(), 2);
    }
}
