//! Ctrl-C and SIGTERM ask the run to stop after its step.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// True once the user or the service asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Starts listening on a thread of its own. A second signal ends the program at once, without a checkpoint.
pub fn listen() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return; // the default action stays: the program ends at once
            };
            for again in [false, true] {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if again {
                    std::process::exit(130);
                }
                REQUESTED.store(true, Ordering::Relaxed);
                eprintln!("\nstopping after this step and writing a checkpoint");
            }
        });
    });
}
