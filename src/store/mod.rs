//! Everything SQL: one file for each thing the registry asks of PostgreSQL.
//!
//! No function here begins a transaction that spans a round trip (but for migrations): each calls one SQL function,
//! which is one transaction. What happens there is written in `migrations/`; these files carry arguments and answers.

pub mod beats;
pub mod blocking;
pub mod connect;
pub mod database;
pub mod epoch;
pub mod error;
pub mod examine;
pub mod expiry;
pub mod feed;
pub mod handover;
pub mod local;
mod locate;
pub mod membership;
pub mod migrate;
pub mod pool;
mod row;
pub mod schema;
mod server;
mod session;
pub mod suspicion;
mod texts;
mod tls;

pub use database::Database;
pub use error::Error;
pub use pool::{Lane, Pool};
