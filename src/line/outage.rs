//! When a camera fails and when it works again, told to the record, and to the gates, once each.
//!
//! Invariant: telling never blocks.

use std::cell::Cell;

use super::{eject::Ejector, record::Recorder};
use crate::store::Event;

/// One camera as its thread sees it.
pub struct CameraOutage {
    recorder: Recorder,
    ejector: Option<Ejector>,
    camera: String,
    lost: Cell<bool>,
}

impl CameraOutage {
    /// A camera that is neither lost nor back yet.
    pub fn new(recorder: Recorder, ejector: Option<Ejector>, camera: &str) -> Self {
        Self { recorder, ejector, camera: camera.into(), lost: Cell::new(false) }
    }

    /// It cannot be opened, stopped sending or is frozen.
    pub fn lost(&self, why: &str) {
        if !self.lost.replace(true) {
            self.recorder.event(Event::CameraLost { camera: self.camera.clone(), why: why.into() });
            if let Some(ejector) = &self.ejector {
                ejector.blind(&self.camera, why);
            }
        }
    }

    /// It sent a frame that shows something new.
    pub fn seen(&self) {
        if self.lost.replace(false) {
            self.recorder.event(Event::CameraBack { camera: self.camera.clone() });
        }
    }
}
