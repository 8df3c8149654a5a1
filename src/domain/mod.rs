//! Plain types that every room shares, named by progress: [`Frame`] → [`Item`] → [`Scored`] → [`Verdict`].
//!
//! Invariant: no I/O and no framework here.

pub mod hash;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

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

/// Class probabilities of one item from one model, or what went wrong.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Probabilities in the model's class order, or the fault that kept us from knowing.
    pub scores: Result<Scores, Fault>,
    /// The model's classes and thresholds at the time of scoring.
    pub model: Option<Arc<Card>>,
    /// Time spent in each stage.
    pub timings: Timings,
}

/// How scores become a decision; see `line::decide`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Classes that may pass.
    pub accept: Vec<String>,
    /// Accepted when the accepted classes' probability is at least this.
    pub accept_from: f32,
    /// Between this and `accept_from` lies the unsure band.
    pub unsure_from: f32,
    /// Temperature that calibrates the probabilities (Guo et al. 2017, arXiv:1706.04599); 1 changes nothing.
    pub temperature: f32,
}

/// The part of a manifest that scoring and deciding need, shared by reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// `version@hash-prefix`, as it stands in verdicts.
    pub label: String,
    /// SHA-256 of the model's file, 64 hexadecimal digits.
    pub sha256: String,
    /// Version name.
    pub version: String,
    /// `float32` or `int8`.
    pub precision: String,
    /// Class names in the order of the logits.
    pub classes: Vec<String>,
    /// Side of the square input in pixels.
    pub side: u32,
    /// How scores become a decision.
    pub thresholds: Thresholds,
    /// What the model was trained on, where its folder says it.
    pub reference: Option<Arc<Reference>>,
}

/// What lamp and lens make of an item's picture; see `crate::picture::pixels::optics`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Optics {
    /// Mean luma, 0 (black) to 1 (white).
    pub brightness: f32,
    /// Mean difference of neighbouring pixels as a share of the brightness: falls when the lens is out of focus or dirty.
    pub sharpness: f32,
}

/// A quantity over the training pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Spread {
    /// Its mean.
    pub mean: f32,
    /// Its standard deviation.
    pub deviation: f32,
}

/// What a model was trained on, as its own embeddings show it; see `crate::student::reference`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// A centre per class, of embeddings scaled to length 1.
    pub centres: Vec<Vec<f32>>,
    /// Distance from the nearest centre within which 95 % of the training pictures lie.
    pub edge: f32,
    /// Their brightness, see [`Optics`]; absent in older files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brightness: Option<Spread>,
    /// Their sharpness; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharpness: Option<Spread>,
}

impl Reference {
    /// Distance of `embedding` from the nearest centre, in edges: above 1 it is farther than 95 % of the training
    /// pictures. `None` for an embedding that is not finite or of another width.
    pub fn novelty(&self, embedding: &[f32]) -> Option<f32> {
        let unit = Self::unit(embedding);
        let distance = |centre: &Vec<f32>| centre.iter().zip(&unit).map(|(c, u)| (c - u).powi(2)).sum::<f32>().sqrt();
        let fitting = self.centres.iter().filter(|centre| centre.len() == unit.len());
        let nearest = fitting.map(distance).min_by(f32::total_cmp)? / self.edge;
        nearest.is_finite().then_some(nearest)
    }

    /// `embedding` scaled to length 1.
    pub fn unit(embedding: &[f32]) -> Vec<f32> {
        let length = embedding.iter().map(|e| e * e).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        embedding.iter().map(|e| e / length).collect()
    }
}

/// The network's answer for one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Probability per class, summing to 1, in the order of the model's classes.
    pub probabilities: Vec<f32>,
    /// The embedding before the classifier, for drift and search.
    pub embedding: Vec<f32>,
}

/// Why an item has no scores. A fault is data that `decide` answers, never a panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Every place in the queue was taken.
    #[error("the inference queue is full; try again later")]
    Overloaded,
    /// No answer before the item's deadline.
    #[error("no answer before the deadline")]
    Timeout,
    /// The picture could not be decoded.
    #[error("the picture could not be decoded: {0}")]
    Decode(String),
    /// No model is loaded.
    #[error("no model is loaded")]
    NoModel,
    /// ONNX Runtime reported an error.
    #[error("inference failed: {0}")]
    Inference(String),
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
}

impl Fault {
    /// Closed set of names for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Overloaded => "overloaded",
            Fault::Timeout => "timeout",
            Fault::Decode(_) => "decode",
            Fault::NoModel => "no_model",
            Fault::Inference(_) => "inference",
            Fault::Stopping => "stopping",
        }
    }
}

/// What happens to the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let it through.
    Accept,
    /// Take it off the belt.
    Reject,
    /// Lead it aside for a person to look at.
    Divert,
}

impl Action {
    /// Lower-case name, as in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Action::Accept => "accept",
            Action::Reject => "reject",
            Action::Divert => "divert",
        }
    }
}

/// Why the action was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// An accepted class with enough probability.
    Accepted,
    /// Another class won.
    WrongClass,
    /// The probability lay in the unsure band.
    Unsure,
    /// It would have been accepted, but its outline is unlike that of one item: several may touch.
    Several,
    /// The probability was too low to accept, or not a number.
    LowScore,
    /// There were no scores at all.
    Fault,
}

impl Reason {
    /// Snake-case name, as in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Accepted => "accepted",
            Reason::WrongClass => "wrong_class",
            Reason::Unsure => "unsure",
            Reason::Several => "several",
            Reason::LowScore => "low_score",
            Reason::Fault => "fault",
        }
    }
}

/// What `decide` says about one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Decision {
    /// What happens to the item.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The most probable class; `None` after a fault.
    pub class: Option<String>,
    /// Probability that the item belongs to an accepted class; 0 after a fault.
    pub accept_probability: f32,
}

/// The whole answer for one item, as it is recorded and sent to clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Verdict {
    /// Rises with every recorded verdict; 0 until the store has given one.
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

/// One class and its probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ClassScore {
    /// Class name.
    pub class: String,
    /// Probability, 0 to 1.
    pub probability: f32,
}

/// Time spent in each stage, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Timings {
    /// Picture decoding.
    pub decode_ms: f64,
    /// Finding the item, cropping and resizing it.
    pub locate_ms: f64,
    /// Waiting for the inference worker.
    pub queue_ms: f64,
    /// Inside ONNX Runtime, for the whole micro-batch.
    pub infer_ms: f64,
    /// From capture (belt) or arrival (HTTP) to the verdict.
    pub total_ms: f64,
}

/// A duration in milliseconds as a float.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
