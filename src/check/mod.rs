//! What `musterd check` looks at between a client and the database, and what it makes of it.
//!
//! `reach` and `http` ask; `cluster`, `database` and `settings` judge what was answered, without asking anything themselves.
//! The health of the daemon and of the cluster is judged by the daemon alone (`status`): here is only what a client can see
//! from its side. Each [`finding`] names its fix.

pub(crate) mod cluster;
pub(crate) mod credentials;
pub(crate) mod database;
pub(crate) mod finding;
pub(crate) mod http;
pub(crate) mod reach;
mod settings;
pub(crate) mod surroundings;
