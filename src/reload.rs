//! Files that are replaced while the daemon runs: what is in use, and how it follows the files.
//!
//! The contents are read every [`POLL_PERIOD`] and at SIGHUP. File events are not used: a Kubernetes Secret is replaced by
//! a change of a symbolic link two directories up, which a watch of the file does not report. All files of a set are read,
//! parsed and checked together; if anything is wrong with them, the daemon goes on with the last good ones and says so. A
//! set that is written one file after the other is wrong for a moment, which the next poll sees corrected.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
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

/// Is told of each reload: `None`, or why the files cannot be used. The same failure again is no other reload.
type Observer = Box<dyn Fn(Option<&str>) + Send + Sync>;

/// What is in use of a set of files.
pub struct Kept<S: Source> {
    source: S,
    loaded: ArcSwap<S::Loaded>,
    /// Why the files on disk are not in use. A std mutex: never held across an await.
    failure: Mutex<Option<String>>,
    metrics: ReloadMetrics,
    observer: OnceLock<Observer>,
}

impl<S: Source + fmt::Debug> fmt::Debug for Kept<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<S: Source> Kept<S> {
    /// Keeps what was loaded from the files of a source.
    pub fn new(source: S, loaded: S::Loaded, metrics: ReloadMetrics) -> Self {
        Self {
            source,
            loaded: ArcSwap::from_pointee(loaded),
            failure: Mutex::default(),
            metrics,
            observer: OnceLock::new(),
        }
    }

    /// The files.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Tells of each reload from now on. The first observer counts.
    pub fn observe(&self, observer: impl Fn(Option<&str>) + Send + Sync + 'static) {
        let _ = self.observer.set(Box::new(observer));
    }

    fn tell(&self, failure: Option<&str>) {
        if let Some(observer) = self.observer.get() {
            observer(failure);
        }
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
        let failure = loaded.as_ref().err().map(|error| chain(error));
        let before = std::mem::replace(&mut *self.failure_mut(), failure.clone());
        if failure.is_some() && failure != before {
            self.tell(failure.as_deref());
        }
        let Some(loaded) = loaded? else { return Ok(false) };
        let loaded = Arc::new(loaded);
        self.loaded.store(Arc::clone(&loaded));
        self.source.changed(&loaded);
        self.tell(None);
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
