//! Verdict → command at the right moment. A thread of its own keeps the time, the outputs' thread talks to the world.
//!
//! This is quality rejection, not a safety function: nobody's hand may depend on it.
//!
//! Invariants: every reject and every divert ends as exactly one command per output, acknowledged in time or late; a
//! late one is logged, counted, and leads to what `on_late` says; so does a camera that no longer sees its belt; `act` never
//! waits; where the belt's speed is measured, what waits follows the belt, and is held while it stands or runs backwards;
//! a speed that was measured two seconds ago is not a speed, nor is one that no belt has, and what waits by it is late;
//! where an encoder counts the belt's way, a command leaves at a place of the belt, whatever the belt did before it was there;
//! a thread that panics here ends the process, and an output that does is down, asks what `on_late` says, and starts anew.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::AtomicU32,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{priority, vital};
use crate::{
    domain::{Action, Region, Verdict},
    line::eject::output::{
        EjectorCommand, LineRequests, NumberedGate, OutputNotice, SPEED_COUNTS, SensedGate, Subject, alive::LineAlive,
    },
    metrics::Metrics,
    store::Event,
};

pub mod answers;
mod belt;
mod confirm;
mod encoder;
pub mod flush;
mod gate;
mod keeper;
pub mod output;
mod pace;
mod plan;
mod track;
mod window;

use belt::{Belt, FRESH, GateOnBelt};
pub use confirm::{OnLate, Sensor};
pub use encoder::{CountRegister, CountSource, EncoderSettings, EncoderWatch};
pub use gate::{EjectSettings, EjectorGate, GateSpeed, OutputPolicy};
use keeper::{EjectOutcomes, Timekeeper, TimekeeperMessage};
use pace::{BeltGoal, Pace};
use plan::{EjectOrder, EjectPlan, LateReason};
pub use window::Neighbours;

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
    /// Where the belt is.
    belt: Arc<Belt>,
    /// An encoder counts the belt's way.
    encoded: bool,
    /// Where an output measures the belt's speed.
    measured: Option<Mutex<MeasuredSpeed>>,
    /// How long each gate is open at least.
    least_open: Vec<Duration>,
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
    encoder: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

impl EjectorThreads {
    /// Lets what was ordered come due, up to five seconds, and ends the threads. Blocks.
    pub fn close(self) {
        let _ = self.messages.send(TimekeeperMessage::Stop);
        let _ = self.keeper.join();
        self.stop.cancel();
        let _ = self.outputs.join();
        let _ = self.encoder.map(JoinHandle::join);
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
        let numbered = |gate: &EjectorGate| {
            gate.target.command.map(|target| NumberedGate { gate: gate.name.as_str().into(), target })
        };
        let outlets = settings.output.iter().zip(settings.names());
        let (senders, outputs) = output::start(
            outlets.map(|(policy, name)| (name, policy.output.clone())).collect(),
            (
                settings.gate.iter().filter(|gate| gate.confirm.is_some()).map(sensed).collect(),
                settings.gate.iter().filter_map(numbered).collect(),
            ),
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
        let belt = ejector.0.belt.clone();
        let encoder = settings.encoder.map(|encoder| encoder.start(belt, stop.clone())).transpose()?;
        let messages = ejector.0.messages.clone();
        Ok((ejector, EjectorThreads { messages, keeper, outputs, encoder, stop }))
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
        let wake = messages.clone();
        let on_belt = settings.gate.iter().map(|gate| GateOnBelt {
            camera: gate.camera.as_str().into(),
            metres_per_pixel: gate.metres(1.0),
            towards: if let GateSpeed::Given(given) = gate.speed { given } else { 0.0 },
            max_speed: gate.max_speed(),
        });
        let counting = settings.encoder.as_ref().map(|encoder| encoder.counting);
        // One that finds no place is made good by the next.
        let wake = move || drop(wake.try_send(TimekeeperMessage::Belt));
        let belt = Arc::new(Belt::new(on_belt.collect(), counting, metrics, tell.clone(), wake));
        let encoded = counting.is_some();
        let sensors = settings.gate.iter().filter_map(|gate| Some((gate.name.as_str().into(), gate.confirm?)));
        let missed = sensors.map(|(gate, sensor)| (gate, sensor, AtomicU32::new(0))).collect();
        let (answers, _) = broadcast::channel(answers::WAITING);
        let outcomes = EjectOutcomes { outputs, missed, requests, answers, metrics: metrics.clone(), tell };
        let gates = settings.gate.iter().map(|gate| (gate.clone(), gate.name.as_str().into())).collect();
        let measured = settings.output.iter().any(|policy| policy.output.measures_speed());
        let measured = measured.then(Mutex::default);
        let given = settings.gate.iter().filter(|gate| gate.speed != GateSpeed::Seen);
        let max_speed = given.map(EjectorGate::max_speed).reduce(f64::max).unwrap_or(f64::INFINITY);
        let lot = watch::Sender::new(None);
        let least_open = settings.gate.iter().map(|gate| settings.least_open(gate)).collect();
        let shared = Shared { gates, messages, outcomes, belt, encoded, measured, least_open, max_speed, lot };
        (Self(Arc::new(shared)), received)
    }

    /// Starts the thread that keeps the time.
    fn keep(
        &self,
        settings: &EjectSettings,
        received: Receiver<TimekeeperMessage>,
        senders: Vec<mpsc::Sender<EjectorCommand>>,
    ) -> io::Result<JoinHandle<()>> {
        let plan = EjectPlan::new(settings.queue, settings.output.iter().map(|policy| policy.tolerance).collect());
        let keeper = Timekeeper::new(settings, plan, senders, self.0.outcomes.clone(), self.0.belt.clone());
        vital::thread("eject".into(), move || {
            priority::real_time();
            keeper.run(&received);
        })
    }

    /// Orders the gate for a rejected or diverted item whose picture was taken at `captured`, when its camera saw the belt
    /// move at `seen` pixels per second.
    pub fn act(&self, verdict: &Verdict, captured: Instant, seen: Option<f32>) {
        let action = verdict.decision.action;
        let takes = |gate: &EjectorGate| match action {
            Action::Accept => gate.neighbours == Neighbours::Both,
            _ => gate.actions.contains(&action),
        };
        let gates = self.0.gates.iter().enumerate().filter(|(_, (gate, _))| gate.camera == verdict.camera);
        let taking: Vec<usize> = gates.filter(|(_, (gate, _))| takes(gate)).map(|(index, _)| index).collect();
        if taking.is_empty() && action != Action::Accept {
            // The configuration's check leaves no camera without gates.
            tracing::error!(camera = verdict.camera, "no gate for {}", action.name());
        }
        taking.into_iter().for_each(|index| self.order(index, verdict, captured, seen));
    }

    /// Orders a gate for an item; for a good one, in case that one beside it leaves there.
    fn order(&self, index: usize, verdict: &Verdict, captured: Instant, seen: Option<f32>) {
        let (gate, name) = &self.0.gates[index];
        let beside = verdict.decision.action == Action::Accept;
        let speed = match gate.speed {
            GateSpeed::Given(given) => given,
            GateSpeed::Seen => seen.map_or(0.0, |pixels| gate.metres(pixels.into())),
        };
        let window = gate.window(verdict.region, self.0.least_open[index], speed, beside);
        let subject = Arc::new(Subject::new(name.clone(), verdict));
        let (due, pace) = match self.moment(index, verdict.region, captured, seen) {
            Ok((due, pace)) => (Ok(due), pace),
            Err(why) => (Err(why), None),
        };
        let (target, count) = (gate.target, None);
        let mut order = EjectOrder { gate: index, target, due, pace, count, window, subject: subject.clone() };
        if let (Some(_), Some(goal)) = (gate.target.command, order.pace.and_then(|pace| pace.goal)) {
            order.count = self.0.belt.raw(goal.position);
            if order.count.is_none() {
                order.due = Err(LateReason::NoPosition("the encoder can't count so far ahead".into()));
            }
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.0.messages.try_send(TimekeeperMessage::Order(order))
            && !beside
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

    /// When the command for an item must leave, and how the item comes to its gate where that is followed.
    fn moment(
        &self,
        index: usize,
        region: Option<Region>,
        captured: Instant,
        seen: Option<f32>,
    ) -> Result<(Instant, Option<Pace>), LateReason> {
        let (gate, _) = &self.0.gates[index];
        let region = region.ok_or(LateReason::NoMoment)?;
        let lead = gate.lead(region);
        let by_time = |speed: f64| {
            let due = gate.due(captured, region, speed).ok_or(LateReason::NoMoment)?;
            let sooner = Duration::try_from_secs_f64(lead / speed.abs()).map_err(|_| LateReason::NoMoment)?;
            Ok((due.checked_sub(sooner).unwrap_or(due), None))
        };
        match (self.0.encoded, &self.0.measured, gate.speed) {
            (true, ..) => {
                let left = gate.ahead(region).ok_or(LateReason::NoMoment)?;
                let pace = self.followed(index, left - lead, 1.0, captured, FRESH[0])?;
                Ok((pace.due(), Some(pace)))
            }
            (_, Some(_), GateSpeed::Given(_)) => {
                let pace = self.pace(gate, region, captured).ok_or(LateReason::NoMoment)?;
                Ok((pace.due(), Some(pace)))
            }
            (_, None, GateSpeed::Given(given)) => by_time(given),
            (_, _, GateSpeed::Seen) => {
                let way = gate.way_seen(region).ok_or(LateReason::NoMoment)?;
                let sign = self.0.belt.motions()[index].as_ref().map_or(0.0, |motion| motion.speed);
                let sign = if sign.abs() > REVERSE { sign.signum() } else { way.signum() };
                match self.followed(index, way * sign - lead, sign, captured, FRESH[1]) {
                    Ok(pace) => Ok((pace.due(), Some(pace))),
                    // Its pictures tell a speed at least.
                    Err(LateReason::NoPosition(_)) => {
                        let speed = seen.map(|pixels| gate.metres(pixels.into()));
                        by_time(speed.filter(|speed| speed.abs() <= gate.max_speed()).ok_or(LateReason::NoMoment)?)
                    }
                    Err(why) => Err(why),
                }
            }
        }
    }

    /// How an item comes to a gate that lay `left` metres from it at the moment of capture, where it is known where the belt
    /// is: its position rises meanwhile where `sign` is above 0.
    fn followed(
        &self,
        gate: usize,
        left: f64,
        sign: f64,
        captured: Instant,
        fresh: Duration,
    ) -> Result<Pace, LateReason> {
        let (counting, then) = self.0.belt.place(gate, captured).map_err(LateReason::NoPosition)?;
        let motion = self.0.belt.motions().swap_remove(gate).map_err(LateReason::NoPosition)?;
        let goal = BeltGoal { counting, position: then + left * sign, sign, fresh };
        let (left, speed) = ((goal.position - motion.position) * sign, motion.speed * sign);
        if left <= 0.0 && speed <= 0.0 {
            return Err(LateReason::Passed);
        }
        Ok(Pace { left, at: motion.at, speed, delay: self.0.gates[gate].0.delay, goal: Some(goal) })
    }

    /// Where an item is and how it comes to a gate whose belt's speed is measured; `None` where nobody knows that, and for
    /// an item that has passed the gate while the belt carries nothing towards it.
    fn pace(&self, gate: &EjectorGate, region: Region, captured: Instant) -> Option<Pace> {
        let measured = self.0.measured.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).now;
        let (speed, _) = measured.filter(|(_, at)| at.elapsed() < SPEED_COUNTS)?;
        let left = gate.ahead(region)? - gate.lead(region);
        (left > 0.0 || speed > 0.0).then_some(Pace { left, at: captured, speed, delay: gate.delay, goal: None })
    }

    /// `camera`'s picture, taken at `captured`, showed that its belt has gone `pixels` since the first one, towards larger x;
    /// `None` where it did not tell that. To be said before the picture's items are acted on.
    pub fn seen(&self, camera: &str, pixels: Option<f64>, captured: Instant) {
        if self.0.encoded || self.0.gates.iter().any(|(gate, _)| gate.camera == camera && gate.speed == GateSpeed::Seen)
        {
            self.0.belt.seen(camera, pixels, captured);
        }
    }

    /// The sensor after the gate saw an item at `at`; `None` when there is no such gate, or none with a sensor. The thread
    /// that keeps the time tells the uid of the item that this confirms, if there is one.
    pub fn confirm(&self, gate: &str, at: Instant) -> Option<oneshot::Receiver<Option<Uuid>>> {
        let known = |(known, _): &(EjectorGate, _)| known.name == gate && known.confirm.is_some();
        let index = self.0.gates.iter().position(known)?;
        let (tell, told) = oneshot::channel();
        // A pulse that finds no place makes a missed reject, which is the safe side.
        drop(self.0.messages.try_send(TimekeeperMessage::Pulse(index, at, tell)));
        Some(told)
    }

    /// What becomes of each item's commands from now on.
    pub fn answers(&self) -> broadcast::Receiver<answers::GateAnswer> {
        self.0.outcomes.answers.subscribe()
    }

    /// What must answer for an item of `camera` before its gate has done its part; `None` where no gate takes it.
    pub fn duty(&self, camera: &str, action: Action) -> Option<answers::GateDuty> {
        let (gate, _) =
            self.0.gates.iter().find(|(gate, _)| gate.camera == camera && gate.actions.contains(&action))?;
        let outputs = self.0.outcomes.outputs.len();
        Some(answers::GateDuty { gate: gate.name.clone(), outputs, sensor: gate.confirm.is_some() })
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
            OutputNotice::Numbered { output, number, target, subject } => {
                let Subject { gate, camera, track, uid, .. } = &*subject;
                let (gate, camera, output) =
                    (gate.to_string(), camera.clone(), self.0.outcomes.outputs[output].0.to_string());
                let (track, uid) = (*track, Some(*uid));
                (self.0.outcomes.tell)(Event::EjectCommand { gate, camera, track, uid, output, number, target });
            }
            OutputNotice::Pulse { gate, at } => {
                if self.confirm(&gate, at).is_none() {
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
