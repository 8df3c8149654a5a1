//! Verdict → command at the right moment. A thread of its own keeps the time, the outputs' thread talks to the world.
//!
//! This is quality rejection, not a safety function: nobody's hand may depend on it.
//!
//! Invariants: every reject and every divert ends as exactly one command per output, acknowledged in time or late; a
//! late one is logged, counted, and leads to what `on_late` says; `act` never waits.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::priority;
use crate::{
    domain::{Action, Verdict},
    metrics::Metrics,
    output::{self, Asked, Command, LineAction, Report, Subject},
};

mod gate;
mod plan;

pub use gate::{Gate, OnLate, Outlet, Settings};
use plan::{Late, Order, Plan, Step};

/// When stopping, orders have this long to come due.
const LAST_ORDERS: Duration = Duration::from_secs(5);

enum Message {
    Order(Order),
    Report(Report),
    Stop,
}

/// Takes verdicts and moves the gates; clones share it.
#[derive(Clone)]
pub struct Ejector(Arc<Inner>);

struct Inner {
    gates: Vec<(Gate, Arc<str>)>,
    messages: SyncSender<Message>,
    lates: Lates,
}

/// What a late command leads to.
#[derive(Clone)]
struct Lates {
    /// Each output and its `on_late`.
    outputs: Arc<[(output::Settings, OnLate)]>,
    asked: watch::Sender<Asked>,
    metrics: Metrics,
}

impl Lates {
    fn late(&self, output: usize, why: &Late, subject: &Subject) {
        let (output, on_late) = &self.outputs[output];
        let name = output.name();
        tracing::error!(
            gate = &*subject.gate,
            camera = subject.camera,
            track = subject.track,
            output = name,
            action = subject.action.name(),
            on_late = on_late.name(),
            "a command is late: {why:?}"
        );
        self.metrics.eject_commands.with_label_values(&[name, why.name()]).inc();
        self.metrics.eject_late_actions.with_label_values(&[on_late.name()]).inc();
        let Some(action) = on_late.asks() else { return };
        for (able, _) in self.outputs.iter().filter(|(output, _)| output.can(action)) {
            self.metrics.line_asked.with_label_values(&[able.name(), action.name()]).inc();
        }
        self.asked.send_modify(|asked| {
            match action {
                LineAction::StopLine => asked.stop += 1,
                LineAction::Divert => asked.divert += 1,
            }
            asked.why = format!("{} at gate {}: {} {}", why.name(), subject.gate, subject.camera, subject.track);
        });
    }
}

/// The threads behind an [`Ejector`].
pub struct Running {
    messages: SyncSender<Message>,
    keeper: JoinHandle<()>,
    outputs: JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    /// Lets what was ordered come due, up to five seconds, and ends the threads. Blocks.
    pub fn close(self) {
        let _ = self.messages.send(Message::Stop);
        let _ = self.keeper.join();
        self.stop.cancel();
        let _ = self.outputs.join();
    }
}

impl Ejector {
    /// Starts the time keeper and the outputs.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn start(settings: Settings, metrics: &Metrics) -> io::Result<(Self, Running)> {
        let (ejector, received) = Self::new(&settings, metrics);
        let stop = CancellationToken::new();
        let messages = ejector.0.messages.clone();
        let report = move |report| {
            // An answer that finds no place leaves its command unacknowledged, which is the safe side.
            let _ = messages.try_send(Message::Report(report));
        };
        let (senders, outputs) = output::start(
            settings.output.iter().map(|outlet| outlet.output.clone()).collect(),
            &ejector.0.lates.asked.subscribe(),
            report,
            metrics,
            || priority::set(priority::BELT),
            stop.clone(),
        )?;
        let keeper = ejector.keep(&settings, received, senders)?;
        let messages = ejector.0.messages.clone();
        Ok((ejector, Running { messages, keeper, outputs, stop }))
    }

    fn new(settings: &Settings, metrics: &Metrics) -> (Self, Receiver<Message>) {
        let (messages, received) = sync_channel(settings.queue * (1 + settings.output.len()));
        let outputs = settings.output.iter().map(|outlet| (outlet.output.clone(), outlet.on_late)).collect();
        let lates = Lates { outputs, asked: watch::Sender::new(Asked::default()), metrics: metrics.clone() };
        let gates = settings.gate.iter().map(|gate| (gate.clone(), gate.name.as_str().into())).collect();
        (Self(Arc::new(Inner { gates, messages, lates })), received)
    }

    /// Starts the thread that keeps the time.
    fn keep(
        &self,
        settings: &Settings,
        received: Receiver<Message>,
        senders: Vec<mpsc::Sender<Command>>,
    ) -> io::Result<JoinHandle<()>> {
        let plan = Plan::new(settings.queue, settings.output.iter().map(|outlet| outlet.tolerance).collect());
        let lates = self.0.lates.clone();
        thread::Builder::new().name("eject".into()).spawn(move || {
            priority::set(priority::BELT);
            keep_time(plan, &received, &senders, &lates);
        })
    }

    /// Orders the gate for a rejected or diverted item whose picture was taken at `captured`.
    pub fn act(&self, verdict: &Verdict, captured: Instant) {
        let action = verdict.decision.action;
        if action == Action::Accept {
            return;
        }
        let takes = |gate: &Gate| gate.camera == verdict.camera && gate.actions.contains(&action);
        let Some((gate, name)) = self.0.gates.iter().find(|(gate, _)| takes(gate)) else {
            // The configuration's check leaves no camera without gates.
            tracing::error!(camera = verdict.camera, "no gate for {}", action.name());
            return;
        };
        let due = verdict.region.and_then(|region| gate.due(captured, region, gate.speed));
        let order = Order { target: gate.target, due, subject: Arc::new(Subject::new(name.clone(), verdict)) };
        if let Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) =
            self.0.messages.try_send(Message::Order(order))
            && let Message::Order(order) = message
        {
            for output in 0..self.0.lates.outputs.len() {
                self.0.lates.late(output, &Late::QueueFull, &order.subject);
            }
        }
    }
}

/// Sends each command at its due time and watches for its end, until told to stop and nothing is left.
fn keep_time(mut plan: Plan, received: &Receiver<Message>, senders: &[mpsc::Sender<Command>], lates: &Lates) {
    let metrics = &lates.metrics;
    let mut last: Option<Instant> = None;
    loop {
        loop {
            let steps = plan.steps(Instant::now());
            if steps.is_empty() {
                break;
            }
            for step in steps {
                match step {
                    Step::Late(output, why, subject) => lates.late(output, &why, &subject),
                    Step::Send(output, command) => {
                        let (id, late) = (command.id, command.due.elapsed());
                        if senders[output].try_send(command).is_err() {
                            plan.reported(id, output, Instant::now(), Err("the output hangs".into()));
                        } else if output == 0 {
                            metrics.eject_send_late.observe(late.as_secs_f64());
                        }
                    }
                }
            }
        }
        let now = Instant::now();
        if last.is_some() && plan.is_empty() {
            return;
        }
        if last.is_some_and(|last| now > last) {
            plan.give_up();
            continue;
        }
        let wake = [plan.next(), last].into_iter().flatten().min();
        let message = match wake {
            Some(at) => received.recv_timeout(at.saturating_duration_since(now)),
            None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match message {
            Ok(Message::Order(order)) => plan.add(order, Instant::now()),
            Ok(Message::Report(Report { id, output, at, result })) => {
                if let Some(late) = plan.reported(id, output, at, result) {
                    let name = lates.outputs[output].0.name();
                    metrics.eject_commands.with_label_values(&[name, "acknowledged"]).inc();
                    metrics.eject_ack_late.with_label_values(&[name]).observe(late.as_secs_f64());
                }
            }
            Ok(Message::Stop) => last = Some(Instant::now() + LAST_ORDERS),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => last = Some(Instant::now()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
