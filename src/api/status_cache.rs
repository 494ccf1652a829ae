//! The summary that all HTTP readers share, however many there are.
//!
//! A summary is made when a client asks and the last one is older than [`SUMMARY_PERIOD`]; all clients that ask meanwhile
//! wait for the same one. The statistics in it are shared with gRPC ([`crate::stats::StatsCache`]) and may be older; their age
//! is part of the summary.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    beats::{BeatHistory, Beats},
    error::ApiError,
};
use crate::{
    access::Names,
    model::{Ended, EndedLease, EpochRecord},
    stats::{RegistryStats, StatsCache, Timestamps},
    status::{self, Gather, Status},
    view::View,
};

/// How often a summary is made at most.
pub const SUMMARY_PERIOD: Duration = Duration::from_secs(1);
/// How long the history of epochs is waited for...
const EPOCH_TIMEOUT: Duration = Duration::from_millis(500);
/// ...and how long after a vain attempt it is asked again.
const EPOCH_PAUSE: Duration = Duration::from_secs(3);
/// Most streams of events at once.
pub const STREAMS_MAX: usize = 32;

/// Asks for the current entry of the history of epochs.
pub type AskEpoch = Arc<dyn Fn() -> BoxFuture<'static, Option<EpochRecord>> + Send + Sync>;

/// Asks the history of leases for those that have ended, of names that may be read; `None`: it cannot be read now.
pub type AskEnded = Arc<dyn Fn(Ended, Names) -> BoxFuture<'static, Option<Vec<EndedLease>>> + Send + Sync>;

/// A summary, as JSON.
#[derive(Debug)]
pub struct Summary {
    /// All of it.
    pub whole: String,
    /// What a reader of some names only may see, with all names still in it.
    pub partial: String,
}

/// Writes the summary. The cache decides when, and knows nothing of its form.
pub type Render = fn(&Sources, Beats, &RegistryStats, Option<&EpochRecord>, Timestamps) -> Summary;

/// Where the cache reads from; the composition root hands it over.
#[derive(Clone)]
pub struct Sources {
    /// The registry.
    pub view: View,
    /// Its statistics.
    pub stats: StatsCache,
    /// What the health of this daemon is judged by.
    pub facts: Gather,
    /// This run of the daemon.
    pub daemon_id: Uuid,
    /// Its gRPC address, as it tells others.
    pub grpc_address: String,
    /// Beats accepted since the daemon started; must not block.
    pub beats_received: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The history of epochs: asked once per epoch.
    pub epoch: AskEpoch,
    /// The history of leases: asked once for each request.
    pub ended: AskEnded,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("daemon_id", &self.daemon_id).finish_non_exhaustive()
    }
}

/// One summary.
#[derive(Debug)]
pub struct Published {
    /// When the next one may be made.
    pub due: Instant,
    /// The statistics in it.
    pub stats: Arc<RegistryStats>,
    /// As JSON.
    pub json: Bytes,
    /// As JSON, for readers of some names ([`Summary::partial`]).
    pub partial: Bytes,
    /// As a server-sent event.
    pub event: Bytes,
}

/// The cache. Clones share it.
#[derive(Clone, Debug)]
pub struct StatusCache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    sources: Sources,
    render: Render,
    published: ArcSwapOption<Published>,
    state: Mutex<State>,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    epoch: Option<EpochRecord>,
    epoch_asked: Option<Instant>,
    beats: BeatHistory,
}

impl StatusCache {
    /// A cache over these sources, whose summaries `render` writes. Streams of events end when `stop` is cancelled.
    #[must_use]
    pub fn new(sources: Sources, render: Render, stop: CancellationToken) -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        let (published, state) = (ArcSwapOption::empty(), Mutex::default());
        Self { inner: Arc::new(Inner { sources, render, published, state, streams, stop }) }
    }

    /// The registry.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.inner.sources.view
    }

    /// Leases that have ended, of names that may be read; `None`: they cannot be read now.
    pub(super) async fn ended(&self, ended: Ended, names: Names) -> Option<Vec<EndedLease>> {
        (self.inner.sources.ended)(ended, names).await
    }

    /// Cancelled when the daemon stops.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    /// The places for streams of events.
    pub(super) fn streams(&self) -> &Arc<Semaphore> {
        &self.inner.streams
    }

    /// Now, by both clocks.
    #[must_use]
    pub fn now(&self) -> Timestamps {
        self.inner.sources.stats.now()
    }

    /// The present status of this daemon and its cluster. Waits at most `bound` for statistics that are due.
    pub(crate) async fn status(&self, bound: Duration) -> Status {
        let sources = &self.inner.sources;
        // Without a new one the former is as good as can be.
        let _ = timeout(bound, sources.stats.current()).await;
        status::judge(&sources.facts.facts())
    }

    /// The summary of this second.
    ///
    /// # Errors
    /// It could not be made, which only a fault in the program explains.
    pub async fn summary(&self) -> Result<Arc<Published>, ApiError> {
        if let Some(published) = self.published() {
            return Ok(published);
        }
        // In a task of its own: a request that ends while it is made must not make the next one begin again.
        let cache = self.clone();
        #[expect(clippy::disallowed_methods, reason = "waited for right here, which learns of its panic")]
        let published = tokio::spawn(async move { cache.publish().await });
        published.await.map_err(|error| ApiError::fault("the summary", &error))
    }

    /// The last summary, if it is not too old.
    fn published(&self) -> Option<Arc<Published>> {
        self.inner.published.load_full().filter(|published| Instant::now() < published.due)
    }

    async fn publish(&self) -> Arc<Published> {
        let mut state = self.inner.state.lock().await;
        // A request that waited for the same finds it.
        if let Some(published) = self.published() {
            return published;
        }
        let due = Instant::now() + SUMMARY_PERIOD;
        let sources = &self.inner.sources;
        let stats = sources.stats.current().await;
        self.learn_epoch(&mut state).await;
        let (expected_milli, ttl) = (stats.beats_expected_here_milli, stats.longest_ttl_here);
        let received = (sources.beats_received)();
        let beats = state.beats.observe(Instant::now().into(), received, expected_milli, ttl);
        let Summary { whole, partial } = (self.inner.render)(sources, beats, &stats, state.epoch.as_ref(), self.now());
        let event = Bytes::from(format!("event: summary\ndata: {whole}\n\n"));
        let published = Arc::new(Published { due, stats, json: whole.into(), partial: partial.into(), event });
        self.inner.published.store(Some(Arc::clone(&published)));
        published
    }

    /// When and why the current epoch began. It never changes, so it is asked once.
    async fn learn_epoch(&self, state: &mut State) {
        let Some(current) = self.view().snapshot().cluster().map(|cluster| cluster.epoch) else { return };
        let known = state.epoch.as_ref().is_some_and(|record| record.epoch == current);
        let asked_lately = state.epoch_asked.is_some_and(|asked| asked.elapsed() < EPOCH_PAUSE);
        if known || asked_lately {
            return;
        }
        let asked = timeout(EPOCH_TIMEOUT, (self.inner.sources.epoch)()).await;
        state.epoch = asked.ok().flatten().filter(|record| record.epoch == current);
        state.epoch_asked = Some(Instant::now()).filter(|_| state.epoch.is_none());
    }
}
