//! What each fault cost, one row of a table for each: `tests/environments.sh` gathers the rows of all runs.
//!
//! Writes are back when a daemon acknowledges a change again: counted from the first commit of the new leader where one has to
//! be elected, and from the end of the fault elsewhere.

use super::{
    checker::{Evidence, Rule, Verdict},
    history::{Disruption, Micros, SECOND},
};

/// The cost of one fault.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    pub(crate) fault: String,
    pub(crate) from: Micros,
    /// From the beginning until a node took changes, if another one had to.
    pub(crate) elected: Option<Micros>,
    /// Until each daemon acknowledged a change; `None`: it did not.
    pub(crate) back: Vec<Option<Micros>>,
    /// The longest time without an acknowledged change, for each daemon.
    pub(crate) pauses: Vec<Micros>,
}

impl Cost {
    /// Of a fault without an election, for all daemons together.
    pub(crate) fn of(disruption: &Disruption) -> Self {
        let Disruption { fault, from, recovery, .. } = disruption;
        let (fault, back) = (fault.clone(), vec![Some(*recovery)]);
        Self { fault, from: *from, elected: None, back, pauses: Vec::new() }
    }
}

const HEAD: [&str; 9] = [
    "environment",
    "fault",
    "election",
    "writes back, each daemon",
    "longest pause",
    "expiry on hold",
    "false deaths",
    "lost writes",
    "lease ids backwards",
];

/// Prints one row for each fault. What was broken, and why expiry was on hold, counts for the fault that came before it.
#[expect(clippy::print_stdout, reason = "figures are what it is for")]
pub(crate) fn print(environment: &str, costs: &[Cost], verdict: &Verdict, evidence: &Evidence) {
    println!();
    for row in [HEAD.map(str::to_owned)].into_iter().chain(rows(environment, costs, verdict, evidence)) {
        println!("| {} |", row.join(" | "));
    }
}

fn rows(environment: &str, costs: &[Cost], verdict: &Verdict, evidence: &Evidence) -> Vec<[String; 9]> {
    let row = |(number, cost): (usize, &Cost)| {
        let until = costs.get(number + 1).map_or(Micros::MAX, |next| next.from);
        let from = if number == 0 { 0 } else { cost.from };
        let broken = |rules: &[Rule]| {
            let of = |rule: &Rule, at: Option<Micros>| {
                rules.contains(rule) && at.is_none_or(|at| (from..until).contains(&at))
            };
            verdict.violations.iter().filter(|violation| of(&violation.rule, violation.at)).count().to_string()
        };
        let within = evidence.protections.iter().filter(|(at, ..)| (cost.from..until).contains(at));
        let mut holds: Vec<&str> = within.map(|(_, _, why)| why.as_str()).collect();
        holds.dedup();
        [
            environment.to_owned(),
            cost.fault.clone(),
            cost.elected.map_or("-".to_owned(), shown),
            joined(cost.back.iter().copied()),
            joined(cost.pauses.iter().copied().map(Some)),
            if holds.is_empty() { "-".to_owned() } else { holds.join(", then ") },
            broken(&[Rule::FalseDeath, Rule::LostToOutage]),
            broken(&[Rule::Lost]),
            broken(&[Rule::Order, Rule::Doubled]),
        ]
    };
    costs.iter().enumerate().map(row).collect()
}

fn joined(times: impl Iterator<Item = Option<Micros>>) -> String {
    let times: Vec<_> = times.map(|time| time.map_or("never".to_owned(), shown)).collect();
    if times.is_empty() { "-".to_owned() } else { times.join(", ") }
}

fn shown(micros: Micros) -> String {
    format!("{}.{:02} s", micros / SECOND, micros % SECOND / 10_000)
}

#[test]
fn violations_count_for_the_fault_before_them() {
    let cost = |fault: &str, from, elected, back| Cost {
        fault: fault.to_owned(),
        from: from * SECOND,
        elected,
        back,
        pauses: vec![SECOND],
    };
    let costs = [cost("first", 10, Some(SECOND / 2), vec![Some(250_000), None]), cost("second", 60, None, vec![])];
    let mut verdict = Verdict::default();
    verdict.broken_at(20 * SECOND, Rule::FalseDeath, String::new());
    verdict.broken_at(70 * SECOND, Rule::Lost, String::new());
    verdict.broken(Rule::Order, String::new());
    let hold = |at, why: &str| (at * SECOND, (at + 5) * SECOND, why.to_owned());
    let protections = vec![hold(2, "before"), hold(11, "away"), hold(12, "away"), hold(13, "failed over")];
    let found = rows("here", &costs, &verdict, &Evidence { protections, ..Evidence::default() });
    assert_eq!(
        found,
        [
            ["here", "first", "0.50 s", "0.25 s, never", "1.00 s", "away, then failed over", "1", "0", "1"],
            ["here", "second", "-", "-", "1.00 s", "-", "0", "1", "1"],
        ]
        .map(|row| row.map(str::to_owned))
    );
}
