//! Rotation of the epoch, and its history, for operators.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{error::Error, health::Health, operators::on_behalf};
use crate::{
    model::{EpochId, EpochRecord, Rotation},
    store::{self, Pool},
    telemetry::chain,
};

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_millis(1_900);

/// Rotates the epoch and reads its history.
#[derive(Clone, Debug)]
pub struct Epochs {
    pool: Pool,
    rotated_by: Arc<str>,
    health: Arc<Health>,
}

impl Epochs {
    /// Rotations are recorded as made by `rotated_by`, and refused while `health` knows that the schema is too new.
    #[must_use]
    pub fn new(pool: Pool, rotated_by: Arc<str>, health: Arc<Health>) -> Self {
        Self { pool, rotated_by, health }
    }

    /// Begins the epoch `new`, if `expected` is current or not given, for an identity if one asks; at most once in
    /// 10 s, unless `force` is set. Idempotent for the same `new`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rotate(
        &self,
        new: EpochId,
        expected: Option<EpochId>,
        reason: &str,
        identity: Option<&str>,
        force: bool,
    ) -> Result<Rotation, Error> {
        self.health.permit_change()?;
        let by = on_behalf(&self.rotated_by, identity);
        let deadline = Instant::now() + TIMEOUT;
        let mut may_be_applied = false;
        loop {
            let error = match store::epoch::rotate(&self.pool, new, expected, reason, &by, force, deadline).await {
                Ok(rotation) => return Ok(rotation),
                Err(error) => error,
            };
            may_be_applied |= error.may_be_applied();
            if !error.is_passing() || Instant::now() + RETRY_PAUSE >= deadline {
                tracing::warn!(error = %chain(&error), "rotation was not confirmed");
                return Err(if may_be_applied { Error::MaybeApplied } else { Error::from(&error) });
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// The history of epochs, the newest first, of those numbered below `before`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn list(&self, before: u64, limit: u32) -> Result<Vec<EpochRecord>, Error> {
        let listed = store::epoch::list(&self.pool, before, limit, Instant::now() + TIMEOUT).await;
        listed.map_err(|error| Error::of_question(&error, "history of epochs could not be read"))
    }
}

const RETRY_PAUSE: Duration = Duration::from_millis(50);
