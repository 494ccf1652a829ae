//! What else lives in the database: pure judgement of what was read of it.

use std::time::Duration;

use super::finding::Finding;
use crate::{store::surroundings::Surroundings, terminal::words::age_text};

/// Callers of SQL that are silent for longer than this, without a daemon, have probably stopped.
const SILENCE: Duration = Duration::from_secs(60);
/// How many of a kind are named.
const SHOWN: usize = 3;

/// Judges what was read. `schema` is the one of the registry; `owners` tells what belongs to another role.
pub(crate) fn judge(seen: &Surroundings, schema: &str, owners: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if seen.registries.len() > 1 {
        let found = format!("the database holds registries in the schemas {}", seen.registries.join(", "));
        let fix = format!("this one is {schema}; drop the other if it is empty, or give it a database of its own");
        findings.push(Finding::warn("registries", found, fix));
    }
    findings.extend(seen.enums.iter().map(|other| {
        let found = format!(
            "type InstanceStatus also exists in schema {other}: SeedCore's migrations then leave out their own"
        );
        Finding::warn("enum", found, format!("ALTER TYPE {other}.instancestatus RENAME TO instancestatus_old"))
    }));
    if let Some(first) = owners.first() {
        let (found, fix) = first.split_once("; ").unwrap_or((first, ""));
        let found = format!(
            "{} objects of the registry do not belong to the owner of its tables; the first {found}",
            owners.len()
        );
        findings.push(Finding::warn("owners", found, fix));
    }
    findings.extend(seen.histories.iter().map(|(place, table)| history(place, table)));
    findings.extend(seen.overloads.iter().map(|(name, signatures)| {
        let found = format!("function {name} exists more than once ({signatures}): calls may be ambiguous");
        Finding::warn("overloads", found, "DROP FUNCTION the one that nothing calls")
    }));
    findings.extend(seen.old_transactions.iter().take(SHOWN).map(|(found, pid)| {
        Finding::warn("transactions", found, format!("end it before a migration: SELECT pg_terminate_backend({pid})"))
    }));
    findings.extend(seen.prepared.iter().take(SHOWN).map(|id| {
        let found = format!("transaction {id} is prepared and holds its locks");
        Finding::warn("transactions", found, format!("COMMIT PREPARED '{id}' or ROLLBACK PREPARED '{id}'"))
    }));
    if !seen.event_triggers.is_empty() {
        let found = format!("event triggers run with each migration: {}", seen.event_triggers.join(", "));
        findings.push(Finding::warn(
            "event triggers",
            found,
            "see that they let the role migrate; a superuser can disable them",
        ));
    }
    findings.extend(seen.sql_callers.and_then(|(count, age)| sql_callers(count, age)));
    findings
}

/// Without a daemon, beats come through SQL alone.
fn sql_callers(count: i64, age: Duration) -> Option<Finding> {
    let found = format!("SQL callers beat, last {} ago; {count} instances live, and no daemon", age_text(age));
    match (count, age > SILENCE) {
        (0, _) => None,
        (_, false) => Some(Finding::ok("sql callers", found)),
        (_, true) => {
            let fix = "see whether SeedCore still calls beat() and expire_stale_instances(), or start a daemon";
            Some(Finding::warn("sql callers", found, fix))
        }
    }
}

/// The history of another tool: its tables are left alone, and it may propose to drop ours.
fn history(place: &str, table: &str) -> Finding {
    let (tool, exclusion) = match table {
        "alembic_version" => (
            "Alembic",
            "exclude the registry in env.py: include_name=lambda name, kind, parents: kind != \"table\" or not \
             name.startswith((\"registry_\", \"muster_\", \"cluster_metadata\"))",
        ),
        "_prisma_migrations" => (
            "Prisma",
            "list registry_*, muster_* and cluster_metadata under tables.external in prisma.config.ts; never run migrate reset here",
        ),
        "atlas_schema_revisions" => ("Atlas", "exclude = [\"registry_*\", \"muster_*\", \"cluster_metadata\"]"),
        "databasechangelog" => (
            "Liquibase",
            "diffExcludeObjects=table:registry_.*,table:muster_.*,table:cluster_metadata; never run drop-all here",
        ),
        "flyway_schema_history" => ("Flyway", "cleanDisabled=true"),
        "_sqlx_migrations" => ("sqlx", ""),
        "refinery_schema_history" => ("refinery", ""),
        "goose_db_version" => ("goose", ""),
        "schema_migrations" => ("dbmate, golang-migrate or Rails", "leave the registry out of a dumped schema file"),
        _ if place.starts_with("pgroll.") => ("pgroll", ""),
        _ => ("another tool", ""),
    };
    let found = format!("{place} is the history of {tool}; musterd neither reads nor writes it");
    Finding { fix: exclusion.to_owned(), ..Finding::ok("other history", found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Severity;

    #[test]
    fn each_fact_is_a_finding_with_its_fix() {
        let pair = |one: &str, two: &str| vec![(one.to_owned(), two.to_owned())];
        let seen = Surroundings {
            registries: vec!["app".into(), "public".into()],
            enums: vec!["old".into()],
            histories: pair("public.alembic_version", "alembic_version"),
            overloads: pair("beat", "beat(text), beat(uuid)"),
            old_transactions: pair("process 7 (role r) has a transaction open for 90 s", "7"),
            prepared: vec!["x1".into()],
            event_triggers: vec!["audit_ddl".into()],
            sql_callers: Some((3, Duration::from_secs(600))),
        };
        let findings = judge(&seen, "app", &["belongs to x; ALTER FUNCTION f() OWNER TO y".to_owned()]);
        let lines: Vec<String> = findings.iter().map(|one| format!("{} | {}", one.found, one.fix)).collect();
        for (line, part) in lines.iter().zip([
            "this one is app",
            "ALTER TYPE old.instancestatus",
            "ALTER FUNCTION f() OWNER TO y",
            "include_name=",
            "beat(text)",
            "pg_terminate_backend(7)",
            "ROLLBACK PREPARED 'x1'",
            "audit_ddl",
            "last 10m",
        ]) {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert_eq!(lines.len(), 9);
        assert_eq!(findings.iter().filter(|one| one.severity == Severity::Ok).count(), 1, "a history is no fault");
        assert!(judge(&Surroundings::default(), "public", &[]).is_empty());
    }
}
