//! The steps in which the daemon leaves, as a closed list, so that their order stands in one place.

use std::time::Duration;

/// A step of shutting down; also the group of tasks that ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Tasks that tell others whether to come here.
    Readiness,
    /// gRPC and HTTP servers, and the streams they serve.
    Servers,
    /// Writer, flusher, feed, reapers.
    Engine,
    /// What the engine needs to the last: the private PostgreSQL.
    Store,
}

impl Stage {
    /// All stages, in the order in which they end.
    pub const ALL: [Self; 4] = [Self::Readiness, Self::Servers, Self::Engine, Self::Store];

    /// How long [`Lifecycle::drain`](super::Lifecycle::drain) gives the stage. The sum is [`SHUTDOWN_LIMIT`](super::SHUTDOWN_LIMIT).
    #[must_use]
    pub const fn budget(self) -> Duration {
        Duration::from_millis(match self {
            Self::Readiness => 500,
            Self::Servers => 3_000,
            Self::Engine => 3_000,
            Self::Store => 2_500,
        })
    }
}
