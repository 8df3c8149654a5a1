//! Commands that the PLC carries out by itself, over Modbus; see [`numbered`](super::super::numbered).

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{EjectorCommand, Plc, QUEUE};

/// A PLC has this long to take a command; then the next one is written over it.
const TAKES: Duration = Duration::from_millis(500);

/// What a PLC says of the commands of a gate that it carries out by itself.
pub(super) struct PlcAnswer {
    gate: Arc<str>,
    /// The number that it took last.
    taken: u16,
    /// Those that it carried out last, the newest first.
    carried_out: Vec<u16>,
}

impl Plc {
    /// Gives the PLC a command that it carries out by itself, or lets it wait until the one before is taken.
    pub(super) async fn give(&mut self, command: EjectorCommand) {
        let Some(gate) = self.outlet.given.of(&command.subject.gate) else { return };
        gate.untaken.take_if(|until| Instant::now() > *until);
        if gate.untaken.is_none() && gate.waiting.is_empty() {
            return self.give_now(&command).await;
        }
        if gate.waiting.len() >= QUEUE {
            return self.outlet.report(command.id, Err("the PLC takes no command".into()));
        }
        gate.waiting.push_back(command);
    }

    async fn give_now(&mut self, command: &EjectorCommand) {
        match self.command(command).await {
            Err(why) => self.outlet.report(command.id, Err(why)),
            Ok(()) => {
                if let Some(gate) = self.outlet.given.of(&command.subject.gate) {
                    gate.untaken = Some(Instant::now() + TAKES);
                }
            }
        }
    }

    /// What to write: the number goes on from what stands in the PLC, and is told to the record the first time.
    pub(super) fn number(&mut self, command: &EjectorCommand, number: u16, target: u32) -> [u16; 3] {
        self.outlet.number_is(command, number, target);
        [(target >> 16) as u16, target as u16, number]
    }

    /// The connection that watches: asks what the PLC says of its commands, while it owes answers.
    pub(super) async fn ask_answers(&mut self, answered: &mpsc::Sender<PlcAnswer>) {
        if !self.both.owing.load(Ordering::Relaxed) {
            return;
        }
        for (gate, done) in self.outlet.given.answer_in() {
            let Some(numbers) = self.read_inputs("answer", done, 4).await else { continue };
            let [taken, carried_out @ ..] = &numbers[..] else { continue };
            // One that finds no place is asked for again.
            drop(answered.try_send(PlcAnswer { gate, taken: *taken, carried_out: carried_out.to_vec() }));
        }
    }

    /// The connection for commands: takes in what the PLC says of them, and gives it those that wait.
    pub(super) async fn answered(&mut self, answer: PlcAnswer) {
        let PlcAnswer { gate: name, taken, carried_out } = answer;
        for id in carried_out.iter().filter_map(|number| self.outlet.given.done(&name, *number)).collect::<Vec<_>>() {
            self.outlet.report(id, Ok(()));
        }
        let Some(gate) = self.outlet.given.of(&name) else { return };
        gate.untaken.take_if(|_| gate.last == Some(taken));
        self.give_next(&name).await;
    }

    /// Gives the PLC the command that waits, once the one before is taken or has had its time, and tells those that are late.
    pub(super) async fn give_next(&mut self, name: &str) {
        let now = Instant::now();
        let Some(gate) = self.outlet.given.of(name) else { return };
        gate.untaken.take_if(|until| now > *until);
        let late = gate.waiting.iter().take_while(|command| command.give_up < now).count();
        for command in gate.waiting.drain(..late).collect::<Vec<_>>() {
            self.outlet.report(command.id, Err("the PLC did not take the command before".into()));
        }
        let Some(gate) = self.outlet.given.of(name) else { return };
        if gate.untaken.is_none()
            && let Some(command) = gate.waiting.pop_front()
        {
            self.give_now(&command).await;
        }
    }
}
