//! Commands that a PLC carries out by itself: each has a number at its gate and the encoder's count at which the item is there,
//! and is given as soon as its verdict is known. The PLC moves the gate at that count and answers with the number.
//!
//! | | Modbus | MQTT |
//! |---|---|---|
//! | given | one write of three holding registers: target high word, target low word, number | `number` and `target` in the message on `<topic>/eject/<gate>` |
//! | answered | four input registers: the number taken last, and the last three carried out, newest first | the number carried out, on `<topic>/done/<gate>`, better retained |
//!
//! Invariants: 0 is no number; numbers of a gate go 1, 2, … 65535, 1; over Modbus they go on from what stands in the PLC, which
//! acts on a change, so that it alone knows what would be one; over MQTT they go on well behind the last retained
//! answer, or from anywhere, so that no answer to an earlier run of this service is taken for one to this. A command is
//! written when the PLC has taken the one before, or has had its time to; an answer counts once.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use serde::Deserialize;

use super::{EjectorCommand, NumberedGate, Outlet, OutputNotice};

/// Commands of a gate that wait for their answers, at most; the oldest are forgotten, and late by themselves.
const OPEN: usize = 256;

/// How a PLC is given commands that it carries out by itself. Over MQTT nothing more is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NumberedTarget {
    /// Modbus: the first of three holding registers: target high word, target low word, number.
    pub registers: Option<u16>,
    /// Modbus: the first of four input registers: the number taken last, and the last three carried out, newest first.
    pub done: Option<u16>,
}

impl NumberedTarget {
    /// Its three holding registers and the first of its four input registers.
    ///
    /// # Errors
    /// What is missing, or lies beyond the last register.
    pub(super) fn modbus(&self) -> Result<([u16; 3], u16), String> {
        let (Some(first), Some(done)) = (self.registers, self.done) else {
            return Err("modbus: command needs registers and done".into());
        };
        match (first.checked_add(1), first.checked_add(2), done.checked_add(3)) {
            (Some(second), Some(third), Some(_)) => Ok(([first, second, third], done)),
            _ => Err("modbus: command's registers or done lie beyond the last register".into()),
        }
    }
}

/// The number after `last`: never 0, which a PLC starts with.
pub(super) fn next_number(last: u16) -> u16 {
    last % u16::MAX + 1
}

/// What one output has given to the PLC, by gate.
#[derive(Clone, Debug, Default)]
pub(super) struct GivenCommands(BTreeMap<Arc<str>, GivenGate>);

#[derive(Clone, Debug, Default)]
pub(super) struct GivenGate {
    /// Modbus: where the PLC answers.
    pub done: Option<u16>,
    pub last: Option<u16>,
    /// Numbers that were not carried out yet, and their commands.
    open: VecDeque<(u16, u64)>,
    /// Modbus: until when the PLC has time to take the last one.
    pub untaken: Option<Instant>,
    /// Modbus: what comes after it.
    pub waiting: VecDeque<EjectorCommand>,
}

impl GivenGate {
    fn owes(&self) -> bool {
        !self.open.is_empty() || self.untaken.is_some() || !self.waiting.is_empty()
    }
}

impl GivenCommands {
    /// Nothing was given to these gates yet.
    pub fn new(gates: &[NumberedGate]) -> Self {
        let given = |target: &NumberedTarget| GivenGate { done: target.done, ..GivenGate::default() };
        Self(gates.iter().map(|gate| (gate.gate.clone(), given(&gate.target))).collect())
    }

    /// Whether there is no such gate.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an answer is awaited, or something waits to be given.
    pub fn owes(&self) -> bool {
        self.0.values().any(GivenGate::owes)
    }

    /// What was given to this gate.
    pub fn of(&mut self, gate: &str) -> Option<&mut GivenGate> {
        self.0.get_mut(gate)
    }

    /// Modbus: the gates, each with the registers in which its answers come.
    pub fn answer_in(&self) -> Vec<(Arc<str>, u16)> {
        self.0.iter().filter_map(|(name, gate)| Some((name.clone(), gate.done?))).collect()
    }

    /// A number for the command, where the PLC doesn't say which comes next.
    fn number(&mut self, gate: &str) -> u16 {
        let last = self.0.get(gate).and_then(|gate| gate.last).unwrap_or_else(rand::random);
        next_number(last)
    }

    /// The command was given under this number.
    fn given(&mut self, gate: &str, number: u16, id: u64) {
        let Some(gate) = self.0.get_mut(gate) else { return };
        gate.open.retain(|(other, _)| *other != number);
        gate.open.push_back((number, id));
        if gate.open.len() > OPEN {
            gate.open.pop_front();
        }
        gate.last = Some(number);
    }

    /// The number was carried out: its command, the first time.
    pub fn done(&mut self, gate: &str, number: u16) -> Option<u64> {
        let open = &mut self.0.get_mut(gate)?.open;
        let place = open.iter().position(|(other, _)| *other == number)?;
        open.remove(place).map(|(_, id)| id)
    }

    /// An earlier run of this service was answered with this number; others of it may still be under way.
    fn was(&mut self, gate: &str, number: u16) {
        if let Some(gate) = self.0.get_mut(gate) {
            gate.last.get_or_insert(number.wrapping_add(OPEN as u16));
        }
    }
}

impl Outlet {
    /// MQTT: a number for a command that the other side carries out by itself; it is told to the record.
    pub(super) fn numbered(&mut self, command: &EjectorCommand, target: u32) -> u16 {
        let gate = &command.subject.gate;
        let number = self.given.number(gate);
        self.given.given(gate, number, command.id);
        self.tell_number(command, number, target);
        number
    }

    /// MQTT: whether it is an answer, on `<topic>/done/<gate>`: a number as text or as JSON `{"number": 7}`; a retained one
    /// is old.
    pub(super) fn answered(&mut self, topic: &str, message: &rumqttc::Publish) -> bool {
        let gate = message.topic.strip_prefix(topic).and_then(|rest| rest.strip_prefix("/done/"));
        let Some(gate) = gate.filter(|_| !self.given.is_empty()) else { return false };
        let value: serde_json::Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let number = value.as_u64().or_else(|| value["number"].as_u64()).and_then(|number| u16::try_from(number).ok());
        match number {
            None => tracing::error!("an answer for the gate {gate:?} that is no number from 1 to 65535"),
            Some(number) if message.retain => self.given.was(gate, number),
            Some(number) => {
                if let Some(id) = self.given.done(gate, number) {
                    self.report(id, Ok(()));
                }
            }
        }
        true
    }

    /// Modbus: the command's number, which the PLC's register tells; it is told to the record the first time.
    pub(super) fn number_is(&mut self, command: &EjectorCommand, number: u16, target: u32) {
        let known =
            self.given.0.get(&command.subject.gate).is_some_and(|gate| gate.open.contains(&(number, command.id)));
        if !known {
            self.given.given(&command.subject.gate, number, command.id);
            self.tell_number(command, number, target);
        }
    }

    fn tell_number(&self, command: &EjectorCommand, number: u16, target: u32) {
        let subject = command.subject.clone();
        (self.notify)(OutputNotice::Numbered { output: self.index, number, target, subject });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_round_without_0_and_an_answer_counts_once() {
        let gates = [NumberedGate { gate: "out".into(), target: NumberedTarget::default() }];
        let mut given = GivenCommands::new(&gates);
        given.was("out", 65_530 - OPEN as u16);
        let mut numbers = Vec::new();
        for id in 0..8 {
            let number = given.number("out");
            given.given("out", number, id);
            numbers.push(number);
        }
        assert_eq!(numbers, [65_531, 65_532, 65_533, 65_534, 65_535, 1, 2, 3]);
        given.was("out", 9);
        assert_eq!((given.done("out", 1), given.done("out", 1), given.done("out", 9)), (Some(5), None, None));
        assert!(given.owes());
        for number in [65_531, 65_532, 65_533, 65_534, 65_535, 2, 3] {
            assert!(given.done("out", number).is_some());
        }
        assert!(!given.owes());
        for id in 0..1000 {
            given.given("out", next_number(id), id.into());
        }
        assert_eq!(given.0["out"].open.len(), OPEN);
    }

    #[test]
    fn three_and_four_registers_must_lie_before_the_last() {
        let target = |registers, done| NumberedTarget { registers, done }.modbus();
        assert_eq!(target(Some(200), Some(30)), Ok(([200, 201, 202], 30)));
        for wrong in [(None, Some(1)), (Some(1), None), (Some(65_534), Some(1)), (Some(1), Some(65_533))] {
            assert!(target(wrong.0, wrong.1).is_err());
        }
    }
}
