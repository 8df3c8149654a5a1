//! One learning method per file: a pure loss, no optimizer, no files.

pub mod supervised;
