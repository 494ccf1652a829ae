//! Two registries that differ only in what a caller may not read give it equal answers.

use std::{collections::BTreeMap, fmt::Debug};

use musterd::proto::v1;
use prost::Message as _;
use tonic::{Response, Status};
use tonic_types::StatusExt as _;

use super::{Caller, Guarded, MASTER, events, rows::registration, rules::Rule};
use crate::harness::registry::id;

const RULES: &[Rule] = &[
    Rule { who: "exact", may: &["read", "resolve", "register"], on: &["svc-c"] },
    Rule { who: "prefixes", may: &["read", "resolve", "operate", "beat"], on: &["svc-c*", "a"] },
    Rule { who: "between", may: &["read"], on: &["svc-b9", "svc-d"] },
    Rule { who: "none", may: &["read", "operate", "register"], on: &["nothing"] },
];
/// What every caller above may read, if it may read anything.
const COMMON: [&str; 4] = ["a", "svc-b9", "svc-c", "svc-c1"];

/// A registry with the common instances, and of these names, which no caller may read, so many each, every third one dead.
async fn world(hidden: &[&str], each: u128) -> Guarded {
    let guarded = Guarded::start(RULES).await;
    let mut master = guarded.caller(MASTER).await.registry;
    let mut number = 1_000;
    // Before, between and after the common ones, so that neither order nor revisions can tell.
    let (first, second) = hidden.split_at(hidden.len() / 2);
    for (at, name) in COMMON.iter().enumerate() {
        for name in if at == 2 { first } else { &[] } {
            number = hide(&guarded, name, each, number).await;
        }
        master.register(registration(id(u128::try_from(at).unwrap() + 1), name)).await.unwrap();
    }
    for name in second {
        number = hide(&guarded, name, each, number).await;
    }
    guarded.caught_up().await;
    guarded
}

async fn hide(guarded: &Guarded, name: &str, each: u128, number: u128) -> u128 {
    let mut master = guarded.caller(MASTER).await.registry;
    for instance in number..number + each {
        master.register(registration(id(instance), name)).await.unwrap();
        if instance % 3 == 0 {
            let end = v1::DeregisterRequest { instance_id: id(instance).to_string(), ..Default::default() };
            master.deregister(end).await.unwrap();
        }
    }
    number + each
}

/// What no caller is promised to be equal: times, revisions and what follows from them.
pub(super) fn masked(mut one: v1::Instance) -> v1::Instance {
    (one.lease_id, one.revision, one.epoch_number) = (0, 0, 0);
    (one.cluster_epoch, one.started_at, one.last_beat, one.lease_remaining) = (String::new(), None, None, None);
    one.status_since = None;
    if let Some(death) = &mut one.death {
        (death.at, death.deadline, death.decided_by) = (None, None, String::new());
    }
    one
}

/// An answer in words; an error with all that it says.
pub(super) fn told<T, U: Debug>(answer: Result<Response<T>, Status>, of: impl FnOnce(T) -> U) -> String {
    match answer {
        Ok(answer) => format!("{:?}", of(answer.into_inner())),
        Err(status) => {
            let details = status.get_error_details();
            // In order: that of a map on the wire is any.
            let info =
                details.error_info().map(|info| (&info.reason, info.metadata.iter().collect::<BTreeMap<_, _>>()));
            let rest = (details.retry_info(), details.bad_request());
            format!("{:?} {:?} {info:?} {rest:?}", status.code(), status.message())
        }
    }
}

/// Everything that a caller can learn by asking.
async fn learned(caller: &Caller) -> Vec<String> {
    let (discovery, cluster) = (&caller.discovery, &caller.cluster);
    let mut learned = Vec::new();
    for number in [1, 2, 3, 4, 1_000, 1_001, 1_002, 1_005, 9_999] {
        let get = v1::GetInstanceRequest { instance_id: id(number).to_string(), min_revision: 0 };
        learned.push(told(discovery.clone().get_instance(get).await, |found| found.instance.map(masked)));
        let beat = v1::BeatRequest { instance_id: id(number).to_string(), lease_id: 0 };
        if number > 1_000 {
            learned.push(told(caller.registry.clone().beat(beat).await, |_| ()));
            let expire = v1::ExpireInstanceRequest { instance_id: id(number).to_string(), lease_id: 0 };
            learned.push(told(cluster.clone().expire_instance(expire).await, |_| ()));
        }
    }
    for name in ["a", "b", "svc-b", "svc-b9", "svc-c", "svc-c1", "svc-d", "zz", "nothing"] {
        let request = v1::ResolveRequest { logical_id: name.to_owned(), ..Default::default() };
        let resolved = discovery.clone().resolve(request).await;
        learned.push(told(resolved, |found| (found.instance.map(masked), found.alternatives)));
        let request = v1::WatchRequest { logical_id: name.to_owned(), ..Default::default() };
        learned.push(watched(caller, request).await);
    }
    let logical_ids = ["b", "svc-b", "svc-c", "zz"].map(str::to_owned).to_vec();
    let batch = v1::BatchResolveRequest { logical_ids, ..Default::default() };
    learned.push(told(discovery.clone().batch_resolve(batch).await, |found| {
        let results = found.results.into_iter().map(|one| v1::BatchResolveResult::decode(one).unwrap());
        results.map(|one| (one.instance.map(masked), one.reason, one.alternatives)).collect::<Vec<_>>()
    }));
    for prefix in ["", "a", "b", "svc", "svc-", "svc-b", "svc-c", "z"] {
        learned.push(listed(caller, prefix).await);
        let request = v1::WatchRequest { logical_id_prefix: prefix.to_owned(), ..Default::default() };
        learned.push(watched(caller, request).await);
    }
    let request = v1::GetClusterRequest { unserved_limit: 1_000, min_revision: 0 };
    learned.push(told(cluster.clone().get_cluster(request).await, |found| {
        let problems: Vec<_> = found.problems.into_iter().map(|one| (one.code, one.summary)).collect();
        (found.counts, found.unserved_logical_ids, found.severity, problems, found.brake)
    }));
    learned
}

/// Every page, one instance each, dead ones included, with the tokens between them.
pub(super) async fn listed(caller: &Caller, prefix: &str) -> String {
    let (mut told_so_far, mut page_token) = (String::new(), String::new());
    loop {
        let statuses = vec![1, 2, 3, 4];
        let (logical_id_prefix, page_size) = (prefix.to_owned(), 1);
        let request =
            v1::ListInstancesRequest { logical_id_prefix, page_size, page_token, statuses, ..Default::default() };
        let mut next = String::new();
        told_so_far += &told(caller.discovery.clone().list_instances(request).await, |page| {
            next.clone_from(&page.next_page_token);
            (page.instances.into_iter().map(masked).collect::<Vec<_>>(), page.next_page_token, page.filtered)
        });
        page_token = next;
        if page_token.is_empty() {
            return told_so_far;
        }
    }
}

/// A watch up to the end of its snapshot.
pub(super) async fn watched(caller: &Caller, request: v1::WatchRequest) -> String {
    let mut stream = match caller.discovery.clone().watch(request).await {
        Ok(stream) => stream.into_inner(),
        refused => return told(refused, |_| ()),
    };
    let mut found = Vec::new();
    loop {
        let response = stream.message().await.unwrap().unwrap();
        let filtered = response.filtered;
        found.extend(events(&response).map(|event| (event.r#type, event.instance.map(masked), filtered)));
        if response.snapshot_complete {
            return format!("{found:?} {filtered}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn worlds_that_differ_in_unreadable_names_give_equal_answers() {
    let (empty, full) = tokio::join!(world(&[], 0), world(&["b", "svc-b", "svc-bb", "svc-e", "zz"], 12));
    let mut readable = 0;
    for who in ["exact", "prefixes", "between", "none"] {
        let (one, other) = (learned(&empty.caller(who).await).await, learned(&full.caller(who).await).await);
        for (one, other) in one.iter().zip(&other) {
            assert_eq!(one, other, "{who}");
        }
        readable += one.iter().filter(|told| told.contains("10.0.0.1")).count();
    }
    assert!(readable > 20, "{readable}: the callers read what they may");
    let (one, other) = (learned(&empty.caller(MASTER).await).await, learned(&full.caller(MASTER).await).await);
    assert_ne!(one, other, "to a caller who may read everything the worlds differ");
}
