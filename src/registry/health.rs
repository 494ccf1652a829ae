//! How the background work of this daemon goes: facts for the judgement of its health.
//!
//! Flusher and reapers record here what they last did. Beats and deaths do not depend on it: those are decided by
//! [`super::Leases`] and in PostgreSQL.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::error::Error;
use crate::{
    clock::Clock,
    model::Blocker,
    store::{blocking::Found, deaths::ReleaseState},
};

/// How often work that waits until this daemon may change the registry looks again.
const PERMISSION_PERIOD: Duration = Duration::from_secs(1);
/// Stands for "not yet".
const NEVER: u64 = u64::MAX;

/// A reaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaper {
    /// Of stale leases.
    Stale,
    /// Of instances of older epochs.
    OldEpoch,
    /// Of rows that have been dead for long.
    Purge,
    /// Of what ended leases held.
    Release,
}

impl Reaper {
    const ALL: [Self; 4] = [Self::Stale, Self::OldEpoch, Self::Purge, Self::Release];

    /// The word for it, as in the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::OldEpoch => "old_epoch",
            Self::Purge => "purge",
            Self::Release => "release",
        }
    }
}

/// The runs of a reaper that have failed since the last one that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    /// Of which reaper.
    pub reaper: Reaper,
    /// How many there are.
    pub count: u32,
    /// How long ago the first of them failed.
    pub failing_for: Duration,
    /// Why the latest failed.
    pub error: String,
}

/// How the schema relates to this binary, as last compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaState {
    /// Objects that differ from those of this binary.
    pub drift: Vec<String>,
    /// A newer binary has migrated the database up to this version.
    pub ahead: Option<i32>,
    /// Why this binary must not work with it any more, if so.
    pub refused: Option<String>,
}

/// What is kept of them.
#[derive(Debug)]
struct Failing {
    count: u32,
    since_ms: u64,
    error: String,
}

/// What the background work has last done.
#[derive(Debug)]
pub struct Health {
    clock: Clock,
    /// A std mutex: held for a few instructions, never across an await.
    failing: Mutex<[Option<Failing>; Reaper::ALL.len()]>,
    reaped_ms: AtomicU64,
    latency_us: AtomicU64,
    changes: Mutex<Changes>,
    release: Mutex<ReleaseState>,
    schema: Mutex<SchemaState>,
}

/// How changes get on.
#[derive(Debug, Default)]
struct Changes {
    /// When each change that waits for its answer began.
    waiting_ms: Vec<u64>,
    /// How many groups of changes were committed.
    passed: u64,
    /// What blocks changes, and when that was first seen.
    blocker: Option<(Found, u64)>,
}

/// A change that waits for the answer of PostgreSQL, until dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    health: &'a Health,
    began_ms: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut changes = self.health.changes();
        if let Some(at) = changes.waiting_ms.iter().position(|began_ms| *began_ms == self.began_ms) {
            changes.waiting_ms.swap_remove(at);
        }
    }
}

/// Why PostgreSQL is asked what blocks changes.
#[derive(Debug)]
pub(super) struct Suspect {
    /// The transaction that blocked them when it was last asked.
    pub(super) known: Option<String>,
    passed: u64,
}

impl Health {
    /// Nothing was done yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let (reaped_ms, latency_us) = (AtomicU64::new(NEVER), AtomicU64::new(NEVER));
        Self {
            clock,
            failing: Mutex::default(),
            reaped_ms,
            latency_us,
            changes: Mutex::default(),
            release: Mutex::default(),
            schema: Mutex::default(),
        }
    }

    /// The reaper has looked.
    pub(super) fn reaped(&self) {
        self.reaped_ms.store(self.clock.now_ms(), Ordering::Relaxed);
    }

    /// A reaper has run. Returns how many of its runs in a row have failed.
    pub(super) fn reaper_ran(&self, reaper: Reaper, error: Option<String>) -> u32 {
        let now_ms = self.clock.now_ms();
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = failing.get_mut(reaper as usize) else { return 0 };
        *slot = error.map(|error| {
            let (count, since_ms) = slot.as_ref().map_or((0, now_ms), |failing| (failing.count, failing.since_ms));
            Failing { count: count.saturating_add(1), since_ms, error }
        });
        slot.as_ref().map_or(0, |failing| failing.count)
    }

    /// The reapers whose latest run failed.
    #[must_use]
    pub fn failing_reapers(&self) -> Vec<Failures> {
        let now_ms = self.clock.now_ms();
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = |(reaper, failing): (Reaper, &Option<Failing>)| {
            let Failing { count, since_ms, error } = failing.as_ref()?;
            let failing_for = Duration::from_millis(now_ms.saturating_sub(*since_ms));
            Some(Failures { reaper, count: *count, failing_for, error: error.clone() })
        };
        Reaper::ALL.into_iter().zip(failing.iter()).filter_map(failures).collect()
    }

    /// PostgreSQL has taken a save, within `latency`.
    pub(super) fn saved(&self, latency: Duration) {
        self.latency_us.store(u64::try_from(latency.as_micros()).unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// A change is asked for.
    pub(super) fn change_waits(&self) -> Waiting<'_> {
        let began_ms = self.clock.now_ms();
        self.changes().waiting_ms.push(began_ms);
        Waiting { health: self, began_ms }
    }

    /// A change was committed: nothing blocks changes.
    pub(super) fn change_passed(&self) {
        let mut changes = self.changes();
        changes.passed += 1;
        changes.blocker = None;
    }

    /// Whether to ask what blocks changes: one waits for longer than `limit`, or something was found to block them.
    pub(super) fn suspect(&self, limit: Duration) -> Option<Suspect> {
        let (changes, now_ms) = (self.changes(), self.clock.now_ms());
        let waited_ms = changes.waiting_ms.iter().map(|began_ms| now_ms.saturating_sub(*began_ms)).max();
        let known = changes.blocker.as_ref().map(|(found, _)| found.transaction.clone());
        let is_long = waited_ms.is_some_and(|waited_ms| Duration::from_millis(waited_ms) > limit);
        (is_long || known.is_some()).then_some(Suspect { known, passed: changes.passed })
    }

    /// What blocks changes, by the answer to a question. It counts for nothing if a change was committed since.
    pub(super) fn blocked_by(&self, suspect: &Suspect, found: Option<Found>) {
        let (mut changes, now_ms) = (self.changes(), self.clock.now_ms());
        if changes.passed != suspect.passed {
            return;
        }
        let first_ms = |transaction: &str| match &changes.blocker {
            Some((known, first_ms)) if known.transaction == transaction => *first_ms,
            _ => now_ms,
        };
        changes.blocker = found.map(|mut found| {
            let first_ms = first_ms(&found.transaction);
            // Its start may be hidden, or lie by another clock.
            let seen_for = Duration::from_millis(now_ms.saturating_sub(first_ms));
            found.blocker.open_for = found.blocker.open_for.max(seen_for);
            (found, first_ms)
        });
    }

    /// What blocks changes, as last seen.
    #[must_use]
    pub fn blocker(&self) -> Option<Blocker> {
        self.changes().blocker.as_ref().map(|(found, _)| found.blocker.clone())
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        // Every state of it is a valid one.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the schema relates to this binary, as last compared.
    #[must_use]
    pub fn schema_state(&self) -> SchemaState {
        self.schema.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The schema was compared.
    pub fn set_schema_state(&self, state: SchemaState) {
        *self.schema.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Refuses a change if the schema is too new for this binary, whose rules may no longer be those of the schema.
    ///
    /// # Errors
    /// [`Error::SchemaTooNew`].
    pub fn permit_change(&self) -> Result<(), Error> {
        let is_refused = self.schema.lock().unwrap_or_else(PoisonError::into_inner).refused.is_some();
        if is_refused { Err(Error::SchemaTooNew) } else { Ok(()) }
    }

    /// Waits until [`Self::permit_change`] refuses nothing. Returns false if told to stop before.
    pub(super) async fn change_permitted(&self, stop: &CancellationToken) -> bool {
        while self.permit_change().is_err() {
            if stop.run_until_cancelled(sleep(PERMISSION_PERIOD)).await.is_none() {
                return false;
            }
        }
        true
    }

    /// How the release of deaths gets on, as last read.
    #[must_use]
    pub fn release_state(&self) -> ReleaseState {
        self.release.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_release_state(&self, state: ReleaseState) {
        *self.release.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// How long ago the reaper last looked; `None` before its first look.
    #[must_use]
    pub fn last_reap_age(&self) -> Option<Duration> {
        let reaped_ms = known(&self.reaped_ms)?;
        Some(Duration::from_millis(self.clock.now_ms().saturating_sub(reaped_ms)))
    }

    /// How long PostgreSQL took for the latest save; `None` before the first.
    #[must_use]
    pub fn database_latency(&self) -> Option<Duration> {
        known(&self.latency_us).map(Duration::from_micros)
    }
}

fn known(number: &AtomicU64) -> Option<u64> {
    Some(number.load(Ordering::Relaxed)).filter(|number| *number != NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(transaction: &str) -> Option<Found> {
        let (user, application) = ("app".to_owned(), String::new());
        let blocker = Blocker { pid: 7, user, application, details: None, open_for: Duration::ZERO };
        Some(Found { transaction: transaction.to_owned(), blocker })
    }

    #[test]
    fn daemon_without_a_waiting_change_asks_nothing() {
        let health = Health::new(Clock::new());
        assert!(health.suspect(Duration::ZERO).is_none());
        let waiting = health.change_waits();
        assert!(health.suspect(Duration::from_secs(60)).is_none(), "it waits for less");
        drop(waiting);
        assert!(health.suspect(Duration::ZERO).is_none());
    }

    #[test]
    fn blocker_is_kept_until_its_transaction_or_a_change_ends() {
        let health = Health::new(Clock::new());
        let ask = || health.suspect(Duration::MAX);
        let first = Suspect { known: None, passed: 0 };
        health.blocked_by(&first, found("3/7"));
        let again = ask().unwrap();
        assert_eq!(again.known.as_deref(), Some("3/7"), "without a waiting change too");
        health.blocked_by(&again, None);
        assert!(health.blocker().is_none() && ask().is_none(), "the transaction has ended");
        health.blocked_by(&first, found("3/8"));
        let asked = ask().unwrap();
        health.change_passed();
        assert!(health.blocker().is_none());
        health.blocked_by(&asked, found("3/8"));
        assert!(health.blocker().is_none(), "the answer is older than the commit");
    }

    #[test]
    fn failures_of_a_reaper_are_counted_until_a_run_succeeds() {
        let health = Health::new(Clock::new());
        assert_eq!(health.reaper_ran(Reaper::Purge, Some("locked".to_owned())), 1);
        assert_eq!(health.reaper_ran(Reaper::Stale, None), 0);
        assert_eq!(health.reaper_ran(Reaper::Purge, Some("no such table".to_owned())), 2);
        let failing = health.failing_reapers();
        let told: Vec<_> = failing.iter().map(|it| (it.reaper, it.count, it.error.as_str())).collect();
        assert_eq!(told, [(Reaper::Purge, 2, "no such table")]);
        assert_eq!(health.reaper_ran(Reaper::Purge, None), 0);
        assert_eq!(health.failing_reapers(), []);
    }

    #[test]
    fn before_the_first_time_there_is_no_age() {
        let health = Health::new(Clock::new());
        assert_eq!((health.last_reap_age(), health.database_latency()), (None, None));
        health.reaped();
        health.saved(Duration::from_micros(1_500));
        assert!(health.last_reap_age().is_some());
        assert_eq!(health.database_latency(), Some(Duration::from_micros(1_500)));
    }
}
