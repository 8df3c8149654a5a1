//! The command line: one file per command, its arguments beside its `run`.
//!
//! Each `run` prints what was asked for and returns the exit code; an error is printed by `main`.

pub mod archive;
pub mod belt;
pub mod bench;
pub mod calibrate;
pub mod camera;
pub mod doctor;
pub mod evaluate;
pub mod labels;
pub mod learn;
pub mod models;
pub mod record;
pub mod restore;
pub mod round;
pub mod serve;
pub mod tokens;

/// The configuration file that every command reads unless told otherwise.
const DEFAULT_CONFIG: &str = "deploy/beltsight.toml";
