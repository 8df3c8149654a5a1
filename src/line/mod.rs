//! The hot path, in flow order: camera → locate → infer → decide → record.
//!
//! Invariant: no item waits for disk, network or learning.

pub mod decide;
pub mod infer;
pub mod live;
pub mod observe;
pub mod record;
pub mod swap;
pub mod verdict;
