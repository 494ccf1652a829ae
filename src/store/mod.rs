//! The SQL calls: one file for each subject that the registry asks PostgreSQL about.
//!
//! No function here begins a transaction that spans a round trip: each calls one SQL function, which is one transaction.
//! The rules are in `migrations/`; these files carry arguments and answers. Connections come from [`crate::postgres`],
//! whose types a caller of this room needs to make a call are named here too.

pub mod audit;
pub mod beats;
pub mod blocking;
pub mod deaths;
pub mod epoch;
pub mod examine;
pub mod expiry;
pub mod feed;
pub mod membership;
pub mod prefetch;
pub mod purge;
mod row;
pub mod surroundings;
pub mod suspicion;
mod texts;

pub use crate::postgres::{Database, Error, Pool, PoolRole};
