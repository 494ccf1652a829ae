//! Connections to PostgreSQL: bounded, with a deadline on every call.
//!
//! Two lanes, so that no number of operators' calls can keep the engine (writer, flusher, reapers) from a connection.
//! Lists and lookups need none: they are answered from memory. The feed has a connection of its own
//! ([`super::feed`]), because a pooled one would drop notifications.
//!
//! A call whose deadline passes takes its connection with it: dropping a query does not end it on the server, so the
//! connection must not be used again. `lock_timeout` ends what is left waiting there.

use std::time::Duration;

use deadpool_postgres::{
    Client, Hook, HookError, ManagerConfig, Object, Pool as Deadpool, PoolError, QueueMode, RecyclingMethod, Runtime,
    Timeouts,
};
use tokio::time::{Instant, timeout_at};

use super::{Error, connect::Server};

/// How long a session waits for a lock before it gives up.
const SESSION_SETUP: &str = "SET lock_timeout = '2s'; SET idle_in_transaction_session_timeout = '10s'";
/// Connections of the engine: writer, flusher, reaper, and what asks for overdue leases and for suspicions.
const ENGINE_CONNECTIONS: usize = 5;
/// Connections for rotations and histories of epochs.
const OPERATOR_CONNECTIONS: usize = 2;

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Writer, flusher, reapers.
    Engine,
    /// Operators' calls.
    Operator,
}

/// How the connections of a lane stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneStatus {
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
    server: Server,
    engine: Deadpool,
    operator: Deadpool,
}

impl Pool {
    /// Prepares the pool. Connects only when asked to.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if the URL cannot be understood.
    pub fn new(url: &str) -> Result<Self, Error> {
        let server = Server::parse(url)?.for_sessions();
        let (engine, operator) = (lane(&server, ENGINE_CONNECTIONS)?, lane(&server, OPERATOR_CONNECTIONS)?);
        Ok(Self { server, engine, operator })
    }

    /// Runs one call on a connection of the lane, until `deadline`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if no connection was had in time: the call was not made. Otherwise what the call
    /// returned, or [`Error::Unanswered`] if the deadline passed.
    pub async fn run<T>(
        &self,
        lane: Lane,
        deadline: Instant,
        call: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        let pool = self.lane(lane);
        let client = match timeout_at(deadline, pool.get()).await {
            Ok(Ok(client)) => client,
            Ok(Err(PoolError::Backend(error))) => return Err(self.server.explain(&error).into()),
            Ok(Err(error)) => return Err(Error::Unreachable(Box::new(error))),
            Err(elapsed) => return Err(Error::Unreachable(Box::new(elapsed))),
        };
        let answer = match timeout_at(deadline, call(&client)).await {
            Ok(answer) => answer.map_err(Error::from),
            Err(_) => Err(Error::Unanswered(None)),
        };
        if let Err(error) = &answer
            && !matches!(error, Error::Refused(_))
        {
            drop(Object::take(client));
        }
        answer
    }

    /// How a lane stands.
    #[must_use]
    pub fn status(&self, lane: Lane) -> LaneStatus {
        let status = self.lane(lane).status();
        LaneStatus { size: status.size, available: status.available, waiting: status.waiting }
    }

    /// Closes all connections once they are unused, and refuses new calls.
    pub fn close(&self) {
        self.engine.close();
        self.operator.close();
    }

    fn lane(&self, lane: Lane) -> &Deadpool {
        match lane {
            Lane::Engine => &self.engine,
            Lane::Operator => &self.operator,
        }
    }
}

fn lane(server: &Server, connections: usize) -> Result<Deadpool, Error> {
    let manager = server.manager(ManagerConfig { recycling_method: RecyclingMethod::Fast });
    Deadpool::builder(manager)
        .max_size(connections)
        .runtime(Runtime::Tokio1)
        // The connection used last: its plans and its memory are warm, others stay idle.
        .queue_mode(QueueMode::Lifo)
        .timeouts(Timeouts {
            wait: Some(Duration::from_secs(1)),
            create: Some(Duration::from_secs(2)),
            recycle: Some(Duration::from_secs(1)),
        })
        // Statements, not startup options: a connection pooler in between refuses options it does not know.
        .post_create(Hook::async_fn(|client, _| {
            Box::pin(async move { client.batch_execute(SESSION_SETUP).await.map_err(HookError::Backend) })
        }))
        .build()
        .map_err(|error| Error::Unreachable(Box::new(error)))
}
