//! The record: a chain of signed entries, and what is read out of it.
//!
//! Invariant: an entry is never changed; what it says is part of the hash of every entry after it.

pub(in crate::store) mod chain;
pub(in crate::store) mod challenges;
pub(in crate::store) mod event;
pub(in crate::store) mod lots;
pub(in crate::store) mod rows;
pub(in crate::store) mod signer;
pub(in crate::store) mod verify;
