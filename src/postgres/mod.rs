//! Connections to PostgreSQL: which server of a list, how a session begins, TLS, and the pool.
//!
//! Every session of musterd begins in `session.rs`, with the settings that its statements depend on; `server.rs` chooses
//! among the hosts of a URL; `database.rs` is the one handle that pool, feed, migrations and `check` share, so that a
//! host that failed for one is known to all. What is asked over a connection is not known here (`crate::store`,
//! `crate::migrate`). The URL itself is a value of the configuration (`crate::database_url`).

mod change;
pub mod connect;
pub mod database;
pub mod error;
mod first;
pub(crate) mod kept;
mod lineage;
pub mod pool;
pub mod search;
pub(crate) mod server;
pub(crate) mod session;
mod tls;

pub use database::Database;
pub use error::Error;
pub use lineage::Behind;
pub use pool::{Pool, PoolRole};
