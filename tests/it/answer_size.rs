//! No answer is larger than the 4 MiB that a client takes by default, and nothing is lost by that.
//!
//! The clients here have their default settings, so a larger answer fails the call as in an application.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use musterd::{
    proto::v1::{self, BatchResolveResult, ErrorReason, RegisterRequest},
    wire::answer_size::ANSWER_MAX_BYTES,
};
use prost::Message as _;

use crate::harness::{
    registry::run,
    served::{Served, registration, seconds},
    wire::{BeatStream, Watcher},
};

/// Together more than one answer may have.
const INSTANCES: u128 = 300;

fn name(instance: u128) -> String {
    format!("large-{instance:04}")
}

/// Nearly 16 KiB of labels.
fn large(instance: u128) -> RegisterRequest {
    let labels = (0..33).map(|key| (format!("key-{key:02}"), "v".repeat(480))).collect();
    RegisterRequest { labels, ttl: Some(seconds(300)), ..registration(instance, &name(instance)) }
}

/// Registers some at a time.
async fn register(served: &Served, requests: impl Iterator<Item = RegisterRequest>) -> Vec<v1::RegisterResponse> {
    stream::iter(requests.map(|request| served.clients.register(request))).buffer_unordered(16).collect().await
}

async fn served_large() -> Served {
    let served = Served::start().await;
    register(&served, (1..=INSTANCES).map(large)).await;
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn page_of_large_instances_ends_early_and_the_next_continues() {
    let served = served_large().await;
    let (mut seen, mut pages, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = v1::ListInstancesRequest { page_size: 1_000, page_token: token.clone(), ..Default::default() };
        let page = served.clients.discovery.clone().list_instances(request).await.unwrap().into_inner();
        pages.push(page.encoded_len());
        seen.extend(page.instances.into_iter().map(|instance| instance.logical_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (1..=INSTANCES).map(name).collect::<Vec<_>>());
    assert!(pages.len() == 2 && pages[0] > ANSWER_MAX_BYTES / 10 * 9, "{pages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_of_large_instances_lists_the_names_to_request_again() {
    let served = served_large().await;
    let (mut left, mut calls) = ((1..=INSTANCES).map(name).collect::<Vec<_>>(), 0);
    let mut found = BTreeSet::new();
    while !left.is_empty() {
        let request = v1::BatchResolveRequest { logical_ids: left.clone(), ..Default::default() };
        let answer = served.clients.discovery.clone().batch_resolve(request).await.unwrap().into_inner();
        assert_eq!(answer.results.len(), left.len(), "one result for each name, in order");
        let results = answer.results.into_iter().map(|result| BatchResolveResult::decode(result).unwrap());
        left = left.iter().zip(results).fold(Vec::new(), |mut left, (name, result)| {
            match result.instance {
                Some(instance) => drop(found.insert(instance.logical_id)),
                None => {
                    assert_eq!(result.reason(), ErrorReason::AnswerTooLarge);
                    left.push(name.clone());
                }
            }
            left
        });
        calls += 1;
    }
    assert_eq!((found.len(), calls), (300, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn page_of_long_epochs_ends_early_and_the_next_continues() {
    let served = Served::start().await;
    // As a session that writes to the table may do: the daemon itself takes 1,024 bytes.
    let insert = "INSERT INTO registry_epoch (cluster_epoch, epoch_number, started_at, started_revision, reason, rotated_by) \
                  SELECT gen_random_uuid(), number, now(), 1, repeat('x', 8000), 'sql' FROM generate_series(2, 1000) number";
    run(&served.sql.client, insert).await;
    let (mut seen, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let request = v1::ListEpochsRequest { page_size: 1_000, page_token: token };
        let page = served.clients.cluster.clone().list_epochs(request).await.unwrap().into_inner();
        seen.extend(page.epochs.into_iter().map(|epoch| epoch.epoch_number));
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((seen, pages), ((1..=1_000).rev().collect(), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_hints_at_once_reach_a_watcher_in_several_responses() {
    const LEASES: u128 = 1_500;
    let served = Served::start().await;
    run(&served.sql.client, "SELECT muster_hold_expiry('the test', 600000)").await;
    let requests =
        (1..=LEASES).map(|instance| RegisterRequest { ttl: Some(seconds(6)), ..registration(instance, "organ") });
    let registered = register(&served, requests).await;
    let leases: Vec<u64> = registered.iter().map(|registered| registered.lease_id).collect();
    let last = registered.iter().map(|registered| registered.revision).max().unwrap();
    let mut watcher = Watcher::open(&served.daemon, v1::WatchRequest::default()).await.unwrap();
    watcher.reach(last).await;
    // Beaten at once, all become suspect at once: two of their beats are overdue.
    let mut beats = BeatStream::open(&served.daemon).await;
    assert_eq!(beats.beat(&leases).await.unwrap().renewed as usize, leases.len());
    watcher.until(|watcher| watcher.suspects.len() == leases.len()).await;
    assert!(watcher.largest < 66 * 1024, "{} bytes in one response", watcher.largest);
}
