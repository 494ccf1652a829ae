//! Each problem alone, what they say together, and the texts that others compare.

mod database;
mod protection;

use std::time::Duration;

use chrono::DateTime;
use uuid::Uuid;

use super::{
    Severity::{Critical, Warning},
    *,
};
use crate::model::{Blocker, Brake, BrakeMode, Budget, DaemonRecord, Hold, LostDaemon, Usage, blocker::Details};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn daemon(id: u128, address: &str, silent_s: u64) -> DaemonRecord {
    DaemonRecord {
        daemon_id: Uuid::from_u128(id),
        address: address.to_owned(),
        version: "0.1.0".to_owned(),
        started_at: DateTime::default(),
        last_flush_age: seconds(silent_s),
        policy: None,
    }
}

fn conditions(missing: &[(&'static str, &str)]) -> Vec<Condition> {
    let names = ["database", "schema", "view", "feed", "flush", "not_shutting_down"];
    let detail = |name| missing.iter().find(|(missing, _)| *missing == name).map(|(_, detail)| *detail);
    let condition =
        |name| Condition { name, ok: detail(name).is_none(), detail: detail(name).unwrap_or("as recorded").to_owned() };
    names.map(condition).to_vec()
}

/// A cluster of two healthy daemons.
fn healthy() -> Facts {
    Facts {
        daemon_id: Uuid::from_u128(1),
        conditions: conditions(&[]),
        stale_for: Duration::from_millis(400),
        database_latency: Some(Duration::from_millis(3)),
        last_reap_age: Some(seconds(20)),
        daemons: vec![daemon(1, "a:1", 0), daemon(2, "b:1", 1)],
        names: Names { live: 10, ..Names::default() },
        ..Facts::default()
    }
}

fn names(live: u64, unserved: u64, all_suspect: u64) -> Facts {
    Facts { names: Names { live, unserved, all_suspect, unserved_first: Vec::new() }, ..healthy() }
}

fn reaper(name: &'static str, failures: u32) -> FailingReaper {
    FailingReaper { name, failures, failing_for: seconds(7), error: "cannot subtract".to_owned() }
}

fn brake(mode: BrakeMode) -> Option<Brake> {
    Some(Brake { mode, since: DateTime::UNIX_EPOCH, overdue: 30, live: 40 })
}

fn hold() -> Option<Hold> {
    Some(Hold { remaining: seconds(200), reason: "work on the network".to_owned() })
}

fn blocker(details: Option<Details>, open_s: u64) -> Option<Blocker> {
    let (user, application) = ("app".to_owned(), "seedcore".to_owned());
    Some(Blocker { pid: 4711, user, application, details, open_for: seconds(open_s) })
}

fn details(client: Option<&str>) -> Option<Details> {
    Some(Details { client: client.map(str::to_owned), state: "idle in transaction".to_owned() })
}

/// With a budget of 1,000 records and 10,000,000 bytes.
fn registry(records: u64, bytes: u64) -> Facts {
    let (usage, budget) = (Usage { records, bytes }, Budget { records: 1_000, bytes: 10_000_000 });
    Facts { usage, budget, ..healthy() }
}

fn lost() -> Vec<LostDaemon> {
    vec![LostDaemon { record: daemon(3, "c:1", 15), lost_for: seconds(14) }]
}

fn codes(facts: &Facts) -> Vec<(Severity, &'static str)> {
    judge(facts).problems.iter().map(|problem| (problem.severity, problem.code.as_str())).collect()
}

#[test]
fn healthy_cluster_has_no_problem() {
    let status = judge(&healthy());
    assert_eq!((status.problems, status.severity), (vec![], Severity::Ok));
    assert_eq!((status.ready, status.expiry), (true, Expiry::Running));
}

/// Facts, and the one problem that follows from them: severity, code, and a part of the summary.
type Row = (Facts, Severity, &'static str, &'static str);

/// Problems of the daemon that answers.
fn of_daemon() -> Vec<Row> {
    vec![
        (
            Facts { stale_for: seconds(42), ..healthy() },
            Critical,
            "database_away",
            "not answered for 42 s; all data is as of 1970",
        ),
        (
            Facts {
                behind: Some(BehindDatabase { host: "db-a:5432/registry".to_owned(), revision: 7, seen: 1_000_009 }),
                ..healthy()
            },
            Critical,
            "database_behind",
            "The database at db-a:5432/registry is behind: it is at revision 7, and this daemon has seen revision 1000009",
        ),
        (Facts { database_latency: Some(seconds(1)), ..healthy() }, Warning, "database_slow", "takes 1000 ms"),
        (
            Facts { blocker: blocker(details(Some("10.0.0.7")), 12), ..healthy() },
            Critical,
            "changes_blocked",
            "session 4711 (user app, application seedcore, client 10.0.0.7, idle in transaction) has held a lock that \
             they wait for, in a transaction that is open for 12 s",
        ),
        (
            Facts { blocker: blocker(None, 2), ..healthy() },
            Critical,
            "changes_blocked",
            "session 4711 (user app, application seedcore; client and state are hidden from the role of the daemon)",
        ),
        (
            Facts { conditions: conditions(&[("schema", "migration 19 is pending")]), ..healthy() },
            Critical,
            "not_ready",
            "schema: migration 19 is pending",
        ),
        (
            Facts { flush_lag: seconds(2), ..healthy() },
            Warning,
            "beats_not_saved",
            "saving is 2 s late; beats of leases with a TTL below 6 s are refused",
        ),
        (Facts { flush_lag: seconds(5), ..healthy() }, Critical, "beats_not_saved", "saving is 5 s late"),
        (Facts { last_reap_age: Some(seconds(46)), ..healthy() }, Critical, "reaper_late", "last succeeded 46 s ago"),
        (
            Facts { failing_reapers: vec![reaper("stale", 3)], ..healthy() },
            Critical,
            "reaper_failing",
            "The stale reaper of this daemon has failed 3 times in a row, for 7 s: cannot subtract",
        ),
        (
            Facts { failing_reapers: vec![reaper("purge", 3)], ..healthy() },
            Warning,
            "reaper_failing",
            "The purge reaper",
        ),
    ]
}

/// Problems of the cluster.
fn of_cluster() -> Vec<Row> {
    let newer = DaemonRecord { version: "0.2.0".to_owned(), ..daemon(2, "b:1", 0) };
    vec![
        (
            Facts { brake: brake(BrakeMode::Protect), ..healthy() },
            Critical,
            "brake_protect",
            "Expiry is stopped by the brake: 30 of 40 live instances are overdue",
        ),
        (Facts { brake: brake(BrakeMode::Pace), ..healthy() }, Warning, "brake_pace", "slowed by the brake"),
        (Facts { hold: hold(), ..healthy() }, Warning, "hold", "on hold for another 3 min: work on the network"),
        (
            Facts { lost_daemons: lost(), ..healthy() },
            Warning,
            "daemon_lost",
            "The daemon at c:1 was lost 14 s ago: it had not saved beats for 15 s",
        ),
        (
            Facts { daemons: vec![daemon(1, "a:1", 0), daemon(2, "b:1", 9)], ..healthy() },
            Critical,
            "daemon_silent",
            "The daemon at b:1 has not saved beats for 9 s; it is evicted at 15 s",
        ),
        (
            Facts { daemons: vec![daemon(1, "a:1", 0), daemon(2, "b:1", 16)], ..healthy() },
            Critical,
            "daemon_silent",
            "for 16 s; it is being evicted",
        ),
        (Facts { daemons: vec![daemon(2, "b:1", 0)], ..healthy() }, Critical, "daemon_unlisted", "not on the list"),
        (
            Facts { daemons: vec![daemon(1, "a:1", 0), newer], ..healthy() },
            Warning,
            "versions_differ",
            "Daemons of 2 versions share the database: 0.1.0, 0.2.0",
        ),
        (registry(801, 0), Warning, "registry_filling", "filling up: it uses 801 of 1000 records"),
        (registry(1_000, 0), Critical, "registry_filling", "full: it uses 1000 of 1000 records"),
        (registry(0, 8_000_001), Warning, "registry_filling", "it uses 8000001 of 10000000 bytes of records"),
        (registry(999, 9_999_000), Critical, "registry_filling", "full: it uses 9999000 of 10000000 bytes of records"),
        (names(9, 1, 0), Warning, "unserved", "1 of 10 logical ids has no live instance"),
        (names(5, 5, 0), Warning, "unserved", "5 of 10 logical ids have no live instance"),
        (names(4, 6, 0), Critical, "unserved", "6 of 10 logical ids have no live instance"),
        (names(0, 8, 0), Critical, "unserved", "All 8 logical ids have no live instance"),
        (names(0, 1, 0), Critical, "unserved", "The only logical id has no live instance"),
        (names(10, 0, 5), Warning, "all_suspect", "5 of 10 logical ids have suspect instances only"),
        (names(10, 0, 6), Critical, "all_suspect", "6 of 10 logical ids have suspect instances only"),
        (names(1, 0, 1), Critical, "all_suspect", "The only logical id has suspect instances only"),
    ]
}

#[test]
fn each_problem_is_found_alone_with_its_severity() {
    let table = [of_daemon(), database::of_database(), of_cluster(), protection::of_protection()].concat();
    for (facts, severity, code, text) in &table {
        let status = judge(facts);
        assert_eq!(codes(facts), [(*severity, *code)], "{text}");
        assert_eq!(status.severity, *severity, "{text}");
        let problem = &status.problems[0];
        assert!(problem.summary.contains(text), "{:?} lacks {text:?}", problem.summary);
        assert!(problem.action.ends_with('.') && !problem.summary.ends_with('.'), "{problem:?}");
    }
    let seen = |code: &Code| table.iter().any(|(_, _, seen, _)| *seen == code.as_str());
    assert!(Code::ALL.iter().all(seen), "the table has every code");
}

#[test]
fn values_below_their_thresholds_are_no_problem() {
    let table = [
        Facts { stale_for: seconds(3), daemons: vec![daemon(1, "a:1", 0)], ..healthy() },
        Facts { database_latency: Some(Duration::from_millis(250)), ..healthy() },
        Facts { blocker: blocker(details(None), 1), ..healthy() },
        Facts { flush_lag: seconds(1), ..healthy() },
        Facts { last_reap_age: Some(seconds(45)), ..healthy() },
        Facts { last_reap_age: None, ..healthy() },
        Facts { failing_reapers: vec![reaper("stale", 2)], ..healthy() },
        Facts { daemons: Vec::new(), ..healthy() },
        Facts { daemons: vec![daemon(1, "a:1", 0), daemon(2, "b:1", 2)], ..healthy() },
        Facts { certificates: vec![protection::certificate(23)], ..healthy() },
        registry(800, 8_000_000),
        names(0, 0, 0),
    ];
    for facts in table {
        assert_eq!(codes(&facts), [], "{facts:?}");
    }
}

#[test]
fn unserved_names_are_listed_and_the_rest_is_hinted_at() {
    let first = || vec!["a".to_owned(), "b".to_owned()];
    let facts =
        |unserved| Facts { names: Names { live: 97, unserved, all_suspect: 0, unserved_first: first() }, ..healthy() };
    let summary = |unserved| judge(&facts(unserved)).problems[0].summary.clone();
    assert_eq!(summary(2), "2 of 99 logical ids have no live instance: a, b");
    assert_eq!(summary(3), "3 of 100 logical ids have no live instance: a, b, ...");
}

#[test]
fn suspect_names_beside_unserved_ones_are_counted_together() {
    assert_eq!(codes(&names(7, 3, 2)), [(Warning, "unserved"), (Warning, "all_suspect")]);
    assert_eq!(codes(&names(7, 3, 3)), [(Critical, "all_suspect"), (Warning, "unserved")]);
}

#[test]
fn severe_problems_come_first() {
    let facts = Facts {
        hold: hold(),
        brake: brake(BrakeMode::Protect),
        lost_daemons: lost(),
        daemons: vec![daemon(1, "a:1", 0), daemon(4, "d:1", 9)],
        ..names(9, 1, 2)
    };
    let found: Vec<_> = codes(&facts).into_iter().map(|(_, code)| code).collect();
    assert_eq!(found, ["brake_protect", "daemon_silent", "hold", "daemon_lost", "unserved", "all_suspect"]);
    assert_eq!(judge(&facts).severity, Critical);
}

#[test]
fn outage_comes_before_its_consequences_and_other_problems() {
    let facts = Facts {
        stale_for: seconds(60),
        flush_lag: seconds(59),
        last_reap_age: Some(seconds(70)),
        failing_reapers: vec![reaper("stale", 50), reaper("purge", 1)],
        hold: hold(),
        brake: brake(BrakeMode::Protect),
        blocker: blocker(None, 70),
        lost_daemons: lost(),
        ..names(9, 1, 9)
    };
    let told: Vec<_> =
        judge(&facts).problems.into_iter().map(|it| (it.code.as_str(), it.cause.map(Code::as_str))).collect();
    let away = Some("database_away");
    let expected = [
        ("database_away", None),
        ("beats_not_saved", away),
        ("reaper_failing", away),
        ("reaper_late", away),
        ("all_suspect", away),
        ("daemon_lost", None),
        ("unserved", None),
    ];
    assert_eq!(told, expected, "hold, brake, blocker and the other daemons are not known");
}

#[test]
fn late_reaper_follows_from_its_failures() {
    let facts = Facts { failing_reapers: vec![reaper("stale", 50)], last_reap_age: Some(seconds(50)), ..healthy() };
    let status = judge(&facts);
    assert_eq!(status.problems[1].cause, Some(Code::ReaperFailing));
}

fn told(facts: &Facts) -> Vec<String> {
    let line = |it: ConditionState| format!("{} {}: {}", it.state.as_str(), it.name, it.detail);
    judge(facts).conditions.into_iter().map(line).collect()
}

#[test]
fn conditions_are_current_while_the_database_is_unreachable() {
    let facts = Facts { stale_for: seconds(895), flush_lag: seconds(894), hold: hold(), ..healthy() };
    let expected = [
        "degraded database: away for 14 min",
        "ok schema: as recorded",
        "ok view: as recorded",
        "degraded feed: no change received for 14 min",
        "degraded flush: saving is 14 min late; beats of leases with a TTL below 44 min are refused",
        "degraded expiry: unknown while PostgreSQL is away",
        "ok not_shutting_down: as recorded",
    ];
    assert_eq!(told(&facts), expected);
    let status = judge(&facts);
    assert_eq!((status.ready, status.expiry), (true, Expiry::Unknown), "reads go on");
}

#[test]
fn conditions_report_whether_leases_expire() {
    let expiry = |facts: Facts| told(&facts)[5].clone();
    assert_eq!(expiry(healthy()), "ok expiry: running");
    let held = Facts { hold: hold(), ..healthy() };
    assert_eq!(expiry(held), "ok expiry: on hold for another 3 min: work on the network");
    let paced = Facts { brake: brake(BrakeMode::Pace), ..healthy() };
    assert_eq!(expiry(paced), "ok expiry: slowed by the brake: 30 of 40 live instances are overdue");
    let protected = Facts { brake: brake(BrakeMode::Protect), ..healthy() };
    assert_eq!(expiry(protected), "degraded expiry: stopped by the brake: 30 of 40 live instances are overdue");
    let failing = Facts { failing_reapers: vec![reaper("stale", 9)], ..healthy() };
    assert_eq!(expiry(failing), "degraded expiry: the stale reaper has failed 9 times in a row: cannot subtract");
    let missing = Facts { conditions: conditions(&[("flush", "not yet")]), loaded: false, ..healthy() };
    assert_eq!(told(&missing)[4..6], ["missing flush: not yet", "ok expiry: not yet known"]);
}

#[test]
fn every_code_is_in_the_list_of_all() {
    let (_, codes) = include_str!("problem.rs").split_once("pub enum Code {").unwrap();
    let (codes, _) = codes.split_once("\n}").unwrap();
    let declared = codes.lines().filter(|line| line.trim().ends_with(',') && !line.contains("///")).count();
    assert_eq!(declared, Code::ALL.len(), "a code that ALL lacks is neither documented nor in the table");
}

#[test]
fn every_code_is_documented() {
    let documented = |path: &str| {
        let text = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let missing = Code::ALL.iter().filter(|code| !text.contains(&format!("`{}`", code.as_str())));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&Code>::new(), "in {path}");
    };
    documented("docs/http-api.md");
    documented("proto/muster/v1/cluster.proto");
}
