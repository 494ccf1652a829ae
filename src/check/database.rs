//! What the database says of itself: pure judgement of what was read from it.

use std::time::Duration;

use chrono::TimeDelta;

use super::{finding::Finding, settings};
use crate::{
    migrate::ROW_SECURITY,
    postgres::{
        connect::{ConnectError, OLDEST_SERVER},
        pool::CONNECTIONS,
    },
    store::examine::{ExamineError, Examined},
    terminal::words::{age_text, millis},
};

/// Connections of one daemon with one registry.
pub(crate) const PER_DAEMON: u64 = CONNECTIONS as u64;
/// A trivial question that takes longer makes every change slow.
const SLOW_ANSWER: Duration = Duration::from_millis(100);
/// Clocks that differ by more mislead people.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// What the failure to look says, where a daemon may hold `needed` connections.
pub(crate) fn unreachable(error: &ExamineError, needed: u64) -> Finding {
    let text = error.to_string();
    // Most of these errors name their fix themselves, after the last semicolon.
    let (found, fix) = match text.rsplit_once("; ") {
        Some((found, fix)) => (found.to_owned(), fix.to_owned()),
        None => (text, "check --database-url, and that PostgreSQL is well: its log says more".to_owned()),
    };
    if matches!(error, ExamineError::Connect(ConnectError::Unreachable { reason, .. }) if is_exhausted(reason)) {
        let fix = format!("end connections that are not needed, or raise max_connections; a daemon needs {needed}");
        return Finding::fail("connections", found, fix);
    }
    Finding::fail("connect", found, fix)
}

/// Whether the server has no connection left, by its words in any version.
fn is_exhausted(reason: &str) -> bool {
    reason.contains("too many") || reason.contains("remaining connection slots")
}

/// A finding about one of several registries.
pub(crate) fn of_registry(finding: Finding, name: &str) -> Finding {
    Finding { found: format!("registry {name}: {}", finding.found), ..finding }
}

/// Judges the server alone, where the schema that the registry was told to be in does not exist.
pub(crate) fn without_schema(seen: &Examined, needed: u64, schema: &str) -> Vec<Finding> {
    let fix = "start its daemon or run musterd migrate up --all with its configuration: both make the schema";
    let mut findings = server(seen, needed);
    findings.push(Finding::warn("schema", format!("there is no schema {schema} yet"), fix));
    findings
}

fn server(seen: &Examined, needed: u64) -> Vec<Finding> {
    vec![connect(seen), durability(seen), connections(seen, needed)]
}

/// Judges what was read; `history` is what the daemon says it holds, and `needed` the connections that a daemon may hold to this
/// server.
pub(crate) fn judge(seen: &Examined, history: Option<&str>, needed: u64) -> Vec<Finding> {
    let mut findings = server(seen, needed);
    findings.extend(same(seen, history));
    findings.extend(clock(seen));
    findings.extend(written(seen));
    findings.extend(notifications(seen));
    // That a policy would hide rows is told with the schema, table by table.
    let denied = seen.denied.iter().filter(|denied| !denied.contains("row-level security"));
    findings.extend(denied.map(|denied| {
        let fix = format!("give {} the rights of musterd_daemon (deploy/roles.sql)", seen.role);
        Finding::fail("rights", denied.clone(), fix)
    }));
    findings.extend(settings::judge(seen));
    findings
}

fn connect(seen: &Examined) -> Finding {
    let found = format!("PostgreSQL {}, answers in {}", seen.version, millis(seen.latency));
    if seen.is_standby {
        let fix = "give the address of the primary; with several hosts, add target_session_attrs=read-write";
        return Finding::fail("connect", format!("{found}, but it is a standby and takes no changes"), fix);
    }
    if seen.latency > SLOW_ANSWER {
        return Finding::warn("connect", found, "run daemons near their PostgreSQL, and look at its load");
    }
    Finding::ok("connect", format!("{found}; {OLDEST_SERVER} or later is needed"))
}

fn durability(seen: &Examined) -> Finding {
    if !seen.fsync {
        let found = "fsync is off: a crash of its machine may lose the registry";
        return Finding::fail("durability", found, "set fsync = on, and start PostgreSQL again");
    }
    if seen.synchronous_commit == "off" {
        let found = "synchronous_commit is off: a registration that was confirmed may be lost in a crash";
        return Finding::fail("durability", found, "set synchronous_commit = on, for this user and database at least");
    }
    if !seen.full_page_writes {
        let found = "full_page_writes is off: a crash may leave torn pages";
        return Finding::warn("durability", found, "set full_page_writes = on, unless the file system rules them out");
    }
    Finding::ok("durability", format!("fsync on, synchronous_commit {}", seen.synchronous_commit))
}

fn connections(seen: &Examined, needed: u64) -> Finding {
    let free = seen.connections_max.saturating_sub(seen.connections);
    let found = format!("{} of {} in use", seen.connections, seen.connections_max);
    let fix = format!("raise max_connections, or end connections that are not needed; a daemon needs {needed}");
    match free {
        0 => Finding::fail("connections", found, fix),
        _ if seen.connections_max < needed => {
            Finding::warn("connections", format!("{found}, the server is too small for one daemon"), fix)
        }
        free if free < needed => Finding::warn("connections", format!("{found}, not enough for one daemon more"), fix),
        _ => Finding::ok("connections", found),
    }
}

/// Whether the daemon that answers works on this database.
fn same(seen: &Examined, history: Option<&str>) -> Option<Finding> {
    let (ours, theirs) = (seen.history_id?.to_string(), history?);
    if ours == theirs {
        return Some(Finding::ok("same", "the daemon works on this database"));
    }
    let found = format!("the daemon holds another history ({theirs}) than this database ({ours})");
    Some(Finding::fail("same", found, "give both the same --database-url; after a restore, wait until it has noticed"))
}

fn clock(seen: &Examined) -> Option<Finding> {
    let ahead = seen.clock_ahead?;
    let off = ahead.abs().to_std().unwrap_or_default();
    if off <= CLOCK_TOLERANCE + seen.latency {
        return Some(Finding::ok("db clock", format!("agrees with this machine to {}", millis(off))));
    }
    let direction = if ahead > TimeDelta::zero() { "ahead of" } else { "behind" };
    let found = format!("the database clock is {} {direction} that of this machine", age_text(off));
    Some(Finding::warn("db clock", found, "set both by NTP; see also schema, if the function muster_now was changed"))
}

/// Whether a change can be written: an answer to a question alone does not prove that.
fn written(seen: &Examined) -> Option<Finding> {
    Some(match seen.written.as_ref()? {
        Ok(took) => Finding::ok("write", format!("a change was written and rolled back in {}", millis(*took))),
        Err(found) => {
            let fix = "end the session that musterd status names under changes_blocked; otherwise see the log of PostgreSQL and \
                       the space on its disk";
            Finding::fail("write", found.clone(), fix)
        }
    })
}

fn notifications(seen: &Examined) -> Option<Finding> {
    if seen.notifies? {
        return Some(Finding::ok("notify", "notifications arrive"));
    }
    let found = "notifications do not arrive: changes show on other daemons up to a second later";
    Some(Finding::warn("notify", found, "connect to PostgreSQL itself, or through a pooler in session mode"))
}

/// What differs from the schema that the migrations make, and which tables may hide rows.
pub(crate) fn schema(differences: &[String]) -> Vec<Finding> {
    let (filtered, differences): (Vec<String>, Vec<String>) =
        differences.iter().cloned().partition(|line| line.starts_with(ROW_SECURITY));
    let filtered = filtered.iter().map(|line| {
        let (found, fix) = line.split_once("; ").unwrap_or((line, "disable it"));
        Finding::fail("row security", found, fix)
    });
    std::iter::once(definitions(&differences)).chain(filtered).collect()
}

fn definitions(differences: &[String]) -> Finding {
    const SHOWN: usize = 3;
    let Some(first) = differences.first() else { return Finding::ok("schema", "as the migrations make it") };
    let more = match differences.len() {
        0..=SHOWN => String::new(),
        count => format!("; and {} more", count - SHOWN),
    };
    let found = format!("{}{more}", differences[..differences.len().min(SHOWN)].join("; "));
    let fix = if first.starts_with("migration ") && first.ends_with("is pending") {
        "apply it: musterd migrate up"
    } else if first.starts_with("migration ") {
        "use the musterd that has migrated this database, or a later one"
    } else {
        "put functions and views back with musterd migrate up; musterd migrate verify shows all that differs"
    };
    Finding::fail("schema", found, fix)
}

#[cfg(test)]
pub(super) mod tests {
    use crate::status::Severity;

    use super::{super::finding::worst, *};

    pub(in super::super) fn well() -> Examined {
        Examined {
            version: "15.3".into(),
            is_standby: false,
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".into(),
            connections_max: 97,
            connections: 12,
            latency: Duration::from_millis(1),
            clock_ahead: Some(TimeDelta::zero()),
            history_id: Some(uuid::Uuid::nil()),
            notifies: Some(true),
            written: Some(Ok(Duration::from_millis(2))),
            role: "musterd".into(),
            database: "registry".into(),
            schema: "public".into(),
            inherited: Vec::new(),
            denied: Vec::new(),
        }
    }

    fn judged(seen: &Examined) -> Vec<Finding> {
        judge(seen, Some(&uuid::Uuid::nil().to_string()), PER_DAEMON)
    }

    #[test]
    fn healthy_database_gives_no_cause() {
        assert_eq!(worst(&judged(&well())), Severity::Ok, "{:?}", judged(&well()));
        let empty = Examined { clock_ahead: None, history_id: None, notifies: None, written: None, ..well() };
        assert_eq!(judged(&empty).len(), 4, "what cannot be known is not judged");
    }

    #[test]
    fn each_problem_is_found_alone() {
        for (seen, level, check) in [
            (Examined { is_standby: true, ..well() }, Severity::Critical, "connect"),
            (Examined { latency: Duration::from_millis(200), ..well() }, Severity::Warning, "connect"),
            (Examined { fsync: false, ..well() }, Severity::Critical, "durability"),
            (Examined { synchronous_commit: "off".into(), ..well() }, Severity::Critical, "durability"),
            (Examined { full_page_writes: false, ..well() }, Severity::Warning, "durability"),
            (Examined { connections: 97, ..well() }, Severity::Critical, "connections"),
            (Examined { connections: 90, ..well() }, Severity::Warning, "connections"),
            (Examined { history_id: Some(uuid::Uuid::max()), ..well() }, Severity::Critical, "same"),
            (Examined { clock_ahead: Some(TimeDelta::hours(1)), ..well() }, Severity::Warning, "db clock"),
            (Examined { notifies: Some(false), ..well() }, Severity::Warning, "notify"),
            (Examined { written: Some(Err("locked".into())), ..well() }, Severity::Critical, "write"),
            (Examined { denied: vec!["permission denied for table t".into()], ..well() }, Severity::Critical, "rights"),
        ] {
            let trouble: Vec<_> =
                judged(&seen).into_iter().filter(|finding| finding.severity != Severity::Ok).collect();
            assert_eq!(trouble.len(), 1, "{check}: {trouble:?}");
            assert!(
                trouble[0].severity == level && trouble[0].check == check && !trouble[0].fix.is_empty(),
                "{trouble:?}"
            );
        }
    }

    #[test]
    fn problem_of_the_schema_has_its_fix() {
        assert_eq!(worst(&schema(&[])), Severity::Ok);
        for (difference, fix) in [
            ("migration 18 (protection) is pending", "migrate up"),
            ("migration 99 (x) is unknown to this binary", "later one"),
            ("function beat(uuid) differs from the expected definition", "migrate verify"),
        ] {
            let finding = definitions(&[difference.to_owned()]);
            assert!(finding.severity == Severity::Critical && finding.fix.contains(fix), "{finding:?}");
        }
        let filtered = schema(&[format!("{ROW_SECURITY} registry_instance; ALTER TABLE registry_instance ...")]);
        assert_eq!(filtered.len(), 2);
        assert!(filtered[1].severity == Severity::Critical && filtered[1].fix == "ALTER TABLE registry_instance ...");
        let many: Vec<String> = (0..9).map(|number| format!("index i{number} is missing")).collect();
        assert!(definitions(&many).found.ends_with("; and 6 more"));
    }
}
