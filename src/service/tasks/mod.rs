//! Tasks that watch the store beside the line.
//!
//! Invariant: the line waits for none of them.

pub mod challenges;
pub mod lots;
