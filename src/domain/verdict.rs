//! The verdict: the whole answer for one item, as it is recorded and sent to clients.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::{NoContext, Timestamp, Uuid};

use super::{Decision, Optics, Region, Source, Timings};

/// The whole answer for one item, as it is recorded and sent to clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Verdict {
    /// Names the item in every answer, command, label and export: drawn when its picture was taken (UUIDv7), so that no
    /// other item of any store has it. One that was recorded before there were any has a UUIDv8 of its store and id.
    #[serde(default, skip_serializing_if = "Uuid::is_nil")]
    #[schema(value_type = String, format = "uuid")]
    pub uid: Uuid,
    /// Its place in the order of commits to its store; absent (0) until the store has given it one.
    #[serde(default, skip_serializing_if = "is_unrecorded")]
    pub id: i64,
    /// When the picture was taken (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub time: OffsetDateTime,
    /// Where the item came from.
    pub source: Source,
    /// Camera name; empty for HTTP.
    pub camera: String,
    /// Track number on its camera; 0 for HTTP.
    pub track: u64,
    /// Where the item lay in its frame, in pixels.
    pub region: Option<Region>,
    /// Action, reason, class.
    #[serde(flatten)]
    pub decision: Decision,
    /// Probability per class name, best first.
    pub scores: Vec<ClassScore>,
    /// Model folder name and hash prefix, `name@0123456789ab`.
    pub model: String,
    /// Names the thresholds that decided: the first 12 digits of their SHA-256; empty until recorded and after a fault.
    #[serde(default)]
    pub thresholds: String,
    /// The lot that was open when it was decided: the number of its first entry in the record.
    #[serde(default)]
    pub lot: Option<i64>,
    /// The fault in words, if any.
    pub fault: Option<String>,
    /// Milliseconds spent in each stage.
    pub timings: Timings,
    /// Key of the stored frame, if it was kept.
    pub frame: Option<String>,
    /// The species that really was there, on a simulated belt.
    pub truth: Option<String>,
    /// Distance of the embedding from what the model was trained on: 1 is the edge of it; `None` where the model does
    /// not say what that was.
    #[serde(default)]
    pub novelty: Option<f32>,
    /// What lamp and lens made of the item's picture, as the network was given it; `None` for HTTP.
    #[serde(default)]
    pub optics: Option<Optics>,
}

fn is_unrecorded(id: &i64) -> bool {
    *id == 0
}

/// Draws the uid of an item whose picture was taken at `captured`; a clock before 1970 counts as 1970.
pub fn draw_uid(captured: OffsetDateTime) -> Uuid {
    let seconds = u64::try_from(captured.unix_timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, captured.nanosecond()))
}

impl Verdict {
    /// Gap between the two most probable classes, 0 to 1; what a score is missing for counts as 0. NaN where a score is.
    pub fn margin(&self) -> f32 {
        let probability = |place: usize| self.scores.get(place).map_or(0.0, |score| score.probability);
        probability(0) - probability(1)
    }

    /// What belongs together in a data set: the looks of one track, or the items of one uploaded picture. A track is judged
    /// once, so its verdict's uid names it. Without a uid of its own, in older stores, it goes by camera and track number,
    /// which restarts with the service: such a group may hold more than one item, never less.
    pub fn group(&self) -> String {
        match self.source {
            Source::Belt if self.uid.get_version_num() == 7 => self.uid.to_string(),
            Source::Belt => format!("{}#{}", self.camera, self.track),
            Source::Http => self.frame.clone().unwrap_or_default(),
        }
    }
}

/// One class and its probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ClassScore {
    /// Class name.
    pub class: String,
    /// Probability, 0 to 1.
    pub probability: f32,
}
