//! The rule about the budget of records, so that an operator can act before the first registration is refused.

use super::{
    facts::Facts,
    problem::{Code, Problem, Severity},
};

/// Above this percentage of a limit the registry is filling up. The alert `MusterdRegistryFilling` has the same threshold.
const FILLING_PERCENT: u128 = 80;

pub(super) fn records(facts: &Facts, found: &mut Vec<Problem>) {
    let (fullest, full) = (facts.budget.fullest(facts.usage), facts.budget.full(facts.usage));
    let (unit, used, limit) = full.unwrap_or(fullest);
    let noun = unit.noun();
    let (severity, summary, consequence) = if full.is_some() {
        let summary = format!("The registry is full: it uses {used} of {limit} {noun}");
        (Severity::Critical, summary, "New instances are refused with REGISTRY_FULL.")
    } else if u128::from(used) * 100 > u128::from(limit) * FILLING_PERCENT {
        let summary = format!("The registry is filling up: it uses {used} of {limit} {noun}");
        (Severity::Warning, summary, "When it is full, new instances are refused with REGISTRY_FULL.")
    } else {
        return;
    };
    let action = format!(
        "{consequence} Known instances continue to work. Dead records count until they are purged: restart the daemons \
         with a shorter --keep-dead, or with a higher {} if they have the memory.",
        unit.setting()
    );
    let problem = Problem::new(Code::RegistryFilling, severity, summary, action);
    found.push(problem.with_command("musterd list --all-statuses"));
}
