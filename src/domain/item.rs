//! Items: what lies on the belt, where, and where it came from.

use serde::{Deserialize, Serialize};

/// A rectangle in pixels of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Region {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width, at least 1.
    pub width: u32,
    /// Height, at least 1.
    pub height: u32,
}

impl Region {
    /// Centre of the rectangle, in pixels.
    pub fn centre(&self) -> (f32, f32) {
        (self.x as f32 + self.width as f32 / 2.0, self.y as f32 + self.height as f32 / 2.0)
    }
}

/// The exact truth about one item on a simulated belt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// The item's number along the belt, from 0.
    pub item: u64,
    /// Species, one of the belt's species names.
    pub species: String,
    /// Where it is in the frame; may be cut by the frame's edge.
    pub region: Region,
    /// True when the whole item is inside the frame.
    pub whole: bool,
    /// A sentence describing the item.
    pub sentence: String,
}

/// Something on the belt that needs exactly one verdict, in one of the pictures in which it is looked at.
#[derive(Clone, Debug)]
pub struct Item {
    /// Track number, unique within a camera since the service started.
    pub track: u64,
    /// Where it lies in that picture.
    pub region: Region,
    /// Whether its outline is unlike that of one item, as where several touch.
    pub several: bool,
    /// Whether a part of it lay outside the picture: it leaves, and no picture showed it whole.
    pub partial: bool,
    /// How often it was looked at, this time included.
    pub look: usize,
}

/// Where an item came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A camera over the belt; goes first in every queue.
    Belt,
    /// A request to the HTTP API.
    Http,
}

impl Source {
    /// Lower-case name, as in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Source::Belt => "belt",
            Source::Http => "http",
        }
    }
}

/// How an item came to be drawn for the audit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuditDraw {
    /// The chance with which it was drawn, above 0.
    pub chance: f64,
    /// The least chance that any item had at that moment, above 0 and at most `chance`.
    pub least: f64,
}

impl AuditDraw {
    /// How much the item counts beside others: one that was three times as likely as others to be drawn counts a third.
    pub fn weight(self) -> f64 {
        self.least / self.chance
    }
}
