//! The service and its tools.
fn main() {}
