//! The rule about deaths whose hooks have not freed what they held.

use std::time::Duration;

use super::{
    facts::{Facts, Release},
    problem::{Code, Problem, Severity},
    text::short,
};

/// A hook that fails for less waited for a lock, or its database was restarted.
const FAILING_AFTER: Duration = Duration::from_secs(5);
/// Without a failure, hooks have run long before.
const LATE_AFTER: Duration = Duration::from_secs(60);

pub(super) fn deaths(facts: &Facts, found: &mut Vec<Problem>) {
    let Release { unreleased, oldest, failure, waiting } = &facts.release;
    let (why, action) = match (failure, waiting.as_slice()) {
        _ if *unreleased == 0 => return,
        (Some(failure), _) if *oldest > FAILING_AFTER => (
            failure.clone(),
            "Correct the function; the daemon repeats it. SELECT muster_hook_set(...) makes all of these deaths due at once.",
        ),
        (None, [_, ..]) if *oldest > FAILING_AFTER => (
            format!("hook {} waits for an operator", waiting.join(", ")),
            "In a restored copy, check that the hook may run here. SELECT muster_hook_set(...) starts it, muster_hook_remove(...) \
             gives it up.",
        ),
        _ if *oldest > LATE_AFTER => {
            ("no hook has run for them".to_owned(), "Check the log of the daemons, and the load of PostgreSQL.")
        }
        _ => return,
    };
    let (deaths, are) = if *unreleased == 1 { ("death", "is") } else { ("deaths", "are") };
    let summary = format!("{unreleased} {deaths} {are} not released, the first of them for {}: {why}", short(*oldest));
    let cause = facts.is_away().then_some(Code::DatabaseAway);
    found.push(Problem::new(Code::DeathsUnreleased, Severity::Warning, summary, action).caused_by(cause));
}
