//! Lists: filters, pages, and the tokens between pages.

use std::collections::BTreeSet;

use musterd::{
    model::InstanceStatus as Status,
    proto::v1::{self, InstanceStatus},
};
use tonic::{Code, Response};

use crate::harness::{
    served::{Served, refusal, registration},
    wire::{Wire, wire},
};

const NODES: [&str; 2] = ["node_a", "node_b"];
const STATUSES: [Status; 4] = [Status::Starting, Status::Alive, Status::Draining, Status::Dead];

fn label(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// One instance for each of the combinations of two names, two nodes, four statuses and two sets of labels.
async fn populate(clients: &Wire) {
    for number in 0..32usize {
        let instance = u128::try_from(number).unwrap() + 1;
        let status = STATUSES[number / 4 % 4];
        let initial = if status == Status::Starting { InstanceStatus::Starting } else { InstanceStatus::Alive };
        let mut labels = vec![label("zone", if number < 16 { "a" } else { "b" })];
        labels.extend((number >= 16).then(|| label("gpu", "")));
        let name = ["organ_1", "organism"][number % 2];
        let request = v1::RegisterRequest {
            node_id: NODES[number / 2 % 2].to_owned(),
            labels: labels.into_iter().collect(),
            initial_status: initial.into(),
            ..registration(instance, name)
        };
        clients.register(request).await;
        if wire(status) != initial {
            clients.set_status(instance, status).await;
        }
    }
}

async fn page(clients: &Wire, request: v1::ListInstancesRequest) -> Result<v1::ListInstancesResponse, tonic::Status> {
    clients.discovery.clone().list_instances(request).await.map(Response::into_inner)
}

/// All pages of a query, each checked for its size; `between` runs after each.
async fn walk(clients: &Wire, query: &v1::ListInstancesRequest, mut between: impl AsyncFnMut()) -> Vec<v1::Instance> {
    let mut token = String::new();
    let mut all = Vec::new();
    loop {
        let answer = page(clients, v1::ListInstancesRequest { page_token: token, ..query.clone() }).await.unwrap();
        assert!(answer.instances.len() <= usize::try_from(query.page_size).unwrap());
        all.extend(answer.instances);
        assert!(all.len() < 1_000, "the pages lead in a circle");
        token = answer.next_page_token;
        if token.is_empty() {
            return all;
        }
        between().await;
    }
}

fn key(instance: &v1::Instance) -> (String, String) {
    (instance.logical_id.clone(), instance.instance_id.clone())
}

/// Whether an instance meets the conditions, as the protocol describes them.
fn meets(instance: &v1::Instance, query: &v1::ListInstancesRequest) -> bool {
    let statuses: Vec<_> = query.statuses().collect();
    let wanted = statuses.contains(&instance.status());
    instance.logical_id.starts_with(&query.logical_id_prefix)
        && if statuses.is_empty() { instance.status() != InstanceStatus::Dead } else { wanted }
        && (query.node_id.is_empty() || query.node_id == instance.node_id)
        && query.labels.iter().all(|(key, value)| instance.labels.get(key) == Some(value))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_holds_what_meets_all_conditions_and_nothing_else() {
    let served = Served::start().await;
    populate(&served.clients).await;
    let everything = served.clients.everything().await;
    assert_eq!(everything.len(), 32);
    let mut sizes = BTreeSet::new();
    for prefix in ["", "organ", "organ_", "organism", "organism_2", "other"] {
        for statuses in [&[][..], &[Status::Alive], &[Status::Starting, Status::Draining], &[Status::Dead], &STATUSES] {
            for node in ["", "node_a", "node_c"] {
                for labels in [&[][..], &[("zone", "a")], &[("zone", "b"), ("gpu", "")], &[("gpu", "a")]] {
                    let query = v1::ListInstancesRequest {
                        logical_id_prefix: prefix.to_owned(),
                        statuses: statuses.iter().map(|status| wire(*status).into()).collect(),
                        node_id: node.to_owned(),
                        labels: labels.iter().map(|(key, value)| label(key, value)).collect(),
                        ..Default::default()
                    };
                    let listed: Vec<_> =
                        page(&served.clients, query.clone()).await.unwrap().instances.iter().map(key).collect();
                    let expected: Vec<_> =
                        everything.iter().filter(|instance| meets(instance, &query)).map(key).collect();
                    sizes.insert(expected.len());
                    assert_eq!(listed, expected, "{query:?}");
                }
            }
        }
    }
    assert!(sizes.len() > 8, "the conditions hardly tell instances apart: {sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_any_size_hold_each_instance_once_and_in_order() {
    let served = Served::start().await;
    populate(&served.clients).await;
    let everything: Vec<_> = served.clients.everything().await.iter().map(key).collect();
    assert!(everything.is_sorted());
    let statuses: Vec<i32> = STATUSES.iter().map(|status| wire(*status).into()).collect();
    for page_size in 1..=33 {
        let query = v1::ListInstancesRequest { page_size, statuses: statuses.clone(), ..Default::default() };
        let walked: Vec<_> = walk(&served.clients, &query, async || ()).await.iter().map(key).collect();
        assert_eq!(walked, everything, "pages of {page_size}");
        let narrow = v1::ListInstancesRequest { page_size, node_id: "node_b".into(), ..Default::default() };
        let walked = walk(&served.clients, &narrow, async || ()).await;
        assert_eq!(walked.len(), 12, "those of a node that are not dead, in pages of {page_size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stable_instance_is_on_exactly_one_page_despite_changes() {
    let served = Served::start().await;
    populate(&served.clients).await;
    let there: Vec<_> = served.clients.everything().await.iter().map(key).collect();
    let statuses: Vec<i32> = STATUSES.iter().map(|status| wire(*status).into()).collect();
    let query = v1::ListInstancesRequest { page_size: 3, statuses, ..Default::default() };
    let mut number = 0;
    let walked = walk(&served.clients, &query, async || {
        // Before, between and after those that are there; and one of them changes.
        for name in ["a", "organ_1", "organ_10", "organism", "z"] {
            number += 1;
            served.clients.register(registration(1_000 * (number % 7 + 1) + number, name)).await;
        }
        served.clients.deregister(number % 32 + 1).await;
    })
    .await;
    let walked: Vec<_> = walked.iter().map(key).collect();
    assert!(walked.is_sorted_by(|one, next| one < next), "no instance twice, and in order");
    let shown: Vec<_> = walked.iter().filter(|key| there.contains(key)).cloned().collect();
    assert_eq!(shown, there);
    assert!(walked.len() > there.len(), "no instance was registered in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_another_query_is_refused() {
    let served = Served::start().await;
    populate(&served.clients).await;
    let query = v1::ListInstancesRequest { page_size: 2, ..Default::default() };
    let token = page(&served.clients, query.clone()).await.unwrap().next_page_token;
    assert!(!token.is_empty());
    let with = |change: &dyn Fn(&mut v1::ListInstancesRequest)| {
        let mut other = v1::ListInstancesRequest { page_token: token.clone(), ..query.clone() };
        change(&mut other);
        other
    };
    page(&served.clients, with(&|other| other.page_size = 5)).await.unwrap();
    for other in [
        with(&|other| other.logical_id_prefix = "organ".into()),
        with(&|other| other.node_id = "node_a".into()),
        with(&|other| other.statuses = vec![InstanceStatus::Alive.into()]),
        with(&|other| other.labels = [label("zone", "a")].into()),
        with(&|other| other.page_token.truncate(6)),
        with(&|other| other.page_token.insert(0, '%')),
        with(&|other| other.page_token = "x".repeat(20_000)),
    ] {
        let refused = refusal(page(&served.clients, other.clone()).await);
        assert_eq!(refused.verdict(), (Code::InvalidArgument, "INVALID_FIELD"), "{other:?}");
        assert_eq!(refused.fields[0].0, "page_token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_of_different_kinds_are_different_queries_even_with_the_same_words() {
    let served = Served::start().await;
    for instance in 1..=3 {
        let labels = [label("starting", "alive")].into();
        served.clients.register(v1::RegisterRequest { labels, ..registration(instance, "organ") }).await;
    }
    let labelled =
        v1::ListInstancesRequest { labels: [label("starting", "alive")].into(), page_size: 1, ..Default::default() };
    let page_token = page(&served.clients, labelled).await.unwrap().next_page_token;
    let statuses = vec![InstanceStatus::Starting.into(), InstanceStatus::Alive.into()];
    let other = v1::ListInstancesRequest { statuses, page_token, ..Default::default() };
    assert_eq!(refusal(page(&served.clients, other).await).fields[0].0, "page_token");
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_are_listed_newest_first_a_page_at_a_time() {
    let served = Served::start().await;
    let mut numbers: Vec<u64> = vec![1];
    for _ in 0..5 {
        numbers.insert(0, served.clients.rotate().await.epoch_number);
    }
    for page_size in 1..=7 {
        let mut listed = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListEpochsRequest { page_size, page_token };
            let answer = served.clients.cluster.clone().list_epochs(request).await.unwrap().into_inner();
            assert!(answer.epochs.len() <= usize::try_from(page_size).unwrap());
            listed.extend(answer.epochs.iter().map(|epoch| epoch.epoch_number));
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, numbers, "pages of {page_size}");
    }
}
