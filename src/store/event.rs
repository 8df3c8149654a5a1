//! What the record holds besides verdicts, as JSON documents with a `kind` and a `time`.
//!
//! Invariant: kinds and fields are only ever added, so that an old record can be read for ever.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::Thresholds;

/// One entry that is no verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The record's first entry. Verdicts that were in the store before it follow as entries at once.
    Began,
    /// The service started. Since the entry before it nothing was inspected.
    Started {
        /// Of this program.
        version: String,
        /// False when the service before it did not stop in order: it crashed, was killed or lost power.
        after_stop: bool,
    },
    /// The service stopped in order.
    Stopped,
    /// From here on verdicts may come from this model with these thresholds.
    Model {
        /// As in verdicts, `name@hash-prefix`.
        model: String,
        /// As in verdicts: the first 12 hexadecimal digits of the SHA-256 of `thresholds` as JSON.
        thresholds_hash: String,
        /// In full.
        thresholds: Thresholds,
    },
    /// A lot begins; its number is this entry's place.
    LotOpened {
        /// What people call it.
        name: String,
        /// Who opened it; empty where nobody said.
        by: String,
    },
    /// A lot ends.
    LotClosed {
        /// Its number.
        lot: i64,
        /// Who closed it; empty where nobody said.
        by: String,
    },
    /// Verdicts that could not be recorded; the line went on without.
    Gap {
        /// How many since the last entry of this kind.
        verdicts: u64,
    },
}

/// An entry as it stands in the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the record; 0 until it has one.
    #[serde(skip)]
    pub seq: i64,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
