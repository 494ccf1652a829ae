//! Module `store`.

pub mod local;
