//! Pictures on their way to a network: labeled and unlabeled sets, augmentations, views.

pub mod augment;
pub mod data;
pub mod feature_cache;
pub mod picture_set;
pub mod views;
