//! The rule about daemons of one cluster that decide differently about the same caller.
//!
//! A caller asks any daemon, and another one after a failure: with different policies the answer depends on which one that is, and
//! a daemon without a policy permits to each caller what the others refuse. Each daemon puts digests of what it has in use on
//! the list of daemons.

use super::{
    facts::Facts,
    problem::{Code, Problem, Severity},
};

/// How many different ones the summary names.
const SHOWN: usize = 4;

pub(super) fn differ(facts: &Facts, found: &mut Vec<Problem>) {
    if facts.is_away() {
        // What the others have in use now is not known.
        return;
    }
    // One that does not tell is of an older version, which is a problem of its own.
    let known = facts.daemons.iter().filter_map(|record| Some((record.policy.as_deref()?, record.address.as_str())));
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (policy, address) in known {
        match groups.iter_mut().find(|(other, _)| *other == policy) {
            Some((_, addresses)) => addresses.push(address),
            None => groups.push((policy, vec![address])),
        }
    }
    let Some(((first, _), others)) = groups.split_first().filter(|(_, others)| !others.is_empty()) else { return };
    let is_policy = others.iter().any(|(other, _)| parts(other).0 != parts(first).0);
    let what = if is_policy { "policies" } else { "tokens" };
    let one = |(text, addresses): &(&str, Vec<&str>)| {
        let name = if is_policy { parts(text).0 } else { parts(text).1 };
        let more = match addresses.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        format!("{}{more}: {name}", addresses.first().copied().unwrap_or_default())
    };
    let mut all: Vec<String> = groups.iter().take(SHOWN).map(one).collect();
    if groups.len() > SHOWN {
        all.push("...".to_owned());
    }
    let summary = format!("Daemons that share the database have different {what} in use ({})", all.join(", "));
    let action = "What a caller may do depends on the daemon that it asks. Expected for seconds while files are replaced, and for \
                  minutes while a Secret is distributed. Otherwise give all daemons the same --policy and --tokens.";
    found.push(Problem::new(Code::PoliciesDiffer, Severity::Warning, summary, action).with_command("musterd status"));
}

/// The digest of the policy, and that of the tokens.
fn parts(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("no policy", "no tokens"))
}
