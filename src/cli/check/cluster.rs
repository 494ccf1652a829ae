//! What the answer of a daemon tells about the registry: pure judgement of one `GetClusterResponse`.
//!
//! `status` and `check` share it, so that one never calls well what the other complains about.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use chrono::{DateTime, Utc};

use super::finding::Finding;
use crate::{
    cli::{
        epoch,
        instances::{age_text, moment, seconds},
    },
    model::{BrakeMode, wellness::Wellness},
    proto::{std_duration, v1},
};

/// A save that takes longer is slow: a healthy PostgreSQL takes a few milliseconds.
const SLOW_SAVE: Duration = Duration::from_millis(250);
/// Clocks that differ by more mislead people.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// What this side knows.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Here {
    /// The clock of this machine at about the time of the answer.
    pub(in crate::cli) now: DateTime<Utc>,
    /// How long the answer took.
    pub(in crate::cli) round_trip: Duration,
    /// The host that was asked.
    pub(in crate::cli) host: String,
}

/// Judges an answer.
pub(in crate::cli) fn judge(cluster: &v1::GetClusterResponse, here: &Here) -> Vec<Finding> {
    let stale_for = span(cluster.stale_for.as_ref());
    let mut findings = vec![version(cluster)];
    findings.extend(cluster.health.as_ref().map(ready));
    findings.push(database(cluster, stale_for));
    if let Some(health) = &cluster.health {
        findings.push(flush(health));
        findings.push(reaper(health, stale_for));
    }
    findings.push(expiry(cluster));
    findings.extend(daemons(cluster, stale_for));
    findings.extend(addresses(cluster, here));
    findings.extend(clock(cluster, here));
    findings
}

fn span(duration: Option<&prost_types::Duration>) -> Duration {
    duration.and_then(std_duration).unwrap_or_default()
}

fn version(cluster: &v1::GetClusterResponse) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let mut theirs: BTreeSet<&str> = cluster.daemons.iter().map(|daemon| daemon.version.as_str()).collect();
    theirs.insert(&cluster.version);
    if theirs.len() > 1 {
        let list = theirs.into_iter().collect::<Vec<_>>().join(" and ");
        let fix = "finish the upgrade: restart the daemons of the older version, one after the other";
        return Finding::warn("version", format!("the daemons run {list}"), fix);
    }
    if cluster.version != ours {
        let found = format!("the daemon runs {}, this command is {ours}", cluster.version);
        return Finding::warn("version", found, "use the musterd of the daemon's version");
    }
    Finding::ok("version", format!("{ours}, here and on every daemon"))
}

fn ready(health: &v1::DaemonHealth) -> Finding {
    if health.ready {
        return Finding::ok("ready", "the daemon takes callers");
    }
    let found = format!("the daemon is not ready: {}", health.missing.join("; "));
    Finding::fail("ready", found, "if it is starting, wait; if not, its log says what it waits for")
}

fn database(cluster: &v1::GetClusterResponse, stale_for: Duration) -> Finding {
    const FIX: &str = "see that PostgreSQL runs and takes connections; musterd check --database-url looks at it";
    if Wellness::of_view(stale_for) > Wellness::Well {
        let found = format!(
            "PostgreSQL has confirmed nothing for {}: answers come from memory, changes fail",
            age_text(stale_for)
        );
        return Finding::fail("database", found, FIX);
    }
    let latency = cluster.health.as_ref().and_then(|health| health.database_latency.as_ref()).and_then(std_duration);
    let confirmed = format!("PostgreSQL confirmed the view {} ago", age_text(stale_for));
    match latency {
        Some(latency) if latency > SLOW_SAVE => Finding::warn(
            "database",
            format!("{confirmed}, but a save takes {}", millis(latency)),
            "look at the disk and the load of PostgreSQL, and at the network to it",
        ),
        Some(latency) => Finding::ok("database", format!("{confirmed}, a save takes {}", millis(latency))),
        None => Finding::ok("database", confirmed),
    }
}

/// Milliseconds to a tenth.
pub(in crate::cli) fn millis(duration: Duration) -> String {
    format!("{:.1}ms", duration.as_secs_f64() * 1_000.0)
}

fn flush(health: &v1::DaemonHealth) -> Finding {
    const FIX: &str =
        "look at the disk, the locks and the connections of PostgreSQL; meanwhile beats go to other daemons";
    let lag = span(health.flush_lag.as_ref());
    let wellness = Wellness::of_saving(lag);
    let found = match wellness {
        Wellness::Well => return Finding::ok("flush", "beats are saved in time"),
        Wellness::Attention => format!("saving beats is {} late", age_text(lag)),
        Wellness::Trouble => format!(
            "saving beats is {} late: beyond a third of their TTL they are refused, and nobody is declared dead",
            age_text(lag)
        ),
    };
    Finding::of(wellness, "flush", found, FIX)
}

fn reaper(health: &v1::DaemonHealth, stale_for: Duration) -> Finding {
    const FIX: &str = "if PostgreSQL is well, restart the daemon; its log says why a reaper failed";
    let age = health.last_reap_age.as_ref().and_then(std_duration);
    let wellness = Wellness::of_reaper(age, stale_for);
    let Some(age) = age else { return Finding::ok("reaper", "has not looked yet: the daemon has just started") };
    let found = match wellness {
        Wellness::Well => format!("looked {} ago", age_text(age)),
        Wellness::Attention => format!("last looked {} ago, and waits for PostgreSQL", age_text(age)),
        Wellness::Trouble => format!("has not looked for {}: this daemon declares nobody dead", age_text(age)),
    };
    Finding::of(wellness, "reaper", found, FIX)
}

fn expiry(cluster: &v1::GetClusterResponse) -> Finding {
    if let Some(hold) = &cluster.hold {
        let found = format!("on hold for {}: {}", seconds(hold.remaining.as_ref()), hold.reason);
        let fix = "nothing, it ends by itself; musterd release ends it now, if everybody alive has been heard";
        return Finding::warn("expiry", found, fix);
    }
    let Some(brake) = &cluster.brake else {
        return Finding::ok("expiry", "goes on: who is silent for a TTL is declared dead");
    };
    let text = epoch::brake(brake);
    let (mode, found, fix) = match brake.mode() {
        v1::BrakeMode::Protect => (
            BrakeMode::Protect,
            format!("stopped by the brake, {text}: nobody is declared dead for up to 10 minutes"),
            "find what is between them and here; if they are gone for good, musterd release",
        ),
        v1::BrakeMode::Pace | v1::BrakeMode::Unspecified => (
            BrakeMode::Pace,
            format!("slowed by the brake, {text}"),
            "find out why so many are silent at once; if they are gone for good, musterd release",
        ),
    };
    Finding::of(Wellness::of_brake(mode), "expiry", found, fix)
}

/// Daemons that are late, unless none can be on time because PostgreSQL is away.
fn daemons(cluster: &v1::GetClusterResponse, stale_for: Duration) -> Vec<Finding> {
    let count = cluster.daemons.len();
    if Wellness::of_view(stale_for) > Wellness::Well {
        return vec![Finding::warn("daemons", format!("{count} when last seen"), "see database")];
    }
    let late = cluster.daemons.iter().filter(|daemon| daemon.daemon_id != cluster.daemon_id).filter_map(|daemon| {
        let age = span(daemon.last_flush_age.as_ref());
        let found = format!(
            "{} has not saved for {}: nobody is declared dead meanwhile, and at 15s it is given up",
            daemon.address,
            age_text(age)
        );
        let wellness = Wellness::of_daemon(age);
        (wellness > Wellness::Well)
            .then(|| Finding::of(wellness, "daemons", found, "see why it stands still, or start it again"))
    });
    let mut late: Vec<_> = late.collect();
    // In the first moments of a daemon the list is not read yet.
    if count > 0 && !cluster.daemons.iter().any(|daemon| daemon.daemon_id == cluster.daemon_id) {
        let found = "the daemon that answers is not on the list of daemons";
        let fix = "wait some seconds, it enters anew; if it does not, its log says why";
        late.push(Finding::fail("daemons", found, fix));
    }
    if late.is_empty() {
        let text = match count {
            0 => "not read yet: the daemon has just started".to_owned(),
            1 => "1, and it is well".to_owned(),
            _ => format!("{count}, and all are well"),
        };
        late.push(Finding::ok("daemons", text));
    }
    late
}

/// Addresses that lead nowhere for whoever reads them elsewhere.
fn addresses(cluster: &v1::GetClusterResponse, here: &Here) -> Vec<Finding> {
    const FIX: &str = "start it with --advertise-addr HOST:PORT, as others reach it";
    let is_remote = !is_local(&here.host);
    let warn = |daemon: &v1::Daemon, what: &str| {
        Finding::warn("advertised", format!("a daemon calls itself {}, {what}", daemon.address), FIX)
    };
    let misleading = cluster.daemons.iter().filter_map(|daemon| match host_of(&daemon.address).parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Some(warn(daemon, "which is no address to go to")),
        Ok(ip) if ip.is_loopback() && is_remote => {
            Some(warn(daemon, "which leads elsewhere on every machine but its own"))
        }
        _ => None,
    });
    let misleading: Vec<_> = misleading.collect();
    if misleading.is_empty() {
        let all: Vec<&str> = cluster.daemons.iter().map(|daemon| daemon.address.as_str()).collect();
        return vec![Finding::ok("advertised", all.join(", "))];
    }
    misleading
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host_of(host).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The host of `host:port`, `[ipv6]:port` or `host`, without brackets.
fn host_of(address: &str) -> &str {
    match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        // More than one colon is an IPv6 address without a port.
        None if address.matches(':').count() > 1 => address,
        None => address.split(':').next().unwrap_or(address),
    }
}

fn clock(cluster: &v1::GetClusterResponse, here: &Here) -> Option<Finding> {
    let database = moment(cluster.database_time.as_ref())?;
    let ahead = database - here.now;
    let off = ahead.abs().to_std().unwrap_or_default();
    // The answer was under way for a part of the round trip.
    if off <= CLOCK_TOLERANCE + here.round_trip {
        return Some(Finding::ok(
            "clock",
            format!("that of the database and that of this machine agree to {}", millis(off)),
        ));
    }
    let direction = if ahead > chrono::TimeDelta::zero() { "ahead of" } else { "behind" };
    let found = format!("the database clock is {} {direction} that of this machine", age_text(off));
    let fix = "set both by NTP; deaths go by the database clock alone, but the times that people read mislead them";
    Some(Finding::warn("clock", found, fix))
}

#[cfg(test)]
mod tests {
    use super::{
        super::finding::{Level, worst},
        *,
    };

    const NOW: i64 = 1_000_000;

    fn seconds_of(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn daemon(id: &str, address: &str, age: i64) -> v1::Daemon {
        v1::Daemon {
            daemon_id: id.into(),
            address: address.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            last_flush_age: seconds_of(age),
            ..Default::default()
        }
    }

    fn well() -> v1::GetClusterResponse {
        v1::GetClusterResponse {
            daemons: vec![daemon("a", "10.0.0.1:7717", 0), daemon("b", "10.0.0.2:7717", 1)],
            daemon_id: "a".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            stale_for: seconds_of(0),
            health: Some(v1::DaemonHealth { ready: true, last_reap_age: seconds_of(4), ..Default::default() }),
            database_time: Some(prost_types::Timestamp { seconds: NOW, nanos: 0 }),
            ..Default::default()
        }
    }

    fn here() -> Here {
        let now = DateTime::from_timestamp(NOW, 0).expect("a time");
        Here { now, round_trip: Duration::ZERO, host: "10.0.0.1".into() }
    }

    /// The findings that are not ok: level, check, and what was found.
    fn trouble(cluster: &v1::GetClusterResponse) -> Vec<(Level, &'static str, String)> {
        let findings = judge(cluster, &here()).into_iter().filter(|finding| finding.level != Level::Ok);
        let findings = findings.inspect(|finding| assert!(!finding.fix.is_empty(), "{finding:?} has no fix"));
        findings.map(|finding| (finding.level, finding.check, finding.found)).collect()
    }

    #[test]
    fn a_registry_that_is_well_gives_no_cause() {
        let findings = judge(&well(), &here());
        assert_eq!(worst(&findings), Level::Ok, "{findings:?}");
        assert_eq!(findings.len(), 9);
    }

    #[test]
    fn each_trouble_is_found_alone() {
        let health = |change: fn(&mut v1::DaemonHealth)| {
            let mut cluster = well();
            cluster.health.iter_mut().for_each(change);
            cluster
        };
        let hold = v1::Hold { remaining: seconds_of(9), reason: "work".into() };
        let brake = |mode: v1::BrakeMode| v1::Brake { mode: mode.into(), overdue: 51, live: 100, since: None };
        for (cluster, level, check, found) in [
            (v1::GetClusterResponse { version: "9.9.9".into(), ..well() }, Level::Warn, "version", "9.9.9"),
            (health(|health| health.ready = false), Level::Fail, "ready", "not ready"),
            (health(|health| health.database_latency = seconds_of(1)), Level::Warn, "database", "1000.0ms"),
            (health(|health| health.flush_lag = seconds_of(2)), Level::Warn, "flush", "2.0s late"),
            (health(|health| health.flush_lag = seconds_of(4)), Level::Fail, "flush", "4.0s late"),
            (health(|health| health.last_reap_age = seconds_of(60)), Level::Fail, "reaper", "for 1m"),
            (v1::GetClusterResponse { hold: Some(hold), ..well() }, Level::Warn, "expiry", "9.0s: work"),
            (
                v1::GetClusterResponse { brake: Some(brake(v1::BrakeMode::Pace)), ..well() },
                Level::Warn,
                "expiry",
                "pace (51",
            ),
            (
                v1::GetClusterResponse { brake: Some(brake(v1::BrakeMode::Protect)), ..well() },
                Level::Fail,
                "expiry",
                "protect (51 of 100 overdue)",
            ),
            (
                v1::GetClusterResponse { daemons: vec![daemon("a", "10.0.0.1:1", 0), daemon("b", "b:1", 4)], ..well() },
                Level::Fail,
                "daemons",
                "b:1 has not saved for 4.0s",
            ),
            (
                v1::GetClusterResponse { daemons: vec![daemon("b", "b:1", 0)], ..well() },
                Level::Fail,
                "daemons",
                "not on the list",
            ),
            (
                v1::GetClusterResponse { daemons: vec![daemon("a", "0.0.0.0:1", 0)], ..well() },
                Level::Warn,
                "advertised",
                "0.0.0.0:1",
            ),
            (
                v1::GetClusterResponse { daemons: vec![daemon("a", "[::1]:1", 0)], ..well() },
                Level::Warn,
                "advertised",
                "[::1]:1",
            ),
            (
                v1::GetClusterResponse {
                    database_time: Some(prost_types::Timestamp { seconds: NOW + 3_600, nanos: 0 }),
                    ..well()
                },
                Level::Warn,
                "clock",
                "1h ahead of",
            ),
        ] {
            let trouble = trouble(&cluster);
            assert_eq!(trouble.len(), 1, "{check} {found}: {trouble:?}");
            assert_eq!((trouble[0].0, trouble[0].1), (level, check));
            assert!(trouble[0].2.contains(found), "{trouble:?}");
        }
    }

    #[test]
    fn an_absent_database_is_no_fault_of_the_other_daemons() {
        let mut cluster = v1::GetClusterResponse { stale_for: seconds_of(9), ..well() };
        cluster.daemons[1].last_flush_age = seconds_of(9);
        let found = trouble(&cluster);
        let failed: Vec<_> =
            found.iter().filter(|(level, ..)| *level == Level::Fail).map(|(_, check, _)| check).collect();
        assert_eq!(failed, [&"database"], "{found:?}");
    }

    #[test]
    fn a_daemon_of_before_is_judged_by_what_it_tells() {
        let old = v1::GetClusterResponse { health: None, database_time: None, ..well() };
        assert!(trouble(&old).is_empty());
    }

    #[test]
    fn hosts_are_read_from_addresses_of_every_form() {
        for (address, host) in
            [("h:1", "h"), ("h", "h"), ("[::1]:1", "::1"), ("::1", "::1"), ("10.0.0.1:7", "10.0.0.1")]
        {
            assert_eq!(host_of(address), host);
        }
        assert!(is_local("localhost") && is_local("127.0.0.1") && is_local("[::1]") && !is_local("db"));
    }
}
