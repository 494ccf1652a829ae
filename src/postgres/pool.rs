//! Connections to PostgreSQL: bounded, with a deadline on every call.
//!
//! Two roles, each with connections of its own, so that no number of operators' calls can keep the engine (writer, flusher, reapers) from a connection.
//! Lists and lookups need none: they are answered from memory. The feed has a connection of its own
//! ([`crate::store::feed`]), because a pooled one would drop notifications.
//!
//! A call whose deadline passes takes its connection with it: dropping a query does not end it on the server, so the
//! connection must not be used again. `lock_timeout` ends what is left waiting there.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult, Timeouts};
use deadpool_postgres::ClientWrapper;
use tokio::time::{Instant, timeout_at};

use super::{connect::ConnectError, database::Database, error::Error, kept::Driven, server::Want};

/// Connections of the engine: writer, flusher, reaper, and what asks for overdue leases and for suspicions.
const ENGINE_CONNECTIONS: usize = 5;
/// Connections for rotations and histories of epochs.
const OPERATOR_CONNECTIONS: usize = 2;
/// The connection of the feed, for `LISTEN`.
const FEED_CONNECTIONS: usize = 1;
/// Connections that one daemon may hold: what the server has to have free for it.
pub const CONNECTIONS: usize = ENGINE_CONNECTIONS + OPERATOR_CONNECTIONS + FEED_CONNECTIONS;
/// Fewest connections of a registry: one of the feed, one for operators, two of the engine.
pub(crate) const CONNECTIONS_MIN: usize = FEED_CONNECTIONS + 1 + 2;

/// How long a session may take to open, for each host.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection of the pool, with its prepared statements.
pub(crate) type Client = ClientWrapper;

/// A session, and the generation of sessions that it belongs to.
#[derive(Debug)]
struct Session {
    client: Client,
    generation: u64,
}
type RolePool = managed::Pool<Sessions>;

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolRole {
    /// Writer, flusher, reapers.
    Engine,
    /// Operators' calls.
    Operator,
}

/// The connections of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Open connections.
    pub size: usize,
    /// Of these, unused.
    pub available: usize,
    /// Calls that wait for one.
    pub waiting: usize,
}

/// The connections of a daemon.
#[derive(Clone, Debug)]
pub struct Pool {
    database: Database,
    engine: RolePool,
    operator: RolePool,
    /// The generation of sessions to which the idle ones belong.
    generation: Arc<AtomicU64>,
}

/// Opens the sessions of a pool, and takes back those that are still connected.
#[derive(Debug)]
struct Sessions {
    database: Database,
}

impl managed::Manager for Sessions {
    type Type = Session;
    type Error = ConnectError;

    async fn create(&self) -> Result<Session, ConnectError> {
        let Driven { client, driver, generation, .. } =
            Box::pin(self.database.open_driven(Want::Primary, SESSION_TIMEOUT)).await?;
        Ok(Session { client: ClientWrapper::new(client, driver), generation })
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<ConnectError> {
        if self.database.generation() != session.generation {
            return Err(RecycleError::Message(Cow::Borrowed("the daemon has changed to another database")));
        }
        if session.client.is_closed() {
            // The task that drove the connection has logged why.
            return Err(RecycleError::Message(Cow::Borrowed("the connection is closed")));
        }
        Ok(())
    }
}

impl Pool {
    /// Prepares the pool. Connects only when asked to.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if the pool cannot be made.
    pub fn new(database: &Database) -> Result<Self, Error> {
        Self::with(database, CONNECTIONS)
    }

    /// As [`Self::new`], with at most so many connections, that of the feed included.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(database: &Database, connections: usize) -> Result<Self, Error> {
        let (engine, operators) = split(connections);
        let (engine, operator) = (pool(database, engine)?, pool(database, operators)?);
        Ok(Self { database: database.clone(), engine, operator, generation: Arc::default() })
    }

    /// Runs one call on a connection of the role, until `deadline`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if no connection was had in time: the call was not made. Otherwise what the call
    /// returned, or [`Error::Unanswered`] if the deadline passed or the daemon changed to another database.
    pub async fn run<T>(
        &self,
        role: PoolRole,
        deadline: Instant,
        call: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        self.run_known(role, deadline, call, |_| None).await
    }

    /// As [`Self::run`], for a call whose answer tells the revision of the database.
    pub(crate) async fn run_known<T>(
        &self,
        role: PoolRole,
        deadline: Instant,
        call: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
        revision: impl FnOnce(&T) -> Option<u64>,
    ) -> Result<T, Error> {
        self.run_checked(role, deadline, call, revision, |_| true).await
    }

    /// As [`Pool::run_known`]; a session that is not fit for another call by `keep` is closed.
    pub(crate) async fn run_checked<T>(
        &self,
        role: PoolRole,
        deadline: Instant,
        call: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
        revision: impl FnOnce(&T) -> Option<u64>,
        keep: impl FnOnce(&T) -> bool,
    ) -> Result<T, Error> {
        self.end_superseded();
        let pool = self.of(role);
        let session = match timeout_at(deadline, pool.get()).await {
            Ok(Ok(session)) => session,
            Ok(Err(PoolError::Backend(error))) => return Err(error.into()),
            Ok(Err(error)) => return Err(Error::Unreachable(Box::new(error))),
            Err(elapsed) => return Err(Error::Unreachable(Box::new(elapsed))),
        };
        let (generation, floor) = (session.generation, self.database.seen());
        let answer = tokio::select! {
            biased;
            // Its database is no longer the one that counts, whatever it answers.
            () = self.database.superseded(generation) => Err(Error::Unanswered(None)),
            answer = timeout_at(deadline, self.database.watched(call(&session.client))) => match answer {
                Ok(answer) => answer.map_err(Error::from),
                Err(_) => Err(Error::Unanswered(None)),
            },
        };
        if let Ok(answer) = &answer
            && let Some(revision) = revision(answer)
        {
            self.database.saw(generation, floor, revision);
        }
        if let Err(error) = &answer
            && !matches!(error, Error::Refused(_) | Error::Denied { .. })
        {
            self.database.request_search();
            drop(Object::take(session));
        } else if answer.as_ref().is_ok_and(|answer| !keep(answer)) {
            drop(Object::take(session));
        }
        answer
    }

    /// Ends idle sessions of another database, which would stay open there until a call needs them.
    fn end_superseded(&self) {
        let current = self.database.generation();
        if self.generation.swap(current, Ordering::AcqRel) != current {
            for pool in [&self.engine, &self.operator] {
                drop(pool.retain(|session, _| session.generation == current));
            }
        }
    }

    /// The highest revision that this daemon has committed or read.
    pub(crate) fn seen(&self) -> u64 {
        self.database.seen()
    }

    /// The connections of a role.
    #[must_use]
    pub fn status(&self, role: PoolRole) -> PoolStatus {
        let status = self.of(role).status();
        PoolStatus { size: status.size, available: status.available, waiting: status.waiting }
    }

    /// Closes all connections once they are unused, and refuses new calls.
    pub fn close(&self) {
        self.engine.close();
        self.operator.close();
    }

    fn of(&self, role: PoolRole) -> &RolePool {
        match role {
            PoolRole::Engine => &self.engine,
            PoolRole::Operator => &self.operator,
        }
    }
}

/// How many of so many connections, that of the feed included, are the engine's and how many the operators'.
pub(crate) const fn split(connections: usize) -> (usize, usize) {
    let operators = if connections < CONNECTIONS { 1 } else { OPERATOR_CONNECTIONS };
    let all = if connections < CONNECTIONS_MIN { CONNECTIONS_MIN } else { connections };
    (all - FEED_CONNECTIONS - operators, operators)
}

fn pool(database: &Database, connections: usize) -> Result<RolePool, Error> {
    managed::Pool::builder(Sessions { database: database.clone() })
        .max_size(connections)
        .runtime(deadpool::Runtime::Tokio1)
        // The connection used last: its plans and its memory are warm, others stay idle.
        .queue_mode(QueueMode::Lifo)
        .timeouts(Timeouts {
            wait: Some(Duration::from_secs(1)),
            create: Some(SESSION_TIMEOUT),
            recycle: Some(Duration::from_secs(1)),
        })
        .build()
        .map_err(|error| Error::Unreachable(Box::new(error)))
}
