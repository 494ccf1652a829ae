//! The write side: everything that changes what PostgreSQL has on record.
//!
//! - [`writer`]: registrations and status changes, many to a commit, as far as [`crate::admission`] takes them in.
//! - [`leases`]: who may beat, and what of it is not yet saved; [`flusher`] saves it.
//! - [`reaper`]: deaths without a caller, and the purge of old ones.
//! - [`releaser`]: runs the hooks that free what ended leases held. [`alarm`] wakes it and the reapers.
//! - [`overdue`]: looks at leases when the `schedule` says so, and learns of beats that arrived elsewhere; [`suspicion`]: tells
//!   other daemons of those that do not arrive.
//! - [`epochs`] rotates the epoch. [`history`] reads which leases have ended.
//! - [`blocking`] finds the session of PostgreSQL that changes wait for.
//! - [`health`]: what of all this has last been done, for operators.
//!
//! How to add a reaper: one SQL function that does a bounded batch and returns what it did, one function in
//! `store/expiry.rs`, one loop in [`reaper`], one name in `metrics/`.

pub mod alarm;
pub mod blocking;
mod epochs;
pub mod error;
pub mod flusher;
pub mod health;
mod history;
pub mod leases;
pub mod operators;
pub mod overdue;
pub mod reaper;
pub mod releaser;
mod schedule;
pub mod suspicion;
pub mod writer;

pub use epochs::Epochs;
pub use error::Error;
pub use health::Health;
pub use history::History;
pub use leases::{Accepted, BeatError, Leases};
pub use writer::Writer;
