//! The hot path, in flow order: camera → locate → infer → decide → record.
//!
//! Invariant: nothing here waits for anything behind it; every hand-over is bounded and says what it does when full.

pub mod camera;
pub mod handover;
pub mod locate;
