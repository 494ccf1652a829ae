//! Which registrations the budget has room for.
//!
//! Decided before the commit, by the one task that commits. What is on record is read from the view, at one revision;
//! registrations that are under way, or whose rows the view does not show yet, are counted here on top, so that a burst
//! cannot exceed the budget. A registration whose outcome is unknown counts until PostgreSQL has confirmed the view by a
//! question from after its deadline: then the row is in the view, or was never written.
//!
//! What needs no more room is never refused: a registration that is repeated, beats, status changes, deregistration. A
//! repeated one that needs a little more has a reserve beyond the budget.
//! Records that other daemons and SQL callers add are seen when the feed brings them, and refused by nothing here.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::refusal::Refusal;
use crate::{
    clock::Clock,
    metrics::RefusedMetrics,
    model::{Budget, InstanceId, Operation, Origin, Registration, Revision, Usage, budget::Full},
    telemetry::Repeated,
};

/// For how long a registration without an answer may still be applied: its deadline and a margin for the clocks.
const UNKNOWN_FOR_MS: u64 = 3_000;

/// What is on record, as the daemon knows it at one revision.
pub trait Records {
    /// The latest revision in it.
    fn revision(&self) -> Revision;
    /// When PostgreSQL last confirmed that it is all there is, by this daemon's clock.
    fn confirmed_ms(&self) -> u64;
    /// What all records take.
    fn usage(&self) -> Usage;
    /// What those take that an address registered through this daemon.
    fn usage_of(&self, origin: Origin) -> Usage;
    /// How many of them an identity owns.
    fn records_of(&self, identity: &str) -> u64;
    /// What one of them takes; `None`: it is not on record.
    fn bytes_of(&self, instance_id: InstanceId) -> Option<u64>;
}

/// Reads what is on record.
type Read = Box<dyn Fn() -> Box<dyn Records> + Send + Sync>;

/// Holds registrations to the budget.
pub struct Admission {
    budget: Budget,
    read: Read,
    clock: Clock,
    under_way: Mutex<UnderWay>,
    refused: RefusedMetrics,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("budget", &self.budget).finish_non_exhaustive()
    }
}

/// What became of an operation that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Its row is in the database since this revision.
    Written(Revision),
    /// Nothing was written.
    NotWritten,
    /// PostgreSQL gave no answer: the row may be there, or may appear until the deadline has passed.
    Unknown,
}

/// Registrations that the view does not show yet.
#[derive(Debug, Default)]
struct UnderWay {
    by_id: HashMap<InstanceId, Flight>,
    /// What they add.
    total: Usage,
    by_origin: HashMap<Origin, Usage>,
    /// Records that they add, by the identity that will own them.
    by_owner: HashMap<Arc<str>, u64>,
    trouble: Repeated,
}

/// The registrations of one instance that are under way.
#[derive(Debug)]
struct Flight {
    origin: Option<Origin>,
    owner: Option<Arc<str>>,
    /// The largest record that they may make.
    bytes: u64,
    /// What they add by that.
    added: Usage,
    /// How many have no outcome yet.
    pending: usize,
    /// The view shows them from here on.
    shown_at: Revision,
    /// And not before PostgreSQL has confirmed it then.
    confirmed_at_ms: u64,
}

impl Admission {
    /// Holds registrations to `budget`, by what `read` says is on record.
    #[must_use]
    pub fn new(budget: Budget, read: impl Fn() -> Box<dyn Records> + Send + Sync + 'static, clock: Clock) -> Self {
        let (under_way, refused) = (Mutex::default(), RefusedMetrics::new());
        Self { budget, read: Box::new(read), clock, under_way, refused }
    }

    /// The address that is registering an instance; `None`: it is not being registered here.
    #[must_use]
    pub fn origin_of(&self, instance_id: InstanceId) -> Option<Origin> {
        self.under_way().by_id.get(&instance_id)?.origin
    }

    /// Decides on the operations of a group, in order. Those that are admitted have to be [`Admission::settled`].
    pub(crate) fn admit<'a>(
        &self,
        group: impl Iterator<Item = (&'a Operation, Option<Origin>)>,
    ) -> Vec<Result<(), Refusal>> {
        let records = (self.read)();
        let mut under_way = self.under_way();
        under_way.forget_shown(&*records);
        group
            .map(|(operation, origin)| match operation {
                Operation::Register(registration) => {
                    let admitted = under_way.admit(self.budget, &*records, registration, origin);
                    if let Ok(()) | Err(Refusal::Full(_)) = admitted {
                        self.note(&admitted, &mut under_way.trouble);
                    }
                    admitted
                }
                Operation::SetStatus(_) => Ok(()),
            })
            .collect()
    }

    /// An operation that was admitted has this outcome.
    pub(crate) fn settled(&self, operation: &Operation, outcome: Settled) {
        let Operation::Register(registration) = operation else { return };
        let mut under_way = self.under_way();
        let Some(flight) = under_way.by_id.get_mut(&registration.instance_id) else { return };
        flight.pending = flight.pending.saturating_sub(1);
        match outcome {
            Settled::Written(revision) => flight.shown_at = flight.shown_at.max(revision),
            Settled::Unknown => flight.confirmed_at_ms = self.clock.now_ms() + UNKNOWN_FOR_MS,
            Settled::NotWritten => {}
        }
    }

    fn note(&self, admitted: &Result<(), Refusal>, trouble: &mut Repeated) {
        let Err(Refusal::Full(full)) = admitted else {
            if let Some(over) = trouble.quiet() {
                tracing::info!(
                    refused = over.failures,
                    lasting_ms = over.lasting_ms(),
                    "registrations are no longer refused"
                );
            }
            return;
        };
        let counter =
            if full.of_address { &self.refused.registry_full_of_address } else { &self.refused.registry_full };
        counter.increment(1);
        if let Some(told) = trouble.failed() {
            let Full { unit, limit, of_address } = *full;
            let unit = unit.as_str();
            tracing::warn!(unit, limit, of_address, refused = told.failures, "registrations refused, registry full");
        }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    fn admit(
        &mut self,
        budget: Budget,
        records: &dyn Records,
        registration: &Registration,
        origin: Option<Origin>,
    ) -> Result<(), Refusal> {
        let (instance_id, bytes) = (registration.instance_id, registration.record_bytes());
        let known = self.by_id.get(&instance_id).map(|flight| flight.bytes).max(records.bytes_of(instance_id));
        let growth = match known {
            Some(known) => Usage { records: 0, bytes: bytes.saturating_sub(known) },
            None => Usage::of_record(bytes),
        };
        let own =
            origin.map(|origin| records.usage_of(origin) + self.by_origin.get(&origin).copied().unwrap_or_default());
        budget.admit(records.usage() + self.total, own, growth).map_err(Refusal::Full)?;
        if let (Some(owner), Some(limit)) = (&registration.identity, registration.records_max)
            && growth.records > 0
            && records.records_of(owner) + self.by_owner.get(owner).copied().unwrap_or_default() >= limit
        {
            return Err(Refusal::OwnerFull(limit));
        }
        self.total += growth;
        let flight = self.by_id.entry(instance_id).or_insert_with(|| Flight {
            origin,
            owner: registration.identity.clone(),
            bytes: 0,
            added: Usage::default(),
            pending: 0,
            shown_at: Revision(0),
            confirmed_at_ms: 0,
        });
        flight.bytes = flight.bytes.max(bytes).max(known.unwrap_or_default());
        flight.added += growth;
        flight.pending += 1;
        if let Some(origin) = flight.origin {
            *self.by_origin.entry(origin).or_default() += growth;
        }
        if let Some(owner) = flight.owner.as_ref().filter(|_| growth.records > 0) {
            *self.by_owner.entry(Arc::clone(owner)).or_default() += growth.records;
        }
        Ok(())
    }

    /// Forgets what the view shows, and what was not written.
    fn forget_shown(&mut self, records: &dyn Records) {
        let (revision, confirmed_ms) = (records.revision(), records.confirmed_ms());
        let Self { by_id, total, by_origin, by_owner, .. } = self;
        by_id.retain(|_, flight| {
            let is_under_way =
                flight.pending > 0 || flight.shown_at > revision || flight.confirmed_at_ms > confirmed_ms;
            if !is_under_way {
                *total -= flight.added;
                if let Some(origin) = flight.origin
                    && let Some(own) = by_origin.get_mut(&origin)
                {
                    *own -= flight.added;
                    if own.is_zero() {
                        by_origin.remove(&origin);
                    }
                }
                if let Some(owner) = &flight.owner
                    && let Some(own) = by_owner.get_mut(owner)
                {
                    *own = own.saturating_sub(flight.added.records);
                    if *own == 0 {
                        by_owner.remove(owner);
                    }
                }
            }
            is_under_way
        });
    }
}

#[cfg(test)]
mod tests;
