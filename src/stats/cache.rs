//! Computes the statistics of the view, one run at a time, and keeps the latest for all callers.
//!
//! A run reads every instance, so it starts only when a caller asks, at most once a second, and never uses more than a
//! twentieth of a processor: after a run of 0.2 s the next one starts 4 s later at the earliest.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tokio::{sync::Mutex, task::spawn_blocking};

use super::registry_stats::{RegistryStats, Timestamps};
use crate::view::View;

/// The shortest time between two runs.
const PERIOD: Duration = Duration::from_secs(1);
/// Statistics are used for this many times as long as their run took.
const SHARE: u32 = 20;

/// The statistics of a view. Clones share the latest.
#[derive(Clone, Debug)]
pub struct StatsCache {
    view: View,
    latest: Arc<ArcSwapOption<RegistryStats>>,
    /// When the next run may start. Locked during a run.
    due: Arc<Mutex<Option<Instant>>>,
}

impl StatsCache {
    /// A cache that has nothing yet.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self { view, latest: Arc::default(), due: Arc::default() }
    }

    /// The latest statistics, however old; `None` before the first run.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<RegistryStats>> {
        self.latest.load_full()
    }

    /// Now, by both clocks.
    #[must_use]
    pub fn now(&self) -> Timestamps {
        let now_ms = self.view.clock().now_ms();
        Timestamps { now_ms, database: self.view.database_time(now_ms) }
    }

    /// The latest statistics, or new ones if those are due. A caller that stops waiting does not interrupt the run.
    pub async fn current(&self) -> Arc<RegistryStats> {
        let mut due = Arc::clone(&self.due).lock_owned().await;
        if let Some(stats) = self.latest().filter(|_| due.is_some_and(|due| Instant::now() < due)) {
            return stats;
        }
        let (cache, now, began) = (self.clone(), self.now(), Instant::now());
        // Not on the threads that answer callers: a million instances take a while.
        let taken = spawn_blocking(move || {
            let stats = Arc::new(RegistryStats::of(&Arc::clone(&cache.view.snapshot()), now));
            cache.latest.store(Some(Arc::clone(&stats)));
            *due = Some(Instant::now() + (began.elapsed() * SHARE).max(PERIOD));
            stats
        });
        taken.await.unwrap_or_default()
    }
}
