//! A private PostgreSQL for `musterd serve` without a `--database-url`, and for our tests.
//!
//! musterd keeps its record in PostgreSQL and in nothing else. So that a newcomer needs no database server to try it,
//! and a laptop or a single machine none to run it, the daemon can own one: it finds the installed server programs,
//! creates a cluster under its data directory, starts it, watches it, starts it again when it dies, and stops it at
//! the end. It is a real PostgreSQL with real durability; only its owner is unusual. The tests use the same code with
//! [`Durability::Fast`].
//!
//! ```text
//! <data dir>/
//!   musterd.lock     held while a daemon lives; names its pid
//!   postgres/        the cluster (PGDATA), appears by a rename once it is complete
//!   postgres.new-*   a cluster being created, or what a killed creation left; swept at the next creation
//!   postgres.old-15  the cluster before an upgrade of the major version; kept until an operator removes it
//!   postgres.log     what the server says, bounded; postgres.log.1 is the part before
//!   run/             the unix socket; a short directory elsewhere if this path is too long for a socket
//! ```
//!
//! # What keeps it safe
//!
//! - **One owner.** An advisory lock on `musterd.lock` lives exactly as long as the daemon. Its holder may treat
//!   a server that still runs on the cluster as the orphan of a killed daemon, stop it and start its own: only the
//!   parent of a process is told reliably when it ends.
//! - **No other user.** The server listens on a unix socket only, in a directory of mode 0700. Access to the socket is
//!   the authentication, as it is for the data files beside it.
//! - **No half-made cluster.** `initdb` works in a directory beside the final one, which is synced, then renamed.
//! - **Never as root.** PostgreSQL refuses to run as root. A daemon started as root runs it as another user and gives
//!   that user the directories it needs, nothing more.
//!
//! # What it is not
//!
//! It is not replicated: for more than one machine there is `--database-url`. A cluster of another major version is
//! refused, and moved only by `musterd local upgrade` ([`Upgrade`]).

mod account;
mod binaries;
mod cluster;
mod error;
mod layout;
mod log;
mod options;
mod pidfile;
mod postmaster;
mod server;
mod upgrade;

pub use error::Error;
pub use options::{Durability, MAJOR_MIN, NAME, Options};
pub use server::LocalServer;
pub use upgrade::{Finished, Upgrade};
