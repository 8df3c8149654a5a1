//! beltsight: a conveyor-belt inspection service that learns from unlabeled frames.
//!
//! Reading order, following an item from camera to verdict and a frame from store to student:
//!
//! | module | what lives there |
//! |---|---|
//! | [`cli`] | the command line: one file per command |
//! | [`bench`] | what the figures come from |
//! | [`service`] | start → wire → stop; tasks that watch the store |
//! | [`config`] | one TOML file, read once, unknown keys refused |
//! | [`api`] | HTTP: the way in, one file per resource, the browser's pages |
//! | [`rounds`] | unlabeled frames and labels → a candidate, its exam, the promotion gate, probation |
//! | [`line`] | the hot path: camera, locate, infer, decide, eject, record |
//! | [`export`] | a lot of the record as CSV and as a page to print |
//! | [`archive`] | a box as one file, and an empty machine made of it |
//! | [`store`] | verdicts, labels and the record in SQLite, frames as files |
//! | [`network`] | network architectures as data; named weights → ONNX bytes |
//! | [`student`] | what a student is: manifest, engine (the only module that imports `ort`), registry, scorecard |
//! | [`belt`] | the simulated belt: seeded fish with exact truth |
//! | [`picture`] | decode, crop, resize: the one pre-processing that serving AND learning use; data sets; corruptions |
//! | [`tokens`] | access tokens and roles, hashed in a file |
//! | [`files`] | whole-or-nothing writes, fsync included |
//! | [`metrics`] | every Prometheus metric: name, unit, labels, buckets |
//! | [`statistics`] | bounds that promises and rulings rest on: pure functions of counts and draws |
//! | [`domain`] | the words of the trade: `Frame → Item → Scored → Verdict`; no I/O |
//!
//! Training lives in the program `beltsight-learn` (`src/learn`), so that serving never loads libtorch.

pub mod api;
pub mod archive;
pub mod belt;
pub mod bench;
pub mod cli;
pub mod config;
pub mod domain;
pub mod export;
pub mod files;
pub mod line;
pub mod metrics;
pub mod network;
pub mod picture;
pub mod rounds;
pub mod service;
pub mod statistics;
pub mod store;
pub mod student;
pub mod tokens;
