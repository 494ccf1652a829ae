//! A rule, and why a policy is refused.

use thiserror::Error;

use super::{
    super::{identity::Identity, names::Pattern, verb::Verb},
    pattern::{On, Who},
};
use crate::model::TextPosition;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) at: TextPosition,
    pub(super) who: Vec<Who>,
    pub(super) may: Vec<Verb>,
    pub(super) on: Vec<On>,
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

    /// Whether this rule grants all that the other one does.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let depends = self.on.iter().any(On::has_slots);
        let who = |other: &Who| self.who.iter().any(|who| who.covers(other, depends));
        let on = |other: &On| self.on.iter().any(|on| on.covers(other));
        other.who.iter().all(who) && other.may.iter().all(|verb| self.may.contains(verb)) && other.on.iter().all(on)
    }
}
