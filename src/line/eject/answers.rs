//! What becomes of the commands for an item: told by the thread that keeps the time, asked for by challenge tests.
//!
//! Invariant: telling never waits; who reads too slowly loses the oldest words, and an item of which a word is missing has
//! not been seen to leave the belt.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use time::OffsetDateTime;
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

use crate::line::eject::output::Subject;

/// Words that may wait for their reader.
pub(super) const WAITING: usize = 4096;
/// Items whose words are remembered.
const REMEMBERED: usize = 4096;

/// One word about an item.
#[derive(Clone, Debug)]
pub struct GateAnswer {
    /// The item.
    pub(super) subject: Arc<Subject>,
    pub(super) word: GateWord,
}

#[derive(Clone, Debug)]
pub(super) enum GateWord {
    /// An output acknowledged the command in time.
    Acknowledged {
        /// Its place in the configuration.
        output: usize,
    },
    /// At an output the command was late.
    Late {
        /// Its name.
        output: Arc<str>,
        why: String,
    },
    /// The sensor after the gate saw it.
    Confirmed,
    /// The sensor did not.
    Missed,
}

/// What must answer before a gate has done its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateDuty {
    /// Its name.
    pub gate: String,
    /// How many outputs acknowledge each command.
    pub outputs: usize,
    /// Whether a sensor confirms it.
    pub sensor: bool,
}

/// What is known of an item's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Not all have answered.
    Pending,
    /// All outputs acknowledged it, and the sensor, where there is one, saw the item leave.
    Moved,
    /// An output did not, in words.
    Silent(String),
    /// The sensor saw nothing.
    Unconfirmed,
}

/// Camera, track and moment of capture.
type ItemKey = (String, u64, OffsetDateTime);

#[derive(Default)]
struct ItemWords {
    acknowledged: BTreeSet<usize>,
    late: Option<String>,
    confirmed: Option<bool>,
}

/// The words about the newest items.
pub struct GateAnswers {
    words: Receiver<GateAnswer>,
    items: HashMap<ItemKey, ItemWords>,
    order: VecDeque<ItemKey>,
}

impl GateAnswers {
    /// Nothing is known yet.
    pub fn new(words: Receiver<GateAnswer>) -> Self {
        Self { words, items: HashMap::new(), order: VecDeque::new() }
    }

    /// Takes in what was told since.
    pub fn take_in(&mut self) {
        loop {
            match self.words.try_recv() {
                Ok(answer) => self.learn(answer),
                Err(TryRecvError::Lagged(lost)) => {
                    tracing::warn!("{lost} answers of gates were told too fast to be read")
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn learn(&mut self, GateAnswer { subject, word }: GateAnswer) {
        let key = (subject.camera.clone(), subject.track, subject.captured);
        if !self.items.contains_key(&key) {
            self.order.push_back(key.clone());
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.items.remove(&oldest);
            }
        }
        let item = self.items.entry(key).or_default();
        match word {
            GateWord::Acknowledged { output } => drop(item.acknowledged.insert(output)),
            GateWord::Late { output, why } => item.late = Some(format!("{output}: {why}")),
            GateWord::Confirmed => item.confirmed = Some(true),
            GateWord::Missed => item.confirmed = Some(false),
        }
    }

    /// What is known of the item of `camera` with this track whose picture was taken at `captured`.
    pub fn state(&self, duty: &GateDuty, camera: &str, track: u64, captured: OffsetDateTime) -> GateState {
        let Some(item) = self.items.get(&(camera.to_owned(), track, captured)) else { return GateState::Pending };
        match (&item.late, item.confirmed) {
            (Some(why), _) => GateState::Silent(why.clone()),
            (None, Some(false)) => GateState::Unconfirmed,
            (None, None) if duty.sensor => GateState::Pending,
            _ if item.acknowledged.len() < duty.outputs => GateState::Pending,
            _ => GateState::Moved,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;
    use crate::domain::{Action, testing::verdict};

    #[test]
    fn an_item_has_left_only_when_every_output_and_the_sensor_said_so() {
        let (tell, words) = broadcast::channel(64);
        let mut answers = GateAnswers::new(words);
        let mut item = verdict(Action::Reject);
        let mut said = Vec::new();
        let duty = GateDuty { gate: "out".into(), outputs: 2, sensor: true };
        let late = GateWord::Late { output: "modbus".into(), why: "nobody acknowledged".into() };
        let both = [GateWord::Acknowledged { output: 0 }, GateWord::Acknowledged { output: 1 }];
        let twice = vec![both[0].clone(), both[0].clone(), GateWord::Confirmed];
        let all = |more: GateWord| both.iter().cloned().chain([more]).collect::<Vec<_>>();
        for words in [vec![], both.to_vec(), twice, all(late), all(GateWord::Missed), all(GateWord::Confirmed)] {
            item.track += 1;
            let subject = Arc::new(Subject::new("out".into(), &item));
            for word in words {
                tell.send(GateAnswer { subject: subject.clone(), word }).unwrap();
            }
            answers.take_in();
            said.push(answers.state(&duty, &item.camera, item.track, item.time));
        }
        let silent = GateState::Silent("modbus: nobody acknowledged".into());
        let pending = || GateState::Pending;
        assert_eq!(said, [pending(), pending(), pending(), silent, GateState::Unconfirmed, GateState::Moved]);
        // Another item with the same track, as after a restart, is another item.
        let other = item.time + time::Duration::SECOND;
        assert_eq!(answers.state(&duty, &item.camera, item.track, other), GateState::Pending);
    }
}
