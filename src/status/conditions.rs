//! The conditions of `/readyz` in the present tense.
//!
//! A condition is recorded when it changes, so its record may tell a past state: a daemon that was connected once stays
//! ready while PostgreSQL is away, because it still answers from memory. What it can no longer do is degraded.

use super::{
    facts::{Condition, Expiry, Facts},
    rules,
    text::short,
};

/// How a condition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds.
    Ok,
    /// It holds as far as readiness goes; the daemon does less than it should.
    Degraded,
    /// It does not hold: the daemon is not ready.
    Missing,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// One condition, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionState {
    /// Its name on the wire.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What there is to say about it. May be empty.
    pub detail: String,
}

/// The conditions as they are now, and expiry, which readiness does not depend on.
pub(super) fn present(facts: &Facts) -> Vec<ConditionState> {
    let mut states: Vec<_> = facts.conditions.iter().map(|condition| state(condition, facts)).collect();
    // Before the last one, which tells of the shutdown.
    states.insert(states.len().saturating_sub(1), expiry(facts));
    states
}

fn state(condition: &Condition, facts: &Facts) -> ConditionState {
    let name = condition.name;
    let degraded = |detail| ConditionState { name, state: State::Degraded, detail };
    match name {
        _ if !condition.ok => ConditionState { name, state: State::Missing, detail: condition.detail.clone() },
        "database" if facts.is_away() => degraded(format!("away for {}", short(facts.stale_for))),
        "feed" if facts.is_away() => degraded(format!("no change received for {}", short(facts.stale_for))),
        "flush" if rules::is_flush_late(facts) => degraded(rules::flush_text(facts)),
        _ => ConditionState { name, state: State::Ok, detail: condition.detail.clone() },
    }
}

fn expiry(facts: &Facts) -> ConditionState {
    let (state, detail) = match facts.expiry() {
        Expiry::Unknown if facts.loaded => (State::Degraded, "unknown while PostgreSQL is away".to_owned()),
        Expiry::Unknown => (State::Ok, "not yet known".to_owned()),
        Expiry::Held => (State::Ok, facts.hold.as_ref().map(rules::hold_text).unwrap_or_default()),
        Expiry::Paced => (State::Ok, facts.brake.as_ref().map(rules::brake_text).unwrap_or_default()),
        Expiry::Protected => (State::Degraded, facts.brake.as_ref().map(rules::brake_text).unwrap_or_default()),
        Expiry::Running => match rules::failing_expiry(facts) {
            Some(detail) => (State::Degraded, detail),
            None => (State::Ok, "running".to_owned()),
        },
    };
    ConditionState { name: "expiry", state, detail }
}
