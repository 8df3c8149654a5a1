//! What each worker thread does: take a session and a batch for it, run it, answer.

use std::{
    sync::{PoisonError, mpsc::SyncSender},
    time::Instant,
};

use super::{ScoredLook, Shared, State, lock, queue::Job, sessions::Session};
use crate::{
    domain::{Fault, Scored, Scores, Timings, ms},
    line::priority,
    metrics::Metrics,
    student::{
        engine::{softmax, stack},
        open::warm_up,
    },
};

/// A session, the jobs that it is to run, and whether the belt runs meanwhile.
struct Batch {
    session: Session,
    jobs: Vec<Job>,
    belt_runs: bool,
}

/// Runs batches until the workers are to end.
pub(super) fn work(shared: &Shared) {
    priority::set(priority::BELT);
    while let Some(Batch { mut session, jobs, belt_runs }) = next_batch(shared) {
        // While the belt runs, an item may have to wait for an HTTP batch, so that goes first too; otherwise it would
        // only take the cores from the threads that feed it.
        if !belt_runs {
            priority::set(priority::NORMAL);
        }
        let tap = lock(&shared.tap).clone();
        run(&mut session, jobs, &shared.metrics, tap.as_ref());
        let retired = lock(&shared.state).sessions.give_back(session);
        drop(retired);
        if !belt_runs {
            priority::set(priority::BELT);
        }
    }
}

/// Waits for something to do and a session to do it in; `None` when the workers are to end.
fn next_batch(shared: &Shared) -> Option<Batch> {
    let keep_warm = shared.settings.keep_warm;
    let mut state = lock(&shared.state);
    loop {
        let State { queues, sessions } = &mut *state;
        if queues.stopped() {
            let left = queues.drain();
            drop(state);
            for job in left {
                job.refuse(Fault::Stopping);
            }
            return None;
        }
        let waiting = queues.len();
        if waiting > 0
            && let Some(session) = sessions.take(waiting)
        {
            let most = sessions.share(&session, waiting).min(shared.settings.max_batch);
            let now = Instant::now();
            let jobs = queues.take_batch(most, &shared.settings, session.cost, now);
            for (source, depth) in queues.depths() {
                shared.metrics.line.queue_depth.with_label_values(&[source]).set(depth as i64);
            }
            let belt_runs = queues.belt_runs(now);
            return Some(Batch { session, jobs, belt_runs });
        }
        if keep_warm.is_zero() {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let idle = sessions.idle_since().is_some_and(|since| since.elapsed() >= keep_warm);
        if let Some(mut session) = if idle { sessions.take(0) } else { None } {
            drop(state);
            if let Err(e) = warm_up(&mut session.engine, 1) {
                tracing::warn!("keep-warm run failed: {e}");
            }
            state = lock(&shared.state);
            let retired = state.sessions.give_back(session);
            drop(retired);
            continue;
        }
        state = shared.work.wait_timeout(state, keep_warm).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Runs the jobs in one go and answers each.
fn run(session: &mut Session, jobs: Vec<Job>, metrics: &Metrics, tap: Option<&SyncSender<ScoredLook>>) {
    let started = Instant::now();
    let mut jobs = still_wanted(jobs, session, started);
    if jobs.is_empty() {
        return;
    }
    let pictures: Vec<Vec<u8>> = jobs.iter_mut().map(|job| std::mem::take(&mut job.pixels)).collect();
    let outputs = stack(&pictures, session.engine.side()).and_then(|batch| session.engine.run(batch.view()));
    let elapsed = started.elapsed();
    metrics.line.batch_size.observe(jobs.len() as f64);
    session.cost = 0.9 * session.cost + 0.1 * elapsed.as_secs_f64() / jobs.len() as f64;
    if let Err(e) = &outputs {
        tracing::error!("a batch of {} failed: {e}", jobs.len());
    }
    for (i, (job, pixels)) in jobs.into_iter().zip(pictures).enumerate() {
        let scores = match &outputs {
            Ok(out) => Ok(Scores {
                probabilities: softmax(&out.logits.row(i).to_vec(), session.card.thresholds.temperature),
                embedding: out.embedding.row(i).to_vec(),
            }),
            Err(e) => Err(Fault::Inference(e.to_string())),
        };
        let queued = started.saturating_duration_since(job.queued);
        let stages = if job.probe { &[][..] } else { &[("queue", queued), ("infer", elapsed)] };
        for (stage, time) in stages {
            metrics.line.stage_seconds.with_label_values(&[job.source.name(), stage]).observe(time.as_secs_f64());
        }
        let timings = Timings { queue_ms: ms(queued), infer_ms: ms(elapsed), ..Timings::default() };
        let look = match (&scores, tap) {
            (Ok(scores), Some(tap)) if !job.probe => {
                Some((tap, ScoredLook { pixels, scores: scores.clone(), card: session.card.clone() }))
            }
            _ => None,
        };
        let _ = job.reply.send(Scored { scores, model: Some(session.card.clone()), timings });
        if let Some((tap, look)) = look {
            let _ = tap.try_send(look); // full: the candidate is slower than the belt, it misses this one
        }
    }
}

/// The jobs that are worth running at `started`; the others are answered, or nobody waits for them.
fn still_wanted(jobs: Vec<Job>, session: &Session, started: Instant) -> Vec<Job> {
    let bytes = session.engine.side() * session.engine.side() * 3;
    let mut wanted = Vec::with_capacity(jobs.len());
    for job in jobs {
        if job.reply.is_closed() {
            continue; // the asker has gone
        } else if job.deadline <= started {
            job.refuse(Fault::Timeout);
        } else if job.pixels.len() != bytes {
            // The picture was cut for a student of another input side that served a moment ago.
            job.refuse(Fault::Inference("the model changed while the item waited".into()));
        } else {
            wanted.push(job);
        }
    }
    wanted
}
