//! Plain types that every room shares, named by progress: [`Frame`] → [`Item`] → [`Scored`] → [`Verdict`].
//!
//! Invariant: no I/O and no framework here.

mod decision;
pub mod hash;
mod item;
mod picture;
mod scores;
#[cfg(test)]
pub(crate) mod testing;
pub mod time;
mod verdict;

pub use decision::{Action, Decision, Reason, Thresholds};
pub use item::{AuditDraw, Item, Region, Source, Truth};
pub use picture::{Frame, Optics, Picture, Raw};
pub use scores::{Card, Fault, Reference, Scored, Scores, Spread, Timings, ms};
pub use verdict::{ClassScore, Verdict, draw_uid};
