//! Files that are replaced while the daemon runs: what is in use, and how it follows the files.
//!
//! The contents are read every [`POLL_PERIOD`] and at SIGHUP. File events are not used: a Kubernetes Secret is replaced by
//! a change of a symbolic link two directories up, which a watch of the file does not report. All files of a set are read,
//! parsed and checked together; if anything is wrong with them, the daemon goes on with the last good ones and says so.
//!
//! A poll acts only on what it has found twice, [`SETTLE_PERIOD`] apart: a policy that is written in place is valid when
//! half of its rules are there, and tokens are when none is. At SIGHUP the files are taken as they are.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::{metrics::ReloadMetrics, telemetry::chain};

/// How often the contents of the files are compared with what is in use.
const POLL_PERIOD: Duration = Duration::from_secs(5);

/// How long contents have to stay the same. A poll and it are shorter than the 6 s within which a change is promised.
const SETTLE_PERIOD: Duration = Duration::from_millis(250);
/// After so many looks at contents that change, the next poll looks again.
const SETTLE_LOOKS: u32 = 4;

/// A set of files, and what is made of them.
pub trait Source: Send + Sync + 'static {
    /// What is made of the contents.
    type Loaded: Send + Sync;
    /// What may be wrong with them.
    type Error: std::error::Error + Send;

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
        self.take(self.source.load(Some(&self.loaded.load())))
    }

    /// What the files hold, once it is twice the same; as nothing new if it goes on changing.
    async fn settled(&self) -> Result<Option<S::Loaded>, S::Error> {
        let mut found = self.source.load(Some(&self.loaded.load()));
        for _ in 0..SETTLE_LOOKS {
            if matches!(found, Ok(None)) {
                return Ok(None);
            }
            sleep(SETTLE_PERIOD).await;
            found = match found {
                Ok(Some(loaded)) => match self.source.load(Some(&loaded)) {
                    Ok(None) => return Ok(Some(loaded)),
                    other => other,
                },
                Err(_) => match self.source.load(Some(&self.loaded.load())) {
                    Err(error) => return Err(error),
                    other => other,
                },
                Ok(None) => return Ok(None),
            };
        }
        Ok(None)
    }

    fn take(&self, loaded: Result<Option<S::Loaded>, S::Error>) -> Result<bool, S::Error> {
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
            let Some(settled) = stop.run_until_cancelled(self.settled()).await else { return };
            if let Err(error) = self.take(settled) {
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

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, io};

    use super::*;

    /// Files whose contents are another at each look; the last one stays.
    #[derive(Debug)]
    struct Script(Mutex<VecDeque<Result<&'static str, ()>>>);

    impl Script {
        fn look(&self) -> Result<&'static str, ()> {
            let mut looks = self.0.lock().unwrap();
            if looks.len() > 1 { looks.pop_front().unwrap() } else { looks[0] }
        }
    }

    impl Source for Script {
        type Loaded = &'static str;
        type Error = io::Error;

        fn load(&self, current: Option<&Self::Loaded>) -> Result<Option<Self::Loaded>, io::Error> {
            let found = self.look().map_err(|()| io::Error::other("torn"))?;
            Ok(Some(found).filter(|found| Some(found) != current))
        }

        fn changed(&self, _: &Self::Loaded) {}

        fn failed(&self, _: &str) {}
    }

    /// What is in use, and why the files are not, after one poll of files that are found like this.
    async fn polled(looks: &[Result<&'static str, ()>]) -> (&'static str, bool) {
        let script = Script(Mutex::new(looks.iter().copied().collect()));
        let kept = Kept::new(script, "old", ReloadMetrics::policy());
        let settled = kept.settled().await;
        let _ = kept.take(settled);
        (*kept.current().as_ref(), kept.failure().is_some())
    }

    #[tokio::test]
    async fn poll_takes_only_what_it_finds_twice() {
        let table = [
            (&[Ok("new")][..], ("new", false)),
            (&[Ok("half"), Ok("new")], ("new", false)),
            (&[Ok(""), Ok("half"), Ok("new")], ("new", false)),
            (&[Ok("half"), Err(()), Ok("new")], ("new", false)),
            (&[Err(()), Ok("new")], ("new", false)),
            (&[Err(()), Ok("old")], ("old", false)),
            (&[Err(())], ("old", true)),
            (&[Ok("old")], ("old", false)),
            (&[Ok("1"), Ok("2"), Ok("3"), Ok("4"), Ok("5"), Ok("6")], ("old", false)),
        ];
        let polls = table.map(async |(looks, expected)| assert_eq!(polled(looks).await, expected, "{looks:?}"));
        futures_util::future::join_all(polls).await;
    }
}
