//! What a rule can grant: seven verbs, closed and in one order, so that a table over them is an array.

use std::{fmt, str::FromStr};

/// A right, as policies name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Register an instance under a logical id, then beat, set the status of, and deregister what one owns.
    Register,
    /// Beat leases that others own: for a node agent.
    Beat,
    /// Resolve a logical id.
    Resolve,
    /// See the instances of a logical id: get, list, watch, page, targets.
    Read,
    /// Change the status of, deregister and expire instances that others own.
    Operate,
    /// Rotate the epoch, hold and release expiry. Granted on `*` only, because it concerns every instance.
    Cluster,
    /// Read `/metrics`, and the details of `/readyz`. Concerns no logical id.
    Metrics,
}

impl Verb {
    /// All of them, in their order.
    pub const ALL: [Self; 7] =
        [Self::Register, Self::Beat, Self::Resolve, Self::Read, Self::Operate, Self::Cluster, Self::Metrics];

    /// As policies write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Beat => "beat",
            Self::Resolve => "resolve",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Cluster => "cluster",
            Self::Metrics => "metrics",
        }
    }

    /// The verb of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == word)
    }

    /// Whether the verb is about logical ids.
    #[must_use]
    pub const fn has_names(self) -> bool {
        !matches!(self, Self::Metrics)
    }

    /// Its place in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl FromStr for Verb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::from_word(text).ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_read_from_its_word_and_has_its_place() {
        for (place, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!((Verb::from_word(verb.as_str()), verb.index()), (Some(verb), place));
        }
        for word in ["", "Read", "write", "*", "read "] {
            assert_eq!(Verb::from_word(word), None, "{word}");
        }
    }
}
