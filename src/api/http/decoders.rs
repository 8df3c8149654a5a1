//! A few threads that decode pictures; while the belt runs they have low priority, so that HTTP load never takes the
//! cores from it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    api::error::ApiError,
    line::{infer::Infer, priority},
};

/// The threads; jobs wait in order. There are never more of them than admission permits, because each holds one.
pub(in crate::api) struct Decoders {
    threads: rayon::ThreadPool,
    infer: Infer,
}

impl Decoders {
    pub(in crate::api) fn start(threads: usize, infer: Infer) -> std::io::Result<Self> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("decode-{i}"))
            .build()
            .map(|threads| Self { threads, infer })
            .map_err(std::io::Error::other)
    }

    /// Runs `job` on one of the threads. The permit is given back only when the job is done, even if the client went
    /// away meanwhile; a job whose client went away before it started is skipped.
    pub(in crate::api) async fn run<T: Send + 'static>(
        &self,
        permit: Arc<OwnedSemaphorePermit>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let infer = self.infer.clone();
        self.threads.spawn(move || {
            let _held = permit;
            if !reply.is_closed() {
                // Lowered without need, inference would starve it and then have nothing to run.
                priority::set(if infer.belt_runs() { priority::DECODE } else { priority::NORMAL });
                // Caught here, because a panic in a rayon thread would abort the process.
                if let Ok(done) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)) {
                    let _ = reply.send(done);
                }
            }
        });
        answer.await.map_err(|_| ApiError::Internal("a decode thread panicked".into()))
    }
}
