//! What a registration holds, as the application sees it.

use std::{fmt, sync::Arc, time::Duration};

use uuid::Uuid;

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The lease id: pass it on as a fencing token.
    pub lease_id: u64,
    /// The instance that holds it.
    pub instance_id: Uuid,
    /// The epoch in which it was granted.
    pub cluster_epoch: Uuid,
    /// Number of that epoch.
    pub epoch_number: u64,
    /// How long it lives after each beat.
    pub ttl: Duration,
}

/// Why a lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// By the client's own clock: no beat was acknowledged for the TTL.
    Deadline,
    /// The registry says that it expired, or that it has ended without a record of the reason.
    Expired,
    /// Another caller deregistered it.
    Deregistered,
    /// An operator declared the instance dead.
    Operator,
    /// Another process registered under the same instance id.
    Replaced,
    /// The epoch was rotated.
    Fenced,
    /// The registry does not know the lease.
    Unknown,
    /// The registration was closed.
    Closed,
}

/// A lease that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lease {lease_id} is lost: {reason:?}")]
#[non_exhaustive]
pub struct Lost {
    /// The lease; 0 if there was none yet.
    pub lease_id: u64,
    /// Why.
    pub reason: LossReason,
}

/// Where a registration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Not registered yet.
    Pending,
    /// The lease is held.
    Held(Lease),
    /// The lease is held, but no beat was acknowledged for two thirds of its TTL.
    Doubtful(Lease),
    /// The lease is lost. A registration that rejoins goes on to `Held`.
    Lost(Lost),
    /// Closed, or lost for good.
    Ended,
}

impl State {
    /// The lease that is held.
    #[must_use]
    pub const fn lease(&self) -> Option<Lease> {
        match *self {
            Self::Held(lease) | Self::Doubtful(lease) => Some(lease),
            _ => None,
        }
    }
}

/// Is told each state in their order, on the thread that beats.
#[derive(Clone)]
pub(super) struct Observer(Arc<dyn Fn(&State) + Send + Sync>);

impl Observer {
    pub(super) fn new(tell: impl Fn(&State) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(super) fn tell(&self, state: &State) {
        (self.0)(state);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
