//! What an operator may overrule: hold, brake, and the life of one instance; and the record of all decisions.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{error::Error, writer::Writer};
use crate::{
    model::{
        DeathReason, Decision, DecisionFilter, InstanceId, InstanceStatus, LeaseId, Operation, Outcome, StatusChange,
    },
    store::{self, Pool},
    telemetry::chain,
};

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_millis(1_900);

/// Overrules expiry.
#[derive(Clone, Debug)]
pub struct Operators {
    pool: Pool,
    writer: Writer,
    /// As whose decisions they are recorded, for an identity.
    name: Arc<str>,
}

impl Operators {
    /// Of the daemon of this name. Deaths go through `writer`, like any other change.
    #[must_use]
    pub fn new(pool: Pool, writer: Writer, name: Arc<str>) -> Self {
        Self { pool, writer, name }
    }

    /// The decisions on record that match, the newest first, of those numbered below `before`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Internal`].
    pub async fn decisions(&self, filter: &DecisionFilter, before: u64, limit: u32) -> Result<Vec<Decision>, Error> {
        let listed = store::audit::list(&self.pool, filter, before, limit, Instant::now() + TIMEOUT).await;
        listed.map_err(|error| Error::of_question(&error, "decisions could not be read"))
    }

    /// Suspends expiry for `for_`, or for the longest TTL of a live lease and 5 s. Returns for how long.
    ///
    /// # Errors
    /// See [`Error`]. Repeating it is safe.
    pub async fn hold(&self, reason: &str, for_: Option<Duration>, identity: Option<&str>) -> Result<Duration, Error> {
        self.writer.permit_change()?;
        let deadline = Instant::now() + TIMEOUT;
        let held =
            store::expiry::hold_expiry(&self.pool, reason, for_, &on_behalf(&self.name, identity), deadline).await;
        held.map_err(|error| told("expiry could not be held", &error))
    }

    /// Ends a hold, and takes the brake off for `for_`.
    ///
    /// # Errors
    /// See [`Error`]. Repeating it is safe.
    pub async fn release(&self, for_: Duration, identity: Option<&str>) -> Result<(), Error> {
        self.writer.permit_change()?;
        let by = on_behalf(&self.name, identity);
        let released = store::expiry::release_expiry(&self.pool, for_, &by, Instant::now() + TIMEOUT).await;
        released.map_err(|error| told("expiry could not be released", &error))
    }

    /// Declares an instance dead, on `lease_id` only if given, for an identity if one asks.
    ///
    /// # Errors
    /// See [`Error`]. Repeating it is safe.
    pub async fn expire(
        &self,
        instance_id: InstanceId,
        lease_id: Option<LeaseId>,
        identity: Option<Arc<str>>,
    ) -> Result<Outcome, Error> {
        let (status, reason) = (InstanceStatus::Dead, DeathReason::Operator);
        let (status_reason, as_operator) = (None, true);
        let change = StatusChange { instance_id, lease_id, status, reason, status_reason, identity, as_operator };
        self.writer.apply(Operation::SetStatus(change), None).await
    }
}

/// How the rows name what decided: the daemon, and the identity that asked it.
pub(super) fn on_behalf(daemon: &str, identity: Option<&str>) -> String {
    identity.map_or_else(|| daemon.to_owned(), |identity| format!("{daemon} for {identity}"))
}

fn told(what: &'static str, error: &store::Error) -> Error {
    tracing::warn!(error = %chain(error), "{what}");
    Error::from(error)
}
