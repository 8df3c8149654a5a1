//! Pictures: what a camera delivers, decoded or not, and what lamp and lens make of it.

use std::{sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Truth;

/// A decoded picture: 8-bit RGB, rows top to bottom, `rgb.len() == width * height * 3`.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Interleaved R, G, B.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// A picture of one colour.
    pub fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        Self { width, height, rgb: colour.repeat(width as usize * height as usize) }
    }

    /// The pixel at column `x`, row `y`; both must lie inside.
    pub fn at(&self, x: u32, y: u32) -> [u8; 3] {
        let i = (y as usize * self.width as usize + x as usize) * 3;
        [self.rgb[i], self.rgb[i + 1], self.rgb[i + 2]]
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

/// What a camera delivered, not necessarily decoded yet.
#[derive(Clone, Debug)]
pub enum Raw {
    /// A whole JPEG file as the camera sent it.
    Jpeg(bytes::Bytes),
    /// Pixels.
    Rgb(Arc<Picture>),
}

/// One camera picture and when it was taken.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The camera's name in the configuration.
    pub camera: Arc<str>,
    /// Counts the camera's frames from 0; gaps are frames that were lost.
    pub sequence: u64,
    /// When the picture was taken, on the monotonic clock: deadlines are kept with this.
    pub captured: Instant,
    /// When the picture was taken, on the wall clock: for the record only.
    pub wall: OffsetDateTime,
    /// The picture.
    pub raw: Raw,
    /// What is really on the belt, where the camera is simulated; empty for a real one.
    pub truth: Arc<[Truth]>,
}

/// What lamp and lens make of an item's picture; see `picture::pixels::optics`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Optics {
    /// Mean luma, 0 (black) to 1 (white).
    pub brightness: f32,
    /// Mean difference of neighbouring pixels as a share of the brightness: falls when the lens is out of focus or dirty.
    pub sharpness: f32,
}
