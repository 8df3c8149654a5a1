//! The newest belt frame, for people who watch. Held in a `tokio::sync::watch`: a new frame replaces the old one, so a
//! slow watcher skips frames and holds nobody up.

use bytes::Bytes;

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
