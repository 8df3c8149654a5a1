//! The command line: one file per command, its arguments beside its `run`.

pub mod camera;
pub mod doctor;
pub mod labels;
