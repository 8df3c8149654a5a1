//! Whether the line is alive: every belt before a gate is looked at, and the worker answers in time. Heartbeats count
//! only then.
//!
//! Invariants: the answer is worked out when it is asked for, from when pictures were searched and items answered, so that
//! no thread can hang and leave it standing; a line is alive only after the first searched picture of each camera with
//! gates, and never again after [`LineAlive::stop`]; asking never blocks.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Without an item for so long the worker is asked for an answer that is known.
pub const PROBE_AFTER: Duration = Duration::from_secs(1);
/// The worker's last good answer counts so long: a pause, the time that such an answer may take, and a moment.
const ANSWER_COUNTS: Duration = Duration::from_millis(2500);

/// Shared by what looks, what judges, and what tells others that all is well; clones share it. The default one has no
/// cameras and is alive until it is stopped.
#[derive(Clone, Default)]
pub struct LineAlive(Arc<Shared>);

#[derive(Default)]
struct Shared {
    stopping: CancellationToken,
    signs: Mutex<Signs>,
}

#[derive(Default)]
struct Signs {
    cameras: Vec<CameraSigns>,
    /// When the worker last answered an item or a probe in time.
    answered: Option<Instant>,
    /// Why its newest item or probe has no answer.
    failed: Option<String>,
}

struct CameraSigns {
    name: String,
    /// Whether it has gates, so that what it does not see goes on unjudged.
    gates: bool,
    stalled_after: Duration,
    /// When the newest picture that was searched was taken.
    searched: Option<Instant>,
    /// Why an outage lasts.
    lost: Option<String>,
}

impl CameraSigns {
    fn why_not(&self) -> Option<String> {
        let Some(searched) = self.searched else {
            return Some(self.lost.clone().unwrap_or_else(|| "no picture of it was searched yet".into()));
        };
        let old = searched.elapsed() > self.stalled_after;
        self.lost.clone().or_else(|| old.then(|| format!("no picture was searched for {:?}", self.stalled_after)))
    }
}

impl LineAlive {
    /// A line that has not begun. Of each camera: its name, whether it has gates, and after what time without a searched
    /// picture nobody looks at its belt.
    pub fn new(cameras: impl Iterator<Item = (String, bool, Duration)>) -> Self {
        let cameras = cameras.map(|(name, gates, stalled_after)| CameraSigns {
            name,
            gates,
            stalled_after,
            searched: None,
            lost: None,
        });
        let signs = Signs { cameras: cameras.collect(), ..Signs::default() };
        Self(Arc::new(Shared { stopping: CancellationToken::new(), signs: Mutex::new(signs) }))
    }

    /// A picture of `camera` that was taken at `captured` was searched.
    pub fn searched(&self, camera: &str, captured: Instant) {
        if let Some(camera) = self.signs().cameras.iter_mut().find(|signs| signs.name == camera) {
            (camera.searched, camera.lost) = (Some(captured), None);
        }
    }

    /// An outage of `camera` lasts until a picture is searched.
    pub fn lost(&self, camera: &str, why: &str) {
        if let Some(camera) = self.signs().cameras.iter_mut().find(|signs| signs.name == camera) {
            camera.lost = Some(why.into());
        }
    }

    /// The worker answered its newest item or probe in time.
    pub fn answered(&self) {
        let mut signs = self.signs();
        (signs.answered, signs.failed) = (Some(Instant::now()), None);
    }

    /// The worker did not answer its newest item or probe in time, or wrongly.
    pub fn failed(&self, why: &str) {
        self.signs().failed = Some(why.into());
    }

    /// Whether the worker is to be asked for an answer that is known.
    pub fn wants_probe(&self) -> bool {
        let signs = self.signs();
        signs.failed.is_some() || signs.answered.is_none_or(|at| at.elapsed() >= PROBE_AFTER)
    }

    /// Why no heartbeat may count, in words; `None` while the line is alive.
    pub fn why_not(&self) -> Option<String> {
        if self.0.stopping.is_cancelled() {
            return Some("the service is stopping".into());
        }
        let signs = self.signs();
        let mut with_gates = signs.cameras.iter().filter(|camera| camera.gates).peekable();
        with_gates.peek()?;
        with_gates
            .find_map(|camera| Some(format!("camera {}: {}", camera.name, camera.why_not()?)))
            .or_else(|| signs.failed.as_ref().map(|why| format!("the worker: {why}")))
            .or_else(|| {
                let silent = signs.answered.is_none_or(|at| at.elapsed() > ANSWER_COUNTS);
                silent.then(|| "the worker has not answered yet, or not for long".into())
            })
    }

    /// Why nobody looks at a camera's belt; `None` while somebody does.
    pub fn camera_why_not(&self, camera: &str) -> Option<String> {
        if self.0.stopping.is_cancelled() {
            return Some("the service is stopping".into());
        }
        self.signs().cameras.iter().find(|signs| signs.name == camera)?.why_not()
    }

    /// From now on no heartbeat counts: the first thing at a shutdown.
    pub fn stop(&self) {
        self.0.stopping.cancel();
    }

    /// Waits for [`LineAlive::stop`].
    pub fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.0.stopping.cancelled()
    }

    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.0.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const STALLED: Duration = Duration::from_millis(80);

    fn line() -> LineAlive {
        let camera = |name: &str, gates| (name.to_owned(), gates, STALLED);
        LineAlive::new([camera("first", true), camera("second", true), camera("aside", false)].into_iter())
    }

    #[test]
    fn it_begins_with_the_first_picture_of_every_camera_with_gates_and_ends_with_any_of_them() {
        let alive = line();
        assert!(alive.why_not().unwrap().contains("camera first"));
        alive.answered();
        alive.searched("first", Instant::now());
        assert!(alive.why_not().unwrap().contains("camera second"), "one is not all");
        alive.searched("second", Instant::now());
        assert_eq!(alive.why_not(), None, "the one aside has no gates");
        assert!(alive.camera_why_not("aside").is_some());
        alive.lost("second", "unplugged");
        assert_eq!(alive.why_not().unwrap(), "camera second: unplugged");
        alive.searched("second", Instant::now());
        assert_eq!(alive.why_not(), None);
        std::thread::sleep(STALLED);
        assert!(alive.why_not().unwrap().contains("no picture was searched for 80ms"), "nobody told of it");
        alive.searched("first", Instant::now());
        alive.searched("second", Instant::now());
        alive.stop();
        assert!(alive.why_not().unwrap().contains("stopping"));
    }

    #[test]
    fn it_ends_with_an_item_that_the_worker_does_not_answer_until_it_answers() {
        let alive = line();
        alive.searched("first", Instant::now());
        alive.searched("second", Instant::now());
        assert!(alive.wants_probe() && alive.why_not().unwrap().contains("worker"), "it was not asked yet");
        alive.answered();
        assert!(!alive.wants_probe() && alive.why_not().is_none());
        alive.failed("no answer before the deadline");
        assert!(alive.wants_probe() && alive.why_not().unwrap().contains("no answer before the deadline"));
        alive.answered();
        assert!(!alive.wants_probe() && alive.why_not().is_none());
    }

    #[test]
    fn a_line_without_cameras_is_alive_until_it_stops() {
        let alive = LineAlive::default();
        assert_eq!(alive.why_not(), None);
        alive.stop();
        assert!(alive.why_not().is_some());
    }
}
