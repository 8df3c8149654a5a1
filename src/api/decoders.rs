//! A few threads of low priority that decode pictures, so that HTTP load never takes the cores from the belt.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::ApiError;
use crate::line::priority;

/// The threads; jobs wait in order. There are never more of them than admission permits, because each holds one.
pub(super) struct Decoders(rayon::ThreadPool);

impl Decoders {
    pub(super) fn start(threads: usize) -> std::io::Result<Self> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("decode-{i}"))
            .start_handler(|_| priority::set(priority::DECODE))
            .build()
            .map(Self)
            .map_err(std::io::Error::other)
    }

    /// Runs `job` on one of the threads. The permit is given back only when the job is done, even if the client went
    /// away meanwhile; a job whose client went away before it started is skipped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        permit: Arc<OwnedSemaphorePermit>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.0.spawn(move || {
            let _held = permit;
            if !reply.is_closed() {
                // Caught here, because a panic in a rayon thread would abort the process.
                if let Ok(done) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)) {
                    let _ = reply.send(done);
                }
            }
        });
        answer.await.map_err(|_| ApiError::Internal("a decode thread panicked".into()))
    }
}
