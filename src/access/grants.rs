//! What an identity may, verb by verb: what the policy says of it, computed once.

use super::{
    names::{Names, Pattern},
    verb::Verb,
};

/// The rights of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grants([Names; Verb::ALL.len()]);

impl Grants {
    /// Of each verb the names of these patterns.
    pub(super) fn of(patterns: [Vec<Pattern>; Verb::ALL.len()]) -> Self {
        Self(patterns.map(Names::of))
    }

    /// The names that a verb is granted on.
    pub(super) fn names(&self, verb: Verb) -> &Names {
        // The array has a place for each verb; the fallback is there because indexing may not panic.
        static NOTHING: std::sync::LazyLock<Names> = std::sync::LazyLock::new(Names::nothing);
        self.0.get(verb.index()).unwrap_or(&NOTHING)
    }
}
