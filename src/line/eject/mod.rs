//! Verdict → command at the right moment. A thread of its own keeps the time, the outputs' thread talks to the world.
//!
//! This is quality rejection, not a safety function: nobody's hand may depend on it.
//!
//! Invariants: every reject and every divert ends as exactly one command per output, acknowledged in time or late; a
//! late one is logged, counted, and leads to what `on_late` says; so does a camera that no longer sees its belt; `act` never
//! waits; where the belt's speed is measured, what waits follows the belt, and is held while it stands or runs backwards;
//! a speed that was measured two seconds ago is not a speed, nor is one that no belt has, and what waits by it is late;
//! a thread that panics here ends the process, and an output that does is down, asks what `on_late` says, and starts anew.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::AtomicU32,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Instant,
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{priority, vital};
use crate::{
    domain::{Action, Region, Verdict},
    line::eject::output::{
        EjectorCommand, LineRequests, OutputNotice, SPEED_COUNTS, SensedGate, Subject, alive::LineAlive,
    },
    metrics::Metrics,
    store::Event,
};

mod confirm;
pub mod flush;
mod gate;
mod keeper;
pub mod output;
mod plan;

pub use confirm::{OnLate, Sensor};
pub use gate::{EjectSettings, EjectorGate, GateSpeed, OutputPolicy};
use keeper::{EjectOutcomes, Timekeeper, TimekeeperMessage};
use plan::{EjectOrder, EjectPlan, LateReason, Pace};

/// A belt that creeps backwards more slowly, in m/s, is not spoken of in the log: an encoder's standing belt trembles.
const REVERSE: f64 = 0.01;

/// Which lot is on the belt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LotOnBelt {
    /// Its name; empty: none is.
    pub name: String,
    /// Who says so: the name of an output.
    pub by: &'static str,
}

/// Takes verdicts and moves the gates; clones share it.
#[derive(Clone)]
pub struct Ejector(Arc<Shared>);

struct Shared {
    gates: Vec<(EjectorGate, Arc<str>)>,
    messages: SyncSender<TimekeeperMessage>,
    outcomes: EjectOutcomes,
    /// Where an output measures the belt's speed.
    measured: Option<Mutex<MeasuredSpeed>>,
    /// A measured speed above this, in m/s, is none.
    max_speed: f64,
    /// The lot on the belt, where an output tells it.
    lot: watch::Sender<Option<LotOnBelt>>,
}

/// What an output says of the belt's speed.
#[derive(Default)]
struct MeasuredSpeed {
    /// In m/s, below 0 where the belt runs backwards, and when; `None` where the last reading made no sense.
    now: Option<(f64, Instant)>,
    /// The log has been told that readings make no sense, and that the belt runs backwards.
    said: (bool, bool),
}

/// The threads behind an [`Ejector`].
pub struct EjectorThreads {
    messages: SyncSender<TimekeeperMessage>,
    keeper: JoinHandle<()>,
    outputs: JoinHandle<()>,
    stop: CancellationToken,
}

impl EjectorThreads {
    /// Lets what was ordered come due, up to five seconds, and ends the threads. Blocks.
    pub fn close(self) {
        let _ = self.messages.send(TimekeeperMessage::Stop);
        let _ = self.keeper.join();
        self.stop.cancel();
        let _ = self.outputs.join();
    }
}

impl Ejector {
    /// Starts the time keeper and the outputs, whose heartbeats count while the line is `alive`. What the record should know goes to `tell`, which must not block.
    ///
    /// # Errors
    /// A password or secret that can't be read; the system's, when no thread can be started.
    pub fn start(
        settings: EjectSettings,
        metrics: &Metrics,
        alive: LineAlive,
        tell: impl Fn(Event) + Send + Sync + 'static,
    ) -> io::Result<(Self, EjectorThreads)> {
        let (ejector, received) = Self::new(&settings, metrics, Arc::new(tell));
        let stop = CancellationToken::new();
        let sensed = |gate: &EjectorGate| SensedGate {
            gate: gate.name.as_str().into(),
            input: gate.confirm.as_ref().and_then(|sensor| sensor.input),
        };
        let receiver = ejector.clone();
        let outlets = settings.output.iter().zip(settings.names());
        let (senders, outputs) = output::start(
            outlets.map(|(policy, name)| (name, policy.output.clone())).collect(),
            settings.gate.iter().filter(|gate| gate.confirm.is_some()).map(sensed).collect(),
            &ejector.0.outcomes.requests.subscribe(),
            move |notice| receiver.receive(notice),
            metrics,
            &alive,
            stop.clone(),
        )?;
        let outputs = vital::thread("outputs".into(), move || {
            priority::real_time();
            outputs();
        })?;
        let keeper = ejector.keep(&settings, received, senders)?;
        let messages = ejector.0.messages.clone();
        Ok((ejector, EjectorThreads { messages, keeper, outputs, stop }))
    }

    fn new(
        settings: &EjectSettings,
        metrics: &Metrics,
        tell: Arc<dyn Fn(Event) + Send + Sync>,
    ) -> (Self, Receiver<TimekeeperMessage>) {
        let (messages, received) = sync_channel(settings.queue * (1 + settings.output.len()));
        let outputs = settings.output.iter().zip(settings.names());
        let outputs = outputs.map(|(policy, name)| (name, policy.output.clone(), policy.on_late)).collect();
        let requests = watch::Sender::new(LineRequests::default());
        let sensors = settings.gate.iter().filter_map(|gate| Some((gate.name.as_str().into(), gate.confirm?)));
        let missed = sensors.map(|(gate, sensor)| (gate, sensor, AtomicU32::new(0))).collect();
        let outcomes = EjectOutcomes { outputs, missed, requests, metrics: metrics.clone(), tell };
        let gates = settings.gate.iter().map(|gate| (gate.clone(), gate.name.as_str().into())).collect();
        let measured = settings.output.iter().any(|policy| policy.output.measures_speed());
        let measured = measured.then(Mutex::default);
        let encoded = settings.gate.iter().filter(|gate| gate.speed != GateSpeed::Seen);
        let max_speed = encoded.map(EjectorGate::max_speed).reduce(f64::max).unwrap_or(f64::INFINITY);
        let lot = watch::Sender::new(None);
        (Self(Arc::new(Shared { gates, messages, outcomes, measured, max_speed, lot })), received)
    }

    /// Starts the thread that keeps the time.
    fn keep(
        &self,
        settings: &EjectSettings,
        received: Receiver<TimekeeperMessage>,
        senders: Vec<mpsc::Sender<EjectorCommand>>,
    ) -> io::Result<JoinHandle<()>> {
        let plan = EjectPlan::new(settings.queue, settings.output.iter().map(|policy| policy.tolerance).collect());
        let keeper = Timekeeper::new(settings, plan, senders, self.0.outcomes.clone());
        vital::thread("eject".into(), move || {
            priority::real_time();
            keeper.run(&received);
        })
    }

    /// Orders the gate for a rejected or diverted item whose picture was taken at `captured`, when its camera saw the belt
    /// move at `seen` pixels per second.
    pub fn act(&self, verdict: &Verdict, captured: Instant, seen: Option<f32>) {
        let action = verdict.decision.action;
        if action == Action::Accept {
            return;
        }
        let takes = |gate: &EjectorGate| gate.camera == verdict.camera && gate.actions.contains(&action);
        let Some(index) = self.0.gates.iter().position(|(gate, _)| takes(gate)) else {
            // The configuration's check leaves no camera without gates.
            tracing::error!(camera = verdict.camera, "no gate for {}", action.name());
            return;
        };
        let (gate, name) = &self.0.gates[index];
        let pace = self.pace(gate, verdict.region, captured);
        let due = match (&self.0.measured, gate.speed) {
            (Some(_), GateSpeed::Given(_)) => pace.map(|pace| pace.due()),
            (None, GateSpeed::Given(given)) => verdict.region.and_then(|region| gate.due(captured, region, given)),
            (_, GateSpeed::Seen) => {
                let speed = seen.map(|pixels| f64::from(pixels) * gate.scale / 1e3);
                let speed = speed.filter(|speed| speed.abs() <= gate.max_speed());
                verdict.region.and_then(|region| gate.due(captured, region, speed?))
            }
        };
        let subject = Arc::new(Subject::new(name.clone(), verdict));
        let order = EjectOrder { gate: index, target: gate.target, due, pace, subject: subject.clone() };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.0.messages.try_send(TimekeeperMessage::Order(order))
        {
            for output in 0..self.0.outcomes.outputs.len() {
                self.0.outcomes.late(output, &LateReason::QueueFull, &subject);
            }
            if gate.confirm.is_some() {
                self.0.outcomes.confirmed(&confirm::SensorOutcome::Missed(subject), name);
            }
        }
    }

    /// A camera is lost or frozen, so that items come to its gates unjudged: as if each were late. Never waits.
    pub fn blind(&self, camera: &str, why: &str) {
        if self.0.gates.iter().any(|(gate, _)| gate.camera == camera) {
            self.0.outcomes.blind(camera, &format!("camera {camera} is lost: {why}"));
        }
    }

    /// An item of `camera` is known to have gone on without a verdict: as if its command were late. Never waits.
    pub fn passed(&self, camera: &str) {
        if self.0.gates.iter().any(|(gate, _)| gate.camera == camera) {
            self.0.outcomes.blind(camera, &format!("camera {camera}: an item was followed and went without a verdict"));
        }
    }

    /// The width in pixels of the pictures that `camera`'s gates were measured in, where the configuration says it.
    pub fn width(&self, camera: &str) -> Option<u32> {
        self.0.gates.iter().find(|(gate, _)| gate.camera == camera)?.0.width
    }

    /// Where an item is and how it comes to a gate whose belt's speed is measured; `None` where nobody knows that, and for
    /// an item that has passed the gate while the belt carries nothing towards it.
    fn pace(&self, gate: &EjectorGate, region: Option<Region>, captured: Instant) -> Option<Pace> {
        let measured = self.0.measured.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).now;
        let (speed, _) = measured.filter(|(_, at)| at.elapsed() < SPEED_COUNTS)?;
        let left = gate.ahead(region?)?;
        (left > 0.0 || speed > 0.0).then_some(Pace { left, at: captured, speed, delay: gate.delay })
    }

    /// The sensor after the gate saw an item at `at`; false when there is no such gate, or none with a sensor.
    pub fn confirm(&self, gate: &str, at: Instant) -> bool {
        let known = self.0.gates.iter().position(|(known, _)| known.name == gate && known.confirm.is_some());
        // A pulse that finds no place makes a missed reject, which is the safe side.
        known.map(|index| self.0.messages.try_send(TimekeeperMessage::Pulse(index, at))).is_some()
    }

    /// The lot on the belt, as an output tells it; for [`lots`](crate::service::tasks::lots).
    pub fn lot(&self) -> watch::Receiver<Option<LotOnBelt>> {
        self.0.lot.subscribe()
    }

    /// Takes in what an output tells, on its thread.
    fn receive(&self, notice: OutputNotice) {
        match notice {
            OutputNotice::Broke { output } => self.0.outcomes.broke(output),
            // An answer that finds no place leaves its command unacknowledged, which is the safe side.
            OutputNotice::Report(report) => drop(self.0.messages.try_send(TimekeeperMessage::Report(report))),
            OutputNotice::Pulse { gate, at } => {
                if !self.confirm(&gate, at) {
                    tracing::warn!("a pulse for the gate {gate:?}, which has no sensor");
                }
            }
            OutputNotice::Lot { name, by } => {
                let on_belt = Some(LotOnBelt { name, by });
                self.0.lot.send_if_modified(|lot| {
                    *lot != on_belt && {
                        *lot = on_belt;
                        true
                    }
                });
            }
            OutputNotice::Speed { metres_per_second, at } => {
                self.measured(metres_per_second, at);
            }
        }
    }

    /// Takes in a reading of the belt's speed. One that makes no sense is none: what is judged now has no moment, and what
    /// waits goes by the last good one as long as that counts.
    fn measured(&self, speed: f64, at: Instant) {
        let Some(measured) = &self.0.measured else { return };
        let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
        if !speed.is_finite() || speed.abs() > self.0.max_speed {
            measured.now = None;
            if !std::mem::replace(&mut measured.said.0, true) {
                let most = self.0.max_speed;
                tracing::error!(
                    "the belt's speed is read as {speed} m/s, which is none: at most {most} m/s (max_speed)"
                );
            }
            return;
        }
        measured.now = Some((speed, at));
        let backwards = speed < if measured.said.1 { 0.0 } else { -REVERSE };
        if std::mem::replace(&mut measured.said.1, backwards) != backwards {
            let does = if backwards { "runs backwards: what waits for it is held" } else { "runs backwards no more" };
            tracing::warn!("the belt {does} ({speed} m/s)");
        }
        self.0.outcomes.metrics.eject.belt_speed.set(speed);
        // One that finds no place is made good by the next.
        drop(self.0.messages.try_send(TimekeeperMessage::Speed(speed, at)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
