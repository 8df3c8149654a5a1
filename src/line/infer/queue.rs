//! What waits for a session, and how a micro-batch is cut from it. No locks, no threads: the caller holds the lock.
//!
//! Invariants: each queue has a fixed capacity and refuses when full; belt items go first and are never mixed with HTTP
//! items; a batch holds at least one job.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::InferSettings;
use crate::domain::{Fault, Scored, Source, Timings, ms};

/// The belt counts as running for this long after its last item.
const BELT_RUNS: Duration = Duration::from_secs(10);

/// One picture that waits for its scores.
pub(super) struct Job {
    /// `side * side * 3` RGB bytes.
    pub pixels: Vec<u8>,
    pub queued: Instant,
    pub deadline: Instant,
    pub source: Source,
    /// It asks whether the worker answers, about no item.
    pub probe: bool,
    pub reply: oneshot::Sender<Scored>,
}

impl Job {
    /// Answers without scores.
    pub fn refuse(self, fault: Fault) {
        let timings = Timings { queue_ms: ms(self.queued.elapsed()), ..Timings::default() };
        // The asker may have gone; then nobody needs the answer.
        let _ = self.reply.send(Scored { scores: Err(fault), model: None, timings });
    }
}

/// The jobs that no session has taken yet.
#[derive(Default)]
pub(super) struct JobQueues {
    belt: VecDeque<Job>,
    http: VecDeque<Job>,
    last_belt: Option<Instant>,
    stopped: bool,
}

impl JobQueues {
    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.belt.len() + self.http.len()
    }

    /// Jobs that wait, by the name of their source in metrics.
    pub fn depths(&self) -> [(&'static str, usize); 2] {
        [(Source::Belt.name(), self.belt.len()), (Source::Http.name(), self.http.len())]
    }

    /// Whether a belt item came a short while before `now`.
    pub fn belt_runs(&self, now: Instant) -> bool {
        self.last_belt.is_some_and(|last| now.saturating_duration_since(last) < BELT_RUNS)
    }

    /// Takes a job in; returns how many of its source wait now.
    ///
    /// # Errors
    /// [`Fault::Stopping`] after [`JobQueues::stop`], [`Fault::Overloaded`] when the queue of its source is full.
    pub fn push(&mut self, job: Job, settings: &InferSettings) -> Result<usize, Fault> {
        if self.stopped {
            return Err(Fault::Stopping);
        }
        let (queue, capacity) = match job.source {
            Source::Belt => (&mut self.belt, settings.belt_queue),
            Source::Http => (&mut self.http, settings.http_queue),
        };
        if queue.len() >= capacity {
            return Err(Fault::Overloaded);
        }
        if job.source == Source::Belt && !job.probe {
            self.last_belt = Some(job.queued);
        }
        queue.push_back(job);
        Ok(queue.len())
    }

    /// From now on every job is refused.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> Vec<Job> {
        self.belt.drain(..).chain(self.http.drain(..)).collect()
    }

    /// Takes at most `most` of what waits (one at least), belt first, cut so that the batch's expected time, `cost`
    /// seconds per item, keeps the earliest deadline in it.
    pub fn take_batch(&mut self, most: usize, settings: &InferSettings, cost: f64, now: Instant) -> Vec<Job> {
        let mut batch: Vec<Job> = Vec::new();
        let mut budget = f64::INFINITY;
        let belt_runs = self.belt_runs(now);
        while batch.len() < most.max(1) {
            let Some(job) = self.belt.front().or(self.http.front()) else { break };
            let left = job.deadline.saturating_duration_since(now).as_secs_f64();
            // An expired one is answered without running.
            budget = budget.min(if left > 0.0 { left } else { f64::INFINITY });
            if batch.first().is_some_and(|first| first.source != job.source) {
                break;
            }
            if job.source == Source::Http && belt_runs {
                budget = budget.min(settings.http_batch_time.as_secs_f64());
            }
            if !batch.is_empty() && (batch.len() + 1) as f64 * cost > budget {
                break;
            }
            let next = self.belt.pop_front().or_else(|| self.http.pop_front());
            batch.extend(next);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(source: Source, left: Duration, now: Instant) -> Job {
        Job { pixels: vec![], queued: now, deadline: now + left, source, probe: false, reply: oneshot::channel().0 }
    }

    fn sources(batch: &[Job]) -> Vec<Source> {
        batch.iter().map(|j| j.source).collect()
    }

    #[test]
    fn the_belt_goes_before_http() {
        let now = Instant::now();
        let mut queues = JobQueues::default();
        queues.http.extend((0..3).map(|_| job(Source::Http, Duration::from_secs(1), now)));
        queues.belt.push_back(job(Source::Belt, Duration::from_secs(1), now));
        let batch = queues.take_batch(2, &InferSettings::default(), 0.001, now);
        assert_eq!(sources(&batch), [Source::Belt], "and is not mixed with it");
        assert_eq!(queues.http.len(), 3);
    }

    #[test]
    fn a_batch_is_cut_to_keep_the_earliest_deadline() {
        let now = Instant::now();
        let mut queues = JobQueues::default();
        queues.belt.extend((0..8).map(|_| job(Source::Belt, Duration::from_millis(35), now)));
        assert_eq!(queues.take_batch(8, &InferSettings::default(), 0.010, now).len(), 3);
        assert_eq!(queues.belt.len(), 5);
    }

    #[test]
    fn http_batches_stay_short_while_the_belt_runs() {
        let now = Instant::now();
        let mut queues = JobQueues::default();
        queues.http.extend((0..16).map(|_| job(Source::Http, Duration::from_secs(5), now)));
        let settings = InferSettings { http_batch_time: Duration::from_millis(10), ..InferSettings::default() };
        assert_eq!(queues.take_batch(8, &settings, 0.004, now).len(), 8, "no belt, no need to hurry");
        queues.last_belt = Some(now);
        assert_eq!(queues.take_batch(8, &settings, 0.004, now).len(), 2);
        assert_eq!(queues.take_batch(8, &settings, 1.0, now).len(), 1, "at least one always runs");
    }
}
