//! The learning program; see `src/lib.rs` for the map.
fn main() {}
