//! The lease of one instance as a daemon keeps it in memory: when it was last heard of, and what is not yet saved.
//!
//! Beats change it from many threads at once, the flusher and readers look at it meanwhile, and no thread waits: all of
//! it is atomic, and no reader needs two of the fields to agree. Times are this daemon's monotonic milliseconds
//! ([`crate::clock::Clock::now_ms`]): leases are *judged* by the database clock alone, so these only decide
//! suspicion, and what to save.

#[cfg(test)]
mod tests;

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use super::{
    budget::Origin,
    cluster::Epoch,
    ids::{InstanceId, LeaseId},
    input::Ttl,
    owner::Owner,
    renewer::{Alone, Renewer, StreamId},
};

const LIVE: u8 = 0;
const DEAD: u8 = 1;
const REPLACED: u8 = 2;
const GONE: u8 = 3;

/// The stream it beat on broke, and it has not beaten here since.
const LOST: u8 = 1;
/// Another daemon has lost contact, and no daemon is known to have heard of it since.
const MARKED: u8 = 2;
/// The stream it beat on broke, and another daemon may know that it beats there.
const UNCONFIRMED: u8 = 4;

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It can be renewed, if its epoch is current.
    Live,
    /// It has ended.
    Dead,
    /// Another lease took its place.
    Replaced,
    /// Its row is gone: purged, deleted by hand, or lost with the history it was part of.
    Gone,
}

/// How a lease stands in an epoch: what its owner is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStanding {
    /// It can be renewed.
    Live,
    /// Another lease took its place.
    Replaced,
    /// Its epoch is over.
    Fenced,
    /// It has ended.
    Dead,
    /// Nothing is known of it any more.
    Gone,
}

/// What the end of a stream means to a lease that was renewed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: another client renews it as well, or the stream did so for too short a time to tell.
    None,
    /// No other client renews it: it is suspect.
    Lost,
    /// No other client renews it here, but one may elsewhere: it is suspect unless another daemon objects.
    Unconfirmed,
}

/// Not to be looked at.
const UNSCHEDULED: u32 = u32::MAX;

/// One lease.
#[derive(Debug)]
pub struct Lease {
    /// The lease.
    pub id: LeaseId,
    /// Whose.
    pub instance_id: InstanceId,
    /// Low half of the number of the epoch it belongs to: equal for no two epochs within four billion of each other.
    epoch_number: u32,
    /// The lease of the same instance id whose place it took; zero, which is none.
    replaces: LeaseId,
    /// When it is to be looked at, as the schedule of the registry counts.
    scheduled_slot: AtomicU32,
    ttl_ms: AtomicU32,
    state: AtomicU8,
    heard_ms: AtomicU64,
    /// The latest beat that arrived here; zero: none did.
    here_ms: AtomicU64,
    /// [`LOST`], [`MARKED`] and [`UNCONFIRMED`], as far as they hold.
    contact: AtomicU8,
    renewer: Renewer,
    /// What was last told about its suspicion.
    published_suspect: AtomicBool,
    dirty: AtomicBool,
    saved_ms: AtomicU64,
    /// The hash of [`Origin`]; zero: none.
    origin: AtomicU32,
    /// The number of an [`Owner`] that is held here; zero: none.
    owner: AtomicU32,
}

impl Lease {
    /// A lease as read from PostgreSQL, which heard of it at `heard_ms`.
    #[must_use]
    pub fn new(
        id: LeaseId,
        instance_id: InstanceId,
        epoch_number: u64,
        replaces: Option<LeaseId>,
        ttl: Ttl,
        heard_ms: u64,
    ) -> Self {
        Self {
            id,
            instance_id,
            epoch_number: low_half(epoch_number),
            replaces: replaces.unwrap_or(LeaseId(0)),
            scheduled_slot: AtomicU32::new(UNSCHEDULED),
            ttl_ms: AtomicU32::new(ttl.as_millis()),
            state: AtomicU8::new(LIVE),
            heard_ms: AtomicU64::new(heard_ms),
            here_ms: AtomicU64::new(0),
            contact: AtomicU8::new(0),
            renewer: Renewer::default(),
            published_suspect: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            saved_ms: AtomicU64::new(heard_ms),
            origin: AtomicU32::new(0),
            owner: AtomicU32::new(0),
        }
    }

    /// The lease of the same instance id whose place it took.
    pub fn replaces(&self) -> Option<LeaseId> {
        Some(self.replaces).filter(|replaced| replaced.0 > 0)
    }

    /// The address that registered it through this daemon; `None`: another daemon, or an SQL caller did.
    pub fn origin(&self) -> Option<Origin> {
        NonZeroU32::new(self.origin.load(Ordering::Relaxed)).map(Origin::from_number)
    }

    /// Was registered from this address. To be said before the lease is in the view, and not changed after.
    pub fn set_origin(&self, origin: Option<Origin>) {
        self.origin.store(origin.map_or(0, Origin::number), Ordering::Relaxed);
    }

    /// Takes over its owner, which is set once or not at all, but for a hand that changes the row.
    pub fn set_owner(&self, owner: Option<&Owner>) {
        if self.owner.load(Ordering::Relaxed) != owner.map_or(0, Owner::number) {
            let before = self.owner.swap(owner.cloned().map_or(0, Owner::into_number), Ordering::AcqRel);
            drop(Owner::held(before));
        }
    }

    /// Whether it is that owner's; `None`: it has none. One comparison of numbers, of which the caller holds one, so that
    /// no other identity has it.
    pub fn is_of(&self, owner: Option<&Owner>) -> Option<bool> {
        let number = self.owner.load(Ordering::Acquire);
        (number != 0).then(|| owner.is_some_and(|owner| owner.number() == number))
    }

    /// The TTL in effect.
    pub fn ttl(&self) -> Ttl {
        Ttl::from_record(Some(self.ttl_ms.load(Ordering::Relaxed).into()))
    }

    /// Takes over a TTL that was changed.
    pub fn set_ttl(&self, ttl: Ttl) {
        self.ttl_ms.store(ttl.as_millis(), Ordering::Relaxed);
    }

    /// How it stands.
    pub fn state(&self) -> LeaseState {
        match self.state.load(Ordering::Acquire) {
            LIVE => LeaseState::Live,
            DEAD => LeaseState::Dead,
            REPLACED => LeaseState::Replaced,
            _ => LeaseState::Gone,
        }
    }

    /// How it stands in the current epoch.
    pub fn standing(&self, current: Epoch) -> LeaseStanding {
        match self.state() {
            LeaseState::Gone => LeaseStanding::Gone,
            LeaseState::Replaced => LeaseStanding::Replaced,
            _ if self.epoch_number != low_half(current.number) => LeaseStanding::Fenced,
            LeaseState::Dead => LeaseStanding::Dead,
            LeaseState::Live => LeaseStanding::Live,
        }
    }

    /// Ends it. There is no way back: a lease never lives again.
    /// Replaced outranks dead: it tells the owner more.
    pub fn end(&self, replaced: bool) {
        self.state.fetch_max(if replaced { REPLACED } else { DEAD }, Ordering::AcqRel);
    }

    /// Its row is gone. A task that still holds this finds what the id has come to mean, if anything, where leases are looked
    /// up.
    pub fn forget(&self) {
        self.state.store(GONE, Ordering::Release);
    }

    /// Is to be looked at in this slot. Returns whether that is sooner than agreed.
    pub fn schedule_by(&self, slot: u32) -> bool {
        self.scheduled_slot.fetch_min(slot, Ordering::Relaxed) > slot
    }

    /// Returns whether it is to be looked at by this slot; then it is so no more.
    pub fn take_scheduled(&self, slot: u32) -> bool {
        let taken = |agreed| (agreed <= slot).then_some(UNSCHEDULED);
        self.scheduled_slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// A beat arrived here at `now_ms`, on this stream or by a call of Beat. Returns true if the lease has to be queued
    /// for saving: it was clean before.
    pub fn beat(&self, stream: StreamId, now_ms: u64) -> bool {
        // First: it asks about the beat before.
        self.renewer.renewed_by(stream, now_ms, || self.beats_here());
        self.heard_ms.fetch_max(now_ms, Ordering::Relaxed);
        self.here_ms.fetch_max(now_ms, Ordering::Relaxed);
        if self.contact.load(Ordering::Relaxed) != 0 {
            self.contact.store(0, Ordering::Relaxed);
        }
        // The swap releases the time stored above to the flusher, which takes the mark before it reads the time.
        !self.dirty.swap(true, Ordering::AcqRel)
    }

    /// Its owner registered here at `now_ms`, which is a sign of life that PostgreSQL has already. `granted`: by that it
    /// was made; a repeated registration finds it as it was.
    pub fn registered_here(&self, now_ms: u64, granted: bool) {
        self.here_ms.fetch_max(now_ms, Ordering::Relaxed);
        if granted {
            self.renewer.grant_here();
        }
    }

    /// PostgreSQL knows of a beat at `heard_ms`; it may have arrived at another daemon.
    pub fn heard_elsewhere(&self, heard_ms: u64) {
        self.heard_ms.fetch_max(heard_ms, Ordering::Relaxed);
    }

    /// The stream it beat on until `last_ms` broke: it is suspect until it is heard of again. One that has beaten here
    /// since, because its owner has connected again, is not touched. Returns whether it was.
    pub fn mark_contact_lost(&self, last_ms: u64) -> bool {
        let silent = self.here_ms.load(Ordering::Relaxed) <= last_ms;
        if silent {
            self.contact.fetch_or(LOST, Ordering::Relaxed);
        }
        silent
    }

    /// A stream that renewed it, the latest time at `last_ms` or before, has broken. See [`Loss`].
    pub fn lose_stream(&self, stream: StreamId, last_ms: u64) -> Loss {
        match self.renewer.alone(stream, self.here_ms(), self.ttl().beat_interval_ms()) {
            Some(Alone { granted_here: true }) if self.mark_contact_lost(last_ms) => Loss::Lost,
            Some(Alone { granted_here: false }) if self.here_ms() <= last_ms => {
                self.contact.fetch_or(UNCONFIRMED, Ordering::Relaxed);
                Loss::Unconfirmed
            }
            _ => Loss::None,
        }
    }

    /// Another daemon has lost contact, and had last heard of it at `since_ms`. Returns whether this daemon can agree: it
    /// has lost contact itself, or heard nothing for a whole beat interval before that. If not, the lease is renewed
    /// here, whatever a client has done elsewhere, and the others are to be told.
    pub fn agrees(&self, since_ms: u64) -> bool {
        let lost_here = self.contact.load(Ordering::Relaxed) & (LOST | UNCONFIRMED) != 0;
        let here_ms = self.here_ms();
        lost_here || here_ms == 0 || here_ms + self.ttl().beat_interval_ms() <= since_ms
    }

    /// Another daemon has lost contact, and none objects: it is suspect until some daemon has heard of it later.
    pub fn mark_suspect(&self) {
        self.contact.fetch_or(MARKED, Ordering::Relaxed);
    }

    /// Some daemon has heard of it since contact was lost.
    pub fn clear_suspect(&self) {
        self.contact.store(0, Ordering::Relaxed);
    }

    /// Two of its beats are overdue: if they were due here, contact is lost as when a stream breaks. Returns whether it
    /// is; no other daemon can know.
    pub fn lose_overdue(&self, now_ms: u64) -> bool {
        self.beats_here() && self.is_suspect(now_ms) && self.mark_contact_lost(self.here_ms())
    }

    /// The latest beat that arrived here; zero if none did.
    pub fn here_ms(&self) -> u64 {
        self.here_ms.load(Ordering::Relaxed)
    }

    /// The latest beat known.
    pub fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    /// When the next save is due: a third of the TTL after the latest saved beat, so that each lease is written at
    /// most once per third, and what PostgreSQL knows never lags by more than that.
    pub fn save_due_ms(&self) -> u64 {
        self.saved_ms.load(Ordering::Relaxed) + self.ttl().beat_interval_ms()
    }

    /// Takes what is to be saved: clears the mark, then reads the time. A beat in between marks it again.
    pub fn take_unsaved(&self) -> u64 {
        // A swap, not a store: it acquires what the beat that set the mark has stored before.
        self.dirty.swap(false, Ordering::AcqRel);
        self.heard_ms()
    }

    /// The beat of `heard_ms` is saved.
    pub fn saved(&self, heard_ms: u64) {
        self.saved_ms.fetch_max(heard_ms, Ordering::Relaxed);
    }

    /// A save failed. Returns true if the lease has to be queued again.
    pub fn save_failed(&self) -> bool {
        !self.dirty.swap(true, Ordering::AcqRel)
    }

    /// Whether two beats are overdue. Of a lease that beats here that is known exactly; of one known through
    /// PostgreSQL alone, whose knowledge lags by up to a third of the TTL and a beat, only that its TTL has passed; or
    /// what the daemon that does hear it has found.
    pub fn is_suspect(&self, now_ms: u64) -> bool {
        let ttl = self.ttl();
        let silent_ms = now_ms.saturating_sub(self.heard_ms());
        let beats_here = self.beats_here();
        let contact = self.contact.load(Ordering::Relaxed);
        if contact & MARKED != 0 || beats_here && contact & LOST != 0 {
            return true;
        }
        let limit_ms = if beats_here { 2 * ttl.beat_interval_ms() } else { ttl.as_millis().into() };
        silent_ms > limit_ms
    }

    /// Whether suspicion has changed since it was last told, and to what; the caller that gets an answer has to tell it.
    pub fn suspicion_to_publish(&self, now_ms: u64) -> Option<bool> {
        let suspect = self.is_suspect(now_ms);
        // Looked at first without a write: for most it has not changed.
        let changed = self.published_suspect.load(Ordering::Relaxed) != suspect;
        (changed && self.published_suspect.swap(suspect, Ordering::Relaxed) != suspect).then_some(suspect)
    }

    /// Whether it was told to be suspect, and that was not taken back.
    pub fn is_published_suspect(&self) -> bool {
        self.published_suspect.load(Ordering::Relaxed)
    }

    /// Whether the latest beat arrived here. What PostgreSQL tells of our own beats is later by the time it took to
    /// save them; a beat elsewhere is later by about an interval.
    pub fn beats_here(&self) -> bool {
        let here_ms = self.here_ms.load(Ordering::Relaxed);
        here_ms > 0 && self.heard_ms() <= here_ms + self.ttl().beat_interval_ms() / 2
    }

    /// Whether a beat is overdue that may have arrived elsewhere, so that asking PostgreSQL is worth it.
    pub fn is_overdue(&self, now_ms: u64) -> bool {
        now_ms >= self.overdue_ms()
    }

    /// When its next beat is overdue. Until then it does not become suspect by the passing of time.
    pub fn overdue_ms(&self) -> u64 {
        self.heard_ms() + self.ttl().beat_interval_ms() + 1
    }

    /// What is left of it by this daemon's knowledge, in milliseconds.
    pub fn remaining_ms(&self, now_ms: u64) -> u64 {
        (self.heard_ms() + u64::from(self.ttl().as_millis())).saturating_sub(now_ms)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(Owner::held(*self.owner.get_mut()));
    }
}

/// What of an epoch's number a lease remembers.
fn low_half(epoch_number: u64) -> u32 {
    u32::try_from(epoch_number & u64::from(u32::MAX)).unwrap_or_default()
}
