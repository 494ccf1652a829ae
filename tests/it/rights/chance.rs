//! Policies by chance, of every part that rules can have, and a naive reading of them.

use std::collections::BTreeSet;

use musterd::access::Policy;

use super::{
    MASTER,
    rules::{ALL, Rule, fits},
};
use crate::faults::dice::Dice;

pub(super) const CALLERS: [&str; 2] = ["ann", "bob-2"];
pub(super) const NAMES: [&str; 10] = ["a", "ab", "ann", "ann_1", "ann_2", "bob-2", "bob-2_1", "svc", "svc-b", "svc-b9"];
const PREFIXES: [&str; 7] = ["a*", "an*", "ann_*", "b*", "svc*", "svc-*", "svc-b*"];
/// Shows which policy is in use: it may resolve the name of the policy alone.
pub(super) const MARKER: &str = "marker";
/// The limits of rules for all do not stop the test.
const OF_MASTER: &str = r#"
[[rule]]
who = ["token/master"]
may = ["read"]
on = ["*"]
limits = { records = 1000000, registrations = "10000/s" }
"#;
/// A rule.
#[derive(Clone, Debug)]
pub(super) struct Made {
    who: Vec<&'static str>,
    may: Vec<&'static str>,
    on: Vec<&'static str>,
    more: &'static str,
}

fn some(dice: &mut Dice, of: &[&'static str], most: usize) -> Vec<&'static str> {
    let chosen: BTreeSet<_> = (0..=dice.below(most)).map(|_| of[dice.below(of.len())]).collect();
    chosen.into_iter().collect()
}

impl Made {
    fn new(dice: &mut Dice) -> Self {
        let who = match dice.below(6) {
            0 => vec!["token/{x}"],
            1 => vec!["anonymous"],
            2 => vec!["token/ann", "token/bob-2"],
            of_one => vec![["token/ann", "token/bob-2"][of_one % 2]],
        };
        let may = some(dice, &ALL[..5], 3);
        let mut on = [some(dice, &NAMES, 2), some(dice, &PREFIXES, 1)][dice.below(2)].clone();
        if who == ["token/{x}"] {
            on.push(["{x}", "{x}_*"][dice.below(2)]);
        }
        let more = match dice.below(4) {
            0 if may.contains(&"register") => "addresses = [\"peer\", \"10.0.0.0/8\"]\n",
            1 if may.contains(&"register") => "addresses = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n",
            2 => "limits = { records = 30, registrations = \"5/s\" }\n",
            _ => "",
        };
        Self { who, may, on, more }
    }

    fn text(&self) -> String {
        format!("[[rule]]\nwho = {:?}\nmay = {:?}\non = {:?}\n{}", self.who, self.may, self.on, self.more)
    }

    /// Whether it lets a caller do this on a name, read in the plainest way.
    pub(super) fn allows(&self, caller: &str, verb: Option<&str>, name: &str) -> bool {
        let is_for = |who: &&str| matches!(*who, "token/{x}" | "anonymous") || **who == format!("token/{caller}");
        verb.is_none_or(|verb| self.may.contains(&verb))
            && self.who.iter().any(is_for)
            && self.on.iter().any(|on| fits(&on.replace("{x}", caller), name))
    }
}

/// Rules that a daemon takes.
pub(super) fn policy(dice: &mut Dice, number: usize) -> (Vec<Made>, String) {
    let marker =
        format!("[[rule]]\nwho = [\"token/{MARKER}\"]\nmay = [\"resolve\"]\non = [\"policy-{number}\"]\n{OF_MASTER}");
    loop {
        let rules: Vec<_> = (0..=dice.below(5)).map(|_| Made::new(dice)).collect();
        let text: String = rules.iter().map(Made::text).collect::<String>() + &marker;
        let master = Rule { who: MASTER, may: &ALL, on: &["*"] };
        // Rules without an effect of their own are refused.
        if Policy::parse(&format!("{text}{}", master.text())).is_ok() {
            return (rules, text);
        }
    }
}

pub(super) fn hidden(rules: &[Made], caller: &str) -> Vec<&'static str> {
    NAMES.into_iter().filter(|name| !rules.iter().any(|rule| rule.allows(caller, None, name))).collect()
}
