//! How the line does, as its newest items show it.

use std::{collections::VecDeque, time::Duration};

use crate::domain::{Action, Optics, Reason, Source, Verdict};

/// Newest belt items that tell how the line does.
const WINDOW: usize = 200;
/// A belt item counts as late from this share of the deadline on.
const NEARLY: f64 = 0.8;

/// The newest belt items.
#[derive(Default)]
pub(super) struct Belt(VecDeque<Seen>);

#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub late: bool,
    pub passed: bool,
    pub fault: bool,
    pub novelty: Option<f32>,
    pub optics: Option<Optics>,
}

impl Belt {
    pub fn add(&mut self, verdict: &Verdict, deadline: Duration) {
        if verdict.source != Source::Belt {
            return;
        }
        if self.full() {
            self.0.pop_front();
        }
        self.0.push_back(Seen {
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

    pub fn share(&self, of: impl Fn(&Seen) -> bool) -> f64 {
        self.0.iter().filter(|seen| of(seen)).count() as f64 / self.0.len().max(1) as f64
    }

    /// Mean of what `of` tells of each item; `None` before the window is full of items that tell it.
    pub fn mean(&self, of: impl Fn(&Seen) -> Option<f32>) -> Option<f32> {
        let known: Vec<f32> = self.0.iter().filter_map(of).collect();
        (known.len() == WINDOW).then(|| known.iter().sum::<f32>() / WINDOW as f32)
    }

    pub fn novelty(&self) -> Option<f32> {
        self.mean(|seen| seen.novelty)
    }
}
