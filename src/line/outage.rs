//! Whether a camera's belt is looked at: one state for each camera, told to the record, the metrics, those who watch, and the
//! gates.
//!
//! A belt is looked at while its pictures are searched for items. Whatever ends that is an outage, and what comes to the
//! gates in it is unjudged: a camera that can't be opened, is silent or frozen; pictures that can't be decoded, or are of
//! another width than the gates were measured in; a thread that hands nothing over. Items that are known to have passed
//! unjudged are none, but are told as much: to the record, and to the gates.
//!
//! Invariants: an outage is recorded once at its begin and once at its end, however many causes it has; it ends with the
//! next picture that is searched and was taken after the camera was last lost; items that passed unjudged are told at most
//! once a second, and none is forgotten; telling never blocks.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{
    eject::Ejector,
    eject::output::alive::LineAlive,
    live::{CameraState, View},
    record::Recorder,
};
use crate::{metrics::Metrics, store::Event};

/// A camera from which nothing comes says so itself, after its own timeout, and why; one that says nothing either is lost
/// this much later.
const SILENCE: Duration = Duration::from_millis(500);
/// At the start it may take this long to be opened, if its timeout is no longer.
const OPENING: Duration = Duration::from_secs(5);
/// Items that passed unjudged are told of together when they come within this.
const TOGETHER: Duration = Duration::from_secs(1);

/// When an outage is said.
#[derive(Clone, Copy, Debug)]
pub struct OutageSettings {
    /// Pictures that can't be searched are an outage when none could be for this long; fewer are not, because a later
    /// picture shows their items again.
    pub stalled_after: Duration,
    /// While an outage lasts, the gates' `on_late` is asked again after this long; zero: never.
    pub ask_again: Duration,
}

/// One camera, as its two threads see it.
pub struct CameraOutage {
    recorder: Recorder,
    ejector: Option<Ejector>,
    view: Arc<View>,
    metrics: Metrics,
    alive: LineAlive,
    settings: OutageSettings,
    state: Mutex<OutageState>,
}

/// What the lock guards.
struct OutageState {
    /// When the gates were last asked, while an outage lasts.
    asked: Option<Instant>,
    why: String,
    /// Pictures taken before do not end the outage.
    lost: Option<Instant>,
    /// When the last picture was searched; the start, before there was one.
    searched: Instant,
    /// Whether one was.
    began: bool,
    /// Items that passed unjudged and are in no entry yet, and when the first was missed.
    passed: Option<(u64, Instant, OffsetDateTime)>,
    /// The first picture since then that could not be searched.
    unusable: Option<Instant>,
}

impl CameraOutage {
    /// A camera of which nothing was seen yet.
    pub fn new(
        recorder: Recorder,
        ejector: Option<Ejector>,
        view: Arc<View>,
        metrics: Metrics,
        alive: LineAlive,
        settings: OutageSettings,
    ) -> Self {
        let state = OutageState {
            asked: None,
            why: String::new(),
            lost: None,
            searched: Instant::now(),
            began: false,
            passed: None,
            unusable: None,
        };
        Self { recorder, ejector, view, metrics, alive, settings, state: Mutex::new(state) }
    }

    /// The camera can't be opened or stopped sending.
    pub fn lost(&self, why: &str) {
        let mut state = self.state();
        state.lost = Some(Instant::now());
        self.begin(&mut state, CameraState::Lost(why.into()), why);
    }

    /// The camera sends the very same picture over and over.
    pub fn frozen(&self, why: &str) {
        let mut state = self.state();
        state.lost = Some(Instant::now());
        self.begin(&mut state, CameraState::Frozen(why.into()), why);
    }

    /// A picture came that can't be searched.
    pub fn unusable(&self, why: &str) {
        let mut state = self.state();
        let since = state.unusable.get_or_insert_with(Instant::now).elapsed();
        if since >= self.settings.stalled_after {
            let why = format!("no picture could be searched for {:?}: {why}", self.settings.stalled_after);
            self.begin(&mut state, CameraState::Lost(why.clone()), &why);
        }
    }

    /// A picture came by which no gate may move; it does not pass by itself, so it is said at once.
    pub fn refused(&self, why: &str) {
        self.begin(&mut self.state(), CameraState::Lost(why.into()), why);
    }

    /// A picture that was taken at `captured` was searched for items.
    pub fn searched(&self, captured: Instant) {
        let mut state = self.state();
        if state.lost.is_some_and(|lost| captured <= lost) {
            return; // it waited while the camera was lost
        }
        (state.searched, state.unusable) = (Instant::now(), None);
        if state.asked.take().is_some() {
            self.recorder.event(Event::CameraBack { camera: self.view.camera.to_string() });
        }
        if !std::mem::replace(&mut state.began, true) {
            self.recorder.event(Event::CameraBegan { camera: self.view.camera.to_string() });
        }
        self.alive.searched(&self.view.camera, captured);
        self.show(CameraState::Up);
    }

    /// So many items are known to have gone on unjudged. The gates are asked at once, and not again for those that follow
    /// within a second or while an outage lasts.
    pub fn passed(&self, items: u64) {
        if items == 0 {
            return;
        }
        let mut state = self.state();
        match &mut state.passed {
            Some((more, ..)) => *more += items,
            none => {
                *none = Some((items, Instant::now(), OffsetDateTime::now_utc()));
                if state.asked.is_none() {
                    self.ejector.iter().for_each(|ejector| ejector.passed(&self.view.camera));
                }
            }
        }
    }

    /// The belt is not looked at any more: the service stops.
    pub fn end(&self) {
        let mut state = self.state();
        self.tell_passed(&mut state, Duration::ZERO);
        if state.began {
            self.recorder.event(Event::CameraEnded { camera: self.view.camera.to_string() });
        }
    }

    fn tell_passed(&self, state: &mut OutageState, after: Duration) {
        if let Some((items, _, from)) = state.passed.take_if(|(_, since, _)| since.elapsed() >= after) {
            let camera = self.view.camera.to_string();
            tracing::error!(camera, items, "items went on unjudged");
            self.recorder.event(Event::PassedUnjudged { camera, items, from });
        }
    }

    /// To be called several times a second: finds an outage that nobody told of, and asks the gates again.
    pub fn look(&self) {
        let mut state = self.state();
        self.tell_passed(&mut state, TOGETHER);
        let OutageSettings { stalled_after, ask_again } = self.settings;
        let patience = if state.began { stalled_after } else { stalled_after.max(OPENING) } + SILENCE;
        match state.asked {
            None if state.searched.elapsed() > patience => {
                let why = format!("no picture was handed over for {patience:?}");
                self.begin(&mut state, CameraState::Lost(why.clone()), &why);
            }
            Some(asked) if !ask_again.is_zero() && asked.elapsed() >= ask_again => {
                state.asked = Some(Instant::now());
                self.ask(&state.why);
            }
            _ => {}
        }
    }

    fn begin(&self, state: &mut OutageState, shown: CameraState, why: &str) {
        self.show(shown);
        state.why = why.into();
        self.alive.lost(&self.view.camera, why);
        if state.asked.is_none() {
            state.asked = Some(Instant::now());
            tracing::warn!(camera = &*self.view.camera, "nobody looks at the belt: {why}");
            self.recorder.event(Event::CameraLost { camera: self.view.camera.to_string(), why: why.into() });
            self.ask(why);
        }
    }

    fn ask(&self, why: &str) {
        if let Some(ejector) = &self.ejector {
            ejector.blind(&self.view.camera, why);
        }
    }

    fn show(&self, shown: CameraState) {
        let metrics = &self.metrics.camera;
        metrics.up.with_label_values(&[&*self.view.camera]).set((shown == CameraState::Up).into());
        metrics.frozen.with_label_values(&[&*self.view.camera]).set(matches!(shown, CameraState::Frozen(_)).into());
        self.view.is(shown);
    }

    fn state(&self) -> MutexGuard<'_, OutageState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
