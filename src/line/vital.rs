//! Threads without which items pass unjudged, or judged and unmoved.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    thread::{Builder, JoinHandle},
};

/// Starts one. If it panics, the process ends after the panic's own words: the PLC misses the heartbeat, and systemd
/// restarts the service.
///
/// # Errors
/// The system's, when no thread can be started.
pub fn thread(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name).spawn(|| {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            process::abort();
        }
    })
}
