//! What each camera shows and how it is, for people who watch. The newest frame is held in a `tokio::sync::watch`: a new
//! one replaces the old, so a slow watcher skips frames and holds nobody up.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::domain::{Region, Verdict};

/// One belt frame and the judged items in it.
#[derive(Clone, Debug)]
pub struct LiveFrame {
    /// The whole frame as a JPEG file.
    pub jpeg: Bytes,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Where each item lies in THIS frame, and its verdict.
    pub items: Vec<(Region, Verdict)>,
}

/// How a camera is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CameraState {
    /// Nothing came from it yet.
    Opening,
    /// It delivers.
    Up,
    /// It can't be opened or stopped sending, and why.
    Lost(String),
    /// It sends the very same picture over and over.
    Frozen(String),
}

/// One camera.
#[derive(Debug)]
pub struct View {
    /// Its name.
    pub camera: Arc<str>,
    /// Its newest judged frame; `None` until there was one.
    pub frame: watch::Sender<Option<LiveFrame>>,
    state: Mutex<CameraState>,
}

impl View {
    /// A camera from which nothing came yet.
    pub fn new(camera: &str) -> Self {
        Self { camera: camera.into(), frame: watch::Sender::new(None), state: Mutex::new(CameraState::Opening) }
    }

    /// How it is from now on.
    pub fn is(&self, state: CameraState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// How it is.
    pub fn state(&self) -> CameraState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
