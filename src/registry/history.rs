//! The history of leases: which have ended, when and why. Read from PostgreSQL, one call at a time: what a caller with the right
//! to read asks must leave a connection of the operators' to a rotation.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::error::Error;
use crate::{
    model::{Ended, EndedLease},
    store::{self, Pool},
};

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_millis(1_900);

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

    /// Leases that have ended, the latest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn ended(&self, ended: &Ended) -> Result<Vec<EndedLease>, Error> {
        let deadline = Instant::now() + TIMEOUT;
        let Ok(Ok(_turn)) = timeout_at(deadline, self.turn.acquire()).await else { return Err(Error::Unavailable) };
        let read = store::deaths::ended(&self.pool, ended, deadline).await;
        read.map_err(|error| Error::of_question(&error, "history of leases could not be read"))
    }
}
