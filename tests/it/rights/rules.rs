//! The rules of a test, as a policy and as a second opinion on what the policy allows: naive, and without any of the daemon's
//! code.

/// All verbs that concern logical ids.
pub(super) const ALL: [&str; 6] = ["register", "beat", "resolve", "read", "operate", "cluster"];

/// A rule for the token of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// The name of the token.
    pub(super) who: &'static str,
    /// Verbs.
    pub(super) may: &'static [&'static str],
    /// Logical ids, or prefixes with a final `*`.
    pub(super) on: &'static [&'static str],
}

impl Rule {
    /// As it stands in the policy.
    pub(super) fn text(&self) -> String {
        format!("[[rule]]\nwho = [\"token/{}\"]\nmay = {:?}\non = {:?}\n", self.who, self.may, self.on)
    }

    fn is_for(&self, who: &str, verb: &str) -> bool {
        self.who == who && self.may.contains(&verb)
    }
}

/// Whether a pattern fits a logical id.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

/// What callers may do under these rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judge<'a>(pub(super) &'a [Rule]);

impl Judge<'_> {
    fn patterns(self, who: &str, verb: &str) -> impl Iterator<Item = &'static str> {
        let of_rules =
            self.0.iter().filter(move |rule| rule.is_for(who, verb)).flat_map(|rule| rule.on.iter().copied());
        let of_master = (who == super::MASTER).then_some("*");
        of_rules.chain(of_master).collect::<Vec<_>>().into_iter()
    }

    /// Whether a caller may do this on a logical id.
    pub(super) fn may(self, who: &str, verb: &str, name: &str) -> bool {
        self.patterns(who, verb).any(|pattern| fits(pattern, name))
    }

    /// Whether it may do this on some logical id.
    pub(super) fn may_somewhere(self, who: &str, verb: &str) -> bool {
        self.patterns(who, verb).next().is_some()
    }

    /// Whether it may do this on every logical id.
    pub(super) fn may_everywhere(self, who: &str, verb: &str) -> bool {
        self.patterns(who, verb).any(|pattern| pattern == "*")
    }

    /// Whether a logical id that begins so may be among those it may read.
    pub(super) fn may_read_some_of(self, who: &str, prefix: &str) -> bool {
        self.patterns(who, "read").any(|pattern| {
            let text = pattern.trim_end_matches('*');
            text.starts_with(prefix) || pattern.ends_with('*') && prefix.starts_with(text)
        })
    }

    /// Whether it may read all logical ids that begin so.
    pub(super) fn may_read_all_of(self, who: &str, prefix: &str) -> bool {
        self.patterns(who, "read")
            .any(|pattern| pattern.ends_with('*') && prefix.starts_with(pattern.trim_end_matches('*')))
    }
}
