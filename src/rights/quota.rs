//! What one identity may use of the registry, and what it uses.
//!
//! A budget of the registry protects it from all callers together; a quota protects the callers from one of them. Rules may set
//! other limits; of several rules for an identity the largest counts. Beats and deregistration have no quota, so that an
//! identity that has used it up keeps what it has.
//!
//! The rate of registrations is held by the generic cell rate algorithm in one atomic: it stores the time at which the
//! registrations so far would have come at exactly the rate, and admits one while that is not further ahead than the burst.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use thiserror::Error;

/// Seconds of the rate of registrations that may come at once.
pub const BURST_SECONDS: u64 = 5;

/// The limits of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records that it owns, the dead ones included while they are kept.
    pub records: u64,
    /// Registrations in a second; [`BURST_SECONDS`] of them at once.
    pub registrations: u32,
    /// Watches that are open.
    pub watches: u32,
    /// Connections that are open.
    pub connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { records: 10_000, registrations: 200, watches: 100, connections: 1_000 }
    }
}

impl Limits {
    /// Each of them.
    pub(crate) fn units(self) -> [(Unit, u64); 4] {
        let Self { records, registrations, watches, connections } = self;
        [
            (Unit::Records, records),
            (Unit::Registrations, registrations.into()),
            (Unit::Watches, watches.into()),
            (Unit::Connections, connections.into()),
        ]
    }
}

/// The limits that a rule sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Raised {
    pub(crate) records: Option<u64>,
    pub(crate) registrations: Option<u32>,
    pub(crate) watches: Option<u32>,
    pub(crate) connections: Option<u32>,
}

impl Raised {
    /// Both: of two limits the larger one.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            records: self.records.max(other.records),
            registrations: self.registrations.max(other.registrations),
            watches: self.watches.max(other.watches),
            connections: self.connections.max(other.connections),
        }
    }

    /// Those that are set.
    pub(crate) fn units(self) -> impl Iterator<Item = (Unit, u64)> {
        let Self { records, registrations, watches, connections } = self;
        let all = [
            (Unit::Records, records),
            (Unit::Registrations, registrations.map(u64::from)),
            (Unit::Watches, watches.map(u64::from)),
            (Unit::Connections, connections.map(u64::from)),
        ];
        all.into_iter().filter_map(|(unit, limit)| Some((unit, limit?)))
    }

    /// With the defaults where no rule sets one.
    pub(crate) fn over(self, defaults: Limits) -> Limits {
        Limits {
            records: self.records.unwrap_or(defaults.records),
            registrations: self.registrations.unwrap_or(defaults.registrations),
            watches: self.watches.unwrap_or(defaults.watches),
            connections: self.connections.unwrap_or(defaults.connections),
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Records on record.
    Records,
    /// Registrations in a second.
    Registrations,
    /// Open watches.
    Watches,
    /// Open connections.
    Connections,
}

impl Unit {
    /// The key of the limit in a rule.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Registrations => "registrations",
            Self::Watches => "watches",
            Self::Connections => "connections",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Records => "records, the dead ones included",
            Self::Registrations => "registrations in a second",
            Self::Watches => "open watches",
            Self::Connections => "open connections",
        })
    }
}

/// An identity has used up a quota.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{identity} has its {limit} {unit}; wait, or raise it in a rule with limits = {{ {} = ... }}", unit.key())]
pub struct Exceeded {
    /// Which identity.
    pub identity: Arc<str>,
    /// Of what.
    pub unit: Unit,
    /// The limit.
    pub limit: u64,
    /// When to try again.
    pub retry_after: Duration,
}

/// What an identity uses, whatever the policy says meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Used {
    registrations: Rate,
    watches: AtomicU32,
    connections: AtomicU32,
}

impl Used {
    /// Whether nothing of it is in use: it can be forgotten, but for a rate that ends within seconds.
    pub(crate) fn is_idle(&self, now_ms: u64) -> bool {
        self.watches.load(Ordering::Relaxed) == 0
            && self.connections.load(Ordering::Relaxed) == 0
            && self.registrations.is_idle(now_ms)
    }

    /// Open watches and connections.
    pub(crate) fn places(&self) -> (u32, u32) {
        (self.watches.load(Ordering::Relaxed), self.connections.load(Ordering::Relaxed))
    }

    pub(crate) fn register(&self, limit: u32, now_ms: u64) -> Result<(), Duration> {
        self.registrations.take(limit, now_ms)
    }

    pub(crate) fn watch(self: &Arc<Self>, limit: u32) -> Option<Held> {
        Held::take(self, limit, |used| &used.watches)
    }

    pub(crate) fn connect(self: &Arc<Self>, limit: u32) -> Option<Held> {
        Held::take(self, limit, |used| &used.connections)
    }
}

/// A place of an identity, until dropped.
pub struct Held {
    used: Arc<Used>,
    of: fn(&Used) -> &AtomicU32,
}

impl Held {
    fn take(used: &Arc<Used>, limit: u32, of: fn(&Used) -> &AtomicU32) -> Option<Self> {
        // Counted first: of several at once not one too many gets a place.
        let held = Self { used: Arc::clone(used), of };
        (of(used).fetch_add(1, Ordering::AcqRel) < limit).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.of)(&self.used).fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

/// A rate, by the generic cell rate algorithm: when the events so far would have come at exactly the rate, in nanoseconds.
#[derive(Debug, Default)]
struct Rate(AtomicU64);

impl Rate {
    /// Takes one event of `per_second`; how long to wait if that is too soon.
    fn take(&self, per_second: u32, now_ms: u64) -> Result<(), Duration> {
        let now = now_ms.saturating_mul(1_000_000);
        let step = 1_000_000_000 / u64::from(per_second.max(1));
        // Room for the burst, the event itself not counted.
        let ahead_max = step.saturating_mul((u64::from(per_second) * BURST_SECONDS).saturating_sub(1));
        let next = |due: u64| {
            let due = due.max(now);
            (due - now <= ahead_max).then_some(due.saturating_add(step))
        };
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(_) => Ok(()),
            Err(due) => Err(Duration::from_nanos(due.saturating_sub(now).saturating_sub(ahead_max))),
        }
    }

    fn is_idle(&self, now_ms: u64) -> bool {
        self.0.load(Ordering::Acquire) <= now_ms.saturating_mul(1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn rate_admits_a_burst_and_then_the_rate() {
        let (rate, start) = (Rate::default(), 1_000_000);
        let burst = (0..2_000).filter(|_| rate.take(200, start).is_ok()).count();
        assert_eq!(burst, 1_000, "five seconds of 200");
        assert_eq!(rate.take(200, start), Err(Duration::from_millis(5)));
        let later = (1..=1_000).filter(|ms| rate.take(200, start + ms).is_ok()).count();
        assert_eq!(later, 200, "a second later 200 more");
        assert!(!rate.is_idle(start + 1_000) && rate.is_idle(start + 6_001));
        let again = (0..2_000).filter(|_| rate.take(200, start + 60_000).is_ok()).count();
        assert_eq!(again, 1_000, "what was not used is not saved beyond the burst");
    }

    #[test]
    fn rate_of_many_threads_admits_no_more() {
        let rate = Rate::default();
        let admitted: usize = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..500).filter(|_| rate.take(100, 1_000).is_ok()).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 500);
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let used = Arc::new(Used::default());
        let held: Vec<_> = (0..3).filter_map(|_| used.watch(2)).collect();
        assert_eq!(held.len(), 2);
        assert!(used.connect(1).is_some(), "connections are counted apart");
        assert!(!used.is_idle(0));
        drop(held);
        assert!(used.watch(2).is_some() && used.is_idle(0));
    }

    #[test]
    fn largest_limit_of_several_rules_counts_and_the_default_without_any() {
        let one = Raised { records: Some(5), watches: Some(500), ..Raised::default() };
        let other = Raised { records: Some(7), ..Raised::default() };
        let limits = one.or(other).over(Limits::default());
        assert_eq!(limits, Limits { records: 7, watches: 500, ..Limits::default() });
    }
}
