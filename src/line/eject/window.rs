//! For how long a gate is open for an item, and which items leave together. Pure: time is an argument.
//!
//! Invariants: a gate that was shut is not opened before its pause is over: it stays open until the next item where that comes
//! sooner, and where nobody can hold it open, that item's command is late; a good item leaves only if its gate says so and
//! can't be shut between it and one that has to leave.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Deserialize;

/// A gate is open for an item at most so long: on a belt that creeps, a person has to look.
const LONGEST: Duration = Duration::from_secs(60);
/// A gate that stays open for the next item does so until a little after that item's command.
const SPARE: Duration = Duration::from_millis(20);

/// What becomes of good items that lie so near one to be ejected that the gate can't be shut in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Neighbours {
    /// The gate moves for the bad item alone; nothing is known of what else it hits.
    #[default]
    Alone,
    /// They leave too, whole, and the record says so.
    Both,
}

/// How a gate opens for an item. The default: it is told to, and nothing is known of how long.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GateWindow {
    /// It stays open at least this long; zero where the other side shuts it.
    pub least: Duration,
    /// Metres of the belt that pass while it is open; 0: as many as pass meanwhile.
    pub length: f64,
    /// The belt's speed in m/s, where nothing tells it when the item comes.
    pub speed: f64,
    /// From its being shut, or from a command that nobody knows the end of, to the next command.
    pub pause: Duration,
    /// It is a good item, which leaves only beside another.
    pub beside: bool,
}

impl GateWindow {
    /// How long it is open on a belt of this speed, in m/s.
    pub fn open(&self, speed: Option<f64>) -> Duration {
        if self.length <= 0.0 {
            return self.least;
        }
        let passes = Duration::try_from_secs_f64(self.length / speed.unwrap_or(self.speed).abs());
        passes.unwrap_or(LONGEST).clamp(self.least, LONGEST)
    }
}

/// An item for which a gate may open: when, for how long, and whether only beside another.
#[derive(Clone, Copy, Debug)]
pub struct Comer {
    /// When its command leaves.
    pub due: Instant,
    /// See [`GateWindow::open`].
    pub open: Duration,
    /// See [`GateWindow::beside`].
    pub beside: bool,
}

/// What a gate does for an item whose moment has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GateMove {
    /// It opens or stays open, for so long from now on; zero: for as long as it always does.
    Open(Duration),
    /// It was shut a moment ago and can't open yet.
    TooSoon,
    /// It is a good item with none near it that leaves.
    Spared,
}

/// Until when each gate is open, or was told to open.
#[derive(Default)]
pub struct GateWindows(BTreeMap<usize, Instant>);

impl GateWindows {
    /// The moment of an item at a gate has come, which is open for it for `open`. `after` are those that come to the same gate
    /// next, in the order of time.
    pub fn decide(
        &mut self,
        gate: usize,
        window: &GateWindow,
        open: Duration,
        now: Instant,
        after: &[Comer],
    ) -> GateMove {
        let until = self.0.get(&gate).copied();
        let is_open = until.is_some_and(|until| now <= until && !open.is_zero());
        if !is_open && until.is_some_and(|until| now < until + window.pause) {
            return if window.beside { GateMove::Spared } else { GateMove::TooSoon };
        }
        let end = now + open;
        if window.beside && !is_open && !leads_to_bad(end, window.pause, after) {
            return GateMove::Spared;
        }
        let next = after.first().filter(|next| next.due > end && next.due < end + window.pause && !open.is_zero());
        let stays = next.map_or(end, |next| next.due + SPARE);
        self.0.insert(gate, until.map_or(stays, |until| until.max(stays)));
        let said = window.length > 0.0 || next.is_some();
        GateMove::Open(if said { stays - now } else { Duration::ZERO })
    }
}

/// Whether a gate that is open until `end` can't be shut before one comes that has to leave.
fn leads_to_bad(mut end: Instant, pause: Duration, after: &[Comer]) -> bool {
    for next in after {
        if next.due > end && next.due >= end + pause {
            return false;
        }
        if !next.beside {
            return true;
        }
        end = end.max(next.due + next.open);
    }
    false
}
