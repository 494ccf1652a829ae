//! The record of decisions: what operators did stands there with its identity, and refusals with their count, whatever becomes of
//! the database meanwhile.

use musterd::proto::v1;
use serde_json::Value;
use tokio_postgres::Client;

use super::{BOUND, Caller, Guarded, MASTER, caller_of, guard, rows::registration, rules::Rule, verdict};
use crate::harness::{
    postgres::{OwnCluster, connect},
    registry::{column, get, id},
    scratch::Scratch,
    served::refusal,
    wait::wait_until,
};

const ACTOR: Rule = Rule { who: "actor", may: &["register", "read"], on: &["svc-a"] };
const AGENT: Rule = Rule { who: "agent", may: &["operate"], on: &["svc-*"] };

/// All decisions that match, page by page.
async fn decisions(caller: &Caller, page_size: i32, asked: v1::ListDecisionsRequest) -> Vec<v1::Decision> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListDecisionsRequest { page_size, page_token, ..asked.clone() };
        let page = caller.cluster.clone().list_decisions(request).await.unwrap().into_inner();
        all.extend(page.decisions);
        if page.next_page_token.is_empty() {
            return all;
        }
        page_token = page.next_page_token;
    }
}

fn detail(decision: &v1::Decision) -> Value {
    serde_json::from_str(&decision.detail).unwrap()
}

fn of_action(action: &str) -> v1::ListDecisionsRequest {
    v1::ListDecisionsRequest { action: action.to_owned(), ..Default::default() }
}

async fn hold(caller: &mut Caller) -> String {
    verdict(
        &caller.cluster.hold_expiry(v1::HoldExpiryRequest { reason: "work".to_owned(), ..Default::default() }).await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_listed_with_identity_object_and_revision() {
    let guarded = Guarded::start(&[ACTOR, AGENT]).await;
    let (mut master, mut actor) = (guarded.caller(MASTER).await, guarded.caller("actor").await);
    let mut agent = guarded.caller("agent").await;
    let rotated =
        master.cluster.rotate_epoch(v1::RotateEpochRequest { reason: "cold start".into(), ..Default::default() });
    let rotated = rotated.await.unwrap().into_inner();
    for number in 1..=4 {
        actor.registry.register(registration(id(number), "svc-a")).await.unwrap();
    }
    guarded.caught_up().await;
    assert_eq!(hold(&mut master).await, "OK");
    master.cluster.release_expiry(v1::ReleaseExpiryRequest::default()).await.unwrap();
    let drain = |number| v1::SetStatusRequest {
        instance_id: id(number).to_string(),
        status: v1::InstanceStatus::Draining.into(),
        reason: "moves".to_owned(),
        ..Default::default()
    };
    agent.registry.set_status(drain(1)).await.unwrap();
    let end = |number| v1::DeregisterRequest { instance_id: id(number).to_string(), ..Default::default() };
    agent.registry.deregister(end(2)).await.unwrap();
    let expire = v1::ExpireInstanceRequest { instance_id: id(3).to_string(), ..Default::default() };
    let expired = agent.cluster.expire_instance(expire).await.unwrap().into_inner();
    // What its owner does is no decision.
    actor.registry.set_status(drain(4)).await.unwrap();
    actor.registry.deregister(end(4)).await.unwrap();

    let all = decisions(&master, 100, v1::ListDecisionsRequest::default()).await;
    let ours: Vec<String> = all
        .iter()
        .filter(|one| !one.action.starts_with("migrate_"))
        .map(|one| format!("{} {} {}", one.action, one.by, one.object))
        .collect();
    let instance = |number| format!("instance {}", id(number));
    let expected = [
        format!("expire token/agent {}", instance(3)),
        format!("deregister token/agent {}", instance(2)),
        format!("set_status token/agent {}", instance(1)),
        "release token/master expiry".to_owned(),
        "hold token/master expiry".to_owned(),
        "rotate token/master epoch 2".to_owned(),
    ];
    assert_eq!(ours, expected);
    let one = |action: &str| all.iter().find(|one| one.action == action).unwrap();
    assert_eq!((one("rotate").revision, one("expire").revision), (rotated.revision, expired.revision));
    assert_eq!((one("hold").revision, one("hold").by_role.as_str()), (0, "musterd"));
    let rotation = detail(one("rotate"));
    assert_eq!((&rotation["epoch"], &rotation["reason"]), (&rotated.cluster_epoch.into(), &"cold start".into()));
    assert!(rotation["daemon"].as_str().unwrap().contains('/'), "{rotation}");
    let drained = detail(one("set_status"));
    assert_eq!((&drained["owner"], &drained["logical_id"]), (&"token/actor".into(), &"svc-a".into()));
    assert!(all.iter().any(|one| one.action == "migrate_up" && one.object == "022_audit"), "{all:?}");

    assert_eq!(decisions(&master, 2, v1::ListDecisionsRequest::default()).await, all, "page by page");
    let by = v1::ListDecisionsRequest { by: "token/agent".to_owned(), ..Default::default() };
    assert_eq!(decisions(&master, 0, by).await, all[..3]);
    assert_eq!(decisions(&master, 0, of_action("hold")).await, [one("hold").clone()]);
    let since = v1::ListDecisionsRequest { since: one("hold").at, ..Default::default() };
    assert_eq!(decisions(&master, 0, since).await.len(), 5);
    for caller in [&actor, &agent] {
        let refused = caller.cluster.clone().list_decisions(v1::ListDecisionsRequest::default()).await;
        assert_eq!(verdict(&refused), "PERMISSION_DENIED");
    }
    let token = v1::ListDecisionsRequest { page_token: "x".to_owned(), ..Default::default() };
    assert_eq!(verdict(&master.cluster.list_decisions(token).await), "INVALID_FIELD");
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_are_recorded_with_their_count_a_minute_each() {
    let guarded = Guarded::start(&[ACTOR]).await;
    let (master, mut actor) = (guarded.caller(MASTER).await, guarded.caller("actor").await);
    for _ in 0..50 {
        assert_eq!(hold(&mut actor).await, "PERMISSION_DENIED");
    }
    let mut stream = actor.discovery.watch(v1::WatchRequest { logical_id: "svc-a".into(), ..Default::default() }).await;
    guarded.set_rules(&[]);
    let ended = async {
        loop {
            if let Err(status) = stream.as_mut().unwrap().get_mut().message().await {
                return status;
            }
        }
    };
    assert_eq!(refusal::<()>(Err(ended.await)).reason, "PERMISSION_DENIED");
    let found = wait_until("denials are recorded", BOUND, async || {
        let found = decisions(&master, 0, of_action("denied")).await;
        let has = |method: &str| found.iter().any(|one| one.object.ends_with(method));
        if has("/HoldExpiry") && has("/Watch") { Ok(found) } else { Err(found) }
    })
    .await;
    let held = found.iter().find(|one| one.object == "/muster.v1.ClusterService/HoldExpiry").unwrap();
    assert_eq!((held.by.as_str(), held.by_role.as_str()), ("token/actor", "musterd"));
    let told = detail(held);
    assert_eq!((&told["reason"], &told["peer"]), (&"PERMISSION_DENIED".into(), &"127.0.0.1".into()));
    let reloads = decisions(&master, 0, of_action("reload")).await;
    assert!(reloads.iter().any(|one| one.object == "policy and tokens" && detail(one)["outcome"] == "reloaded"));

    // The daemon writes the rest when it ends: two rows at most, if a minute has passed between them.
    assert!(guarded.daemon.terminate().await.success());
    let counts = "SELECT (detail ->> 'count')::bigint FROM registry_audit WHERE object LIKE '%/HoldExpiry'";
    let counts: Vec<i64> = column(&guarded.sql.client, counts).await;
    assert_eq!(counts.iter().sum::<i64>(), 50, "{counts:?}");
    assert!(counts.len() <= 2, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_without_a_database_are_answered_and_counted_until_it_is_back() {
    let mut cluster = OwnCluster::create().await;
    let files = Scratch::in_memory();
    let guarded = guard(cluster.url(), &files, (&ACTOR.text(), &["actor"]), &["--keep-audit", "7days"]).await;
    let mut actor = caller_of(&guarded, "actor").await;
    cluster.stop_immediate();
    for _ in 0..300 {
        assert_eq!(hold(&mut actor).await, "PERMISSION_DENIED");
    }
    wait_until("the daemon tells that it cannot record them", BOUND, async || {
        if guarded.log().contains("refusals could not be recorded") { Ok(()) } else { Err("no such line") }
    })
    .await;
    assert_eq!(hold(&mut actor).await, "PERMISSION_DENIED");
    cluster.start().await;
    let client = connect(cluster.url()).await;
    // The last of them are due a minute after the first, or when the daemon ends.
    wait_until("the refusals are recorded", BOUND, async || match denied(&client).await {
        0 => Err(0),
        some => Ok(some),
    })
    .await;
    assert!(guarded.terminate().await.success());
    assert_eq!(denied(&client).await, 301);
}

async fn denied(client: &Client) -> i64 {
    let sum =
        "SELECT coalesce(sum((detail ->> 'count')::bigint), 0)::bigint FROM registry_audit WHERE action = 'denied'";
    get(client, sum).await
}
