//! What a student is: a folder of files with a manifest, open in ONNX Runtime, measured, and named in the registry of what
//! serves.
//!
//! Invariant: nothing is opened for serving before its bytes matched the manifest's hash; only [`engine`] imports `ort`.

pub mod decide;
pub mod engine;
pub mod evaluate;
pub mod manifest;
pub mod open;
pub mod reference;
pub mod registry;
pub mod scorecard;
pub mod settings;
pub mod to_serve;
