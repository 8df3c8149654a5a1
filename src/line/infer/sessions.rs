//! The sessions of the serving student: which of them takes what waits. No locks, no threads: the caller holds the lock.
//!
//! Invariant: a session is in the pool or with one worker; one that comes back after its student was exchanged does not
//! return to the pool.

use std::{sync::Arc, time::Instant};

use crate::{
    domain::Card,
    student::{engine::Engine, open::Student},
};

/// Most items in a batch of a one-thread session on the CPU: two at once cost such a session 4 % less than one by one,
/// more save no more and wait for each other.
const LANE_BATCH: usize = 2;

/// An open session that can run a batch.
pub(super) struct Session {
    pub engine: Engine,
    pub card: Arc<Card>,
    /// Seconds per item, learned from the batches that ran here.
    pub cost: f64,
    /// Whether it runs beside others; otherwise it has all threads.
    pub lane: bool,
    /// Most items that it runs at once.
    pub most: usize,
}

/// The sessions of the serving student.
pub(super) struct SessionPool {
    pub card: Arc<Card>,
    pub provider: &'static str,
    /// What the student said of the picture whose answer is known.
    pub known: Arc<[f32]>,
    /// The session with all threads, while it is free.
    wide: Option<Session>,
    /// The free ones of those that run side by side.
    lanes: Vec<Session>,
    /// How many lanes there are, free or not.
    lane_count: usize,
    /// Batches that run now, those of a student that served before included.
    busy: usize,
    last_run: Instant,
}

impl SessionPool {
    /// The sessions of `student`, all free, while `busy` batches of the student before it still run.
    pub fn new(student: Student, busy: usize) -> Self {
        let Student { engine, lanes, card, known } = student;
        let session = |engine: Engine, lane| {
            let most = if lane { engine.pads_to().unwrap_or(LANE_BATCH) } else { usize::MAX };
            Session { engine, card: card.clone(), cost: 0.005, lane, most }
        };
        Self {
            provider: engine.provider(),
            known: known.into(),
            wide: Some(session(engine, false)),
            lane_count: lanes.len(),
            lanes: lanes.into_iter().map(|engine| session(engine, true)).collect(),
            card: card.clone(),
            busy,
            last_run: Instant::now(),
        }
    }

    /// Batches that run now.
    pub fn busy(&self) -> usize {
        self.busy
    }

    /// A free session for `waiting` items, if there is one.
    pub fn take(&mut self, waiting: usize) -> Option<Session> {
        let wide = takes_all_threads(waiting, self.busy, self.lane_count);
        let session = if wide { self.wide.take() } else { self.lanes.pop() };
        self.busy += usize::from(session.is_some());
        session
    }

    /// The part of `waiting` items that `session`, just taken, is to run: what waits is shared among the free ones.
    pub fn share(&self, session: &Session, waiting: usize) -> usize {
        let share = if session.lane { waiting.div_ceil(self.lanes.len() + 1) } else { waiting };
        share.min(session.most)
    }

    /// Takes a session back; returns it when its student serves no more.
    pub fn give_back(&mut self, session: Session) -> Option<Session> {
        self.busy -= 1;
        self.last_run = Instant::now();
        if !Arc::ptr_eq(&session.card, &self.card) {
            return Some(session);
        }
        if session.lane {
            self.lanes.push(session)
        } else {
            self.wide = Some(session)
        }
        None
    }

    /// Since when nothing runs; `None` while something does.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.busy == 0).then_some(self.last_run)
    }
}

/// Whether the session with all threads is to run: always where it is the only one, otherwise for an item that is alone
/// in the service.
fn takes_all_threads(waiting: usize, busy: usize, lane_count: usize) -> bool {
    lane_count == 0 || (waiting <= 1 && busy == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_go_to_an_item_that_is_alone_and_to_no_other() {
        assert!(takes_all_threads(1, 0, 2));
        for (waiting, busy) in [(2, 0), (1, 1), (8, 2)] {
            assert!(!takes_all_threads(waiting, busy, 2), "{waiting} waiting, {busy} running");
            assert!(takes_all_threads(waiting, busy, 0), "with one thread there is one session");
        }
    }
}
