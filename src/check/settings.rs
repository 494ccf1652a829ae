//! Settings of roles and of the database that get in the way of SQL callers: pure judgement.
//!
//! The daemon sets what it depends on in its own sessions. SQL callers of `register_instance` and the other functions do
//! not, and inherit what the server, the database and their role give them.

use std::time::Duration;

use super::finding::Finding;
use crate::{
    status::Severity,
    store::examine::{Examined, Inherited},
};

/// A timeout below this ends calls of a busy registry.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);
/// A lock timeout below this ends calls that wait for their turn.
const SHORT_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// One finding for each setting that is in the way, or one that all is well.
pub(super) fn judge(seen: &Examined) -> Vec<Finding> {
    let found: Vec<Finding> = seen.inherited.iter().filter_map(|setting| one(seen, setting)).collect();
    if found.is_empty() {
        return vec![Finding::ok("settings", "no setting of role or database is in the way of SQL callers")];
    }
    found
}

fn one(seen: &Examined, setting: &Inherited) -> Option<Finding> {
    let (severity, effect, value) = effect(seen, setting)?;
    let Inherited { role, name, value: is } = setting;
    let found = format!("sessions of {role} inherit {name} = {is}: {effect}");
    let fix = format!("ALTER ROLE {} IN DATABASE {} SET {name} = {value}", quoted(role), quoted(&seen.database));
    Some(match severity {
        Severity::Critical => Finding::fail("settings", found, fix),
        Severity::Ok | Severity::Warning => Finding::warn("settings", found, fix),
    })
}

/// What the setting does to a caller, how bad that is, and the value that repairs it.
fn effect(seen: &Examined, setting: &Inherited) -> Option<(Severity, &'static str, String)> {
    let value = setting.value.as_str();
    let is_short = |limit| duration(value).is_some_and(|time| !time.is_zero() && time < limit);
    let timeout = |severity| Some((severity, "it ends calls of a busy registry", "'10s'".to_owned()));
    match setting.name.as_str() {
        "default_transaction_read_only" if is_on(value) => {
            Some((Severity::Critical, "SQL callers cannot register or beat", "off".to_owned()))
        }
        "default_transaction_isolation" if matches!(value, "serializable" | "repeatable read") => {
            let effect = "calls can fail with serialization errors, and callers have to repeat them";
            Some((Severity::Warning, effect, "'read committed'".to_owned()))
        }
        "session_replication_role" if value != "origin" => {
            Some((Severity::Critical, "the triggers of the registry do not fire", "origin".to_owned()))
        }
        "statement_timeout" | "transaction_timeout" if is_short(SHORT_LOCK_TIMEOUT) => timeout(Severity::Critical),
        "statement_timeout" | "transaction_timeout" if is_short(SHORT_TIMEOUT) => timeout(Severity::Warning),
        "lock_timeout" if is_short(SHORT_LOCK_TIMEOUT) => {
            Some((Severity::Warning, "it ends calls that wait for their turn", "'2s'".to_owned()))
        }
        // For the role of the URL, durability has it.
        "synchronous_commit" if value == "off" && setting.role != seen.role => {
            Some((Severity::Warning, "a registration that was confirmed may be lost in a crash", "on".to_owned()))
        }
        "search_path" if !seen.schema.is_empty() && !leads_to(value, &setting.role, &seen.schema) => {
            Some((Severity::Critical, "SQL callers do not find the functions of the registry", quoted(&seen.schema)))
        }
        _ => None,
    }
}

fn is_on(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
}

/// A time as PostgreSQL writes it: a number of milliseconds, or a number with a unit.
fn duration(value: &str) -> Option<Duration> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let number: f64 = digits.parse().ok()?;
    let unit = match value.get(digits.len()..)?.trim() {
        "us" => 1e-6,
        "" | "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

/// Whether a search path of the role has the schema on it.
fn leads_to(path: &str, role: &str, schema: &str) -> bool {
    path.split(',').map(str::trim).any(|entry| {
        let name = entry.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(entry);
        let name = name.replace("\"\"", "\"");
        if name == "$user" { role == schema } else { name == schema }
    })
}

/// A name as an identifier of SQL; without quotes where it needs none.
fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::{super::database::tests::well, *};

    fn found(role: &str, name: &str, value: &str) -> Option<Finding> {
        let inherited = Inherited { role: role.to_owned(), name: name.to_owned(), value: value.to_owned() };
        let seen = Examined { inherited: vec![inherited], ..well() };
        judge(&seen).into_iter().find(|finding| finding.severity != Severity::Ok)
    }

    #[test]
    fn each_setting_in_the_way_has_the_statement_that_repairs_it() {
        for (name, value, severity, fix) in [
            ("default_transaction_read_only", "on", Severity::Critical, "default_transaction_read_only = off"),
            ("default_transaction_isolation", "serializable", Severity::Warning, "'read committed'"),
            ("session_replication_role", "replica", Severity::Critical, "= origin"),
            ("statement_timeout", "5", Severity::Critical, "statement_timeout = '10s'"),
            ("statement_timeout", "500ms", Severity::Warning, "statement_timeout = '10s'"),
            ("transaction_timeout", "0.5s", Severity::Warning, "transaction_timeout = '10s'"),
            ("lock_timeout", "10ms", Severity::Warning, "lock_timeout = '2s'"),
            ("synchronous_commit", "off", Severity::Warning, "synchronous_commit = on"),
            ("search_path", "app, pg_catalog", Severity::Critical, "search_path = public"),
        ] {
            let finding = found("Caller", name, value).unwrap_or_else(|| panic!("{name} = {value}"));
            assert_eq!(finding.severity, severity, "{finding:?}");
            assert!(finding.found.contains(name) && finding.fix.ends_with(fix), "{finding:?}");
            assert!(finding.fix.starts_with("ALTER ROLE \"Caller\" IN DATABASE registry SET "), "{finding:?}");
        }
    }

    #[test]
    fn settings_that_leave_callers_alone_are_not_named() {
        for (name, value) in [
            ("default_transaction_read_only", "off"),
            ("default_transaction_isolation", "read committed"),
            ("statement_timeout", "0"),
            ("statement_timeout", "2min"),
            ("lock_timeout", "2s"),
            ("session_replication_role", "origin"),
            ("synchronous_commit", "remote_apply"),
            ("search_path", "\"$user\", public"),
        ] {
            assert_eq!(found("caller", name, value).map(|finding| finding.found), None, "{name} = {value}");
        }
    }
}
