//! The feed: brings what changed in PostgreSQL into memory, in order, without a gap.
//!
//! ```text
//!   connect, LISTEN --> load everything --> wait for a notification, or a second --> read what changed --+
//!        ^                   ^                          ^                              |               |
//!        |                   +---- history changed, or --------------------------------+               |
//!        |                         tombstones missed    +----------------------------------------------+
//!        +--- any failure of the connection, with a pause
//! ```
//!
//! State-based: there is no log of events. The rows with a revision above the one applied *are* what changed, because
//! revisions become visible in the order of their commits (`migrations/013`). A lost connection is always followed by
//! loading everything again, so a wrong view cannot last. The rows that come with the outcomes of this daemon's own changes
//! are taken like an answer to the feed itself, if they continue what is applied. A notification is a hint only;
//! where there is none, everything works all the same within [`POLL_PERIOD`], and at once for those who wait for a
//! revision.

#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock::Clock,
    metrics::FeedMetrics,
    model::{Cluster, Daemons, Instance, Revision},
    store::{
        self, Database,
        feed::{Changes, Connection},
    },
    telemetry::{Repeated, chain},
};

/// How often PostgreSQL is asked when no notification arrives. Also what detects a dead connection.
pub const POLL_PERIOD: Duration = Duration::from_secs(1);
/// How long a read that a call asks for is put off: calls that ask meanwhile share it.
const ASKED_PAUSE: Duration = Duration::from_millis(10);
/// How many answers of the writer may wait to be taken. The next group brings what a missing one had.
pub const PREFETCHED_MAX: usize = 4;
/// How long a notification waits for the writer, if a change of its own is under way.
const PREFETCH_WAIT: Duration = Duration::from_millis(20);
/// How often the list of daemons is read.
const DAEMONS_PERIOD: Duration = Duration::from_secs(2);
/// Most instances of one read.
const BATCH: i64 = 5_000;
/// Instances of a load that are kept, and let go, together: a million in one piece would be there twice for a moment.
const CHUNK: usize = 4_096;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Short, because where one address leads to every host, an attempt is what finds a new primary.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Where the feed leads. Called by one task, in order.
pub trait Sink: Send + 'static {
    /// Everything on record as of one moment; `at_ms` is when it was asked for. Instances are let go as they are taken.
    fn load(&mut self, cluster: Cluster, instances: impl Iterator<Item = Instance>, at_ms: u64);
    /// What changed since, by revision, as of the moment of `cluster`.
    fn apply(&mut self, cluster: Cluster, instances: Vec<Instance>, at_ms: u64);
    /// The daemons that share the database, and those that were lost.
    fn daemons(&mut self, daemons: Daemons);
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
    database: Database,
    sink: S,
    clock: Clock,
    history_id: Option<Uuid>,
    /// The generation of the sessions that the registry was loaded over.
    generation: u64,
    applied: Revision,
    daemons_read: Option<Instant>,
    wanted: Arc<Notify>,
    /// When to ask for calls that wait, if there are any.
    ask_at: Option<Instant>,
    prefetched: mpsc::Receiver<Changes>,
    trouble: Repeated,
    metrics: FeedMetrics,
}

/// Everything on record as of one moment.
#[derive(Debug)]
struct Loaded {
    cluster: Cluster,
    chunks: Vec<Vec<Instance>>,
    /// What the cluster row had to reach.
    floor: Revision,
    /// When it was asked for, by the daemon's clock.
    at_ms: u64,
    started: Instant,
}

/// Why the feed wakes.
#[derive(Debug)]
enum Wake {
    /// To ask PostgreSQL.
    Ask,
    /// To take what came with a change of the writer.
    Take(Changes),
}

impl<S: Sink> Feed<S> {
    /// A feed from `database` into `sink`, that looks at once when `wanted` is notified, and takes what the writer has
    /// `prefetched`.
    pub fn new(
        database: Database,
        sink: S,
        clock: Clock,
        wanted: Arc<Notify>,
        prefetched: mpsc::Receiver<Changes>,
    ) -> Self {
        let metrics = FeedMetrics::new();
        let (history_id, generation, applied) = (None, 0, Revision(0));
        let (daemons_read, ask_at, trouble) = (None, None, Repeated::default());
        Self {
            database,
            sink,
            clock,
            history_id,
            generation,
            applied,
            daemons_read,
            wanted,
            ask_at,
            prefetched,
            trouble,
            metrics,
        }
    }

    /// Feeds until told to stop.
    ///
    /// # Errors
    /// None: it connects again for ever.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut cause = Cause::Start;
        let mut pause = FIRST_PAUSE;
        loop {
            let (began, generation) = (Instant::now(), self.database.generation());
            let Some(ended) = stop.run_until_cancelled(Box::pin(self.session(cause))).await else { return Ok(()) };
            let Err(error) = ended;
            if self.history_id.is_some() {
                cause = Cause::Connection;
            }
            // A session that lasted is no reason to hesitate.
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            if let Some(told) = self.trouble.failed() {
                let (error, lasting_ms) = (chain(&error), told.lasting_ms());
                tracing::warn!(error, failures = told.failures, lasting_ms, "feed disconnected, reloading");
            }
            self.sink.lost(&error);
            // Ends early when another task of the daemon has found the new primary.
            let pausing = timeout(pause, self.database.superseded(generation));
            if stop.run_until_cancelled(pausing).await.is_none() {
                return Ok(());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn session(&mut self, cause: Cause) -> Result<Infallible, store::Error> {
        let connection = Connection::open(&self.database).await?;
        tokio::select! {
            biased;
            error = connection.superseded() => Err(error),
            ended = self.follow(&connection, cause) => ended,
        }
    }

    async fn follow(&mut self, connection: &Connection, cause: Cause) -> Result<Infallible, store::Error> {
        let is_other = cause != Cause::Start && connection.generation() != self.generation;
        self.generation = connection.generation();
        let cause = if is_other { Cause::History } else { cause };
        // Sent one behind the other, and run in this order: one round trip, of which the load sees the history confirmed.
        let confirmation = connection.confirm_history(self.floor(connection));
        let ((), daemons, loaded) =
            tokio::try_join!(biased; confirmation, connection.daemons(), self.read_all(connection))?;
        // Calls are answered as soon as the view is loaded, and an answer that names the daemons must have this one.
        self.take_daemons(daemons);
        self.take_all(connection, cause, loaded);
        if let Some(over) = self.trouble.works() {
            tracing::info!(failures = over.failures, lasting_ms = over.lasting_ms(), "feed connected again");
        }
        let mut asked_at = Instant::now();
        loop {
            match self.wake(connection, asked_at + POLL_PERIOD).await {
                Wake::Take(changes) => self.take(changes),
                Wake::Ask => {
                    asked_at = Instant::now();
                    self.ask_at = None;
                    self.read_changes(connection).await?;
                }
            }
            self.read_daemons(connection).await?;
        }
    }

    /// Waits for a reason to go on; that the poll is due is one, however much is handed over: it is what finds a dead
    /// connection.
    async fn wake(&mut self, connection: &Connection, poll_at: Instant) -> Wake {
        loop {
            let ask_at = self.ask_at.map_or(poll_at, |ask_at| ask_at.min(poll_at));
            tokio::select! {
                biased;
                () = sleep_until(ask_at) => return Wake::Ask,
                () = self.wanted.notified(), if self.ask_at.is_none() => {
                    self.ask_at = Some(Instant::now() + ASKED_PAUSE);
                }
                Some(changes) = self.prefetched.recv() => return Wake::Take(changes),
                revision = connection.notified() => {
                    if revision <= self.applied {
                        continue;
                    }
                    if self.is_under_way()
                        && let Ok(Some(changes)) = timeout(PREFETCH_WAIT, self.prefetched.recv()).await
                        && changes.cluster.revision >= revision
                    {
                        return Wake::Take(changes);
                    }
                    return Wake::Ask;
                }
            }
        }
    }

    /// Whether an answer of the writer may be about to come, or waits to be taken.
    fn is_under_way(&self) -> bool {
        self.prefetched.capacity() < self.prefetched.max_capacity()
    }

    /// Applies what came with a change of the writer, if that continues what is applied; if not, it is left for the feed to
    /// ask.
    fn take(&mut self, changes: Changes) {
        let Changes { after, cluster, mut instances, at_ms, .. } = changes;
        if after > self.applied || cluster.revision <= self.applied || self.broken_by(&cluster, self.applied).is_some()
        {
            return;
        }
        instances.retain(|instance| instance.revision > self.applied);
        self.apply(cluster, instances, at_ms);
    }

    fn apply(&mut self, cluster: Cluster, instances: Vec<Instance>, at_ms: u64) {
        self.applied = cluster.revision;
        self.sink.apply(cluster, instances, at_ms);
    }

    async fn load(&mut self, connection: &Connection, cause: Cause) -> Result<(), store::Error> {
        let loaded = self.read_all(connection).await?;
        self.take_all(connection, cause, loaded);
        Ok(())
    }

    /// Reads everything on record. `None`: there is no epoch yet, and the next look will find it.
    async fn read_all(&self, connection: &Connection) -> Result<Option<Loaded>, store::Error> {
        let (started, at_ms, floor) = (Instant::now(), self.clock.now_ms(), connection.seen());
        let mut chunks: Vec<Vec<Instance>> = Vec::new();
        let keep = |instance| match chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => chunk.push(instance),
            None => chunks.push(vec![instance]),
        };
        let cluster = connection.load(keep).await?;
        Ok(cluster.map(|cluster| Loaded { cluster, chunks, floor, at_ms, started }))
    }

    fn take_all(&mut self, connection: &Connection, cause: Cause, loaded: Option<Loaded>) {
        let resyncs = &self.metrics.resyncs;
        match cause {
            Cause::Start => resyncs.start.increment(1),
            Cause::Connection => resyncs.connection.increment(1),
            Cause::History => resyncs.history.increment(1),
            Cause::Gap => resyncs.gap.increment(1),
        }
        let Some(Loaded { cluster, chunks, floor, at_ms, started }) = loaded else { return };
        let count = chunks.iter().map(Vec::len).sum::<usize>();
        connection.confirmed(floor, &cluster);
        let (revision, history_id, read_ms) = (cluster.revision, cluster.history_id, started.elapsed().as_millis());
        self.sink.load(cluster, chunks.into_iter().flatten(), at_ms);
        self.history_id = Some(history_id);
        self.applied = revision;
        let elapsed_ms = started.elapsed().as_millis();
        tracing::info!(?cause, instances = count, revision = revision.0, read_ms, elapsed_ms, "loaded the registry");
    }

    async fn read_changes(&mut self, connection: &Connection) -> Result<(), store::Error> {
        loop {
            let (at_ms, floor) = (self.clock.now_ms(), self.floor(connection));
            let Some(changes) = connection.changes(self.applied, BATCH, at_ms).await? else { return Ok(()) };
            let Changes { mut cluster, instances, rows, .. } = changes;
            if let Some(cause) = self.broken_by(&cluster, floor) {
                // What was lost becomes another history before it can be used again.
                connection.confirm_history(floor).await?;
                return self.load(connection, cause).await;
            }
            connection.confirmed(floor, &cluster);
            let full = i64::try_from(rows).is_ok_and(|count| count >= BATCH);
            if let (true, Some(last)) = (full, instances.last()) {
                // More follows: so far only this much is known.
                cluster.revision = last.revision;
            }
            self.apply(cluster, instances, at_ms);
            if !full {
                return Ok(());
            }
        }
    }

    /// What the answer to the next question must reach: what is applied, and what this daemon has committed.
    fn floor(&self, connection: &Connection) -> Revision {
        self.applied.max(connection.seen())
    }

    /// Why what is applied cannot simply be continued, if so. `floor` is what the answer must reach.
    fn broken_by(&self, cluster: &Cluster, floor: Revision) -> Option<Cause> {
        match self.history_id {
            None => Some(Cause::Start),
            Some(history_id) if history_id != cluster.history_id => Some(Cause::History),
            Some(_) if cluster.revision < floor => Some(Cause::History),
            Some(_) if cluster.purged > self.applied => Some(Cause::Gap),
            Some(_) => None,
        }
    }

    async fn read_daemons(&mut self, connection: &Connection) -> Result<(), store::Error> {
        if self.daemons_read.is_none_or(|at| at.elapsed() >= DAEMONS_PERIOD) {
            let daemons = connection.daemons().await?;
            self.take_daemons(daemons);
        }
        Ok(())
    }

    fn take_daemons(&mut self, daemons: Daemons) {
        self.sink.daemons(daemons);
        self.daemons_read = Some(Instant::now());
    }
}
