//! The registrations of a client: one entry each, in plain tables. Nothing of a registration is a task, so that one more
//! costs its entry and its [`Cell`] alone.
//!
//! It has no clock and no connection: [`Table::next_call`] and [`Table::look`] say what is due, `take_...` record what
//! became of it. Only the thread that beats uses it; what the application wants comes by [`super::commands`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use super::{
    calls::{Call, Given, Reply},
    clock::Moment,
    entry::{Entry, Phase},
    rules,
    state::{Lease, LossReason, State},
};
use crate::{backoff::Backoff, error::Error, model::Status, observe};

/// How long one registration may take to find out whether a daemon takes registrations again, before another one tries.
const PROBE: Duration = Duration::from_secs(2);

/// The registrations of a client.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<u64, Entry>,
    /// The lease ids that are held, with the keys of their entries: in the order of each beat.
    leases: BTreeMap<u64, u64>,
    /// When to look at which entry.
    schedule: BTreeSet<(Moment, u64)>,
    /// Entries that want a call now.
    ready: VecDeque<u64>,
    /// The earliest end among the leases that were granted since the last beat.
    fresh: Option<Moment>,
    /// No registration begins before, because no daemon takes any.
    closed_until: Option<Moment>,
    backoff: Backoff,
}

impl Table {
    /// Adds a registration.
    pub(super) fn add(&mut self, key: u64, entry: Entry) {
        self.entries.insert(key, entry);
        self.ready.push_back(key);
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The application leaves. A registration that has ended drops the reply, which its caller notices.
    pub(super) fn leave(&mut self, key: u64, reply: Option<Reply>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.leaves.extend(reply);
        let given = match entry.phase {
            Phase::Leaving(_) => return,
            Phase::Held(lease, _) => {
                self.leases.remove(&lease.lease_id);
                Given::Lease(lease.lease_id)
            }
            // The answer of a registration that is under way no longer counts.
            Phase::Registering => Given::Instance(entry.cell.wanted(|wanted| wanted.instance_id)),
            Phase::Waiting if entry.may_be_registered => {
                Given::Instance(entry.cell.wanted(|wanted| wanted.instance_id))
            }
            Phase::Waiting => {
                self.remove(key, Ok(()));
                return;
            }
        };
        entry.phase = Phase::Leaving(given);
        self.cancel(key);
        // Before registrations: a caller waits for it.
        self.ready.push_front(key);
    }

    /// The application has changed attributes. Without a lease the next registration takes them over.
    pub(super) fn update(&mut self, key: u64, reply: Reply) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if matches!(entry.phase, Phase::Held(..)) {
            entry.updates.push(reply);
            self.ready.push_front(key);
        } else {
            let _ = reply.send(Ok(()));
        }
    }

    /// The next call that is due. While no daemon takes a registration, one at a time finds out whether that is over.
    /// Without `may_register` only calls of other kinds, which come first.
    pub(super) fn next_call(&mut self, now: Moment, may_register: bool) -> Option<Call> {
        loop {
            let key = *self.ready.front()?;
            let entry = self.entries.get_mut(&key);
            if entry.as_ref().is_some_and(|entry| entry.phase == Phase::Waiting) {
                match &mut self.closed_until {
                    _ if !may_register => return None,
                    Some(until) if *until > now => return None,
                    Some(until) => *until = now.after(PROBE),
                    None => {}
                }
            }
            self.ready.pop_front();
            let Some(entry) = entry else { continue };
            match entry.phase {
                Phase::Waiting => {
                    entry.phase = Phase::Registering;
                    return Some(Call::Register(key, entry.wanted()));
                }
                Phase::Held(..) if !entry.updates.is_empty() && !entry.is_updating => {
                    entry.is_updating = true;
                    return Some(Call::Update(key, entry.wanted(), mem::take(&mut entry.updates)));
                }
                Phase::Leaving(given) => return Some(Call::Deregister(key, given)),
                Phase::Registering | Phase::Held(..) => {}
            }
        }
    }

    /// A registration has been answered. Returns whether a lease is held now that was not before.
    pub(super) fn take_registered(&mut self, key: u64, outcome: Result<(Lease, Moment), Error>) -> bool {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.phase == Phase::Registering) else {
            return false;
        };
        match outcome {
            Ok((lease, sent)) => {
                entry.may_be_registered = false;
                (self.closed_until, self.backoff) = (None, Backoff::default());
                self.hold(key, lease, sent);
                true
            }
            Err(error) => {
                entry.may_be_registered |= error.may_be_applied();
                entry.phase = Phase::Waiting;
                observe::registration_failed(&error);
                let error = Arc::new(error);
                entry.cell.fail(&error);
                if rules::concerns_all(&error) {
                    self.closed_until = Some(Moment::now().after(self.backoff.pause()));
                } else {
                    // A daemon has answered.
                    (self.closed_until, self.backoff) = (None, Backoff::default());
                }
                let is_final = !error.is_retryable() && (entry.is_refusal_final || !entry.goes_on_after(&error));
                if is_final {
                    if let Some(first) = entry.first.take() {
                        let _ = first.send(Err(Error::clone(&error)));
                    }
                    self.remove(key, Ok(()));
                } else {
                    let pause = entry.backoff.pause();
                    self.look_at(key, Moment::now().after(pause));
                }
                false
            }
        }
    }

    fn hold(&mut self, key: u64, lease: Lease, sent: Moment) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.phase = Phase::Held(lease, sent);
        (entry.was_registered, entry.is_refusal_final, entry.backoff) = (true, false, Backoff::default());
        entry.cell.renew(lease, sent);
        observe::granted(lease.lease_id, lease.instance_id);
        if let Some(first) = entry.first.take() {
            // A caller that no longer waits has dropped its handle, which gives the lease back.
            let _ = first.send(Ok(()));
        }
        self.leases.insert(lease.lease_id, key);
        let until = sent.after(lease.ttl);
        self.fresh = Some(self.fresh.map_or(until, |fresh| fresh.min(until)));
        self.look_at(key, rules::doubtful_from(sent, lease.ttl));
    }

    /// Attributes were changed by another registration of the same instance. If the lease had ended meanwhile, that has
    /// got a new one. Returns whether a lease is held now that was not before.
    pub(super) fn take_updated(&mut self, key: u64, outcome: Result<(Lease, Moment), Error>) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else { return false };
        entry.is_updating = false;
        if !entry.updates.is_empty() {
            self.ready.push_front(key);
        }
        let (Ok((lease, sent)), Phase::Held(held, _)) = (outcome, entry.phase) else { return false };
        if held.lease_id == lease.lease_id {
            return false;
        }
        let is_fenced = held.cluster_epoch != lease.cluster_epoch;
        self.leases.remove(&held.lease_id);
        entry.cell.lose(if is_fenced { LossReason::Fenced } else { LossReason::Expired });
        let drains = entry.cell.wanted(|wanted| wanted.status == Status::Draining);
        self.hold(key, lease, sent);
        if drains {
            self.leave(key, None);
        }
        true
    }

    /// A lease was given back, or that has failed.
    pub(super) fn take_deregistered(&mut self, key: u64, outcome: Result<(), Error>) {
        self.remove(key, outcome);
    }

    /// A beat that was sent then has renewed a lease.
    pub(super) fn take_renewal(&mut self, lease_id: u64, sent: Moment) {
        let Some(key) = self.leases.get(&lease_id).copied() else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let Phase::Held(lease, renewed) = &mut entry.phase else { return };
        *renewed = sent.max(*renewed);
        let (lease, renewed) = (*lease, *renewed);
        let was_doubtful = matches!(entry.cell.state(), State::Doubtful(_));
        entry.cell.renew(lease, renewed);
        // Otherwise the next look, which is due before the lease is in doubt again, sees the renewal.
        if was_doubtful {
            self.look_at(key, rules::doubtful_from(renewed, lease.ttl));
        }
    }

    /// A lease is lost.
    pub(super) fn take_loss(&mut self, lease_id: u64, reason: LossReason) {
        let Some(key) = self.leases.get(&lease_id).copied() else { return };
        self.lose(key, reason);
    }

    /// Beats have failed.
    pub(super) fn take_failure(&self, error: &Error) {
        let error = Arc::new(error.clone());
        let held = self.leases.values().filter_map(|key| self.entries.get(key));
        held.for_each(|entry| entry.cell.fail(&error));
    }

    fn lose(&mut self, key: u64, reason: LossReason) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let Phase::Held(lease, _) = entry.phase else { return };
        self.leases.remove(&lease.lease_id);
        entry.phase = Phase::Waiting;
        // The registration that follows takes them over.
        entry.tell_updated();
        entry.cell.lose(reason);
        if entry.prepare(reason) {
            self.cancel(key);
            self.ready.push_back(key);
        } else {
            self.remove(key, Ok(()));
        }
    }

    /// Looks at all that is due: leases that are in doubt or lost by the client's own clock, and registrations whose pause
    /// is over.
    pub(super) fn look(&mut self, now: Moment) {
        while let Some((_, key)) = self.schedule.first().copied().filter(|(due, _)| *due <= now) {
            self.cancel(key);
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            match entry.phase {
                Phase::Waiting => self.ready.push_back(key),
                Phase::Held(lease, renewed) => self.look_at_lease(key, lease, renewed, now),
                Phase::Registering | Phase::Leaving(_) => {}
            }
        }
    }

    /// When to look again.
    pub(super) fn next_look(&self) -> Option<Moment> {
        self.schedule.first().map(|(due, _)| *due)
    }

    /// When the next registration may begin, if one waits for that.
    pub(super) fn opens_at(&self) -> Option<Moment> {
        self.closed_until.filter(|_| !self.ready.is_empty())
    }

    fn look_at_lease(&mut self, key: u64, lease: Lease, renewed: Moment, now: Moment) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let until_told = entry.cell.wanted(|wanted| wanted.until_told);
        let (doubtful, lost) = (rules::doubtful_from(renewed, lease.ttl), renewed.after(lease.ttl));
        if lost <= now && !until_told {
            self.lose(key, LossReason::Deadline);
        } else if doubtful > now {
            self.look_at(key, doubtful);
        } else {
            entry.cell.doubt(lease);
            if !until_told {
                self.look_at(key, lost);
            }
        }
    }

    fn look_at(&mut self, key: u64, due: Moment) {
        self.cancel(key);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.due = Some(due);
        self.schedule.insert((due, key));
    }

    fn cancel(&mut self, key: u64) {
        if let Some(due) = self.entries.get_mut(&key).and_then(|entry| entry.due.take()) {
            self.schedule.remove(&(due, key));
        }
    }

    fn remove(&mut self, key: u64, outcome: Result<(), Error>) {
        self.cancel(key);
        let Some(mut entry) = self.entries.remove(&key) else { return };
        entry.cell.end();
        for reply in entry.leaves.drain(..) {
            let _ = reply.send(outcome.clone());
        }
    }

    // ---- For beats ----

    /// The leases to renew, in order.
    pub(super) fn lease_ids(&self) -> Vec<u64> {
        self.leases.keys().copied().collect()
    }

    /// Whether there is no lease to renew.
    pub(super) fn holds_none(&self) -> bool {
        self.leases.is_empty()
    }

    /// The shortest TTL of the leases, and the earliest end.
    pub(super) fn shortest(&self) -> Option<(Duration, Moment)> {
        let held = self.leases.values().filter_map(|key| self.entries.get(key));
        let spans = held.filter_map(|entry| match entry.phase {
            Phase::Held(lease, renewed) => Some((lease.ttl, renewed.after(lease.ttl))),
            _ => None,
        });
        spans.reduce(|(ttl, until), (other_ttl, other_until)| (ttl.min(other_ttl), until.min(other_until)))
    }

    /// The earliest end among the leases that were granted since the last call.
    pub(super) fn take_fresh(&mut self) -> Option<Moment> {
        self.fresh.take()
    }
}
