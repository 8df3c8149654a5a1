//! beltsight: a conveyor-belt inspection service that learns from unlabeled frames.
//!
//! Reading order, following an item from camera to verdict and a frame from store to student:
//!
//! | module | what lives there |
//! |---|---|
//! | [`domain`] | the words of the trade: `Frame → Item → Scored → Verdict`; no I/O |
//! | [`config`] | one struct per room, read once, unknown keys refused |
//! | [`metrics`] | every Prometheus metric: name, unit, labels, buckets |
//! | [`pixels`] | decode, crop, resize: the one pre-processing that serving AND learning use |
//! | [`engine`] | ONNX Runtime; the only module that imports `ort` |
//! | [`model`] | a model folder: manifest, hashes, what makes it loadable |
//! | [`line`] | the hot path: camera, locate, infer, decide, eject, record |
//! | [`output`] | what moves the gates: one file per way of doing it |
//! | [`belt`] | the simulated belt: seeded fish with exact truth |
//! | [`store`] | verdicts, labels and the record in SQLite, frames as files |
//! | [`export`] | a lot of the record as CSV and as a page to print |
//! | [`snapshot`] | what people labeled, and what they did not, as a data set to learn from |
//! | [`labels`] | labels in and out: Label Studio, CSV |
//! | [`tokens`] | access tokens and roles, hashed in a file |
//! | [`api`] | HTTP: one file per resource |
//! | [`app`] | wires channels and tasks into a service |
//! | [`nets`] | network architectures as data |
//! | [`onnx`] | named weights → ONNX bytes, float32 and int8 |
//! | [`corrupt`] | what a factory does to pictures, to examine students with |
//! | [`reference`] | what a student was trained on, to tell what is new to it |
//! | [`rounds`] | unlabeled frames and labels → a candidate, beside the line |
//! | [`exam`] | two students on the same held-out pictures |
//! | [`promote`] | the gate that weighs a candidate, the registry of what serves |
//! | [`scorecard`] | AUC, recall at fixed false accepts, calibration, confusion |
//!
//! Training lives in the program `beltsight-learn` (`src/learn`), so that serving never loads libtorch.

pub mod api;
pub mod app;
pub mod belt;
pub mod bench;
pub mod config;
pub mod doctor;
pub mod domain;
pub mod draw;
pub mod export;
pub mod labels;
pub mod line;
pub mod metrics;
pub mod network;
pub mod picture;
pub mod probe;
pub mod rounds;
pub mod store;
pub mod student;
pub mod tokens;
