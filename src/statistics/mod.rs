//! Bounds that promises and rulings rest on, as pure functions of counts and draws.
//!
//! Invariant: a bound errs to the safe side; of too few, or of numbers that are none, it says nothing (`None`, or the whole
//! range).

pub mod betting;
pub mod exact;
pub mod limit;
