//! Networks in libtorch: the description run, its weights on disk, the device that it runs on.

pub mod device;
pub mod model;
pub mod weights;
