//! The hot path, in flow order: camera → locate (items, and the belt's speed) → infer → decide → eject and record.
//!
//! Invariant: no item waits for disk, network or learning.

pub mod area;
pub mod camera;
pub mod geometry;
pub mod handover;
pub mod locate;

pub mod inspect;

pub mod infer;
pub mod shadow;
pub mod swap;

pub mod eject;
pub mod observe;
pub mod verdict;

pub mod live;
pub mod record;

pub mod outage;
pub mod priority;
pub mod probe;
pub mod settings;
pub mod vital;
