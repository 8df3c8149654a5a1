//! Decisions: what happens to an item, and why.

use serde::{Deserialize, Serialize};

/// How scores become a decision; see `student::decide`.
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
    /// Novelty from which on an item is unknown, see [`super::Card::novelty`]: of labeled good pictures that training did
    /// not see, the share that the training was told lies beyond it. Absent: none was measured, and nothing is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_from: Option<f32>,
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
    /// It would have been accepted, but no picture showed it whole.
    Partial,
    /// It would have been accepted, but is unlike all that the student was trained on.
    Unknown,
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
            Reason::Partial => "partial",
            Reason::Unknown => "unknown",
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
