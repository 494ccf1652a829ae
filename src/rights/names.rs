//! The logical ids that a right is about: everything, or names and prefixes.
//!
//! Asked for every call and every row of a list, so the prefixes are kept free of those that another one covers: then at most
//! one of them can match a name, and it is the last one that does not come after the name.

use std::sync::Arc;

/// A set of logical ids. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(Repr);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Repr {
    Everything,
    Listed(Arc<Listed>),
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    /// In order, none of them covered by a prefix.
    exact: Vec<Box<str>>,
    /// In order, none of them covered by another one.
    prefixes: Vec<Box<str>>,
}

/// The default is everything: a filter that is not given lets everything pass.
impl Default for Names {
    fn default() -> Self {
        Self::everything()
    }
}

/// A part of the logical ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range<'a> {
    /// One name.
    Exact(&'a str),
    /// All names that begin so.
    Prefix(&'a str),
}

/// A name, or all names that begin so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pattern {
    Exact(String),
    Prefix(String),
}

impl Pattern {
    /// Whether every name of the other pattern is one of this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(name), Self::Exact(other)) => name == other,
            (Self::Exact(_), Self::Prefix(_)) => false,
            (Self::Prefix(prefix), Self::Exact(other) | Self::Prefix(other)) => other.starts_with(prefix.as_str()),
        }
    }
}

/// The one of these prefixes that the text begins with.
fn prefix_of<'a>(prefixes: &'a [Box<str>], text: &str) -> Option<&'a str> {
    let after = prefixes.partition_point(|prefix| **prefix <= *text);
    prefixes.get(after.checked_sub(1)?).map(|prefix| &**prefix).filter(|prefix| text.starts_with(prefix))
}

impl Names {
    /// Every logical id.
    #[must_use]
    pub const fn everything() -> Self {
        Self(Repr::Everything)
    }

    /// None.
    #[must_use]
    pub fn nothing() -> Self {
        Self(Repr::Listed(Arc::default()))
    }

    /// Those of these patterns, as policies write them.
    #[cfg(test)]
    pub(crate) fn written(patterns: &[&str]) -> Self {
        let pattern = |text: &&str| match text.strip_suffix('*') {
            Some(prefix) => Pattern::Prefix(prefix.to_owned()),
            None => Pattern::Exact((*text).to_owned()),
        };
        Self::of(patterns.iter().map(pattern).collect())
    }

    /// Those of these patterns.
    pub(crate) fn of(mut patterns: Vec<Pattern>) -> Self {
        patterns.sort_by(|a, b| text(a).cmp(text(b)));
        let mut listed = Listed::default();
        // In this order a prefix comes before what it covers.
        for pattern in patterns.iter().filter(|pattern| matches!(pattern, Pattern::Prefix(_))) {
            let prefix = text(pattern);
            if prefix.is_empty() {
                return Self::everything();
            }
            if prefix_of(&listed.prefixes, prefix).is_none() {
                listed.prefixes.push(prefix.into());
            }
        }
        for pattern in patterns.iter().filter(|pattern| matches!(pattern, Pattern::Exact(_))) {
            let name = text(pattern);
            if prefix_of(&listed.prefixes, name).is_none() && listed.exact.last().is_none_or(|last| **last != *name) {
                listed.exact.push(name.into());
            }
        }
        Self(Repr::Listed(Arc::new(listed)))
    }

    /// Whether this logical id is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match &self.0 {
            Repr::Everything => true,
            Repr::Listed(listed) => {
                listed.exact.binary_search_by(|exact| (**exact).cmp(name)).is_ok()
                    || prefix_of(&listed.prefixes, name).is_some()
            }
        }
    }

    /// Whether every logical id that begins so is one of them.
    #[must_use]
    pub fn covers_prefix(&self, prefix: &str) -> bool {
        match &self.0 {
            Repr::Everything => true,
            Repr::Listed(listed) => prefix_of(&listed.prefixes, prefix).is_some(),
        }
    }

    /// Whether a logical id that begins so can be one of them.
    #[must_use]
    pub fn meets_prefix(&self, prefix: &str) -> bool {
        let begins = |names: &[Box<str>]| {
            let at = names.partition_point(|name| **name < *prefix);
            names.get(at).is_some_and(|name| name.starts_with(prefix))
        };
        match &self.0 {
            Repr::Everything => true,
            Repr::Listed(listed) => {
                prefix_of(&listed.prefixes, prefix).is_some() || begins(&listed.prefixes) || begins(&listed.exact)
            }
        }
    }

    /// Them as ranges that do not overlap, in order: names, and prefixes with all that begins so. Everything is the empty prefix.
    pub fn ranges(&self) -> Vec<Range<'_>> {
        let Repr::Listed(listed) = &self.0 else { return vec![Range::Prefix("")] };
        let exact = listed.exact.iter().map(|name| Range::Exact(name));
        let mut ranges: Vec<_> = exact.chain(listed.prefixes.iter().map(|prefix| Range::Prefix(prefix))).collect();
        ranges.sort_unstable_by_key(|range| match range {
            Range::Exact(text) | Range::Prefix(text) => *text,
        });
        ranges
    }

    /// Whether all logical ids are among them.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        matches!(self.0, Repr::Everything)
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Repr::Listed(listed) if listed.exact.is_empty() && listed.prefixes.is_empty())
    }

    /// As policies write them: names, and prefixes with a final `*`.
    #[must_use]
    pub fn patterns(&self) -> Vec<String> {
        match &self.0 {
            Repr::Everything => vec!["*".to_owned()],
            Repr::Listed(listed) => {
                let exact = listed.exact.iter().map(|name| name.to_string());
                exact.chain(listed.prefixes.iter().map(|prefix| format!("{prefix}*"))).collect()
            }
        }
    }
}

fn text(pattern: &Pattern) -> &str {
    match pattern {
        Pattern::Exact(text) | Pattern::Prefix(text) => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = Pattern> {
        let text = || "[ab_]{0,4}";
        prop_oneof![text().prop_map(Pattern::Exact), "[ab_]{1,4}".prop_map(Pattern::Prefix)]
    }

    fn is_of(pattern: &Pattern, name: &str) -> bool {
        match pattern {
            Pattern::Exact(exact) => exact == name,
            Pattern::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }

    proptest! {
        #[test]
        fn names_are_those_that_a_pattern_matches(
            patterns in prop::collection::vec(pattern(), 0..8),
            name in "[ab_]{0,6}",
        ) {
            let names = Names::of(patterns.clone());
            prop_assert_eq!(names.contains(&name), patterns.iter().any(|it| is_of(it, &name)));
            // What a prefix begins cannot be listed, so names that go on from it stand for all of them.
            let all = ["", "a", "b", "_", "zz"].map(|more| format!("{name}{more}"));
            let covered = patterns.iter().any(|it| matches!(it, Pattern::Prefix(prefix) if name.starts_with(prefix.as_str())));
            prop_assert_eq!(names.covers_prefix(&name), covered);
            if covered {
                prop_assert!(all.iter().all(|name| names.contains(name)));
            }
            let meets = patterns.iter().any(|it| text(it).starts_with(&name)) || covered;
            prop_assert_eq!(names.meets_prefix(&name), meets);
            prop_assert_eq!(names.is_empty(), patterns.is_empty());
        }
    }

    #[test]
    fn patterns_of_everything_and_nothing_match_as_named() {
        let all = Names::of(vec![Pattern::Exact("a".to_owned()), Pattern::Prefix(String::new())]);
        assert!(all.is_everything() && all.contains("x") && all.covers_prefix("") && !all.is_empty());
        let none = Names::nothing();
        assert!(none.is_empty() && !none.contains("") && !none.covers_prefix("") && !none.meets_prefix(""));
        assert_eq!((all.patterns(), none.patterns()), (vec!["*".to_owned()], Vec::new()));
    }
}
