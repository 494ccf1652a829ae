//! The feed: brings what changed in PostgreSQL into memory, in order, without a gap.
//!
//! ```text
//!   connect, LISTEN --> load everything --> wait for the doorbell, or a second --> read what changed --+
//!        ^                   ^                          ^                              |               |
//!        |                   +---- history changed, or --------------------------------+               |
//!        |                         tombstones missed    +----------------------------------------------+
//!        +--- any failure of the connection, with a pause
//! ```
//!
//! State-based: there is no log of events. The rows with a revision above the one applied *are* what changed, because
//! revisions become visible in the order of their commits (`migrations/013`). A lost connection is always followed by
//! loading everything anew, so a wrong view cannot last. The notification is a doorbell only; where there is none,
//! everything works all the same within [`POLL_PERIOD`], and at once for those who wait for a revision.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock::Clock,
    metrics::FeedMetrics,
    model::{Cluster, DaemonRecord, Instance, Revision},
    store::{self, feed::Connection},
    telemetry::chain,
};

/// How often PostgreSQL is asked when no doorbell rings. Also what detects a dead connection.
pub const POLL_PERIOD: Duration = Duration::from_secs(1);
/// How long a read that somebody asks for is put off: those who ask meanwhile share it.
const ASKED_PAUSE: Duration = Duration::from_millis(10);
/// How often the list of daemons is read.
const DAEMONS_PERIOD: Duration = Duration::from_secs(2);
/// Most instances of one read.
const BATCH: i64 = 5_000;
/// Instances of a load that are kept, and let go, together: a million in one piece would be there twice for a moment.
const CHUNK: usize = 4_096;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where the feed leads. Called by one task, in order.
pub trait Sink: Send + 'static {
    /// Everything on record as of one moment; `at_ms` is when it was asked for. Instances are let go as they are taken.
    fn load(&mut self, cluster: Cluster, instances: impl Iterator<Item = Instance>, at_ms: u64);
    /// What changed since, by revision, as of the moment of `cluster`.
    fn apply(&mut self, cluster: Cluster, instances: Vec<Instance>, at_ms: u64);
    /// The daemons that share the database.
    fn daemons(&mut self, daemons: Vec<DaemonRecord>);
    /// The connection was lost; nothing new arrives until the next [`Sink::load`].
    fn lost(&mut self, error: &store::Error);
}

/// Why everything is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Start,
    Connection,
    History,
    Gap,
}

/// The task.
#[derive(Debug)]
pub struct Feed<S> {
    url: String,
    sink: S,
    clock: Clock,
    history_id: Option<Uuid>,
    applied: Revision,
    daemons_read: Option<Instant>,
    wanted: Arc<Notify>,
    metrics: FeedMetrics,
}

impl<S: Sink> Feed<S> {
    /// A feed from the database at `url` into `sink`, that looks at once when `wanted` is notified.
    pub fn new(url: String, sink: S, clock: Clock, wanted: Arc<Notify>) -> Self {
        let metrics = FeedMetrics::new();
        Self { url, sink, clock, history_id: None, applied: Revision(0), daemons_read: None, wanted, metrics }
    }

    /// Feeds until told to stop.
    ///
    /// # Errors
    /// None: it connects again for ever.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut cause = Cause::Start;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let Some(ended) = stop.run_until_cancelled(self.session(cause)).await else { return Ok(()) };
            let Err(error) = ended;
            if self.history_id.is_some() {
                cause = Cause::Connection;
            }
            // A session that lasted is no reason to hesitate.
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tracing::warn!(error = %chain(&error), "the feed lost its connection and loads everything anew");
            self.sink.lost(&error);
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return Ok(());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn session(&mut self, cause: Cause) -> Result<Infallible, store::Error> {
        let connection = Connection::open(&self.url).await?;
        connection.confirm_history(self.applied).await?;
        self.load(&connection, cause).await?;
        self.read_daemons(&connection).await?;
        loop {
            // An elapsed second means no more than that nothing rang.
            let _ = timeout(POLL_PERIOD, self.rung_or_asked(&connection)).await;
            self.read_changes(&connection).await?;
            self.read_daemons(&connection).await?;
        }
    }

    async fn rung_or_asked(&self, connection: &Connection) {
        let asked = async {
            self.wanted.notified().await;
            sleep(ASKED_PAUSE).await;
        };
        tokio::select! {
            () = connection.rung() => {}
            () = asked => {}
        }
    }

    async fn load(&mut self, connection: &Connection, cause: Cause) -> Result<(), store::Error> {
        let resyncs = &self.metrics.resyncs;
        match cause {
            Cause::Start => resyncs.start.increment(1),
            Cause::Connection => resyncs.connection.increment(1),
            Cause::History => resyncs.history.increment(1),
            Cause::Gap => resyncs.gap.increment(1),
        }
        let started = Instant::now();
        let at_ms = self.clock.now_ms();
        let mut chunks: Vec<Vec<Instance>> = Vec::new();
        let keep = |instance| match chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => chunk.push(instance),
            None => chunks.push(vec![instance]),
        };
        let Some(cluster) = connection.load(keep).await? else {
            // No epoch yet: the next look will find it.
            return Ok(());
        };
        let count = chunks.iter().map(Vec::len).sum::<usize>();
        let (revision, history_id, read_ms) = (cluster.revision, cluster.history_id, started.elapsed().as_millis());
        self.sink.load(cluster, chunks.into_iter().flatten(), at_ms);
        self.history_id = Some(history_id);
        self.applied = revision;
        let elapsed_ms = started.elapsed().as_millis();
        tracing::info!(?cause, instances = count, revision = revision.0, read_ms, elapsed_ms, "loaded the registry");
        Ok(())
    }

    async fn read_changes(&mut self, connection: &Connection) -> Result<(), store::Error> {
        loop {
            let at_ms = self.clock.now_ms();
            let (Some(mut cluster), instances) = connection.changes(self.applied, BATCH).await? else { return Ok(()) };
            if let Some(cause) = self.broken_by(&cluster) {
                // What was lost becomes another history before it can be used again.
                connection.confirm_history(self.applied).await?;
                return self.load(connection, cause).await;
            }
            let full = i64::try_from(instances.len()).is_ok_and(|count| count >= BATCH);
            if let (true, Some(last)) = (full, instances.last()) {
                // More follows: so far only this much is known.
                cluster.revision = last.revision;
            }
            self.applied = cluster.revision;
            self.sink.apply(cluster, instances, at_ms);
            if !full {
                return Ok(());
            }
        }
    }

    /// Why what is applied cannot simply be continued, if so.
    fn broken_by(&self, cluster: &Cluster) -> Option<Cause> {
        match self.history_id {
            None => Some(Cause::Start),
            Some(history_id) if history_id != cluster.history_id => Some(Cause::History),
            Some(_) if cluster.revision < self.applied => Some(Cause::History),
            Some(_) if cluster.purged > self.applied => Some(Cause::Gap),
            Some(_) => None,
        }
    }

    async fn read_daemons(&mut self, connection: &Connection) -> Result<(), store::Error> {
        if self.daemons_read.is_none_or(|at| at.elapsed() >= DAEMONS_PERIOD) {
            self.sink.daemons(connection.daemons().await?);
            self.daemons_read = Some(Instant::now());
        }
        Ok(())
    }
}
