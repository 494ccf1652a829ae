//! Changes that do not get through, because a transaction in PostgreSQL keeps a lock that they wait for.

use std::time::Duration;

use super::{
    facts::Facts,
    problem::{Code, Problem, Severity},
    text::short,
};
use crate::model::{Blocker, blocker::Details};

/// A transaction that keeps its locks for longer is not one of many that queue: those commit within milliseconds.
const BLOCKED_AFTER: Duration = Duration::from_secs(2);

pub(super) fn changes(facts: &Facts, found: &mut Vec<Problem>) {
    if facts.is_away() {
        // What blocks now is not known.
        return;
    }
    if let Some(blocker) = facts.blocker.as_ref().filter(|blocker| blocker.open_for >= BLOCKED_AFTER) {
        let summary = format!(
            "Changes do not get through: {} has held a lock that they wait for, in a transaction that is open for {}",
            name(blocker),
            short(blocker.open_for)
        );
        found.push(Problem::new(Code::ChangesBlocked, Severity::Critical, summary, action(blocker)));
    }
}

fn name(blocker: &Blocker) -> String {
    let Blocker { pid, user, application, details, .. } = blocker;
    let application = match application.as_str() {
        "" => "no application name".to_owned(),
        application => format!("application {application}"),
    };
    format!("PostgreSQL session {pid} (user {user}, {application}{})", detail(details.as_ref()))
}

fn detail(details: Option<&Details>) -> String {
    let Some(Details { client, state }) = details else {
        return "; client and state are hidden from the role of the daemon".to_owned();
    };
    let client = client.as_deref().map_or_else(|| "local socket".to_owned(), |client| format!("client {client}"));
    if state.is_empty() { format!(", {client}") } else { format!(", {client}, {state}") }
}

fn action(blocker: &Blocker) -> String {
    let Blocker { pid, details, .. } = blocker;
    let hidden = match details {
        None => " Members of pg_read_all_stats see its client, state and start.",
        Some(_) => "",
    };
    format!(
        "Registrations, status changes and deaths wait until it ends; reads and beats continue. Commit or roll back the \
         transaction, or end the session with SELECT pg_terminate_backend({pid}). Set \
         idle_in_transaction_session_timeout for its role.{hidden}"
    )
}
