//! The leases a daemon knows: who may beat, and whose beats are not yet saved.
//!
//! A beat is decided in memory: find the lease by its id, check that it is current, store the time, and queue it for
//! the flusher unless it is queued already. Nothing here waits and nothing is locked but, for the time of one push, a
//! sixteenth of the queue.
//!
//! What PostgreSQL has not yet confirmed must not be promised: once saving is late by more than a third of a lease's
//! TTL, its beats are refused, so that the client goes to another daemon while there is still time.

mod contact;
mod lost;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use papaya::HashMap;
use tokio::sync::Notify;

pub(super) use self::lost::Lost;
use super::schedule::Schedule;
use crate::{
    clock::Clock,
    metrics::BeatMetrics,
    model::{
        Epoch, Instance, InstanceStatus, Lease, LeaseId, Ttl,
        lease::{LeaseStanding, LeaseState},
        renewer::StreamId,
    },
};

/// How late saving may be before it counts as late.
pub const FLUSH_PERIOD_MS: u64 = 1_000;
const SHARDS: usize = 16;

/// A beat that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The lease.
    pub lease_id: LeaseId,
    /// Its TTL.
    pub ttl: Ttl,
    /// The current epoch.
    pub epoch: Epoch,
}

/// A beat that was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeatError {
    /// No such lease is known here.
    Unknown,
    /// The lease has ended.
    Expired,
    /// Another lease took its place.
    Replaced,
    /// Its epoch is not the current one; with that one.
    Fenced(Epoch),
    /// This daemon cannot save beats in time.
    NotSaved,
    /// The daemon has not loaded the registry yet.
    NotLoaded,
    /// Its owner has lost the right to beat it.
    Denied,
}

/// The leases.
#[derive(Debug)]
pub struct Leases {
    clock: Clock,
    by_id: HashMap<LeaseId, Arc<Lease>>,
    schedule: Schedule,
    epoch: ArcSwapOption<Epoch>,
    unsaved: [Mutex<Vec<Arc<Lease>>>; SHARDS],
    /// Leases of broken streams that the other daemons are yet to hear of.
    lost: Mutex<Vec<Lost>>,
    streams: AtomicU32,
    losing: Notify,
    confirmed_ms: AtomicU64,
    renewed: AtomicU64,
    suspects: AtomicU64,
    metrics: BeatMetrics,
}

impl Leases {
    /// No leases yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            by_id: HashMap::new(),
            schedule: Schedule::default(),
            epoch: ArcSwapOption::empty(),
            unsaved: Default::default(),
            lost: Mutex::default(),
            streams: AtomicU32::new(0),
            losing: Notify::new(),
            confirmed_ms: AtomicU64::new(clock.now_ms()),
            renewed: AtomicU64::new(0),
            suspects: AtomicU64::new(0),
            metrics: BeatMetrics::new(),
        }
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// [`BeatError`] says what to do instead.
    pub fn beat(&self, lease_id: LeaseId) -> Result<Accepted, BeatError> {
        self.beat_if(lease_id, |_| Ok(()))
    }

    /// Renews a lease if the caller may.
    ///
    /// # Errors
    /// What `may` says, or [`BeatError`].
    pub fn beat_if(
        &self,
        lease_id: LeaseId,
        may: impl FnOnce(&Lease) -> Result<(), BeatError>,
    ) -> Result<Accepted, BeatError> {
        let verdict = self.try_beat(lease_id, may);
        match &verdict {
            Ok(_) => self.count_renewed(1),
            Err(error) => self.count_refused(*error),
        }
        verdict
    }

    fn try_beat(
        &self,
        lease_id: LeaseId,
        may: impl FnOnce(&Lease) -> Result<(), BeatError>,
    ) -> Result<Accepted, BeatError> {
        let Some(epoch) = self.epoch() else { return Err(BeatError::NotLoaded) };
        let leases = self.by_id.pin();
        let beats = self.beats(StreamId::NONE, epoch);
        let lease = leases.get(&lease_id).ok_or(BeatError::Unknown)?;
        may(lease)?;
        beats.beat(lease)
    }

    /// A stream that has just begun.
    #[must_use]
    pub fn begin_stream(&self) -> StreamId {
        StreamId::numbered(self.streams.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    /// The beats of one moment and stream, for many leases. The caller counts them:
    /// [`Leases::count_renewed`], [`Leases::count_refused`].
    #[must_use]
    pub fn beats(&self, stream: StreamId, epoch: Epoch) -> Beats<'_> {
        let now_ms = self.clock.now_ms();
        Beats { leases: self, stream, epoch, now_ms, save_lag_ms: self.save_lag_ms(now_ms) }
    }

    /// Counts beats that were accepted through [`Leases::beats`].
    pub fn count_renewed(&self, count: u64) {
        self.metrics.ok.increment(count);
        self.renewed.fetch_add(count, Ordering::Relaxed);
    }

    /// Beats accepted since the start. The counter of the metrics cannot be read.
    #[must_use]
    pub fn renewed(&self) -> u64 {
        self.renewed.load(Ordering::Relaxed)
    }

    /// The current epoch; `None` before the registry is loaded.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch.load().as_deref().copied()
    }

    /// Counts a beat that was refused through [`Leases::beats`].
    pub fn count_refused(&self, error: BeatError) {
        let counter = match error {
            BeatError::Unknown | BeatError::Denied => &self.metrics.unknown,
            BeatError::Expired => &self.metrics.expired,
            BeatError::Replaced => &self.metrics.replaced,
            BeatError::Fenced(_) => &self.metrics.fenced,
            BeatError::NotSaved => &self.metrics.not_saved,
            BeatError::NotLoaded => &self.metrics.not_yet_seen,
        };
        counter.increment(1);
    }

    /// Takes over an instance as the feed brings it, heard of by PostgreSQL at `heard_ms`, and returns its lease.
    pub fn track(&self, instance: &Instance, heard_ms: u64) -> Arc<Lease> {
        let leases = self.by_id.pin();
        let dead = instance.status == InstanceStatus::Dead;
        let known = leases.get_or_insert_with(instance.lease_id, || new_lease(instance, heard_ms));
        let lease = if dead || known.state() == LeaseState::Live {
            Arc::clone(known)
        } else {
            // A lease never lives again, but where the history in which it ended was lost.
            known.forget();
            let lease = new_lease(instance, heard_ms);
            leases.insert(lease.id, Arc::clone(&lease));
            lease
        };
        lease.heard_elsewhere(heard_ms);
        lease.set_ttl(instance.ttl);
        lease.set_owner(instance.owner.as_ref());
        if dead {
            lease.end(false);
        } else {
            self.schedule.put(Arc::clone(&lease), lease.overdue_ms());
        }
        if let Some(replaced) = instance.replaces {
            self.replace(replaced, instance);
        }
        lease
    }

    /// Remembers of the lease that was replaced that much: its owner is to be told so. Of the one before it no more.
    fn replace(&self, replaced: LeaseId, by: &Instance) {
        let leases = self.by_id.pin();
        let lease = leases.get_or_insert_with(replaced, || {
            Arc::new(Lease::new(replaced, by.instance_id, by.epoch.number, None, by.ttl, 0))
        });
        lease.end(true);
        if let Some(before) = lease.replaces() {
            leases.remove(&before);
        }
    }

    /// Forgets a lease whose row is gone, and the one it replaced.
    pub fn forget(&self, lease: &Arc<Lease>) {
        let leases = self.by_id.pin();
        lease.forget();
        let _ = leases.remove_if(&lease.id, |_, known| Arc::ptr_eq(known, lease));
        if let Some(replaced) = lease.replaces() {
            let _ = leases.remove_if(&replaced, |_, known| known.state() == LeaseState::Replaced);
        }
    }

    /// Takes over the current epoch. Beats of any other are refused from now on.
    pub fn set_epoch(&self, epoch: Epoch) {
        if self.epoch.load().as_deref() != Some(&epoch) {
            self.epoch.store(Some(Arc::new(epoch)));
        }
    }

    /// A lease, if it is known.
    #[must_use]
    pub fn get(&self, lease_id: LeaseId) -> Option<Arc<Lease>> {
        self.by_id.pin().get(&lease_id).cloned()
    }

    /// Judges the leases about which something may have changed by the passing of time.
    #[must_use]
    pub fn judge_due(&self) -> Judged {
        self.judge_due_at(self.clock.now_ms())
    }

    fn judge_due_at(&self, now_ms: u64) -> Judged {
        let mut found = Judged::default();
        let Some(epoch) = self.epoch() else { return found };
        let mut suspects = 0;
        for lease in self.schedule.take_due(now_ms) {
            // What has ended does not come back; should its row do so, it is put on the schedule by that.
            if lease.standing(epoch) != LeaseStanding::Live {
                continue;
            }
            match lease.suspicion_to_publish(now_ms) {
                Some(true) => found.suspect.push(Arc::clone(&lease)),
                Some(false) => found.recovered.push(Arc::clone(&lease)),
                None => {}
            }
            if lease.is_overdue(now_ms) {
                found.overdue.push(lease.id);
            }
            if lease.is_published_suspect() {
                suspects += 1;
                self.schedule.put_first(lease);
            } else {
                // Of one that is overdue this has passed: it is judged the next time.
                let at_ms = lease.overdue_ms();
                self.schedule.put(lease, at_ms);
            }
        }
        self.suspects.store(suspects, Ordering::Relaxed);
        found
    }

    /// How many were suspect when leases were last judged.
    #[must_use]
    pub fn suspects(&self) -> u64 {
        self.suspects.load(Ordering::Relaxed)
    }

    /// Takes all leases that have beaten since they were last taken.
    pub(super) fn take_unsaved(&self) -> Vec<Arc<Lease>> {
        let mut taken = Vec::new();
        for shard in &self.unsaved {
            taken.append(&mut shard.lock().unwrap_or_else(PoisonError::into_inner));
        }
        taken
    }

    /// PostgreSQL has confirmed a save, or that there was nothing to save.
    pub(super) fn save_confirmed(&self, at_ms: u64) {
        self.confirmed_ms.fetch_max(at_ms, Ordering::AcqRel);
    }

    /// By how much saving is late: zero while PostgreSQL confirms it at least every [`FLUSH_PERIOD_MS`].
    #[must_use]
    pub fn save_lag_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.confirmed_ms.load(Ordering::Acquire) + FLUSH_PERIOD_MS)
    }

    fn shard(&self, lease_id: LeaseId) -> std::sync::MutexGuard<'_, Vec<Arc<Lease>>> {
        let shard = &self.unsaved[usize::try_from(lease_id.0 % SHARDS as u64).unwrap_or_default()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_lease(instance: &Instance, heard_ms: u64) -> Arc<Lease> {
    let Instance { lease_id, instance_id, epoch, replaces, ttl, .. } = instance;
    Arc::new(Lease::new(*lease_id, *instance_id, epoch.number, *replaces, *ttl, heard_ms))
}

/// The leases that were due, by what became of them.
#[derive(Debug, Default)]
pub struct Judged {
    /// Leases of which a beat is overdue: it may have arrived elsewhere.
    pub overdue: Vec<LeaseId>,
    /// Leases that have become suspect since leases were last judged.
    pub suspect: Vec<Arc<Lease>>,
    /// Leases that no longer are.
    pub recovered: Vec<Arc<Lease>>,
}

/// Beats that arrived at the same moment.
#[derive(Debug)]
pub struct Beats<'a> {
    leases: &'a Leases,
    stream: StreamId,
    epoch: Epoch,
    now_ms: u64,
    save_lag_ms: u64,
}

impl Beats<'_> {
    /// Renews a lease.
    ///
    /// # Errors
    /// [`BeatError`] says what to do instead.
    pub fn beat(&self, lease: &Arc<Lease>) -> Result<Accepted, BeatError> {
        match lease.standing(self.epoch) {
            LeaseStanding::Gone => return Err(BeatError::Unknown),
            LeaseStanding::Replaced => return Err(BeatError::Replaced),
            LeaseStanding::Fenced => return Err(BeatError::Fenced(self.epoch)),
            LeaseStanding::Dead => return Err(BeatError::Expired),
            LeaseStanding::Live => {}
        }
        let ttl = lease.ttl();
        if self.save_lag_ms > ttl.beat_interval_ms() {
            return Err(BeatError::NotSaved);
        }
        if lease.beat(self.stream, self.now_ms) {
            self.leases.shard(lease.id).push(Arc::clone(lease));
        }
        Ok(Accepted { lease_id: lease.id, ttl, epoch: self.epoch })
    }
}
