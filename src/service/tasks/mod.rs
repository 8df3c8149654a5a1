//! Tasks beside the line that watch the store, and what is to serve.
//!
//! Invariant: the line waits for none of them.

pub mod anchor;
pub mod challenges;
pub mod disk;
pub mod flush;
pub mod labels;
pub mod lots;
pub mod registry;
pub mod retention;
