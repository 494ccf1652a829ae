//! What the answer of a daemon tells: the problems that the daemon reports, and what only this side can know.
//!
//! The daemon judges itself and the cluster ([`crate::status`]); nothing of that is decided again here. This side adds
//! the version of this command, the advertised addresses as seen from here, and the clock of this machine.

use std::{net::IpAddr, time::Duration};

use chrono::{DateTime, Utc};
use musterd_client::{Cluster, Daemon, Severity};

use super::finding::Finding;
use crate::terminal::words::{age_text, millis, moment};

/// Clocks that differ by more mislead people.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// What this side knows.
#[derive(Debug, Clone)]
pub(crate) struct Here {
    /// The clock of this machine at about the time of the answer.
    pub(crate) now: DateTime<Utc>,
    /// How long the answer took.
    pub(crate) round_trip: Duration,
    /// The host that was asked.
    pub(crate) host: String,
}

/// The findings of an answer.
pub(crate) fn judge(cluster: &Cluster, here: &Here) -> Vec<Finding> {
    let mut findings = vec![version(cluster)];
    findings.extend(reported(cluster));
    findings.extend(addresses(cluster, here));
    findings.extend(clock(cluster, here));
    findings
}

/// The version of this command beside that of the daemon.
fn version(cluster: &Cluster) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    if cluster.version != ours {
        let found = format!("the daemon runs {}, this command is {ours}", cluster.version);
        return Finding::warn("version", found, "use the musterd of the daemon's version");
    }
    Finding::ok("version", format!("{ours}, this command and the daemon"))
}

/// The problems that the daemon reports.
fn reported(cluster: &Cluster) -> Vec<Finding> {
    if cluster.severity == Severity::Unknown {
        let found = format!("the daemon runs {}, which does not report problems", cluster.version);
        return vec![Finding::warn("health", found, "upgrade the daemon")];
    }
    if cluster.problems.is_empty() {
        let confirmed = age_text(cluster.stale_for);
        let latency = cluster.health.as_ref().and_then(|health| health.database_latency);
        let saves = latency.map(|latency| format!(", a save takes {}", millis(latency))).unwrap_or_default();
        let found = format!("the daemon reports no problem; PostgreSQL confirmed its view {confirmed} ago{saves}");
        return vec![Finding::ok("health", found)];
    }
    cluster.problems.iter().map(Finding::problem).collect()
}

/// Addresses under which other machines do not reach the daemon.
fn addresses(cluster: &Cluster, here: &Here) -> Vec<Finding> {
    const FIX: &str = "start it with --advertise-addr HOST:PORT, as others reach it";
    let is_remote = !is_local(&here.host);
    let warn = |daemon: &Daemon, what: &str| {
        Finding::warn("advertised", format!("a daemon advertises {}, {what}", daemon.address), FIX)
    };
    let misleading = cluster.daemons.iter().filter_map(|daemon| match host_of(&daemon.address).parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Some(warn(daemon, "which no client can connect to")),
        Ok(ip) if ip.is_loopback() && is_remote => Some(warn(daemon, "which other machines cannot reach")),
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

fn clock(cluster: &Cluster, here: &Here) -> Option<Finding> {
    let database = moment(cluster.database_time)?;
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
    use std::time::UNIX_EPOCH;

    use super::{super::finding::worst, *};
    use crate::status;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn daemon(address: &str) -> Daemon {
        let mut one = Daemon::default();
        one.address = address.into();
        one
    }

    fn healthy() -> Cluster {
        let mut one = Cluster::default();
        one.daemons = vec![daemon("10.0.0.1:7717"), daemon("10.0.0.2:7717")];
        (one.version, one.severity) = (env!("CARGO_PKG_VERSION").into(), Severity::Ok);
        one.database_time = Some(UNIX_EPOCH + NOW);
        one
    }

    fn findings(cluster: &Cluster) -> Vec<Finding> {
        let now = DateTime::from(UNIX_EPOCH + NOW);
        judge(cluster, &Here { now, round_trip: Duration::ZERO, host: "10.0.0.1".into() })
    }

    #[test]
    fn healthy_cluster_has_no_finding() {
        let findings = findings(&healthy());
        assert_eq!(worst(&findings), status::Severity::Ok, "{findings:?}");
        let checks: Vec<_> = findings.iter().map(|finding| finding.check.as_ref()).collect();
        assert_eq!(checks, ["version", "health", "advertised", "clock"]);
    }

    #[test]
    fn reported_problems_are_findings_with_their_severity() {
        let problem = |code: &str, severity| {
            let mut one = musterd_client::Problem::default();
            (one.code, one.severity) = (code.into(), severity);
            one
        };
        let mut cluster = healthy();
        cluster.severity = Severity::Critical;
        cluster.problems = vec![problem("unserved", Severity::Critical), problem("hold", Severity::Warning)];
        let found: Vec<_> = findings(&cluster).into_iter().map(|it| (it.check.into_owned(), it.severity)).collect();
        let expected = [("unserved", status::Severity::Critical), ("hold", status::Severity::Warning)];
        assert_eq!(found[1..3], expected.map(|(code, severity)| (code.to_owned(), severity)));
    }

    #[test]
    fn client_side_problem_is_found() {
        let with = |change: fn(&mut Cluster)| {
            let mut one = healthy();
            change(&mut one);
            one
        };
        for (cluster, check, found) in [
            (with(|one| one.version = "9.9.9".into()), "version", "9.9.9"),
            (with(|one| one.severity = Severity::Unknown), "health", "does not report problems"),
            (with(|one| one.daemons = vec![daemon("0.0.0.0:1")]), "advertised", "0.0.0.0:1"),
            (with(|one| one.daemons = vec![daemon("[::1]:1")]), "advertised", "[::1]:1"),
            (
                with(|one| one.database_time = Some(UNIX_EPOCH + NOW + Duration::from_secs(3_600))),
                "clock",
                "1h ahead of",
            ),
        ] {
            let wrong: Vec<_> =
                findings(&cluster).into_iter().filter(|it| it.severity != status::Severity::Ok).collect();
            assert_eq!(wrong.len(), 1, "{check} {found}: {wrong:?}");
            assert_eq!((wrong[0].severity, wrong[0].check.as_ref()), (status::Severity::Warning, check));
            assert!(wrong[0].found.contains(found) && !wrong[0].fix.is_empty(), "{wrong:?}");
        }
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
