//! Camera → line: a bounded hand-over in which the newest frame wins.
//!
//! Invariant: [`Handover::put`] never waits for the taker; when full, the oldest frame goes.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::domain::Frame;

/// Frames waiting at most: one being old news while the next arrives, no more.
pub const CAPACITY: usize = 2;

/// The hand-over from one camera to its line; see the module.
#[derive(Default)]
pub struct Handover {
    waiting: Mutex<WaitingFrames>,
    changed: Condvar,
}

/// What the lock guards.
#[derive(Default)]
struct WaitingFrames {
    frames: VecDeque<Frame>,
    closed: bool,
}

impl Handover {
    /// Hands `frame` over; true when the oldest waiting frame was dropped for it. After [`Handover::close`] the frame
    /// itself is dropped.
    pub fn put(&self, frame: Frame) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return true;
        }
        let dropped = waiting.frames.len() == CAPACITY;
        if dropped {
            waiting.frames.pop_front();
        }
        waiting.frames.push_back(frame);
        drop(waiting);
        self.changed.notify_one();
        dropped
    }

    /// The oldest waiting frame; waits up to `timeout` for one. `None` after the timeout, or when closed and empty.
    pub fn take(&self, timeout: Duration) -> Option<Frame> {
        let none_yet = |waiting: &mut WaitingFrames| waiting.frames.is_empty() && !waiting.closed;
        let (mut waiting, _) =
            self.changed.wait_timeout_while(self.lock(), timeout, none_yet).unwrap_or_else(PoisonError::into_inner);
        waiting.frames.pop_front()
    }

    /// No frame comes any more: takers stop waiting.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Whether no frame comes any more and none waits.
    pub fn over(&self) -> bool {
        let waiting = self.lock();
        waiting.closed && waiting.frames.is_empty()
    }

    /// Frames waiting now, for the queue-length metric.
    pub fn waiting(&self) -> usize {
        self.lock().frames.len()
    }

    /// A queue of frames is whole after every step, so a panicked holder cannot have left it half changed.
    fn lock(&self) -> MutexGuard<'_, WaitingFrames> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::*;
    use crate::domain::{Picture, Raw};

    fn frame(sequence: u64) -> Frame {
        Frame {
            camera: "test".into(),
            sequence,
            captured: Instant::now(),
            wall: time::OffsetDateTime::UNIX_EPOCH,
            raw: Raw::Rgb(Arc::new(Picture::filled(1, 1, [0; 3]))),
            truth: Arc::new([]),
        }
    }

    #[test]
    fn the_newest_frames_win() {
        let handover = Handover::default();
        let dropped: Vec<bool> = (0..5).map(|n| handover.put(frame(n))).collect();
        assert_eq!(dropped, [false, false, true, true, true]);
        let taken: Vec<u64> = (0..2).map(|_| handover.take(Duration::ZERO).unwrap().sequence).collect();
        assert_eq!(taken, [3, 4]);
        assert!(handover.take(Duration::from_millis(5)).is_none());
    }

    #[test]
    fn a_waiting_taker_gets_the_frame_at_once_and_is_freed_by_close() {
        let handover = Arc::new(Handover::default());
        let taker = std::thread::spawn({
            let handover = handover.clone();
            move || {
                let first = handover.take(Duration::from_secs(30)).map(|f| f.sequence);
                (first, handover.take(Duration::from_secs(30)).is_none())
            }
        });
        let start = Instant::now();
        handover.put(frame(7));
        std::thread::sleep(Duration::from_millis(20));
        handover.close();
        assert_eq!(taker.join().unwrap(), (Some(7), true));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn it_is_over_when_it_is_closed_and_what_waited_is_taken() {
        let handover = Handover::default();
        handover.put(frame(1));
        assert!(!handover.over());
        handover.close();
        assert!(!handover.over(), "a frame waits");
        assert!(handover.take(Duration::ZERO).is_some() && handover.over());
    }
}
