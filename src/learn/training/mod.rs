//! From a method and pictures to a student: what feeds the loop, the loop, and what a finished run leaves behind.

pub mod evaluate;
pub mod export;
pub mod feed;
pub mod fit;
pub mod generations;
pub mod interrupt;
pub mod log;
pub mod model_folder;
pub mod optim;
pub mod trainer;
