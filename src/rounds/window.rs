//! Sliding window over the newest 200 belt items: late share, reject share, fault share, novelty, optics.

use std::{collections::VecDeque, time::Duration};

use crate::domain::{Action, Optics, Reason, Source, Verdict};

/// Belt items in the window.
const WINDOW: usize = 200;
/// A belt item counts as late from this share of the deadline on.
const NEARLY: f64 = 0.8;

/// The newest belt items, the oldest first.
#[derive(Default)]
pub(super) struct BeltWindow(VecDeque<BeltItem>);

#[derive(Clone, Copy)]
pub(super) struct BeltItem {
    pub late: bool,
    pub passed: bool,
    pub fault: bool,
    pub novelty: Option<f32>,
    pub optics: Option<Optics>,
}

impl BeltWindow {
    pub fn add(&mut self, verdict: &Verdict, deadline: Duration) {
        if verdict.source != Source::Belt {
            return;
        }
        if self.full() {
            self.0.pop_front();
        }
        self.0.push_back(BeltItem {
            late: verdict.timings.total_ms > NEARLY * deadline.as_secs_f64() * 1e3,
            passed: verdict.decision.action == Action::Accept,
            fault: verdict.decision.reason == Reason::Fault,
            novelty: verdict.novelty,
            optics: verdict.optics,
        });
    }

    /// Whether there are enough of them to tell.
    pub fn full(&self) -> bool {
        self.0.len() == WINDOW
    }

    pub fn share(&self, of: impl Fn(&BeltItem) -> bool) -> f64 {
        self.0.iter().filter(|item| of(item)).count() as f64 / self.0.len().max(1) as f64
    }

    /// Mean of what `of` tells of each item; `None` before the window is full of items that tell it.
    pub fn mean(&self, of: impl Fn(&BeltItem) -> Option<f32>) -> Option<f32> {
        let known: Vec<f32> = self.0.iter().filter_map(of).collect();
        (known.len() == WINDOW).then(|| known.iter().sum::<f32>() / WINDOW as f32)
    }

    pub fn novelty(&self) -> Option<f32> {
        self.mean(|item| item.novelty)
    }
}
