//! What the program can be asked to do: one file per command, and the set-up that they share.

pub mod compare;
pub mod distill;
pub mod reproduce;
pub mod setup;
pub mod train;
