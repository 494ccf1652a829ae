//! What a registration holds, as the application sees it.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::clock::Moment;
use crate::error::Error;

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
    /// The registry says that it expired.
    Expired,
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

/// Is told each state in their order, on the thread that beats.
#[derive(Clone)]
pub(super) struct Observer(Arc<dyn Fn(&State) + Send + Sync>);

impl Observer {
    pub(super) fn new(tell: impl Fn(&State) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// What keeper and application share.
#[derive(Debug)]
pub(super) struct Cell {
    held: RwLock<Option<Held>>,
    last_lost: RwLock<Lost>,
    state: watch::Sender<State>,
    trouble: watch::Sender<Option<Error>>,
    observer: Option<Observer>,
}

#[derive(Clone, Debug)]
struct Held {
    lease: Lease,
    until: Moment,
    token: CancellationToken,
}

impl Cell {
    pub(super) fn new(observer: Option<Observer>) -> Self {
        Self {
            held: RwLock::new(None),
            last_lost: RwLock::new(Lost { lease_id: 0, reason: LossReason::Unknown }),
            state: watch::Sender::new(State::Pending),
            trouble: watch::Sender::new(None),
            observer,
        }
    }

    /// A lease was granted, or renewed by a beat sent at `sent`.
    pub(super) fn renew(&self, lease: Lease, sent: Moment) {
        let until = sent.after(lease.ttl);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut().filter(|held| held.lease.lease_id == lease.lease_id) {
            // Answers of two daemons may overtake each other.
            Some(held) => held.until = held.until.max(until),
            None => *held = Some(Held { lease, until, token: CancellationToken::new() }),
        }
        drop(held);
        // Before the state: a reader of both sees no trouble beside a lease that is held.
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
        self.publish(State::Held(lease));
    }

    /// A registration or a beat has failed.
    pub(super) fn fail(&self, error: Error) {
        self.trouble.send_replace(Some(error));
    }

    /// The lease was lost. Returns false if there was none.
    pub(super) fn lose(&self, reason: LossReason) -> bool {
        let held = self.held.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(held) = held else { return false };
        let lost = Lost { lease_id: held.lease.lease_id, reason };
        *self.last_lost.write().unwrap_or_else(PoisonError::into_inner) = lost;
        held.token.cancel();
        self.publish(State::Lost(lost));
        true
    }

    pub(super) fn doubt(&self, lease: Lease) {
        self.publish(State::Doubtful(lease));
    }

    pub(super) fn end(&self) {
        self.lose(LossReason::Closed);
        self.publish(State::Ended);
    }

    fn publish(&self, state: State) {
        let is_new = self.state.send_if_modified(|before| std::mem::replace(before, state) != state);
        if let Some(Observer(tell)) = self.observer.as_ref().filter(|_| is_new) {
            tell(&state);
        }
    }

    pub(super) fn lease(&self) -> Option<Lease> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|held| held.lease)
    }

    /// What is left of the lease by the client's own clock; zero if there is none.
    pub(super) fn remaining(&self) -> Duration {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map_or(Duration::ZERO, |held| held.until.since(Moment::now()))
    }

    /// The lease, if at least `remaining` is left of it by the client's own clock.
    pub(super) fn require(&self, remaining: Duration) -> Result<u64, Lost> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some(held) if held.until > Moment::now().after(remaining) => Ok(held.lease.lease_id),
            Some(held) => Err(Lost { lease_id: held.lease.lease_id, reason: LossReason::Deadline }),
            None => Err(*self.last_lost.read().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    pub(super) fn token(&self) -> CancellationToken {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map_or_else(
            || {
                let token = CancellationToken::new();
                token.cancel();
                token
            },
            |held| held.token.clone(),
        )
    }

    pub(super) fn troubles(&self) -> watch::Receiver<Option<Error>> {
        self.trouble.subscribe()
    }

    pub(super) fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(ttl: Duration) -> Lease {
        Lease { lease_id: 7, instance_id: Uuid::nil(), cluster_epoch: Uuid::nil(), epoch_number: 1, ttl }
    }

    #[test]
    fn require_fails_from_the_deadline_on_without_any_task() {
        let cell = Cell::new(None);
        assert_eq!(cell.require(Duration::ZERO).unwrap_err().lease_id, 0);
        cell.renew(lease(Duration::from_secs(60)), Moment::now());
        assert_eq!(cell.require(Duration::ZERO), Ok(7));
        let (lease_id, reason) = (7, LossReason::Deadline);
        assert_eq!(cell.require(Duration::from_secs(61)), Err(Lost { lease_id, reason }));
        let cell = Cell::new(None);
        cell.renew(lease(Duration::ZERO), Moment::now());
        assert_eq!(cell.require(Duration::ZERO), Err(Lost { lease_id, reason }));
    }

    #[test]
    fn renewal_that_was_overtaken_does_not_shorten_the_lease() {
        let (cell, now) = (Cell::new(None), Moment::now());
        cell.renew(lease(Duration::from_secs(60)), now.after(Duration::from_secs(30)));
        cell.renew(lease(Duration::from_secs(60)), now);
        assert_eq!(cell.require(Duration::from_secs(80)), Ok(7));
    }

    #[test]
    fn lease_is_lost_once_and_its_token_is_cancelled() {
        let cell = Cell::new(None);
        cell.renew(lease(Duration::from_secs(60)), Moment::now());
        let token = cell.token();
        assert!(!token.is_cancelled());
        assert!(cell.lose(LossReason::Fenced) && !cell.lose(LossReason::Expired));
        assert!(token.is_cancelled() && cell.token().is_cancelled());
        assert_eq!(cell.require(Duration::ZERO).unwrap_err().reason, LossReason::Fenced);
    }

    #[test]
    fn observer_is_told_each_state_once_in_order() {
        let (seen, told) = std::sync::mpsc::channel();
        let observe = move |state: &State| seen.send(*state).unwrap();
        let (cell, lease) = (Cell::new(Some(Observer::new(observe))), lease(Duration::from_secs(60)));
        cell.renew(lease, Moment::now());
        cell.renew(lease, Moment::now());
        cell.lose(LossReason::Fenced);
        cell.renew(Lease { lease_id: 8, ..lease }, Moment::now());
        cell.end();
        let lost = |lease_id, reason| State::Lost(Lost { lease_id, reason });
        let expected = [
            State::Held(lease),
            lost(7, LossReason::Fenced),
            State::Held(Lease { lease_id: 8, ..lease }),
            lost(8, LossReason::Closed),
            State::Ended,
        ];
        assert_eq!(told.try_iter().collect::<Vec<_>>(), expected);
    }
}
