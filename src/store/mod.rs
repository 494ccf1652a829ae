//! Module `store`.

pub mod migrate;
