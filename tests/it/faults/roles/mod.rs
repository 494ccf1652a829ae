//! Clients of the registry under faults: actors, writers, routers, watchers.

pub(crate) mod actor;
pub(crate) mod plain;
pub(crate) mod router;
pub(crate) mod watcher;
pub(crate) mod writer;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{client::Client, dice::Dice, history::Micros};

/// Leases whose owners beat, and since when they do not any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<HashMap<u64, Option<Micros>>>>);

impl Kept {
    /// Its owner beats for it.
    fn beats(&self, lease: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(lease, None);
    }

    /// Its owner does not beat any more, since this time or an earlier one that is known.
    fn is_silent(&self, lease: u64, since: Micros) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry(lease).or_default().get_or_insert(since);
    }

    /// All of them.
    pub(crate) fn all(&self) -> HashMap<u64, Option<Micros>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What all of them have.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) client: Client,
    pub(crate) dice: Dice,
    pub(crate) stop: CancellationToken,
    pub(crate) kept: Kept,
    pub(crate) ttl: Duration,
}

impl Role {
    /// Waits; returns false if it is time to stop.
    async fn pause(&self, pause: Duration) -> bool {
        self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some()
    }

    /// Waits between two times.
    async fn pause_between(&mut self, least_ms: u64, most_ms: u64) -> bool {
        let pause = self.dice.between(Duration::from_millis(least_ms), Duration::from_millis(most_ms));
        self.pause(pause).await
    }
}
