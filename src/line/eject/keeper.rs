//! The thread that keeps the time: sends what is due, ends what is late, matches what the sensors saw.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use uuid::Uuid;

use super::{
    EjectSettings, OnLate,
    answers::{GateAnswer, GateWord},
    belt::Belt,
    confirm::{Reconciler, Sensor, SensorOutcome},
    plan::{EjectOrder, EjectPlan, EjectStep, Followed, LateReason},
};
use crate::{
    domain::Action,
    line::eject::output::{self, CommandReport, EjectorCommand, LineAction, LineRequests, SPEED_COUNTS, Subject},
    metrics::Metrics,
    store::Event,
};

/// When stopping, orders have this long to come due.
const LAST_ORDERS: Duration = Duration::from_secs(5);
/// How often is looked whether it is still known where the belt is, where nobody says so.
const LOOK: Duration = Duration::from_millis(250);
/// After this, what a standing belt holds would have passed its sensor, too.
const FOREVER: Duration = Duration::from_secs(10_000_000_000);

/// What the timekeeper is sent.
pub(super) enum TimekeeperMessage {
    /// A verdict asks for a gate.
    Order(EjectOrder),
    /// An output knows how a command went.
    Report(CommandReport),
    /// The sensor after the gate of this index saw something; whoever said so is told the uid of the item.
    Pulse(usize, Instant, oneshot::Sender<Option<Uuid>>),
    /// The belt ran at so many m/s at that moment, below 0 backwards, where that is measured.
    Speed(f64, Instant),
    /// There is something new about where the belt is.
    Belt,
    /// End when everything has ended.
    Stop,
}

/// What every end leads to: counts, log, and the line's stop.
#[derive(Clone)]
pub(super) struct EjectOutcomes {
    /// Each output's name, the output, and its `on_late`.
    pub outputs: Arc<[(Arc<str>, output::OutputSettings, OnLate)]>,
    /// Of each gate with a sensor: its name, what rejects lead to that it did not see, how many in a row, and how many
    /// those are by now.
    pub missed: Arc<[(Arc<str>, Sensor, AtomicU32)]>,
    /// What outputs are to ask of the line.
    pub requests: watch::Sender<LineRequests>,
    /// What became of each item's commands; one that nobody hears is lost.
    pub answers: broadcast::Sender<GateAnswer>,
    pub metrics: Metrics,
    /// Tells the record; never blocks.
    pub tell: Arc<dyn Fn(Event) + Send + Sync>,
}

impl EjectOutcomes {
    /// Never blocks.
    fn answer(&self, subject: &Arc<Subject>, word: GateWord) {
        drop(self.answers.send(GateAnswer { subject: subject.clone(), word }));
    }

    pub fn late(&self, output: usize, why: &LateReason, subject: &Arc<Subject>) {
        let (name, _, on_late) = &self.outputs[output];
        self.answer(subject, GateWord::Late { output: name.clone(), why: why.to_string() });
        tracing::error!(
            gate = &*subject.gate,
            camera = subject.camera,
            track = subject.track,
            uid = %subject.uid,
            output = &**name,
            action = subject.action.name(),
            on_late = on_late.name(),
            "a command is late: {why}"
        );
        (self.tell)(Event::EjectLate {
            gate: subject.gate.to_string(),
            camera: subject.camera.clone(),
            track: subject.track,
            uid: Some(subject.uid),
            output: name.to_string(),
            why: why.to_string(),
            led_to: on_late.name().into(),
            lot: subject.lot,
            passed: Some(subject.captured),
        });
        self.metrics.eject.late_actions.with_label_values(&[on_late.name()]).inc();
        if let Some(action) = on_late.asks() {
            let Subject { gate, camera, track, .. } = &**subject;
            self.ask(action, format!("{} at gate {gate}: {camera} {track}", why.name()));
        }
        // Last: whoever reads that the command has ended finds all that it led to.
        self.metrics.eject.commands.with_label_values(&[&**name, why.name()]).inc();
    }

    /// Nobody looks at the belt before `camera`'s gates: every output's `on_late`, once each.
    pub fn blind(&self, camera: &str, why: &str) {
        let mut actions: Vec<OnLate> = Vec::new();
        for (.., on_late) in &*self.outputs {
            if !actions.contains(on_late) {
                actions.push(*on_late);
            }
        }
        for on_late in actions {
            tracing::error!(camera, on_late = on_late.name(), "items pass this camera's gates unjudged: {why}");
            if let Some(action) = on_late.asks() {
                self.ask(action, why.into());
            }
        }
    }

    /// The task of an output panicked and starts anew: the output's `on_late`, as if a command were late.
    pub fn broke(&self, output: usize) {
        let (name, _, on_late) = &self.outputs[output];
        tracing::error!(output = &**name, on_late = on_late.name(), "an output broke down and starts anew");
        self.metrics.eject.late_actions.with_label_values(&[on_late.name()]).inc();
        if let Some(action) = on_late.asks() {
            self.ask(action, format!("the output {name} broke down"));
        }
    }

    /// Asks every output that can.
    pub fn ask(&self, action: LineAction, why: String) {
        for (able, ..) in self.outputs.iter().filter(|(_, output, _)| output.can(action)) {
            self.metrics.eject.line_asked.with_label_values(&[&**able, action.name()]).inc();
        }
        self.requests.send_modify(|requests| {
            match action {
                LineAction::StopLine => requests.stop += 1,
                LineAction::Divert => requests.divert += 1,
            }
            requests.why = why;
        });
    }

    fn missed_of(&self, gate: &str, then: impl FnOnce(&AtomicU32, &Sensor)) {
        if let Some((_, sensor, missed)) = self.missed.iter().find(|(name, ..)| **name == *gate) {
            then(missed, sensor);
        }
    }

    /// Another reject was not seen by the gate's sensor: enough of them in a row lead to its `on_missed`.
    fn in_a_row(&self, gate: &str, missed: &AtomicU32, sensor: &Sensor) {
        let Some(on_missed) = sensor.on_missed else { return };
        let row = missed.fetch_add(1, Ordering::Relaxed) + 1;
        if row < sensor.in_a_row {
            return;
        }
        missed.store(0, Ordering::Relaxed);
        tracing::error!(gate, on_missed = on_missed.name(), "{row} rejects in a row were not seen to leave the belt");
        if let Some(action) = on_missed.asks() {
            self.ask(action, format!("the sensor after gate {gate} did not see {row} rejects in a row"));
        }
    }

    pub fn confirmed(&self, outcome: &SensorOutcome, gate: &str) {
        match outcome {
            SensorOutcome::Confirmed(subject) => {
                self.answer(subject, GateWord::Confirmed);
                self.missed_of(gate, |missed, _| missed.store(0, Ordering::Relaxed));
            }
            SensorOutcome::Missed(subject) => {
                self.answer(subject, GateWord::Missed);
                let Subject { camera, track, uid, lot, captured, .. } = &**subject;
                tracing::error!(gate, camera, track, %uid, "an item that should have left the belt was not seen to");
                let (camera, track, uid, lot, passed) = (camera.clone(), *track, Some(*uid), *lot, Some(*captured));
                (self.tell)(Event::RejectMissed { gate: gate.into(), camera, track, uid, lot, passed });
                self.missed_of(gate, |missed, sensor| self.in_a_row(gate, missed, sensor));
            }
            SensorOutcome::False => {
                tracing::warn!(gate, "something left the belt that no verdict asked for");
                (self.tell)(Event::RejectFalse { gate: gate.into() });
            }
        }
        self.metrics.eject.confirmations.with_label_values(&[outcome.name()]).inc();
    }
}

/// One gate, as far as the timekeeper needs it.
struct GateState {
    name: String,
    /// From the command to the hit.
    delay: Duration,
    sensor: Option<Reconciler>,
}

/// The state of the thread that keeps the time.
pub(super) struct Timekeeper {
    plan: EjectPlan,
    senders: Vec<mpsc::Sender<EjectorCommand>>,
    gates: Vec<GateState>,
    outcomes: EjectOutcomes,
    belt: Arc<Belt>,
    /// The belt's last measured speed in m/s, below 0 backwards, and when it was measured.
    speed: Option<(f64, Instant)>,
}

impl Timekeeper {
    pub fn new(
        settings: &EjectSettings,
        plan: EjectPlan,
        senders: Vec<mpsc::Sender<EjectorCommand>>,
        outcomes: EjectOutcomes,
        belt: Arc<Belt>,
    ) -> Self {
        let gates = settings.gate.iter().map(|gate| GateState {
            name: gate.name.clone(),
            delay: gate.delay,
            sensor: gate.confirm.map(|sensor| Reconciler::new(sensor, settings.queue)),
        });
        Self { plan, senders, gates: gates.collect(), outcomes, belt, speed: None }
    }

    /// Runs until told to stop and nothing is left, or five seconds have passed since.
    pub fn run(mut self, received: &Receiver<TimekeeperMessage>) {
        let mut last: Option<Instant> = None;
        loop {
            self.follow();
            self.send_and_end();
            let now = Instant::now();
            self.forget_speed(now);
            self.miss(now);
            let expected = self.gates.iter().filter_map(|gate| gate.sensor.as_ref()?.next()).min();
            if last.is_some() && self.plan.is_empty() && expected.is_none() {
                return;
            }
            if last.is_some_and(|last| now > last) {
                self.plan.give_up();
                self.send_and_end();
                return self.miss(now + FOREVER);
            }
            let forgets = self.speed.filter(|_| self.plan.follows_speed()).map(|(_, at)| at + SPEED_COUNTS);
            let looks = self.plan.follows_place().then(|| now + LOOK);
            let wake = [self.plan.next(), expected, last, forgets, looks].into_iter().flatten().min();
            let message = match wake {
                Some(at) => received.recv_timeout(at.saturating_duration_since(now)),
                None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match message {
                Ok(TimekeeperMessage::Order(order)) => self.order(order),
                Ok(TimekeeperMessage::Report(report)) => self.reported(report),
                Ok(TimekeeperMessage::Pulse(gate, at, tell)) => {
                    if let Some(GateState { name, sensor: Some(sensor), .. }) = self.gates.get_mut(gate) {
                        let outcome = sensor.pulse(at);
                        self.outcomes.confirmed(&outcome, name);
                        let item = if let SensorOutcome::Confirmed(item) = outcome { Some(item.uid) } else { None };
                        let _ = tell.send(item); // fails where nobody asked
                    }
                }
                Ok(TimekeeperMessage::Speed(speed, at)) => {
                    self.speed = Some((speed, at));
                    self.retime(at);
                }
                Ok(TimekeeperMessage::Belt) => {} // it is looked at each time
                Ok(TimekeeperMessage::Stop) => last = Some(Instant::now() + LAST_ORDERS),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => last = Some(Instant::now()),
            }
        }
    }

    fn send_and_end(&mut self) {
        loop {
            let steps = self.plan.steps(Instant::now());
            if steps.is_empty() {
                return;
            }
            for step in steps {
                match step {
                    EjectStep::Late(output, why, subject) => self.outcomes.late(output, &why, &subject),
                    EjectStep::Send(output, command) => self.send(output, command),
                }
            }
        }
    }

    fn send(&mut self, output: usize, command: EjectorCommand) {
        if output == 0 && command.subject.action == Action::Accept {
            self.beside(&command);
        }
        let (id, late) = (command.id, command.due.elapsed());
        if self.senders[output].try_send(command).is_err() {
            self.plan.reported(id, output, Instant::now(), Err("the output hangs".into()));
        } else if output == 0 {
            self.outcomes.metrics.eject.send_late.observe(late.as_secs_f64());
        }
    }

    /// A good item leaves beside another.
    fn beside(&mut self, command: &EjectorCommand) {
        let Subject { gate, camera, track, uid, .. } = &*command.subject;
        tracing::info!(gate = &**gate, camera, track, %uid, "a good item leaves beside another");
        let (name, camera, track) = (gate.to_string(), camera.clone(), *track);
        (self.outcomes.tell)(Event::EjectBeside { gate: name, camera, track, uid: *uid });
        let Some(GateState { delay, sensor: Some(sensor), .. }) = self.gates.iter_mut().find(|g| *g.name == **gate)
        else {
            return;
        };
        if let Some(outcome) = sensor.expect(Some(command.due + *delay), command.subject.clone()) {
            self.outcomes.confirmed(&outcome, gate);
        }
    }

    /// Counts the items that the sensors should have seen by `now`.
    fn miss(&mut self, now: Instant) {
        for gate in &mut self.gates {
            for outcome in gate.sensor.as_mut().map(|sensor| sensor.missed(now)).unwrap_or_default() {
                self.outcomes.confirmed(&outcome, &gate.name);
            }
        }
    }

    fn order(&mut self, order: EjectOrder) {
        let gate = &mut self.gates[order.gate];
        if let Some(sensor) = gate.sensor.as_mut().filter(|_| !order.window.beside)
            && let Some(outcome) =
                sensor.expect(order.due.as_ref().ok().map(|due| *due + gate.delay), order.subject.clone())
        {
            self.outcomes.confirmed(&outcome, &gate.name);
        }
        self.plan.add(order, Instant::now());
        self.retime(Instant::now()); // the speed may have changed since the order was reckoned
    }

    /// Lets what waits by the belt's place come by when the belt is there.
    fn follow(&mut self) {
        if !self.plan.follows_place() {
            return;
        }
        let Followed { moved, lost } = self.plan.follow(&self.belt.motions(), Instant::now());
        for (gate, subject, hit) in moved {
            if let Some(sensor) = &mut self.gates[gate].sensor {
                sensor.moved(&subject, hit);
            }
        }
        self.lost(lost);
    }

    /// These items' commands ended late: no sensor need wait for them.
    fn lost(&mut self, lost: Vec<(usize, Arc<Subject>)>) {
        for (gate, subject) in lost {
            let GateState { name, sensor, .. } = &mut self.gates[gate];
            if let Some(outcome) = sensor.as_mut().and_then(|sensor| sensor.lost(&subject)) {
                self.outcomes.confirmed(&outcome, name);
            }
        }
    }

    /// Lets what waits come by at the speed that the belt has had since `at`.
    fn retime(&mut self, at: Instant) {
        let Some((speed, _)) = self.speed else { return };
        for (gate, subject, hit) in self.plan.retime(speed, at) {
            if let Some(sensor) = &mut self.gates[gate].sensor {
                sensor.moved(&subject, hit);
            }
        }
    }

    /// A speed that was measured long ago is none: what waits by it is late, before it meets another item.
    fn forget_speed(&mut self, now: Instant) {
        if self.speed.is_some_and(|(_, at)| now < at + SPEED_COUNTS) || !self.plan.follows_speed() {
            return;
        }
        self.speed = None;
        let lost = self.plan.lose_speed();
        self.lost(lost);
        self.send_and_end();
    }

    fn reported(&mut self, report: CommandReport) {
        let CommandReport { id, output, at, result } = report;
        let Some((subject, late)) = self.plan.reported(id, output, at, result) else { return };
        self.outcomes.answer(&subject, GateWord::Acknowledged { output });
        let (name, metrics) = (&*self.outcomes.outputs[output].0, &self.outcomes.metrics);
        metrics.eject.commands.with_label_values(&[name, "acknowledged"]).inc();
        metrics.eject.acknowledged_late.with_label_values(&[name]).observe(late.as_secs_f64());
    }
}
