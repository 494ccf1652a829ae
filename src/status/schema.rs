//! The rules about a schema that is not that of the binary.

use super::{
    facts::Facts,
    problem::{Code, Problem, Severity},
};

/// How many objects a problem names.
const SHOWN: usize = 3;

pub(super) fn schema(facts: &Facts, found: &mut Vec<Problem>) {
    let drift = &facts.schema.drift;
    if !drift.is_empty() {
        let shown: Vec<&str> = drift.iter().take(SHOWN).map(String::as_str).collect();
        let more = if drift.len() > SHOWN { ", ..." } else { "" };
        let objects = if drift.len() == 1 { "object of the schema differs" } else { "objects of the schema differ" };
        let summary = format!("{} {objects} from those of this daemon: {}{more}", drift.len(), shown.join(", "));
        let action = "Another program has changed them, in most cases a deployment of SeedCore. The daemon restores them within \
                      seconds, unless it was started with --no-migrate or lacks the right.";
        let problem = Problem::new(Code::SchemaDrift, Severity::Warning, summary, action);
        found.push(problem.with_command("musterd migrate up"));
    }
    if let Some(version) = facts.schema.ahead {
        let summary = format!("A newer musterd has migrated the database to {version:03}");
        let action = "Expected during an upgrade only. This daemon serves, and neither migrates nor repairs: restart it with the \
                      newer version.";
        let problem = Problem::new(Code::SchemaAhead, Severity::Warning, summary, action);
        found.push(problem.with_command("musterd status"));
    }
}
