//! A few threads of low priority that decode pictures, so that HTTP load never takes the cores from the belt.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::ApiError;

/// Ten steps nicer than the service: the scheduler gives the belt's threads about nine tenths of a contended core.
const NICE: libc::c_int = 10;

/// The threads; jobs wait in order. There are never more of them than admission permits, because each holds one.
pub(super) struct Decoders(rayon::ThreadPool);

impl Decoders {
    pub(super) fn start(threads: usize) -> std::io::Result<Self> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("decode-{i}"))
            .start_handler(|_| lower_priority())
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

#[allow(unsafe_code)] // no safe wrapper of setpriority is among our dependencies
fn lower_priority() {
    // SAFETY: plain system call without pointers; on Linux `who` 0 means the calling thread, not the process.
    let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0;
    if failed {
        tracing::warn!("decode threads keep normal priority: {}", std::io::Error::last_os_error());
    }
}
