//! Files that are replaced while the daemon runs: what is in use, and how it follows the files.
//!
//! The contents are read every [`POLL_PERIOD`] and at SIGHUP. File events are not used: a Kubernetes Secret is replaced by
//! a change of a symbolic link two directories up, which a watch of the file does not report. All files of a set are read,
//! parsed and checked together; if anything is wrong with them, the daemon goes on with the last good ones and says so. A
//! set that is written one file after the other is wrong for a moment, which the next poll sees corrected.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{metrics::ReloadMetrics, telemetry::chain};

/// How often the contents of the files are compared with what is in use.
const POLL_PERIOD: Duration = Duration::from_secs(5);

/// A set of files, and what is made of them.
pub trait Source: Send + Sync + 'static {
    /// What is made of the contents.
    type Loaded: Send + Sync;
    /// What may be wrong with them.
    type Error: std::error::Error;

    /// Reads all files; `None` if their contents are those of `current`.
    ///
    /// # Errors
    /// A file cannot be used.
    fn load(&self, current: Option<&Self::Loaded>) -> Result<Option<Self::Loaded>, Self::Error>;

    /// Other contents are in use: puts them where they are needed, and logs it.
    fn changed(&self, loaded: &Self::Loaded);

    /// Logs that the files cannot be used.
    fn failed(&self, error: &str);
}

/// What is in use of a set of files.
#[derive(Debug)]
pub struct Kept<S: Source> {
    source: S,
    loaded: ArcSwap<S::Loaded>,
    /// Why the files on disk are not in use. A std mutex: never held across an await.
    failure: Mutex<Option<String>>,
    metrics: ReloadMetrics,
}

impl<S: Source> Kept<S> {
    /// Keeps what was loaded from the files of a source.
    pub fn new(source: S, loaded: S::Loaded, metrics: ReloadMetrics) -> Self {
        Self { source, loaded: ArcSwap::from_pointee(loaded), failure: Mutex::default(), metrics }
    }

    /// The files.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// What is in use.
    pub fn current(&self) -> Guard<Arc<S::Loaded>> {
        self.loaded.load()
    }

    /// Reads the files again. Returns whether other contents are in use from now on.
    ///
    /// # Errors
    /// A file cannot be used: the contents that were in use stay in use.
    pub fn reload(&self) -> Result<bool, S::Error> {
        let loaded = self.source.load(Some(&self.loaded.load()));
        match &loaded {
            Ok(Some(_)) => self.metrics.changed.increment(1),
            Ok(None) => {}
            Err(_) => self.metrics.failed.increment(1),
        }
        *self.failure_mut() = loaded.as_ref().err().map(|error| chain(error));
        let Some(loaded) = loaded? else { return Ok(false) };
        let loaded = Arc::new(loaded);
        self.loaded.store(Arc::clone(&loaded));
        self.source.changed(&loaded);
        Ok(true)
    }

    /// Keeps what is in use equal to the files, until told to stop.
    pub async fn keep_current(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(POLL_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let before = self.failure();
            if let Err(error) = self.reload() {
                let error = chain(&error);
                // The same failure comes back every few seconds until the files are corrected.
                if before.as_ref() != Some(&error) {
                    self.source.failed(&error);
                }
            }
        }
    }

    /// Why the files on disk are not in use, if they are not.
    pub fn failure(&self) -> Option<String> {
        self.failure_mut().clone()
    }

    fn failure_mut(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
