//! What a private server is to be, and what no setting changes about it.

use std::path::PathBuf;

use crate::postgres::connect::OLDEST_SERVER;

/// Oldest major version of PostgreSQL that musterd works with.
pub const MAJOR_MIN: u32 = OLDEST_SERVER;

/// Name of the superuser and of the database of a private cluster.
pub const NAME: &str = "musterd";

/// What a private server is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The daemon's data directory; created, with its parents, if missing. Only one daemon at a time can use it.
    pub data_dir: PathBuf,
    /// The directory of the server programs (`postgres`, `initdb`). `None`: search `PATH`, `pg_config --bindir` and
    /// the distributions' folders; the highest version wins, for an existing cluster the version that made it.
    pub bin_dir: Option<PathBuf>,
    /// The user that runs the server when the daemon is root. `None`: the owner of an existing cluster, else
    /// `postgres`, else `nobody`. Not root, and only root may name anyone but itself.
    pub run_as: Option<String>,
    /// What a crash may cost.
    pub durability: Durability,
}

/// What a crash of the machine may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was acknowledged: `fsync`, `full_page_writes` and `synchronous_commit` are on, pages carry
    /// checksums.
    Full,
    /// Everything. For tests only: nothing is synced, and a crash of the machine corrupts the cluster. The end of a
    /// process, even by `kill -9`, still costs nothing.
    Fast,
}
