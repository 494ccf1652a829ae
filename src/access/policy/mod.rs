//! The policy: rules of *who may do what on which logical ids*.
//!
//! Rules add up, and there are no denials, so a rule means the same wherever it stands, and a reader who has found the rule
//! that allows something need not look for another one that takes it back.

mod file;
mod issuer;
mod pattern;
mod rule;
mod source;

use std::{fmt, net::IpAddr, path::Path};

pub use self::rule::PolicyError;
use self::{pattern::Who, rule::Rule};
use super::grants::Grants;
use crate::{
    jwt::{Issuer, Location},
    model::TextPosition,
    rights::{
        Identity, Names, Verb, addresses,
        names::Pattern,
        quota::{Limits, Raised},
    },
};

/// A policy that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    issuers: Vec<Issuer>,
    /// Certificates that carry the calls of others and have no rights.
    transport: Vec<Who>,
}

impl Policy {
    /// Reads the text of a policy file.
    ///
    /// # Errors
    /// [`PolicyError`]: the first thing in it that is not understood, or that has no effect.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let file::Contents { rules, issuers, transport } = file::read(text)?;
        let policy = Self { rules, issuers, transport };
        if let Some((at, who)) = policy.nameless() {
            let what = format!(
                "no [[issuer]] gives identities such as {who:?}, so the rule has no effect for it; add the issuer, or remove it"
            );
            return Err(PolicyError { at, what });
        }
        match policy.idle_rule() {
            Some((at, by)) => Err(PolicyError {
                at,
                what: format!("the rule at line {} grants all that this one does; remove this one", by.line),
            }),
            None => Ok(policy),
        }
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The issuers of JSON web tokens.
    #[must_use]
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// The same, with the files that it names in its own directory if they are named without one.
    #[must_use]
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.issuers = self.issuers.into_iter().map(|issuer| issuer.in_directory(directory)).collect();
        self
    }

    /// What the policy grants, as a text that is the same for policies that differ in order, layout, comments and the places of
    /// files alone.
    #[must_use]
    pub(super) fn meaning(&self) -> String {
        let mut lines: Vec<String> = self.rules.iter().map(Rule::meaning).collect();
        lines.extend(self.transport.iter().map(|who| format!("transport {}", who.written())));
        lines.extend(self.issuers.iter().map(|it| {
            let Issuer { name, audience, location, identity, max_ttl, .. } = it;
            let keys = match location {
                Location::File(_) => "in a file".to_owned(),
                Location::Url(url) | Location::Discovery(url) => url.to_string(),
            };
            format!("issuer {name:?} {audience:?} {keys} {identity:?} {max_ttl:?}")
        }));
        lines.sort_unstable();
        lines.join("\n")
    }

    /// A pattern for holders of JSON web tokens that no issuer gives, and its rule.
    fn nameless(&self) -> Option<(TextPosition, &str)> {
        let who = self.rules.iter().flat_map(|rule| rule.who.iter().map(|who| (rule.at, who.written())));
        let of_jwt = |who: &str| who.starts_with("k8s/") || who.starts_with("jwt/");
        let mut nameless = who
            .filter(|(_, who)| of_jwt(who) && !self.issuers.iter().any(|it| who.starts_with(&it.identity.beginning())));
        nameless.next()
    }

    /// Whether a rule is for callers without a credential.
    #[must_use]
    pub fn names_anonymous(&self) -> bool {
        let anonymous = Identity::anonymous();
        self.rules.iter().any(|rule| rule.who.iter().any(|who| who.is_for(&anonymous)))
    }

    /// Whether a certificate of this identity only carries the calls of others, such as that of a mesh or a proxy.
    #[must_use]
    pub fn is_transport(&self, identity: &Identity) -> bool {
        self.transport.iter().any(|who| who.bind(identity).is_some())
    }

    /// The rule that allows this, by its place; `None`: no rule does. The name does not count for a verb without names.
    #[must_use]
    pub fn allows(&self, identity: &Identity, verb: Verb, name: &str) -> Option<TextPosition> {
        let is_granted = |rule: &&Rule| {
            let on = Pattern::Exact(name.to_owned());
            rule.may.contains(&verb) && rule.patterns(identity, verb).iter().any(|pattern| pattern.covers(&on))
        };
        self.rules.iter().find(is_granted).map(|rule| rule.at)
    }

    /// All that an identity may.
    pub(super) fn grants(&self, identity: &Identity) -> Grants {
        let of_verb = |verb: Verb| {
            let granting = self.rules.iter().filter(|rule| rule.may.contains(&verb));
            granting.flat_map(|rule| rule.patterns(identity, verb)).collect()
        };
        let grants = Grants::of(Verb::ALL.map(of_verb)).with_limits(self.limits(identity));
        let registering = self.rules.iter().filter(|rule| rule.may.contains(&Verb::Register));
        if registering.clone().all(|rule| rule.addresses.is_empty()) {
            return grants;
        }
        let place = |rule: &Rule| (Names::of(rule.patterns(identity, Verb::Register)), rule.addresses.clone());
        grants.with_places(registering.map(place).collect())
    }

    /// What an identity may use.
    #[must_use]
    pub fn limits(&self, identity: &Identity) -> Limits {
        let raised = self.rules.iter().map(|rule| rule.limits(identity));
        raised.fold(Raised::default(), Raised::or).over(Limits::default())
    }

    /// The quotas: those of an identity for which no rule sets any, and then those of rules, by the lines of these.
    #[must_use]
    pub fn quotas(&self) -> Vec<(Option<usize>, &'static str, u64)> {
        let defaults = Limits::default().units().into_iter().map(|(unit, limit)| (None, unit.key(), limit));
        let of_rule = |rule: &Rule| {
            let line = rule.at.line;
            rule.limits.units().map(move |(unit, limit)| (Some(line), unit.key(), limit))
        };
        defaults.chain(self.rules.iter().flat_map(of_rule)).collect()
    }

    /// The rule that lets an identity register a name at an address, calling from `peer`; `None`: no rule does.
    #[must_use]
    pub fn allows_address(
        &self,
        identity: &Identity,
        name: &str,
        address: IpAddr,
        peer: Option<IpAddr>,
    ) -> Option<TextPosition> {
        let caller_is_local = peer.is_some_and(|peer| peer.is_loopback());
        if addresses::special(address).is_some() && !caller_is_local {
            return None;
        }
        let on = Pattern::Exact(name.to_owned());
        let is_granted = |rule: &&Rule| {
            rule.may.contains(&Verb::Register)
                && rule.patterns(identity, Verb::Register).iter().any(|pattern| pattern.covers(&on))
                && addresses::admit(&rule.addresses, address, peer)
        };
        self.rules.iter().find(is_granted).map(|rule| rule.at)
    }

    /// A rule without an effect of its own, and the rule that has it.
    fn idle_rule(&self) -> Option<(TextPosition, TextPosition)> {
        let rules = self.rules.iter().enumerate();
        rules.clone().find_map(|(at, rule)| {
            // Of two equal rules the later one is idle.
            let takes = |(other_at, other): &(usize, &Rule)| {
                *other_at != at && other.covers(rule) && (*other_at < at || !rule.covers(other))
            };
            rules.clone().find(takes).map(|(_, other)| (rule.at, other.at))
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.rules.len() == 1 { "rule" } else { "rules" };
        write!(f, "{} {plural}", self.rules.len())?;
        match self.issuers.len() {
            0 => Ok(()),
            1 => f.write_str(", 1 issuer"),
            issuers => write!(f, ", {issuers} issuers"),
        }
    }
}

#[cfg(test)]
mod tests;
