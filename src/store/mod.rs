//! Module `store`.

pub mod connect;
pub mod local;
pub mod migrate;
pub mod schema;
