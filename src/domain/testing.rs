//! What the tests of all rooms build on; compiled for tests only.

use std::sync::atomic::{AtomicU32, Ordering};

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Action, ClassScore, Decision, Reason, Region, Source, Timings, Verdict};

/// Verdicts that this process made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A verdict over HTTP with this action and a uid of its own: unsure, one score, a region, no frame; tests change what they
/// are about.
pub fn verdict(action: Action) -> Verdict {
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    Verdict {
        uid: Uuid::from_u128(0x019e_0000_0000_7000_8000_0000_0000_0000 + u128::from(made)),
        id: 0,
        time: OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_micros(1_795_000_000_123_456),
        source: Source::Http,
        camera: String::new(),
        track: 0,
        region: Some(Region { x: 1, y: 2, width: 3, height: 4 }),
        decision: Decision {
            action,
            reason: Reason::Unsure,
            class: Some("cod".into()),
            accept_probability: 0.123_456_79,
        },
        scores: vec![ClassScore { class: "cod".into(), probability: 0.876_543_2 }],
        model: "test@0123456789ab".into(),
        thresholds: String::new(),
        lot: None,
        fault: None,
        timings: Timings { decode_ms: 1.5, locate_ms: 0.1, queue_ms: 0.2, infer_ms: 7.0, total_ms: 8.8 },
        frame: None,
        truth: None,
        novelty: None,
        optics: None,
    }
}
