//! What can be asked for: one file per resource.

pub(in crate::api) mod audit;
pub(in crate::api) mod challenges;
pub(in crate::api) mod classify;
pub(in crate::api) mod confirmations;
pub(in crate::api) mod frames;
pub(in crate::api) mod health;
pub(in crate::api) mod items;
pub(in crate::api) mod labels;
pub(in crate::api) mod live;
pub(in crate::api) mod lots;
pub(in crate::api) mod models;
pub(in crate::api) mod rounds;
pub(in crate::api) mod tensors;
pub(in crate::api) mod v2;
pub(in crate::api) mod verdicts;
