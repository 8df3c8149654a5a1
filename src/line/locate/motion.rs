//! How the belt moves, learned from the items on it.

use std::{collections::VecDeque, time::Instant};

/// Speeds of items that tell the belt's.
const SPEEDS: usize = 15;
/// Pictures in which no item is found again before the belt's speed is learned again.
const LOST: u32 = 3;

/// How the belt moves, learned from the items.
#[derive(Default)]
pub(super) struct Motion {
    /// The newest speeds of items, in cells per second along x.
    pub speeds: VecDeque<f32>,
    /// Usual time from one picture to the next, in seconds; 0 before the second.
    pub interval: f32,
    last: Option<Instant>,
    /// Pictures one after the other in which no item was found again.
    lost: u32,
}

impl Motion {
    /// The middle one of the newest speeds, so that a few that are wrong do no harm; `None` until an item was seen moving.
    pub fn speed(&self) -> Option<f32> {
        let mut sorted: Vec<f32> = self.speeds.iter().copied().collect();
        sorted.sort_by(f32::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    /// A picture was taken at `captured`.
    pub fn look(&mut self, captured: Instant) {
        if let Some(last) = self.last.replace(captured) {
            let seconds = captured.saturating_duration_since(last).as_secs_f32();
            self.interval = if self.interval == 0.0 { seconds } else { self.interval * 0.9 + seconds * 0.1 };
        }
    }

    /// An item moved by `cells` in `age` seconds. What came too soon tells no speed: network cameras hold pictures up and
    /// send several at once.
    pub fn moved(&mut self, cells: f32, age: f32) {
        if age > 0.5 * self.interval {
            if self.speeds.len() == SPEEDS {
                self.speeds.pop_front();
            }
            self.speeds.push_back(cells / age);
        }
    }

    /// A picture with items followed another one with items: whether any of them was found again. A belt whose speed
    /// was changed, or was learned wrongly, is learned again.
    pub fn followed(&mut self, again: bool) {
        self.lost = if again { 0 } else { self.lost + 1 };
        if self.lost == LOST {
            self.speeds.clear();
            self.lost = 0;
        }
    }
}
