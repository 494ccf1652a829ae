//! What the commands of the command line share: how they reach a daemon, how they name instances and how they end.
//!
//! A room of its own below [`crate::cli`], so that a command is a file that uses this one and no other command, and so that
//! a command that grows into a subject can leave `cli` without taking its foundation along.

pub mod client;
pub mod exit;
pub(crate) mod filter;
pub(crate) mod flags;
pub(crate) mod host;
pub(crate) mod instances;
pub mod redraw;
pub(crate) mod suggest;
