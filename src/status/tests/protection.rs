//! Problems of what protects the daemons: certificates, files, policies, open ports.

use chrono::DateTime;

use super::{
    super::*,
    Row,
    Severity::{Critical, Warning},
    codes, daemon, healthy, seconds,
};
use crate::model::DaemonRecord;

/// A certificate for 90 days, with so many left.
pub(super) fn certificate(days: u32) -> Certificate {
    let day = seconds(24 * 60 * 60);
    Certificate { name: "The certificate", expires: DateTime::UNIX_EPOCH, left: day * days, lifetime: day * 90 }
}

/// A daemon with this policy.
fn under(id: u128, address: &str, policy: &str) -> DaemonRecord {
    DaemonRecord { policy: Some(policy.to_owned()), ..daemon(id, address, 0) }
}

fn policies(policies: &[&str]) -> Facts {
    let one = |(at, policy): (usize, &&str)| under(at as u128 + 1, &format!("{}:1", at + 1), policy);
    Facts { daemons: policies.iter().enumerate().map(one).collect(), ..healthy() }
}

fn ports(grpc: (bool, bool, bool), http: (bool, bool, bool)) -> Facts {
    let port = |(on_network, with_tls, with_policy)| Port { on_network, with_tls, with_policy };
    Facts { ports: Ports { grpc: port(grpc), http: port(http) }, ..healthy() }
}

pub(super) fn of_protection() -> Vec<Row> {
    let local = (false, false, false);
    vec![
        (
            Facts { certificates: vec![certificate(22)], ..healthy() },
            Warning,
            "certificate_expiring",
            "The certificate expires in 528 h, at 1970-01-01 00:00:00 UTC",
        ),
        (Facts { certificates: vec![certificate(0)], ..healthy() }, Critical, "certificate_expiring", "has expired at"),
        (
            Facts { security_failures: vec!["--tls-cert: no".to_owned()], ..healthy() },
            Warning,
            "security_not_reloaded",
            "Files on disk that protect this daemon are not in use: --tls-cert: no",
        ),
        (
            Facts { stale_list: Some(DateTime::UNIX_EPOCH), ..healthy() },
            Warning,
            "revocation_list_stale",
            "out of date since 1970-01-01 00:00:00 UTC",
        ),
        (
            policies(&["aa/bb", "none"]),
            Warning,
            "policies_differ",
            "have different policies in use (1:1: aa, 2:1: no policy)",
        ),
        (
            policies(&["aa/bb", "aa/bb", "aa/cc"]),
            Warning,
            "policies_differ",
            "have different tokens in use (1:1 and 1 more: bb, 3:1: cc)",
        ),
        (
            policies(&["a/", "b/", "c/", "d/", "e/"]),
            Warning,
            "policies_differ",
            "(1:1: a, 2:1: b, 3:1: c, 4:1: d, ...)",
        ),
        (
            ports((true, false, false), (true, true, false)),
            Warning,
            "open_to_network",
            "The gRPC and the HTTP port of this daemon are open to the network without identities",
        ),
        (ports((true, true, false), local), Warning, "open_to_network", "The gRPC port of this daemon is open"),
        (ports(local, (true, false, false)), Warning, "open_to_network", "The HTTP port of this daemon is open"),
    ]
}

#[test]
fn equal_policies_and_daemons_that_do_not_tell_are_no_problem() {
    let older = Facts { daemons: vec![daemon(1, "a:1", 0), under(2, "b:1", "aa/bb")], ..healthy() };
    let away = Facts { stale_for: seconds(60), ..policies(&["aa/bb", "none"]) };
    for facts in [policies(&["aa/bb", "aa/bb"]), policies(&["none", "none"]), older] {
        assert_eq!(codes(&facts), [], "{facts:?}");
    }
    assert!(codes(&away).iter().all(|(_, code)| *code != "policies_differ"), "what the others have is not known");
}

#[test]
fn port_without_tls_alone_is_no_problem() {
    for facts in [ports((true, false, true), (true, false, true)), ports((false, false, false), (false, true, false))] {
        assert_eq!(codes(&facts), [], "{facts:?}");
    }
}
