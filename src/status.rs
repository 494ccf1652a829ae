//! The one judgement of health: [`judge`] turns [`Facts`] into a [`Status`].
//!
//! `GetCluster` returns the result. The status page, `/api/v1`, `/readyz`, `musterd status` and `musterd check` render it
//! and decide nothing, so that they never disagree. The judgement is a pure function of values: it performs no I/O, and
//! each rule is tested by a table without an outage.
//!
//! # To add a problem
//!
//! 1. Add a variant to [`Code`] and to [`Code::ALL`] in `problem.rs`, with its word in [`Code::as_str`] and its short form in
//!    [`Code::brief`]. The word is stable: programs compare it.
//! 2. Add what the rule needs to know to [`Facts`], and its harmless value to `Facts::default()`.
//! 3. Write the rule in `rules.rs` (or a file beside it), and call it in `judge.rs`. A problem that follows from another
//!    one names it with [`Problem::caused_by`]; it is then listed behind its cause.
//! 4. Set the fact where the daemon gathers them (`src/daemon/facts.rs`).
//! 5. Add a row to the table in `tests.rs`, and the code to the list in `docs/http-api.md` and to the comment of
//!    `Problem.code` in `proto/muster/v1/cluster.proto`. A test compares both with [`Code::ALL`].
//!
//! Every surface shows the new problem without a change of its own.

mod blocked;
mod budget;
mod conditions;
mod facts;
mod judge;
mod policies;
mod ports;
mod problem;
mod protection;
mod redaction;
mod release;
mod rules;
mod schema;
#[cfg(test)]
mod tests;
mod text;

pub use conditions::{ConditionState, State};
pub use facts::{
    AWAY_AFTER, BehindDatabase, Certificate, Condition, EVICTED_AFTER, Expiry, Facts, FailingReaper, Gather, Names,
    Release, SILENT_AFTER, Schema,
};
pub use judge::{Status, judge};
pub use ports::{Openness, Port, Ports};
pub use problem::{Code, Problem, Severity};
pub use rules::daemon_state;
