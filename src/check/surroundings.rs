//! What else lives in the database: pure judgement of what was read of it.

use std::time::Duration;

use super::finding::Finding;
use crate::{
    migrate::Rights,
    store::surroundings::{SqlCallers, Surroundings, Unreleased},
    terminal::words::age_text,
};

/// Callers of SQL that are silent for longer than this, without a daemon, have probably stopped.
const SILENCE: Duration = Duration::from_secs(60);
/// How many of a kind are named.
const SHOWN: usize = 3;
/// Roles that a managed service gives its customers in place of a superuser.
const STAND_INS: [&str; 4] = ["rds_superuser", "cloudsqlsuperuser", "azure_pg_admin", "alloydbsuperuser"];

/// Judges what was read. `registries` are all schemas that hold one, `schema` is that of this registry; `rights` are those of the
/// role that asks.
pub(crate) fn judge(seen: &Surroundings, registries: &[String], schema: &str, rights: &Rights) -> Vec<Finding> {
    let mut findings = Vec::new();
    if registries.len() > 1 {
        let found = format!("the database holds registries in the schemas {}", registries.join(", "));
        let fix = format!("this one is {schema}; drop the other if it is empty, or give it a database of its own");
        findings.push(Finding::warn("registries", found, fix));
    }
    findings.extend(seen.enums.iter().map(|other| {
        let found = format!(
            "type InstanceStatus also exists in schema {other}: SeedCore's migrations then leave out their own"
        );
        Finding::warn("enum", found, format!("ALTER TYPE {other}.instancestatus RENAME TO instancestatus_old"))
    }));
    let owners = &rights.other_owners;
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
    findings.extend(migrating(rights));
    findings.extend(seen.sql_callers.iter().flat_map(sql_callers));
    findings.extend(seen.hooks.iter().take(SHOWN).map(|(found, fix)| Finding::warn("hooks", found, fix)));
    findings.extend(seen.unreleased.iter().map(unreleased));
    findings.extend(seen.autovacuum.iter().take(SHOWN).map(|found| {
        let fix = "end old and prepared transactions and drop unused replication slots, which keep dead rows; see that \
                   autovacuum is on for the table; VACUUM (VERBOSE) says what holds it back";
        Finding::warn("autovacuum", found, fix)
    }));
    findings.extend(seen.vector.as_ref().and_then(vector));
    findings
}

/// Whether the role that asks could migrate. That a daemon's cannot is as it should be.
fn migrating(rights: &Rights) -> Option<Finding> {
    let owner = rights.owner.as_deref()?;
    if STAND_INS.contains(&owner) {
        let found = format!("the tables belong to {owner}, the service's stand-in for a superuser");
        let fix = "give them a role of their own: deploy/roles.sql, as a member of it";
        return Some(Finding::warn("migrating", found, fix));
    }
    let lacking = rights.lacking.as_deref().map(|lacking| lacking.split_once("; ").unwrap_or((lacking, "")));
    Some(match lacking {
        None => {
            Finding::ok("migrating", format!("role {} may migrate; the owner of the tables is {owner}", rights.role))
        }
        Some((found, fix)) => {
            Finding { fix: format!("to migrate with this role: {fix}"), ..Finding::ok("migrating", found.to_owned()) }
        }
    })
}

/// What callers of SQL do: without a daemon, beats and expiry come from them alone.
fn sql_callers(seen: &SqlCallers) -> Vec<Finding> {
    let Some(silent) = seen.silent.filter(|_| seen.live > 0) else { return Vec::new() };
    let beside = if seen.has_daemon { "beside a daemon" } else { "and no daemon" };
    let expiry = seen.expired.map(|age| format!("; their expiry last ended a lease {} ago", age_text(age)));
    let expiry = expiry.unwrap_or_default();
    let found = format!(
        "SQL callers beat, last {} ago; {} of their instances live, {beside}{expiry}",
        age_text(silent),
        seen.live
    );
    let mut findings = vec![if silent > SILENCE {
        Finding::warn("sql callers", found, "see whether SeedCore still calls beat(), or start a daemon")
    } else {
        Finding::ok("sql callers", found)
    }];
    if seen.overdue > 0 && !seen.has_daemon {
        let found =
            format!("overdue leases: {}; nothing ends them, no daemon runs, and no SQL caller expires", seen.overdue);
        let fix = "call SELECT expire_stale_instances() every 15 s, as SeedCore's manager does, or start a daemon";
        findings.push(Finding::warn("sql expiry", found, fix));
    }
    findings
}

/// Deaths whose hooks are broken, wait, or are slow.
fn unreleased(seen: &Unreleased) -> Finding {
    let found =
        format!("deaths that are not released: {}, the first of them for {}", seen.count, age_text(seen.oldest));
    match &seen.failure {
        Some(failure) => {
            Finding::warn("hooks", format!("{found}: {failure}"), "correct the function of the hook; it is repeated")
        }
        None => Finding::warn(
            "hooks",
            format!("{found}: no hook has run for them"),
            "see whether a hook is disabled or slow (registry_hook, musterd_hook_seconds), and whether a daemon runs",
        ),
    }
}

/// What the suite lacks without pgvector.
fn vector((installed, available): &(Option<String>, Option<String>)) -> Option<Finding> {
    let then = "then run musterd migrate up --suite seedcore";
    match (installed, available) {
        (None, None) => Some(Finding::warn(
            "pgvector",
            "extension vector is not available: files 000 and 002 of the suite seedcore stay pending",
            format!("install pgvector on the server, run CREATE EXTENSION vector as a superuser, {then}"),
        )),
        (None, Some(version)) => Some(Finding::warn(
            "pgvector",
            format!(
                "extension vector {version} is available and not installed: files of the suite seedcore stay pending"
            ),
            format!("run CREATE EXTENSION vector as a superuser, which no other role may, {then}"),
        )),
        (Some(installed), Some(available)) if installed != available => Some(Finding::warn(
            "pgvector",
            format!("extension vector is at {installed}, and {available} is available"),
            "run ALTER EXTENSION vector UPDATE as its owner",
        )),
        (Some(_), _) => None,
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
            enums: vec!["old".into()],
            histories: pair("public.alembic_version", "alembic_version"),
            overloads: pair("beat", "beat(text), beat(uuid)"),
            old_transactions: pair("process 7 (role r) has a transaction open for 90 s", "7"),
            prepared: vec!["x1".into()],
            event_triggers: vec!["audit_ddl".into()],
            sql_callers: Some(SqlCallers {
                live: 3,
                silent: Some(Duration::from_secs(600)),
                overdue: 2,
                has_daemon: false,
                expired: Some(Duration::from_secs(7200)),
            }),
            hooks: pair("hook free: function f(bigint[]) does not exist", "create it"),
            unreleased: Some(Unreleased {
                count: 4,
                oldest: Duration::from_secs(90),
                failure: Some("hook free: x".into()),
            }),
            autovacuum: vec!["autovacuum is off".into()],
            vector: Some((None, None)),
        };
        let rights = Rights {
            role: "app".into(),
            owner: Some("y".into()),
            lacking: Some("app is not the owner of the tables, y; GRANT y TO app".into()),
            other_owners: vec!["belongs to x; ALTER FUNCTION f() OWNER TO y".into()],
        };
        let findings = judge(&seen, &["app".into(), "public".into()], "app", &rights);
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
            "to migrate with this role: GRANT y TO app",
            "SQL callers beat, last 10m ago; 3 of their instances live, and no daemon; their expiry last ended a lease 2h",
            "overdue leases: 2; nothing ends them",
            "hook free: function f(bigint[]) does not exist | create it",
            "deaths that are not released: 4, the first of them for 1m 30s: hook free: x",
            "autovacuum is off | end old",
            "extension vector is not available",
        ]) {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert_eq!(lines.len(), 15);
        let fine: Vec<_> = findings.iter().filter(|one| one.severity == Severity::Ok).map(|one| &*one.check).collect();
        assert_eq!(fine, ["other history", "migrating"], "neither is a fault");
        assert!(judge(&Surroundings::default(), &[], "public", &Rights::default()).is_empty());
    }

    #[test]
    fn facts_that_are_no_fault_are_reported_without_a_warning() {
        let callers = |silent, overdue, has_daemon| SqlCallers {
            live: 1,
            silent: Some(Duration::from_secs(silent)),
            overdue,
            has_daemon,
            expired: None,
        };
        let checks = |seen: &SqlCallers| -> Vec<(String, Severity)> {
            sql_callers(seen).iter().map(|one| (one.check.to_string(), one.severity)).collect()
        };
        let fine = vec![("sql callers".to_owned(), Severity::Ok)];
        assert_eq!(checks(&callers(3, 0, false)), fine);
        assert_eq!(checks(&callers(3, 5, true)), fine, "the daemon expires, under its hold and brake");
        assert_eq!(checks(&callers(3, 5, false))[1], ("sql expiry".to_owned(), Severity::Warning));
        assert_eq!(checks(&callers(61, 0, true)), [("sql callers".to_owned(), Severity::Warning)]);
        assert!(checks(&SqlCallers::default()).is_empty());
        let version = |text: &str| Some(text.to_owned());
        assert!(vector(&(version("0.8.5"), version("0.8.5"))).is_none());
        assert!(vector(&(version("0.8.0"), version("0.8.5"))).unwrap().fix.contains("ALTER EXTENSION vector UPDATE"));
        assert!(vector(&(None, version("0.8.5"))).unwrap().fix.contains("as a superuser"));
        let rights = |owner: &str| Rights { role: "r".into(), owner: Some(owner.into()), ..Rights::default() };
        assert_eq!(migrating(&rights("app")).unwrap().severity, Severity::Ok);
        assert_eq!(migrating(&rights("rds_superuser")).unwrap().severity, Severity::Warning);
        let late = Unreleased { count: 1, oldest: Duration::from_secs(70), failure: None };
        assert!(unreleased(&late).found.ends_with("no hook has run for them"));
    }
}
