//! The cache of a router, and the picks from it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, time::timeout};
use uuid::Uuid;

use super::{known::Name, no_target::NoTarget, watches::Watches};
use crate::{choice::Choice, client::Client, model::Instance};

/// Settings of a [`Router`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouterSettings {
    /// Refuse to pick from knowledge that PostgreSQL confirmed longer ago: to a daemon, and the daemon to this client.
    /// Default: 30 s.
    pub max_stale: Duration,
    /// Leave an instance out for so long after [`Target::failed`]. Default: 5 s.
    pub exclude_for: Duration,
    /// Stop watching a name that was not used for so long. Default: 300 s.
    pub idle: Duration,
}

impl Default for RouterSettings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { max_stale: seconds(30), exclude_for: seconds(5), idle: seconds(300) }
    }
}

/// An instance that was picked.
#[derive(Clone, Debug)]
pub struct Target {
    instance: Arc<Instance>,
    router: Weak<Inner>,
}

impl Target {
    pub(super) fn new(instance: Arc<Instance>, router: &Arc<Inner>) -> Self {
        Self { instance, router: Arc::downgrade(router) }
    }

    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// A call to it has failed: it is left out for [`RouterSettings::exclude_for`], as
    /// long as there is another one.
    pub fn failed(&self) {
        if let Some(router) = self.router.upgrade() {
            self.failed_for(router.settings.exclude_for);
        }
    }

    /// As [`Self::failed`], left out for so long.
    pub fn failed_for(&self, time: Duration) {
        if let Some(router) = self.router.upgrade() {
            router.failed().insert(self.instance.instance_id, Instant::now() + time);
        }
    }

    /// Whether both are the same instance with the same attributes.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.instance, &other.instance) || self.instance == other.instance
    }
}

/// A router. Clones share the cache.
#[derive(Clone, Debug)]
pub struct Router {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) settings: RouterSettings,
    /// Where watches run; `None`: on the runtime of the caller.
    pub(super) runtime: Option<Handle>,
    pub(super) names: RwLock<HashMap<String, Arc<Name>>>,
    pub(super) watches: Watches,
    failed: Mutex<HashMap<Uuid, Instant>>,
}

impl Inner {
    fn failed(&self) -> MutexGuard<'_, HashMap<Uuid, Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are left out now.
    fn excluded(&self, now: Instant) -> Vec<Uuid> {
        let mut failed = self.failed();
        if failed.is_empty() {
            return Vec::new();
        }
        failed.retain(|_, until| *until > now);
        failed.keys().copied().collect()
    }
}

impl Router {
    /// A router of this client's registry.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self::with(client, RouterSettings::default())
    }

    /// A router with settings of its own.
    #[must_use]
    pub fn with(client: &Client, settings: RouterSettings) -> Self {
        Self::of(client, settings, None)
    }

    /// As [`Self::with`]; its watches run on this runtime, so that picks may be made outside of one.
    #[must_use]
    pub fn on(client: &Client, settings: RouterSettings, runtime: Handle) -> Self {
        Self::of(client, settings, Some(runtime))
    }

    fn of(client: &Client, settings: RouterSettings, runtime: Option<Handle>) -> Self {
        let (names, watches, failed) = (RwLock::default(), Watches::default(), Mutex::default());
        Self { inner: Arc::new(Inner { client: client.clone(), settings, runtime, names, watches, failed }) }
    }

    /// Picks an instance, without a call. The first use of a name begins to watch it on the runtime of the caller.
    ///
    /// # Errors
    /// [`NoTarget`] says whether to wait, to look elsewhere, or to give up.
    ///
    /// # Panics
    /// At the first use of a name outside a tokio runtime, unless the router was made by [`Self::on`].
    pub fn pick(&self, logical_id: &str, choice: &Choice) -> Result<Target, NoTarget> {
        let now = Instant::now();
        let name = self.name(logical_id, now);
        let excluded = self.inner.excluded(now);
        let instance = name.pick(logical_id, choice, &excluded, self.inner.settings.max_stale, now)?;
        Ok(Target::new(instance, &self.inner))
    }

    /// Waits until the instances of a name are known, at most for the client's timeout.
    ///
    /// # Errors
    /// [`NoTarget::NotReady`] after the timeout, or [`NoTarget::Refused`].
    pub async fn ready(&self, logical_id: &str) -> Result<(), NoTarget> {
        let name = self.name(logical_id, Instant::now());
        let waiting = timeout(self.inner.client.timeout(), name.settled());
        waiting.await.unwrap_or_else(|_| Err(NoTarget::NotReady(logical_id.to_owned())))
    }

    /// Calls an instance, and another one when `is_transient` says that the failure was the instance's: at most `attempts`
    /// in all. Call it only with what may be repeated.
    ///
    /// # Errors
    /// The last failure; or [`NoTarget`] before the first attempt.
    pub async fn call<T, E, F>(
        &self,
        logical_id: &str,
        choice: &Choice,
        attempts: usize,
        is_transient: impl Fn(&E) -> bool,
        mut call: impl FnMut(Target) -> F,
    ) -> Result<Result<T, E>, NoTarget>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.ready(logical_id).await?;
        let mut left = attempts.max(1);
        loop {
            left -= 1;
            let target = self.pick(logical_id, choice)?;
            match call(target.clone()).await {
                Err(error) if is_transient(&error) => {
                    target.failed();
                    if left == 0 {
                        return Ok(Err(error));
                    }
                }
                outcome => return Ok(outcome),
            }
        }
    }

    /// All live instances of a name as they are known, the best first.
    #[must_use]
    pub fn instances(&self, logical_id: &str) -> Vec<Arc<Instance>> {
        self.name(logical_id, Instant::now()).instances()
    }

    /// As [`Self::instances`], each as if it had been picked.
    #[must_use]
    pub fn targets(&self, logical_id: &str) -> Vec<Target> {
        let target = |instance| Target::new(instance, &self.inner);
        self.instances(logical_id).into_iter().map(target).collect()
    }

    /// How long ago PostgreSQL confirmed what is known of a name, by a daemon; `None` before its first snapshot. While all
    /// is well that is up to 6 s: a daemon tells it with each change, and every 5 s.
    #[must_use]
    pub fn stale_for(&self, logical_id: &str) -> Option<Duration> {
        self.name(logical_id, Instant::now()).age()
    }

    pub(super) fn name(&self, logical_id: &str, now: Instant) -> Arc<Name> {
        self.inner.name(logical_id, now)
    }
}
