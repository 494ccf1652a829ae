//! A rule, and why a policy is refused.

use thiserror::Error;

use super::pattern::{On, Who};
use crate::{
    model::TextPosition,
    rights::{Identity, Verb, addresses::Addresses, names::Pattern, quota::Raised},
};

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) at: TextPosition,
    pub(super) who: Vec<Who>,
    pub(super) may: Vec<Verb>,
    pub(super) on: Vec<On>,
    /// Where `register` is granted: the addresses; none: all.
    pub(super) addresses: Vec<Addresses>,
    pub(super) limits: Raised,
}

/// Why a policy is refused: one line, which names line and column.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{at}: {what}")]
pub struct PolicyError {
    /// Where.
    pub at: TextPosition,
    /// What is wrong there, and the fix.
    pub what: String,
}

impl Rule {
    /// The names that this rule grants a verb on to an identity.
    pub(super) fn patterns(&self, identity: &Identity, verb: Verb) -> Vec<Pattern> {
        let bound = self.who.iter().filter_map(|who| who.bind(identity));
        if !verb.has_names() {
            return bound.take(1).map(|_| Pattern::Prefix(String::new())).collect();
        }
        bound.flat_map(|bindings| self.on.iter().map(move |on| on.fill(&bindings))).collect()
    }

    /// What it grants, whatever the order of its parts.
    pub(super) fn meaning(&self) -> String {
        let Self { at: _, who, may, on, addresses, limits } = self;
        let mut parts: Vec<String> = who.iter().map(|who| format!("who {}", who.written())).collect();
        parts.extend(may.iter().map(|verb| format!("may {}", verb.as_str())));
        parts.extend(on.iter().map(|on| format!("on {}", on.written())));
        parts.extend(addresses.iter().map(|it| format!("at {it:?}")));
        parts.sort_unstable();
        format!("rule {parts:?} {limits:?}")
    }

    /// The limits that this rule sets for an identity. A rule for callers without a credential sets none for others.
    pub(super) fn limits(&self, identity: &Identity) -> Raised {
        let is_for = |who: &Who| who.is_for(identity) || !who.is_for_anonymous() && who.bind(identity).is_some();
        if self.who.iter().any(is_for) { self.limits } else { Raised::default() }
    }

    /// Whether this rule grants all that the other one does.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let depends = self.on.iter().any(On::has_slots);
        let who = |other: &Who| self.who.iter().any(|who| who.covers(other, depends));
        let on = |other: &On| self.on.iter().any(|on| on.covers(other));
        // What limits it has an effect of its own.
        let is_wider = self.addresses.is_empty() || self.addresses == other.addresses;
        let is_plain = other.limits == Raised::default() || other.limits == self.limits;
        is_wider
            && is_plain
            && other.who.iter().all(who)
            && other.may.iter().all(|verb| self.may.contains(verb))
            && other.on.iter().all(on)
    }
}
