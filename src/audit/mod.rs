//! The audit log: which decisions about callers are recorded, and how many of them.
//!
//! Recorded are calls with the verbs `operate` and `cluster`, denials and failed authentications, and reloads of policy and
//! keys; with [`Scope::All`] registrations and deregistrations too. An entry is an event of the
//! log with the target `musterd::audit`, so it goes where the log goes, or to a file of its own (`--audit-file`), and no caller ever
//! waits for either.
//!
//! The decisions themselves stand in the database, written in their transactions. Refusals, which have none, are added to them by
//! way of the ledger.
//!
//! Refusals come as fast as a stranger sends calls, so of each reason only so many a second are recorded for an identity, and
//! the rest are counted: a caller that is refused without end does not hide that another one is. Callers that are not known are
//! one of these identities. No entry holds a credential, a label or a body.

mod entry;
mod ledger;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

pub use self::{entry::Entry, ledger::Ledger};
use crate::{clock::Clock, metrics::AuditMetrics, telemetry::AUDIT_TARGET};

/// Refusals of one identity for one reason that are recorded in a second.
const REFUSALS_PER_SECOND: u32 = 10;
/// Identities and reasons that are counted apart in a second. Those beyond it are counted together.
const IDENTITIES_MAX: usize = 1_000;

/// What is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Decisions of operators, and refusals.
    #[default]
    Decisions,
    /// Registrations and deregistrations too.
    All,
}

/// What a handler tells of a call that it has carried out, in the extensions of its answer.
#[derive(Clone, Debug)]
pub struct Audited {
    /// Names and ids.
    pub object: String,
    /// Whether the caller needed the right to operate on what others own.
    pub as_operator: bool,
}

/// Records decisions. Clones share it.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scope: Scope,
    clock: Clock,
    metrics: AuditMetrics,
    /// A std mutex: never held across an await.
    refusals: Mutex<Refusals>,
    ledger: Ledger,
}

/// The latest refusals.
#[derive(Debug, Default)]
struct Refusals {
    /// By identity and reason, which is a closed list. Empty texts: those beyond the limit.
    windows: HashMap<(Box<str>, Box<str>), Window>,
}

impl Refusals {
    /// Whether one more is recorded; then with how many were not.
    fn admit(&mut self, second: u64, identity: &str, reason: &str) -> Option<u64> {
        let key = (identity.into(), reason.into());
        if let Some(window) = self.windows.get_mut(&key) {
            return window.admit(second);
        }
        if self.windows.len() >= IDENTITIES_MAX {
            // What they still have to tell is in the metric.
            self.windows.retain(|_, window| window.second == second);
        }
        let key = if self.windows.len() < IDENTITIES_MAX { key } else { Default::default() };
        self.windows.entry(key).or_default().admit(second)
    }
}

/// The refusals of a second.
#[derive(Debug, Default)]
struct Window {
    second: u64,
    recorded: u32,
    /// Since the last entry.
    suppressed: u64,
}

impl Window {
    /// Whether one more is recorded; then with how many were not.
    fn admit(&mut self, second: u64) -> Option<u64> {
        if self.second != second {
            (self.second, self.recorded) = (second, 0);
        }
        if self.recorded == REFUSALS_PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.recorded += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Audit {
    /// Records this much.
    #[must_use]
    pub fn new(scope: Scope, clock: Clock) -> Self {
        let (metrics, ledger) = (AuditMetrics::new(), Ledger::default());
        Self(Arc::new(Inner { scope, clock, metrics, refusals: Mutex::default(), ledger }))
    }

    /// Whether registrations are recorded.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        self.0.scope == Scope::All
    }

    /// What waits to be written into the database.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.0.ledger.clone()
    }

    /// A call was carried out.
    pub fn allowed(&self, entry: &Entry<'_>) {
        let Entry { identity, kind, peer, method, object } = *entry;
        self.0.metrics.recorded.increment(1);
        tracing::info!(target: AUDIT_TARGET, identity, kind, peer, method, object, decision = "allowed", "call");
    }

    /// A call was allowed and came to nothing.
    pub fn failed(&self, entry: &Entry<'_>, reason: &str, message: &str) {
        let Entry { identity, kind, peer, method, object } = *entry;
        self.0.metrics.recorded.increment(1);
        tracing::info!(target: AUDIT_TARGET, identity, kind, peer, method, object, decision = "failed", reason, message, "call");
    }

    /// Files or keys were put in use; with why they could not be, if they could not.
    pub fn reloaded(&self, object: &str, failure: Option<&str>) {
        let decision = if failure.is_some() { "kept" } else { "reloaded" };
        self.0.metrics.recorded.increment(1);
        tracing::info!(target: AUDIT_TARGET, object, decision, reason = failure, "reload");
        self.0.ledger.reloaded(object, decision, failure);
    }

    /// A call was refused: its caller is not known, or has no right to it.
    pub fn refused(&self, entry: &Entry<'_>, reason: &str, message: &str) {
        self.0.ledger.denied(entry, reason, message);
        let second = self.0.clock.now_ms() / 1_000;
        let mut refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = refusals.admit(second, entry.identity, reason);
        drop(refusals);
        let Some(suppressed) = admitted else { return self.0.metrics.suppressed.increment(1) };
        let Entry { identity, kind, peer, method, object } = *entry;
        self.0.metrics.recorded.increment(1);
        tracing::info!(
            target: AUDIT_TARGET,
            identity,
            kind,
            peer,
            method,
            object,
            decision = "refused",
            reason,
            message,
            suppressed,
            "call"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_one_identity_do_not_hide_those_of_another() {
        let mut refusals = Refusals::default();
        let flood = (0..100).filter(|_| refusals.admit(7, "token/loud", "PERMISSION_DENIED").is_some()).count();
        assert_eq!(flood, 10);
        assert_eq!(refusals.admit(7, "token/quiet", "PERMISSION_DENIED"), Some(0));
        assert_eq!(refusals.admit(7, "token/loud", "CREDENTIAL_EXPIRED"), Some(0));
        assert_eq!(refusals.admit(8, "token/loud", "PERMISSION_DENIED"), Some(90), "what was not recorded is told");
    }

    #[test]
    fn identities_beyond_the_limit_share_one_window() {
        let mut refusals = Refusals::default();
        let recorded =
            (0..100_000).filter(|number| refusals.admit(7, &format!("jwt/{number}"), "PERMISSION_DENIED").is_some());
        assert_eq!(recorded.count(), IDENTITIES_MAX + 10);
        assert!(refusals.windows.len() <= IDENTITIES_MAX + 1);
        assert_eq!(refusals.admit(8, "jwt/new", "PERMISSION_DENIED"), Some(0));
        assert!(refusals.windows.len() < IDENTITIES_MAX, "windows of former seconds are given up");
    }

    #[test]
    fn refusals_of_a_second_are_counted_beyond_their_limit() {
        let mut window = Window::default();
        let recorded = (0..50).filter(|_| window.admit(7).is_some()).count();
        assert_eq!(recorded, 10);
        assert_eq!(window.admit(8), Some(40), "the next entry says how many were not recorded");
        assert_eq!(window.admit(8), Some(0));
    }
}
