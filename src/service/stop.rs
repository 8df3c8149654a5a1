//! The ordered stop: first nothing new comes in, then the line empties, then the record is closed.
//!
//! The belt is looked at until the requests at hand have ended.
//!
//! Invariant: whatever feeds a queue ends before what empties it, so that every verdict is acted on and recorded.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    line::RunningLine,
    record::{self, OpenRecord},
    tasks::anchor::Anchors,
};
use crate::{line::infer::Infer, metrics::Metrics};

/// How long requests at hand may take; one that takes longer is left.
const REQUESTS: Duration = Duration::from_secs(5);

/// How long the threads of the line may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// Everything that runs, in the order in which it ends.
pub(super) struct RunningService {
    pub ready: watch::Sender<bool>,
    pub metrics: Metrics,
    /// Ends the server, its streams, and every task beside the line.
    pub stop: CancellationToken,
    pub server: JoinHandle<()>,
    /// Follows the registry.
    pub following: JoinHandle<()>,
    /// Keeps the rounds.
    pub learning: JoinHandle<()>,
    pub line: RunningLine,
    pub infer: Infer,
    /// The threads of `infer`.
    pub workers: Vec<thread::JoinHandle<()>>,
    pub record: OpenRecord,
    /// Decides challenge tests.
    pub challenges: JoinHandle<()>,
    /// Leaves the record's head elsewhere.
    pub anchoring: JoinHandle<Anchors>,
}

impl RunningService {
    /// Ends everything; returns after everything recorded is on disk.
    ///
    /// # Errors
    /// When a task panicked.
    pub(super) async fn stop(self) -> Result<()> {
        tracing::info!("stopping");
        self.line.line.alive.stop(); // no heartbeat says that all is well while the line ends
        self.ready.send_replace(false);
        self.metrics.ready.set(0);
        self.stop.cancel();
        let _ = tokio::time::timeout(REQUESTS, self.server).await;

        self.following.await?;
        self.learning.await?;
        let RunningLine { cameras, runtime, ejecting, line } = self.line;
        cameras.stop();
        join(cameras.threads).await;
        self.infer.stop();
        join(self.workers).await;
        drop(runtime);
        if let Some(ejecting) = ejecting {
            let _ = tokio::task::spawn_blocking(move || ejecting.close()).await; // what was ordered is still done
        }
        drop(line);

        let OpenRecord { store, stop_writer, writer, .. } = self.record;
        stop_writer.cancel();
        writer.await?;
        self.challenges.await?;
        record::close(store, self.anchoring.await?).await;
        Ok(())
    }
}

/// Waits for threads; one that does not return, as a camera's that hangs in the system, keeps nobody from stopping.
async fn join(threads: Vec<thread::JoinHandle<()>>) {
    let last = Instant::now() + ENDING;
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        if Instant::now() >= last {
            let left = threads.iter().filter(|thread| !thread.is_finished());
            let names: Vec<_> = left.map(|left| left.thread().name().unwrap_or("a thread").to_owned()).collect();
            return tracing::error!("{} did not end and is left", names.join(", "));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for SIGINT or SIGTERM.
pub(super) async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(e) => {
            tracing::error!("SIGTERM can't be caught: {e}; only Ctrl-C stops in order");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
