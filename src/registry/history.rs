//! The history of leases: which have ended, when and why. Read from PostgreSQL, one call at a time: what a caller with the right
//! to read asks must leave a connection of the operators' to a rotation.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::error::Error;
use crate::{
    model::{Ended, EndedLease, Holder},
    store::{self, Pool},
};

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_millis(1_900);
/// How many leases of an instance id are read, of which a caller may be shown some.
const READ_MAX: usize = 1_000;

/// Reads the history of leases.
#[derive(Clone, Debug)]
pub struct History {
    pool: Pool,
    turn: Arc<Semaphore>,
}

impl History {
    /// Of the registry that `pool` leads to.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Leases that have ended, the latest first; only those of logical ids that the caller may read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn ended(&self, ended: &Ended, may_read: impl Fn(&str) -> bool) -> Result<Vec<EndedLease>, Error> {
        let deadline = Instant::now() + TIMEOUT;
        let Ok(Ok(_turn)) = timeout_at(deadline, self.turn.acquire()).await else { return Err(Error::Unavailable) };
        let limit = match &ended.holder {
            Holder::LogicalId(_) => ended.limit,
            // What the caller may not read is left out afterwards, and must not take the place of what it may.
            Holder::Instance(_) => READ_MAX,
        };
        let read = store::deaths::ended(&self.pool, ended, limit, deadline).await;
        let leases = read.map_err(|error| Error::of_question(&error, "history of leases could not be read"))?;
        Ok(leases.into_iter().filter(|lease| may_read(lease.logical_id.as_str())).take(ended.limit).collect())
    }
}
