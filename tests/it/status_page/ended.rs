//! Leases that have ended, in the API and on the page.

use musterd::proto::v1;
use serde_json::{Value, json};

use super::{
    HOSTILE, ask,
    browser::{see, texts, url},
    registered, wait_for,
};
use crate::harness::{
    browser::Browser, daemon::Daemon, postgres::OwnCluster, registry::id, served::Served, wire::Wire,
};

/// Two leases of instance 6 that their owner ended, one of instance 7 that an operator ended, all of `name`.
async fn end_three(clients: &Wire, name: &str) {
    for _ in 0..2 {
        clients.register(registered(6, name, &[])).await;
        clients.deregister(6).await;
    }
    clients.register(registered(7, name, &[])).await;
    let instance_id = id(7).to_string();
    clients.cluster.clone().expire_instance(v1::ExpireInstanceRequest { instance_id, lease_id: 0 }).await.unwrap();
}

fn fields<'a>(answer: &'a Value, field: &str) -> Vec<&'a str> {
    answer["leases"].as_array().unwrap().iter().map(|lease| lease[field].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_leases_equal_those_of_the_call() {
    let served = Served::start().await;
    end_three(&served.clients, "organ").await;
    let request = v1::ListEndedLeasesRequest { logical_id: "organ".to_owned(), ..Default::default() };
    let called = served.clients.discovery.clone().list_ended_leases(request).await.unwrap().into_inner().leases;
    let (status, answer) = ask(&served.daemon, "ended?name=organ").await;
    assert_eq!((status, &answer["filtered"]), (200, &json!(false)), "{answer}");
    let ids: Vec<String> = called.iter().map(|lease| lease.lease_id.to_string()).collect();
    assert_eq!(fields(&answer, "leaseId"), ids);
    let reasons: Vec<_> =
        answer["leases"].as_array().unwrap().iter().map(|one| one["death"]["reason"].clone()).collect();
    assert_eq!(reasons, ["DEATH_REASON_OPERATOR", "DEATH_REASON_DEREGISTERED", "DEATH_REASON_DEREGISTERED"]);
    let (first, lease) = (&called[0], &answer["leases"][0]);
    for (field, value) in [
        ("instanceId", &first.instance_id),
        ("logicalId", &first.logical_id),
        ("actorName", &first.actor_name),
        ("nodeId", &first.node_id),
        ("owner", &first.owner),
        ("epochNumber", &first.epoch_number.to_string()),
    ] {
        assert_eq!(lease[field], *value, "{field}");
    }
    assert!(lease["startedAt"].is_string() && lease["death"]["at"].is_string(), "{lease}");
    assert_eq!(lease["death"]["decidedBy"], first.death.as_ref().unwrap().decided_by);

    let (_, of_instance) = ask(&served.daemon, &format!("ended?instance={}", id(6))).await;
    assert_eq!(fields(&of_instance, "leaseId"), ids[1..]);
    let (_, latest) = ask(&served.daemon, "ended?name=organ&limit=1").await;
    assert_eq!(fields(&latest, "leaseId"), ids[..1]);
    let begun = fields(&answer, "startedAt")[2].to_owned();
    let (_, alive) = ask(&served.daemon, &format!("ended?name=organ&aliveAt={begun}")).await;
    assert_eq!(fields(&alive, "leaseId"), ids[2..]);
    let (_, none) = ask(&served.daemon, "ended?name=absent").await;
    assert_eq!(none["leases"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_leases_are_refused_while_postgresql_is_away() {
    let mut cluster = OwnCluster::create().await;
    let daemon = Daemon::start(cluster.url()).await;
    let clients = Wire::of(&daemon).await;
    clients.register(registered(6, "organ", &[])).await;
    clients.deregister(6).await;
    assert_eq!(fields(&ask(&daemon, "ended?name=organ").await.1, "logicalId"), ["organ"]);
    cluster.kill9();
    let (status, answer) = ask(&daemon, "ended?name=organ").await;
    assert_eq!((status, &answer["error"]["reason"]), (503, &json!("DATABASE_UNAVAILABLE")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().ends_with("; ask again in a moment"), "{answer}");
    assert_eq!(ask(&daemon, "instances?name=organ&status=any").await.0, 200, "memory answers");
    cluster.start().await;
    wait_for(&daemon, "ended?name=organ", |answer| fields(answer, "logicalId") == ["organ"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_the_ended_leases_of_an_open_name() {
    let served = Served::start().await;
    end_three(&served.clients, HOSTILE).await;
    served.clients.register(registered(8, HOSTILE, &[])).await;
    let Some(mut browser) = Browser::open(&url(&served.daemon, ""), 1_280, 900).await else { return };
    see(&mut browser, HOSTILE).await;
    browser.click("tbody th button").await;
    browser.wait_for("the name is open", "document.querySelector('tr.detail summary') !== null").await;
    assert!(texts(&mut browser, ".ended > li").await.is_empty(), "nothing is asked for unseen");
    browser.click("tr.detail summary").await;
    browser.wait_for("the leases are shown", "document.querySelectorAll('.ended > li').length === 3").await;
    let shown = texts(&mut browser, ".ended > li").await;
    assert!(shown[0].contains("declared dead by an operator") && shown[0].contains(&id(7).to_string()), "{shown:?}");
    assert!(shown[1].contains("deregistered by its owner") && shown[1].contains("node node-0"), "{shown:?}");
    assert_eq!(browser.complaints(), [""; 0]);
}
