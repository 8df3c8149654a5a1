//! Scores: what one student says about one item, or the fault that kept it from saying anything.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::Thresholds;

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

impl Card {
    /// How far what `scores` are about lies from what the student was trained on, see [`Reference::novelty`]; `None` where
    /// that can't be told.
    pub fn novelty(&self, scores: &Scores) -> Option<f32> {
        self.reference.as_ref()?.novelty(&scores.embedding)
    }
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
