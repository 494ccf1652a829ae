//! What the keeper and the application share of one registration.
//!
//! It is kept small, because a process may hold many registrations: channels for waiting readers, and the token of the
//! lease, exist only once they are asked for.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    clock::Moment,
    register::Register,
    state::{Lease, LossReason, Lost, Observer, State},
};
use crate::{error::Error, observe};

/// One registration.
#[derive(Debug)]
pub(super) struct Cell {
    shared: Mutex<Shared>,
    states: OnceLock<watch::Sender<State>>,
    troubles: OnceLock<watch::Sender<Option<Error>>>,
    observer: Option<Observer>,
}

#[derive(Debug)]
struct Shared {
    /// As the application wants it now; a registration after a loss takes it over.
    wanted: Register,
    state: State,
    /// Until when the lease is held, by the client's own clock.
    until: Moment,
    last_lost: Lost,
    token: Option<CancellationToken>,
    /// Shared, because one failed beat is the trouble of all registrations.
    trouble: Option<Arc<Error>>,
}

impl Cell {
    pub(super) fn new(mut wanted: Register) -> Self {
        let observer = wanted.observer.take();
        let shared = Shared {
            wanted,
            state: State::Pending,
            until: Moment::default(),
            last_lost: Lost { lease_id: 0, reason: LossReason::Unknown },
            token: None,
            trouble: None,
        };
        Self { shared: Mutex::new(shared), states: OnceLock::new(), troubles: OnceLock::new(), observer }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the application wants it now.
    pub(super) fn wanted<T>(&self, read: impl FnOnce(&Register) -> T) -> T {
        read(&self.shared().wanted)
    }

    /// Changes what is wanted.
    pub(super) fn want(&self, change: impl FnOnce(&mut Register)) {
        change(&mut self.shared().wanted);
    }

    /// A lease was granted, or renewed by a beat sent at `sent`.
    pub(super) fn renew(&self, lease: Lease, sent: Moment) {
        let until = sent.after(lease.ttl);
        let mut shared = self.shared();
        let is_same = shared.state.lease().is_some_and(|held| held.lease_id == lease.lease_id);
        // Answers of two daemons may overtake each other.
        shared.until = if is_same { shared.until.max(until) } else { until };
        // Before the state: a reader of both sees no trouble beside a lease that is held.
        self.set_trouble(&mut shared, None);
        self.publish(shared, State::Held(lease));
    }

    /// A registration or a beat has failed.
    pub(super) fn fail(&self, error: &Arc<Error>) {
        self.set_trouble(&mut self.shared(), Some(Arc::clone(error)));
    }

    /// The lease was lost. Returns false if there was none.
    pub(super) fn lose(&self, reason: LossReason) -> bool {
        let mut shared = self.shared();
        let Some(lease) = shared.state.lease() else { return false };
        let lost = Lost { lease_id: lease.lease_id, reason };
        shared.last_lost = lost;
        if reason != LossReason::Closed {
            observe::lost(lost.lease_id, reason);
        }
        if let Some(token) = shared.token.take() {
            token.cancel();
        }
        self.publish(shared, State::Lost(lost));
        true
    }

    pub(super) fn doubt(&self, lease: Lease) {
        self.publish(self.shared(), State::Doubtful(lease));
    }

    pub(super) fn end(&self) {
        self.lose(LossReason::Closed);
        self.publish(self.shared(), State::Ended);
    }

    /// The observer is told without the lock, and in order: only the thread that beats publishes.
    fn publish(&self, mut shared: MutexGuard<'_, Shared>, state: State) {
        let is_new = mem::replace(&mut shared.state, state) != state;
        if let Some(states) = self.states.get() {
            states.send_if_modified(|before| mem::replace(before, state) != state);
        }
        drop(shared);
        if let Some(observer) = self.observer.as_ref().filter(|_| is_new) {
            observer.tell(&state);
        }
    }

    fn set_trouble(&self, shared: &mut Shared, trouble: Option<Arc<Error>>) {
        if let Some(troubles) = self.troubles.get() {
            let told = trouble.as_deref().cloned();
            troubles.send_if_modified(|before| mem::replace(before, told).is_some() || trouble.is_some());
        }
        shared.trouble = trouble;
    }

    pub(super) fn lease(&self) -> Option<Lease> {
        self.shared().state.lease()
    }

    pub(super) fn state(&self) -> State {
        self.shared().state
    }

    pub(super) fn trouble(&self) -> Option<Error> {
        self.shared().trouble.as_deref().cloned()
    }

    /// What is left of the lease by the client's own clock; zero if there is none.
    pub(super) fn remaining(&self) -> Duration {
        let shared = self.shared();
        shared.state.lease().map_or(Duration::ZERO, |_| shared.until.since(Moment::now()))
    }

    /// The lease, if more than `remaining` is left of it by the client's own clock.
    pub(super) fn require(&self, remaining: Duration) -> Result<u64, Lost> {
        let shared = self.shared();
        match shared.state.lease() {
            Some(lease) if shared.until > Moment::now().after(remaining) => Ok(lease.lease_id),
            Some(lease) => Err(Lost { lease_id: lease.lease_id, reason: LossReason::Deadline }),
            None => Err(shared.last_lost),
        }
    }

    pub(super) fn token(&self) -> CancellationToken {
        let mut shared = self.shared();
        if shared.state.lease().is_some() {
            return shared.token.get_or_insert_default().clone();
        }
        let token = CancellationToken::new();
        token.cancel();
        token
    }

    pub(super) fn troubles(&self) -> watch::Receiver<Option<Error>> {
        let shared = self.shared();
        self.troubles.get_or_init(|| watch::Sender::new(shared.trouble.as_deref().cloned())).subscribe()
    }

    pub(super) fn states(&self) -> watch::Receiver<State> {
        let shared = self.shared();
        self.states.get_or_init(|| watch::Sender::new(shared.state)).subscribe()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn new() -> Cell {
        Cell::new(Register::new("a"))
    }

    fn lease(ttl: Duration) -> Lease {
        Lease { lease_id: 7, instance_id: Uuid::nil(), cluster_epoch: Uuid::nil(), epoch_number: 1, ttl }
    }

    #[test]
    fn require_fails_from_the_deadline_on_without_any_task() {
        let cell = new();
        assert_eq!(cell.require(Duration::ZERO).unwrap_err().lease_id, 0);
        cell.renew(lease(Duration::from_secs(60)), Moment::now());
        assert_eq!(cell.require(Duration::ZERO), Ok(7));
        let (lease_id, reason) = (7, LossReason::Deadline);
        assert_eq!(cell.require(Duration::from_secs(61)), Err(Lost { lease_id, reason }));
        let cell = new();
        cell.renew(lease(Duration::ZERO), Moment::now());
        assert_eq!(cell.require(Duration::ZERO), Err(Lost { lease_id, reason }));
    }

    #[test]
    fn renewal_that_was_overtaken_does_not_shorten_the_lease() {
        let (cell, now) = (new(), Moment::now());
        cell.renew(lease(Duration::from_secs(60)), now.after(Duration::from_secs(30)));
        cell.renew(lease(Duration::from_secs(60)), now);
        assert_eq!(cell.require(Duration::from_secs(80)), Ok(7));
    }

    #[test]
    fn lease_is_lost_once_and_its_token_is_cancelled() {
        let cell = new();
        cell.renew(lease(Duration::from_secs(60)), Moment::now());
        let token = cell.token();
        assert!(!token.is_cancelled());
        assert!(cell.lose(LossReason::Fenced) && !cell.lose(LossReason::Expired));
        assert!(token.is_cancelled() && cell.token().is_cancelled());
        assert_eq!(cell.require(Duration::ZERO).unwrap_err().reason, LossReason::Fenced);
    }

    #[test]
    fn observer_receives_each_state_once_in_order() {
        let (seen, told) = std::sync::mpsc::channel();
        let observe = move |state: &State| seen.send(*state).unwrap();
        let (cell, lease) = (Cell::new(Register::new("a").observer(observe)), lease(Duration::from_secs(60)));
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

    #[test]
    fn later_readers_see_the_present_state_and_problems() {
        let (cell, lease) = (new(), lease(Duration::from_secs(60)));
        cell.fail(&Arc::new(Error::local("no daemon")));
        assert!(cell.troubles().borrow().is_some());
        cell.renew(lease, Moment::now());
        let (mut states, troubles) = (cell.states(), cell.troubles());
        assert_eq!((*states.borrow_and_update(), troubles.borrow().is_some()), (State::Held(lease), false));
        cell.doubt(lease);
        assert!(states.has_changed().unwrap());
    }
}
