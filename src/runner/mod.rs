//! Runs the migrations: the one room that changes the schema of a database.
//!
//! The migrations are numbered SQL files (`migrations/`), embedded in the binary. What a database has gone through
//! stands in its table `muster_migration`, with a checksum of each text.
//!
//! Four decisions carry the rest:
//!
//! - **One transaction for each migration**, its entry in the history included: it has happened or it has not. 013, which locks
//!   SeedCore's rows for long, shares its transaction with those that follow it.
//! - **A transaction-level advisory lock**, never a session-level one, and the history read again under it. Of daemons
//!   that start together the first one migrates, the others ask again until it has finished, and find nothing to do. Nothing
//!   is left behind when a daemon dies on the way.
//! - **Everything is made by the owner of the registry's tables**, whichever of its members, or superuser, runs the
//!   migration: the functions act with the rights of their owner, which must be those over the tables.
//! - **The search path is pinned** to the schema the connection works in. The functions carry it along
//!   (`SET search_path FROM CURRENT`), so a caller cannot put another `registry_instance` before ours.
//!
//! The commands over it, and the questions about a database that exists, are in [`crate::migrate`].

pub(crate) mod apply;
pub(crate) mod batches;
pub(crate) mod decision;
pub(crate) mod error;
pub(crate) mod fresh;
pub(crate) mod history;
pub(crate) mod indexes;
pub(crate) mod repair;
pub(crate) mod transaction;
