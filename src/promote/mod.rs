//! From a candidate to the student that serves: the gate decides, the registry keeps what was decided.
//!
//! Invariant: this room opens no model and runs none; it weighs figures and names folders.

pub mod gate;
pub mod registry;
