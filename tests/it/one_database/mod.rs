//! One database at a time: every session of a daemon belongs to the same database, whatever stands between the daemon
//! and PostgreSQL, and no lease id goes back.

mod first_write;
mod poolers;
mod round_trips;
mod split_brain;
