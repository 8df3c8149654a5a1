//! Pictures: the one pre-processing that serving AND learning use, labeled sets of pictures on disk, and what a factory does
//! to pictures.
//!
//! Invariant: nothing here knows a network, a camera or a store.

pub mod corrupt;
pub mod dataset;
pub mod jpeg;
pub mod pixels;
