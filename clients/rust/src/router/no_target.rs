//! Why a router has nothing to pick.

use std::time::Duration;

use crate::error::Error;

/// Why there is nothing to pick.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoTarget {
    /// The first snapshot of this name has not arrived yet; [`Router::ready`](crate::Router::ready) waits for it.
    #[error("the instances of {0} are not known yet")]
    NotReady(String),
    /// No instance of this name is alive and matches.
    #[error("{0} has no live instance that matches")]
    NoLiveInstance(String),
    /// What is known was not confirmed for longer than [`RouterSettings::max_stale`](crate::RouterSettings::max_stale): no daemon
    /// answers, or the one that does has lost PostgreSQL.
    #[error("the instances of {name} were last confirmed {age:.1?} ago")]
    Stale {
        /// The name.
        name: String,
        /// How long ago.
        age: Duration,
    },
    /// The daemon refused to watch this name, for example because it is no valid one.
    #[error(transparent)]
    Refused(Error),
}
