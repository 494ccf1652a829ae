//! Every method, by every caller, on every logical id and target.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use musterd::proto::{self, v1};
use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::{
    ANONYMOUS, Caller, EXPIRED, Guarded, MASTER, STRANGER, events,
    rows::{Claim, Row, Target, make, registration},
    rules::{ALL, Judge, Rule},
    verdict,
};
use crate::harness::registry::column;

const RULES: &[Rule] = &[
    Rule { who: "actor", may: &["register", "resolve"], on: &["svc-a"] },
    Rule { who: "sibling", may: &["register"], on: &["svc-a", "svc-aa*"] },
    Rule { who: "other", may: &["register", "resolve"], on: &["svc-b"] },
    Rule { who: "fleet", may: &["register", "read"], on: &["svc-*"] },
    Rule { who: "router", may: &["resolve", "read"], on: &["*"] },
    Rule { who: "reader", may: &["read"], on: &["svc-b", "sv"] },
    Rule { who: "agent", may: &["beat"], on: &["svc-a", "svc-b"] },
    Rule { who: "operator", may: &["operate", "read"], on: &["svc-*"] },
    Rule { who: "drainer", may: &["operate"], on: &["out"] },
    Rule { who: "cluster", may: &["cluster"], on: &["*"] },
];
const CALLERS: [&str; 15] = [
    "actor", "sibling", "other", "fleet", "router", "reader", "agent", "operator", "drainer", "cluster", "nobody",
    MASTER, EXPIRED, ANONYMOUS, STRANGER,
];
const NAMES: [&str; 4] = ["svc-a", "svc-b", "svc-c", "out"];

/// A call that is aimed at an instance or a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aimed {
    Register,
    Beat,
    BeatById,
    BeatStream,
    SetStatus,
    SetStatusById,
    Deregister,
    DeregisterById,
    Expire,
    Get,
    CheckLease,
}

impl Aimed {
    const ALL: [Self; 11] = [
        Self::Register,
        Self::Beat,
        Self::BeatById,
        Self::BeatStream,
        Self::SetStatus,
        Self::SetStatusById,
        Self::Deregister,
        Self::DeregisterById,
        Self::Expire,
        Self::Get,
        Self::CheckLease,
    ];

    fn method(self) -> &'static str {
        match self {
            Self::Register => "Register",
            Self::Beat | Self::BeatById => "Beat",
            Self::BeatStream => "BeatStream",
            Self::SetStatus | Self::SetStatusById => "SetStatus",
            Self::Deregister | Self::DeregisterById => "Deregister",
            Self::Expire => "ExpireInstance",
            Self::Get => "GetInstance",
            Self::CheckLease => "CheckLease",
        }
    }

    async fn call(self, caller: &Caller, name: &str, row: Row) -> String {
        let Row { instance_id, lease_id } = row;
        let (mut registry, mut discovery) = (caller.registry.clone(), caller.discovery.clone());
        let (by_id, by_lease) = ((0, instance_id.to_string()), (lease_id, String::new()));
        let status = v1::InstanceStatus::Alive.into();
        match self {
            Self::Register => verdict(&registry.register(registration(instance_id, name)).await),
            Self::Beat | Self::BeatById => {
                let (lease_id, instance_id) = if self == Self::Beat { by_lease } else { by_id };
                verdict(&registry.beat(v1::BeatRequest { lease_id, instance_id }).await)
            }
            Self::BeatStream => {
                let request = v1::BeatStreamRequest { lease_ids: vec![lease_id], goodbye: true };
                let opened = registry.beat_stream(stream::iter([request])).await;
                let Ok(answers) = opened else { return verdict(&opened) };
                let answer = answers.into_inner().message().await.unwrap().unwrap();
                match answer.exceptions.as_slice() {
                    [] => "OK".to_owned(),
                    [one] => one.reason().as_str_name().trim_start_matches("ERROR_REASON_").to_owned(),
                    more => format!("{more:?}"),
                }
            }
            Self::SetStatus | Self::SetStatusById => {
                let (lease_id, instance_id) = if self == Self::SetStatus { by_lease } else { by_id };
                verdict(
                    &registry
                        .set_status(v1::SetStatusRequest { lease_id, instance_id, status, ..Default::default() })
                        .await,
                )
            }
            Self::Deregister | Self::DeregisterById => {
                let (lease_id, instance_id) = if self == Self::Deregister { by_lease } else { by_id };
                verdict(&registry.deregister(v1::DeregisterRequest { lease_id, instance_id }).await)
            }
            Self::Expire => {
                let request = v1::ExpireInstanceRequest { instance_id: instance_id.to_string(), lease_id: 0 };
                verdict(&caller.cluster.clone().expire_instance(request).await)
            }
            Self::Get => {
                let request = v1::GetInstanceRequest { instance_id: instance_id.to_string(), min_revision: 0 };
                verdict(&discovery.get_instance(request).await)
            }
            Self::CheckLease => {
                verdict(&discovery.check_lease(v1::CheckLeaseRequest { lease_id, min_revision: 0 }).await)
            }
        }
    }

    /// What the rules say.
    fn expected(self, judge: Judge<'_>, who: &str, name: &str, target: Target) -> &'static str {
        let (verbs, other, unknown): (&[&str], _, _) = match self {
            Self::Register => (&["register"], "register", ""),
            Self::Beat | Self::BeatStream => (&["register", "beat"], "beat", "UNKNOWN_LEASE"),
            Self::BeatById => (&["register", "beat"], "beat", "UNKNOWN_INSTANCE"),
            Self::SetStatus | Self::Deregister => (&["register", "operate"], "operate", "UNKNOWN_LEASE"),
            Self::SetStatusById | Self::DeregisterById => (&["register", "operate"], "operate", "UNKNOWN_INSTANCE"),
            Self::Expire => (&["operate"], "operate", "UNKNOWN_INSTANCE"),
            Self::Get => (&["read"], "read", "UNKNOWN_INSTANCE"),
            Self::CheckLease => (&["read"], "read", "UNKNOWN_LEASE"),
        };
        if let Some(refused) = refused(judge, who, verbs) {
            return refused;
        }
        let ended = if target.is_dead() { "LEASE_EXPIRED" } else { "OK" };
        match self {
            Self::Register if !judge.may(who, "register", name) => "PERMISSION_DENIED",
            Self::Register if target == Target::Foreign => "INSTANCE_ID_TAKEN",
            Self::Register => "OK",
            Self::Expire | Self::Get | Self::CheckLease if target == Target::Absent || !judge.may(who, other, name) => {
                unknown
            }
            Self::CheckLease => ended,
            Self::Expire | Self::Get => "OK",
            _ => match target.claim(judge, who, other, name) {
                Claim::None => unknown,
                Claim::Lost => "PERMISSION_DENIED",
                Claim::Holds if matches!(self, Self::Deregister | Self::DeregisterById) => "OK",
                Claim::Holds => ended,
            },
        }
    }
}

/// What every call of a caller is refused with that needs one of these rights; `None`: it is not refused for that.
fn refused(judge: Judge<'_>, who: &str, verbs: &[&str]) -> Option<&'static str> {
    match who {
        ANONYMOUS | STRANGER => Some("UNAUTHENTICATED"),
        EXPIRED => Some("CREDENTIAL_EXPIRED"),
        _ if verbs.is_empty() || verbs.iter().any(|verb| judge.may_somewhere(who, verb)) => None,
        _ => Some("PERMISSION_DENIED"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_on_every_target_has_the_verdict_of_the_rules() {
    let guarded = Guarded::start(RULES).await;
    let judge = Judge(RULES);
    let mut cells = Vec::new();
    for who in CALLERS {
        for (name, target) in NAMES.iter().flat_map(|name| Target::ALL.map(|target| (*name, target))) {
            cells.extend(Aimed::ALL.map(|call| (call, who, name, target)));
        }
    }
    assert!(cells.len() >= 2_000, "{}", cells.len());
    let rows =
        make(&guarded, &cells.iter().map(|(_, who, name, target)| (*who, *name, *target)).collect::<Vec<_>>()).await;
    let mut callers = Vec::new();
    for who in CALLERS {
        callers.push((who, guarded.caller(who).await));
    }
    let caller_of =
        |who: &str| callers.iter().find(|(name, _)| *name == who).map(|(_, caller)| caller.clone()).unwrap();
    let wrong: Vec<String> = stream::iter(cells.iter().zip(rows))
        .map(|((call, who, name, target), row)| {
            let (caller, expected) = (caller_of(who), call.expected(judge, who, name, *target));
            async move {
                let found = call.call(&caller, name, row).await;
                (found != expected)
                    .then(|| format!("{call:?} by {who} on {target:?} of {name}: {found}, not {expected}"))
            }
        })
        .buffer_unordered(24)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), cells.len(), wrong[..wrong.len().min(40)].join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_on_names_and_the_cluster_has_the_verdict_of_the_rules() {
    let guarded = Guarded::start(RULES).await;
    let judge = Judge(RULES);
    let cells: Vec<_> = NAMES.iter().flat_map(|name| Target::ALL.map(|target| ("actor", *name, target))).collect();
    make(&guarded, &cells).await;
    let listed = "SELECT logical_id FROM registry_instance WHERE status <> 'dead'";
    let names: Vec<String> = column(&guarded.sql.client, listed).await;
    let ended_leases = "SELECT logical_id || ' ' || instance_id FROM registry_death";
    let dead: Vec<String> = column(&guarded.sql.client, ended_leases).await;
    assert!(!dead.is_empty());
    for who in CALLERS {
        let caller = guarded.caller(who).await;
        for name in NAMES {
            let request = v1::ResolveRequest { logical_id: name.to_owned(), ..Default::default() };
            let found = verdict(&caller.discovery.clone().resolve(request).await);
            let may = if judge.may(who, "resolve", name) { "OK" } else { "PERMISSION_DENIED" };
            assert_eq!(found, refused(judge, who, &["resolve"]).unwrap_or(may), "Resolve by {who} of {name}");
        }
        batch(&caller, judge, who).await;
        ended(&caller, judge, who, &dead).await;
        for prefix in ["", "s", "svc-", "svc-a", "svc-b", "out", "none"] {
            lists(&caller, judge, who, prefix, &names).await;
        }
        cluster(&caller, judge, who).await;
    }
}

/// Ended leases, each as `NAME INSTANCE`.
async fn ended(caller: &Caller, judge: Judge<'_>, who: &str, dead: &[String]) {
    let ask = async |logical_id: &str, instance_id: &str| {
        let (logical_id, instance_id) = (logical_id.to_owned(), instance_id.to_owned());
        let request = v1::ListEndedLeasesRequest { logical_id, instance_id, ..Default::default() };
        caller.discovery.clone().list_ended_leases(request).await
    };
    for name in NAMES {
        let answer = ask(name, "").await;
        let may = if judge.may(who, "read", name) { "OK" } else { "PERMISSION_DENIED" };
        assert_eq!(
            verdict(&answer),
            refused(judge, who, &["read"]).unwrap_or(may),
            "ListEndedLeases by {who} of {name}"
        );
        if let Ok(answer) = answer {
            let count = dead.iter().filter(|one| one.starts_with(&format!("{name} "))).count();
            assert_eq!(answer.into_inner().leases.len(), count, "{who} of {name}");
        }
    }
    for (name, instance_id) in dead.iter().filter_map(|one| one.split_once(' ')) {
        let answer = ask("", instance_id).await;
        assert_eq!(verdict(&answer), refused(judge, who, &["read"]).unwrap_or("OK"), "ListEndedLeases by {who}");
        if let Ok(answer) = answer {
            let found = answer.into_inner().leases.iter().any(|lease| lease.logical_id == name);
            assert_eq!(found, judge.may(who, "read", name), "{who} of {instance_id} of {name}");
        }
    }
}

async fn batch(caller: &Caller, judge: Judge<'_>, who: &str) {
    let logical_ids = NAMES.map(str::to_owned).to_vec();
    let answer =
        caller.discovery.clone().batch_resolve(v1::BatchResolveRequest { logical_ids, ..Default::default() }).await;
    let expected = refused(judge, who, &["resolve"]);
    assert_eq!(verdict(&answer), expected.unwrap_or("OK"), "BatchResolve by {who}");
    if let Ok(answer) = answer {
        for (name, result) in NAMES.iter().zip(answer.into_inner().results) {
            let result = v1::BatchResolveResult::decode(result).unwrap();
            let may = judge.may(who, "resolve", name);
            let reason = if may { v1::ErrorReason::Unspecified } else { v1::ErrorReason::PermissionDenied };
            assert_eq!((result.reason(), result.instance.is_some()), (reason, may), "{who} of {name}");
        }
    }
}

/// A list and a watch of a prefix.
async fn lists(caller: &Caller, judge: Judge<'_>, who: &str, prefix: &str, names: &[String]) {
    let some = if judge.may_read_some_of(who, prefix) { "OK" } else { "PERMISSION_DENIED" };
    let expected = refused(judge, who, &["read"]).unwrap_or(some);
    let filtered = !judge.may_read_all_of(who, prefix);
    let mut shown: Vec<&str> = names.iter().map(String::as_str).collect();
    shown.retain(|name| name.starts_with(prefix) && judge.may(who, "read", name));
    shown.sort_unstable();
    let (mut page_token, mut found) = (String::new(), Vec::new());
    loop {
        let (logical_id_prefix, page_size) = (prefix.to_owned(), 3);
        let request = v1::ListInstancesRequest { logical_id_prefix, page_size, page_token, ..Default::default() };
        let page = caller.discovery.clone().list_instances(request).await;
        assert_eq!(verdict(&page), expected, "ListInstances by {who} of {prefix}");
        let Ok(page) = page.map(tonic::Response::into_inner) else { break };
        assert_eq!(page.filtered, filtered, "{who} of {prefix}");
        found.extend(page.instances.into_iter().map(|one| one.logical_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            assert_eq!(found, shown, "{who} of {prefix}");
            break;
        }
    }
    let request = v1::WatchRequest { logical_id_prefix: prefix.to_owned(), ..Default::default() };
    let watch = caller.discovery.clone().watch(request).await;
    assert_eq!(verdict(&watch), expected, "Watch by {who} of {prefix}");
    let Ok(mut watch) = watch.map(tonic::Response::into_inner) else { return };
    let mut found = Vec::new();
    loop {
        let response = watch.message().await.unwrap().unwrap();
        assert_eq!(response.filtered, filtered, "{who} of {prefix}");
        found.extend(events(&response).map(|event| event.instance.unwrap().logical_id));
        if response.snapshot_complete {
            break;
        }
    }
    found.sort_unstable();
    assert_eq!(found, shown, "Watch by {who} of {prefix}");
}

async fn cluster(caller: &Caller, judge: Judge<'_>, who: &str) {
    let service = || caller.cluster.clone();
    let looks = refused(judge, who, &["read", "cluster"]).unwrap_or("OK");
    let found = service().get_cluster(v1::GetClusterRequest { unserved_limit: 1_000, ..Default::default() }).await;
    assert_eq!(verdict(&found), looks, "GetCluster by {who}");
    if let Ok(found) = found.map(tonic::Response::into_inner) {
        assert_eq!(found.counts.is_some(), judge.may_everywhere(who, "read"), "{who}");
        assert!(found.unserved_logical_ids.iter().all(|name| judge.may(who, "read", name)), "{who}: {found:?}");
    }
    assert_eq!(verdict(&service().list_epochs(v1::ListEpochsRequest::default()).await), looks, "ListEpochs by {who}");
    let acts = refused(judge, who, &["cluster"]).unwrap_or("OK");
    let hold = v1::HoldExpiryRequest { duration: None, reason: "a test".to_owned() };
    assert_eq!(verdict(&service().hold_expiry(hold).await), acts, "HoldExpiry by {who}");
    let release = v1::ReleaseExpiryRequest::default();
    assert_eq!(verdict(&service().release_expiry(release).await), acts, "ReleaseExpiry by {who}");
    let decisions = service().list_decisions(v1::ListDecisionsRequest::default()).await;
    assert_eq!(verdict(&decisions), acts, "ListDecisions by {who}");
    if acts != "OK" {
        let rotate = v1::RotateEpochRequest::default();
        assert_eq!(verdict(&service().rotate_epoch(rotate).await), acts, "RotateEpoch by {who}");
    }
    let known = service().who_am_i(v1::WhoAmIRequest {}).await;
    assert_eq!(verdict(&known), refused(judge, who, &[]).unwrap_or("OK"), "WhoAmI by {who}");
    if let Ok(known) = known.map(tonic::Response::into_inner) {
        assert_eq!((known.identity, known.kind.as_str(), known.enforced), (format!("token/{who}"), "token", true));
        let verbs: BTreeSet<String> = known.grants.into_iter().map(|grant| grant.verb).collect();
        let expected =
            ALL.iter().filter(|verb| judge.may_somewhere(who, verb)).map(|verb| (*verb).to_owned()).collect();
        assert_eq!(verbs, expected, "{who}");
    }
}

#[test]
fn matrix_has_each_method_of_the_protocol() {
    let descriptors = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let services = descriptors.file.iter().flat_map(|file| &file.service);
    let methods: BTreeSet<&str> = services.flat_map(|service| &service.method).map(|method| method.name()).collect();
    let on_names = ["Resolve", "BatchResolve", "ListInstances", "ListEndedLeases", "Watch"];
    let on_cluster =
        ["GetCluster", "ListEpochs", "HoldExpiry", "ReleaseExpiry", "RotateEpoch", "ListDecisions", "WhoAmI"];
    let tried = Aimed::ALL.iter().map(|call| call.method()).chain(on_names).chain(on_cluster).collect();
    assert_eq!(methods, tried);
}
