//! The judgement: all rules, and the order in which their problems are told.

use std::cmp::Reverse;

use super::{
    blocked, budget,
    conditions::{self, ConditionState},
    facts::{Expiry, Facts},
    policies,
    problem::{Code, Problem, Severity},
    protection, release, rules, schema,
};

/// How this daemon and its cluster are doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// That of the most severe problem.
    pub severity: Severity,
    /// Whether callers should use this daemon.
    pub ready: bool,
    /// Whether leases expire.
    pub expiry: Expiry,
    /// What `/readyz` lists, as it is now.
    pub conditions: Vec<ConditionState>,
    /// The most severe first, each followed by its consequences.
    pub problems: Vec<Problem>,
}

/// Judges what is known.
#[must_use]
pub fn judge(facts: &Facts) -> Status {
    let mut found = Vec::new();
    rules::database(facts, &mut found);
    blocked::changes(facts, &mut found);
    rules::daemon(facts, &mut found);
    release::deaths(facts, &mut found);
    rules::expiry(facts, &mut found);
    schema::schema(facts, &mut found);
    rules::daemons(facts, &mut found);
    policies::differ(facts, &mut found);
    protection::protection(facts, &mut found);
    budget::records(facts, &mut found);
    rules::names(facts, &mut found);
    let problems = in_order(found);
    Status {
        severity: problems.iter().map(|problem| problem.severity).max().unwrap_or_default(),
        ready: facts.conditions.iter().all(|condition| condition.ok),
        expiry: facts.expiry(),
        conditions: conditions::present(facts),
        problems,
    }
}

/// The most severe first, each followed by what it causes. Among equals the order of the rules stays.
fn in_order(found: Vec<Problem>) -> Vec<Problem> {
    let known = |code: Option<Code>| code.is_some_and(|code| found.iter().any(|problem| problem.code == code));
    let (consequences, mut causes): (Vec<_>, Vec<_>) = found.iter().partition(|problem| known(problem.cause));
    causes.sort_by_key(|problem| Reverse(problem.severity));
    let mut ordered: Vec<Problem> = Vec::with_capacity(found.len());
    for problem in causes {
        let first = !ordered.iter().any(|other| other.code == problem.code);
        ordered.push(Problem { cause: None, ..problem.clone() });
        if first {
            ordered.extend(consequences.iter().filter(|other| other.cause == Some(problem.code)).copied().cloned());
        }
    }
    ordered
}
