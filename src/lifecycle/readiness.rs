//! Whether this daemon should be sent traffic, and if not, what is missing.
//!
//! Readiness is a fixed list of conditions, each set by the part that knows, so that `/readyz` can answer "what is
//! missing?" and not only "no". It says whether *new* callers should come here; it is not liveness. A daemon whose
//! PostgreSQL is away still answers from memory, so the composition root decides how long a condition may be unmet
//! before it is reported unmet; this module only keeps the record.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What must hold for the daemon to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// PostgreSQL can be reached.
    Database,
    /// The schema is the one this version needs.
    Schema,
    /// The view is loaded.
    View,
    /// The feed follows the database.
    Feed,
    /// Beats can be saved in time.
    Flush,
    /// No shutdown has begun. Holds from the start.
    NotShuttingDown,
}

impl Condition {
    /// All conditions, in the order in which a starting daemon meets them.
    pub const ALL: [Self; 6] =
        [Self::Database, Self::Schema, Self::View, Self::Feed, Self::Flush, Self::NotShuttingDown];

    /// Name of the condition on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Schema => "schema",
            Self::View => "view",
            Self::Feed => "feed",
            Self::Flush => "flush",
            Self::NotShuttingDown => "not_shutting_down",
        }
    }
}

/// One condition and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionState {
    /// Which condition.
    pub condition: Condition,
    /// Whether it holds.
    pub ok: bool,
    /// What there is to say about it, for people. May be empty.
    pub detail: String,
}

/// All conditions at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether all of them hold.
    pub ready: bool,
    /// Each of them, in the order of [`Condition::ALL`].
    pub conditions: Vec<ConditionState>,
}

/// The record of conditions. Clones share it.
#[derive(Clone, Debug)]
pub struct Readiness {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// A std mutex: held for a few instructions, never across an await.
    states: Mutex<[ConditionState; Condition::ALL.len()]>,
    ready: watch::Sender<bool>,
}

impl Readiness {
    /// Makes a record in which nothing holds yet but [`Condition::NotShuttingDown`].
    #[must_use]
    pub fn new() -> Self {
        let states = Condition::ALL.map(|condition| {
            let ok = condition == Condition::NotShuttingDown;
            let detail = if ok { String::new() } else { "not yet".to_owned() };
            ConditionState { condition, ok, detail }
        });
        Self { inner: Arc::new(Inner { states: Mutex::new(states), ready: watch::Sender::new(false) }) }
    }

    /// Records whether a condition holds, with a detail for people. Logs changes, so it may be called at every tick.
    pub fn set(&self, condition: Condition, ok: bool, detail: impl Into<String>) {
        let detail = detail.into();
        let mut states = self.lock();
        let Some(state) = states.iter_mut().find(|state| state.condition == condition) else { return };
        let changed = state.ok != ok;
        state.ok = ok;
        if changed {
            tracing::info!(condition = condition.name(), ok, detail, "readiness condition changed");
        }
        state.detail = detail;
        let ready = states.iter().all(|state| state.ok);
        // Sent under the lock: otherwise two setters could publish in the opposite order of their changes.
        self.inner.ready.send_if_modified(|published| std::mem::replace(published, ready) != ready);
    }

    /// Returns whether all conditions hold.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.inner.ready.borrow()
    }

    /// Returns all conditions as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let conditions = self.lock().to_vec();
        Snapshot { ready: conditions.iter().all(|state| state.ok), conditions }
    }

    /// Returns a channel that holds whether the daemon is ready and tells of changes, for the gRPC health service.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.inner.ready.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, [ConditionState; Condition::ALL.len()]> {
        // Nothing panics while the lock is held, and if it did the states would still be whole.
        self.inner.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_needs_every_condition_and_names_the_missing() {
        let readiness = Readiness::new();
        let mut changes = readiness.subscribe();
        for condition in [Condition::Database, Condition::Schema, Condition::View, Condition::Feed, Condition::Flush] {
            assert!(!readiness.is_ready(), "{condition:?} is missing");
            readiness.set(condition, true, "");
        }
        assert!(readiness.is_ready() && *changes.borrow_and_update());

        readiness.set(Condition::Feed, false, "no answer for 4 s");
        assert!(!readiness.is_ready() && !*changes.borrow_and_update());
        let snapshot = readiness.snapshot();
        let missing: Vec<_> = snapshot.conditions.iter().filter(|state| !state.ok).collect();
        assert!(!snapshot.ready && missing.len() == 1);
        assert_eq!((missing[0].condition.name(), missing[0].detail.as_str()), ("feed", "no answer for 4 s"));
    }

    #[test]
    fn subscribers_receive_changes_only() {
        let readiness = Readiness::new();
        let mut changes = readiness.subscribe();
        changes.mark_unchanged();
        readiness.set(Condition::View, true, "loaded");
        readiness.set(Condition::View, true, "loaded again");
        assert!(!changes.has_changed().unwrap());
    }
}
