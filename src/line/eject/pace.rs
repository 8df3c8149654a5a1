//! How an item comes to its gate. Pure: time is an argument.

use std::time::{Duration, Instant};

/// Where an item is and how it comes to its gate.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Metres from the item to the gate at the moment `at`.
    pub left: f64,
    /// The moment from which the belt is taken to run at `speed`.
    pub at: Instant,
    /// The belt's speed in m/s, below 0 while it carries the item away from the gate.
    pub speed: f64,
    /// From the command to the moment when the gate has moved.
    pub delay: Duration,
    /// Where the belt is when the item is at the gate, where its place is counted; else the way is reckoned from speeds.
    pub goal: Option<BeltGoal>,
}

/// A place of the belt.
#[derive(Clone, Copy, Debug)]
pub struct BeltGoal {
    /// In which counting.
    pub counting: u32,
    /// In metres.
    pub position: f64,
    /// 1 where the belt's position rises as the item comes to the gate, -1 where it falls.
    pub sign: f64,
    /// No command is timed by a position that is older.
    pub fresh: Duration,
}

/// What lies on a belt that stands or runs backwards is said to come in so many seconds: in a century.
const HELD: f64 = 3.2e9;

impl Pace {
    /// When the item is at the gate if the belt runs on like this; after a century where it does not come.
    pub fn hit(&self) -> Instant {
        let comes = self.left / self.speed;
        if self.speed <= 0.0 || comes > HELD {
            return self.at + Duration::from_secs_f64(HELD);
        }
        let shift = Duration::from_secs_f64(comes.abs().min(HELD));
        if comes < 0.0 { self.at.checked_sub(shift).unwrap_or(self.at) } else { self.at + shift }
    }

    /// When the command must leave so that the gate has moved by then.
    pub fn due(&self) -> Instant {
        let hit = self.hit();
        hit.checked_sub(self.delay).unwrap_or(hit)
    }

    /// The belt runs at `speed` from `now` on.
    pub(super) fn runs(&mut self, speed: f64, now: Instant) {
        let ran = now.saturating_duration_since(self.at);
        self.left -= self.speed * ran.as_secs_f64();
        (self.at, self.speed) = (self.at + ran, speed);
    }
}
