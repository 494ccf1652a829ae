//! What in PostgreSQL holds a lock that changes wait for.

use std::time::Duration;

/// The session whose transaction holds a lock that changes wait for, and keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// Its process id, for `pg_terminate_backend`.
    pub pid: i32,
    /// Its role; empty if it has none.
    pub user: String,
    /// Its `application_name`; may be empty.
    pub application: String,
    /// What only its own role and members of `pg_read_all_stats` see; `None` if the daemon's role is none of them.
    pub details: Option<Details>,
    /// For how long its transaction is known to be open, as last seen. Less than that if the start is hidden.
    pub open_for: Duration,
}

/// What PostgreSQL shows of a session to roles with the right to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The address of its client; `None` on a socket of the same machine.
    pub client: Option<String>,
    /// What it does: `active`, `idle in transaction`; may be empty.
    pub state: String,
}
