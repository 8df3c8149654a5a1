//! Measurements that a person runs: `beltsight bench`.

pub mod precision;
