//! What survives when the process does not, and the line beside a store, a clock, a model folder or a broker that fails.
//!
//! The tests that compare the line's times run one after the other, and alone where the runner can see to that.
#![allow(clippy::unwrap_used, missing_docs)]

mod bench;
mod broker;
mod clock;
#[path = "../common/mod.rs"]
mod common;
mod line;
mod models;
mod process;
mod store;
