//! The list of targets that Prometheus gets: which instances are in it, in which words, and
//! when there is none rather than a wrong one.

use std::collections::BTreeSet;

use musterd::{
    model::InstanceStatus as Status,
    proto::v1::{self, InstanceStatus},
};
use serde_json::{Value, json};

use crate::harness::{
    daemon::{DAEMON_BOUND, Daemon},
    postgres::OwnCluster,
    registry::{Registry, id, run},
    served::{Served, registration},
    wait::wait_until,
    wire::Wire,
};

const PATH: &str = "/sd/prometheus";

/// The list, which must be there.
async fn list(daemon: &Daemon, query: &str) -> Vec<Value> {
    let (status, body) = daemon.http_get(&format!("{PATH}?{query}")).await.unwrap();
    assert_eq!(status, 200, "{query}: {body}");
    unchunked(&body)
}

/// The JSON of a body that came in chunks, each after a line with its length.
fn unchunked(body: &str) -> Vec<Value> {
    let (mut json, mut rest) = (String::new(), body);
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        json.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// The ports of the targets, in the order of the list.
async fn ports(daemon: &Daemon, query: &str) -> Vec<u32> {
    let port = |group: &Value| group["targets"][0].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
    list(daemon, query).await.iter().map(port).collect()
}

/// An alive instance whose port is its number.
fn at(instance: u128, logical_id: &str) -> v1::RegisterRequest {
    v1::RegisterRequest { port: u32::try_from(instance).unwrap(), ..registration(instance, logical_id) }
}

fn labels(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_instance_is_a_target_with_all_that_is_known_of_it() {
    let served = Served::start().await;
    let full = served.clients.register(v1::RegisterRequest {
        actor_name: "organ \"one\"".to_owned(),
        serve_route: "/organ".to_owned(),
        version: "1.2.3".to_owned(),
        labels: labels(&[("tier", "gpu"), ("app.kubernetes.io/name", "a\\b")]),
        ..at(1, "organ")
    });
    let full = full.await;
    let v6 = v1::RegisterRequest { ip_address: "2001:db8::7".to_owned(), node_id: String::new(), ..at(2, "organ") };
    let v6 = served.clients.register(v6).await;
    served.clients.set_status(2, Status::Draining).await;
    let expected = json!([
        {
            "targets": ["10.0.0.1:1"],
            "labels": {
                "__meta_musterd_logical_id": "organ",
                "__meta_musterd_instance_id": id(1).to_string(),
                "__meta_musterd_lease_id": full.lease_id.to_string(),
                "__meta_musterd_epoch_number": "1",
                "__meta_musterd_status": "alive",
                "__meta_musterd_node_id": "node",
                "__meta_musterd_actor_name": "organ \"one\"",
                "__meta_musterd_serve_route": "/organ",
                "__meta_musterd_version": "1.2.3",
                "__meta_musterd_label_tier": "gpu",
                "__meta_musterd_labelpresent_tier": "true",
                "__meta_musterd_label_app_kubernetes_io_name": "a\\b",
                "__meta_musterd_labelpresent_app_kubernetes_io_name": "true",
            },
        },
        {
            "targets": ["[2001:db8::7]:2"],
            "labels": {
                "__meta_musterd_logical_id": "organ",
                "__meta_musterd_instance_id": id(2).to_string(),
                "__meta_musterd_lease_id": v6.lease_id.to_string(),
                "__meta_musterd_epoch_number": "1",
                "__meta_musterd_status": "draining",
            },
        },
    ]);
    assert_eq!(Value::Array(list(&served.daemon, "").await), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_and_addressless_instances_are_no_targets() {
    let served = Served::start().await;
    assert_eq!(list(&served.daemon, "").await, Vec::<Value>::new());
    let starting = v1::RegisterRequest { initial_status: InstanceStatus::Starting.into(), ..at(1, "organ") };
    served.clients.register(starting).await;
    served.clients.register(at(2, "organ")).await;
    served.clients.register(v1::RegisterRequest { ip_address: String::new(), ..at(3, "organ") }).await;
    served.clients.register(v1::RegisterRequest { port: 0, ..at(4, "organ") }).await;
    served.clients.register(at(5, "organ")).await;
    served.clients.deregister(5).await;
    assert_eq!(ports(&served.daemon, "").await, [1, 2]);
    served.clients.rotate().await;
    assert_eq!(list(&served.daemon, "").await, Vec::<Value>::new(), "all were of the former epoch");
    served.clients.register(at(6, "organ")).await;
    let of_the_new_epoch = list(&served.daemon, "").await;
    assert_eq!(of_the_new_epoch[0]["labels"]["__meta_musterd_epoch_number"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_narrowed_by_name_prefix_label_status_and_node() {
    let served = Served::start().await;
    let with = |instance, logical_id, pairs| v1::RegisterRequest { labels: labels(pairs), ..at(instance, logical_id) };
    served.clients.register(with(1, "organ_1", &[("tier", "gpu"), ("zone", "a")])).await;
    served.clients.register(with(2, "organ_1", &[("tier", "gpu"), ("zone", "b=c")])).await;
    served.clients.register(v1::RegisterRequest { node_id: "other node".to_owned(), ..at(3, "organ_2") }).await;
    served.clients.register(with(4, "tail", &[("tier", "cpu")])).await;
    served.clients.set_status(4, Status::Draining).await;
    for (query, expected) in [
        ("", &[1, 2, 3, 4][..]),
        ("name=organ_1", &[1, 2]),
        ("name=organ_", &[]),
        ("prefix=organ_", &[1, 2, 3]),
        ("label=tier=gpu", &[1, 2]),
        ("label=tier=gpu&label=zone=b=c", &[2]),
        ("label=tier%3Dgpu&label=zone=", &[]),
        ("status=alive", &[1, 2, 3]),
        ("status=alive,draining", &[1, 2, 3, 4]),
        ("status=starting&status=draining", &[4]),
        ("node=other+node", &[3]),
        ("prefix=organ&node=node&label=zone=a&status=alive", &[1]),
        ("name=&prefix=&node=", &[1, 2, 3, 4]),
    ] {
        assert_eq!(ports(&served.daemon, query).await, expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_labels_that_are_hostile_do_no_harm() {
    let served = Served::start().await;
    let hostile = labels(&[("a-b", "dash"), ("a.b", "dot"), ("größe", "\"}\\"), ("1", "x\u{202e}"), ("__name__", "n")]);
    served.clients.register(v1::RegisterRequest { labels: hostile, ..at(1, "a\"]},{<script>") }).await;
    // What SQL callers write does not come through the daemon's checks.
    let by_hand = format!(
        "UPDATE registry_instance SET labels = '{{\"tab\\tkey\": \"line\\nbreak\", \"\": \"empty\"}}', actor_name = E'\\x01' \
         WHERE instance_id = '{}'",
        id(2)
    );
    served.clients.register(at(2, "organ")).await;
    run(&served.sql.client, &by_hand).await;
    let listed = wait_until("the row that was written by hand", DAEMON_BOUND, async || {
        let listed = list(&served.daemon, "").await;
        if listed[1]["labels"]["__meta_musterd_actor_name"] == "\u{1}" { Ok(listed) } else { Err(listed) }
    })
    .await;
    assert_eq!(listed[0]["labels"]["__meta_musterd_logical_id"], "a\"]},{<script>");
    assert_eq!(listed[0]["labels"]["__meta_musterd_label_a_b"], "dash", "of two keys the first one, every time");
    assert_eq!(listed[0]["labels"]["__meta_musterd_label_gr__e"], "\"}\\");
    assert_eq!(listed[1]["labels"]["__meta_musterd_label_tab_key"], "line\nbreak");
    for group in &listed {
        for name in group["labels"].as_object().unwrap().keys() {
            let legal = name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_');
            assert!(legal && name.starts_with("__meta_musterd_"), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contradictory_query_is_refused_with_the_parameter_named() {
    let served = Served::start().await;
    for (path, query, line) in [
        (PATH, "nmae=organ", "nmae: is not a parameter here; choose from name, prefix, label, status, node, max_stale"),
        (PATH, "name=a&name=b", "name: is given more than once; give it once"),
        (PATH, "name=a&prefix=b", "prefix: is given together with name; give one of them"),
        (PATH, "name=%00", "name: has the control character U+0000; remove it"),
        (PATH, "node=%FF", "node: is not UTF-8; percent-encode it as UTF-8"),
        (PATH, "label=tier", "label: is \"tier\"; write label=KEY=VALUE"),
        (PATH, "status=dead", "status: is \"dead\"; choose from starting, alive, draining"),
        (PATH, "max_stale=1ms", "max_stale: is \"1ms\"; write a duration from 2s to 24h, such as 30s"),
        ("/metrics/logical-ids", "limit=0", "limit: is \"0\"; choose 1 to 10000"),
        ("/metrics/logical-ids", "name=organ", "name: is not a parameter here; choose from prefix, limit"),
    ] {
        let answer = served.daemon.http_get(&format!("{path}?{query}")).await.unwrap();
        assert_eq!(answer, (400, format!("{line}\n")), "{query}");
    }
    let long = format!("{PATH}?prefix={}", "x".repeat(254));
    let refusal = "prefix: has 254 bytes; shorten it to at most 253\n".to_owned();
    assert_eq!(served.daemon.http_get(&long).await.unwrap(), (400, refusal));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_has_not_loaded_the_registry_has_no_list() {
    let sql = Registry::head().await;
    run(&sql.client, "BEGIN; LOCK TABLE registry_instance IN ACCESS EXCLUSIVE MODE").await;
    let daemon = Daemon::spawn(&["--database-url", sql.database.url()]).await;
    for path in [PATH, "/metrics/logical-ids"] {
        let (status, body) = daemon.http_get(path).await.unwrap();
        assert_eq!((status, body.lines().count()), (503, 1), "{path}: {body}");
        assert!(body.starts_with("the registry is not loaded yet"), "{path}: {body}");
    }
    run(&sql.client, "COMMIT").await;
    daemon.wait_ready().await;
    assert_eq!(list(&daemon, "").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgresql_is_away_there_is_a_list_until_it_is_too_old_and_never_an_empty_one() {
    let mut cluster = OwnCluster::create().await;
    let daemon = Daemon::start(cluster.url()).await;
    let clients = Wire::of(&daemon).await;
    clients.register(at(1, "organ")).await;
    cluster.kill9();
    let refused = wait_until("an answer that is too old", DAEMON_BOUND, async || {
        match daemon.http_get(&format!("{PATH}?max_stale=2s")).await.unwrap() {
            (503, body) => Ok(body),
            (status, body) => {
                assert_eq!((status, unchunked(&body).len()), (200, 1), "it is not yet too old");
                Err(body)
            }
        }
    })
    .await;
    assert!(refused.contains("max_stale is 2s") && refused.lines().count() == 1, "{refused}");
    assert_eq!(ports(&daemon, "max_stale=24h").await, [1], "a caller that accepts an older list gets it");
    cluster.start().await;
    let again = wait_until("a list again", DAEMON_BOUND, async || {
        match daemon.http_get(&format!("{PATH}?max_stale=2s")).await.unwrap() {
            (200, body) => Ok(body),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(unchunked(&again).len(), 1, "still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_is_whole_and_in_order() {
    let served = Served::start().await;
    let epoch = served.clients.register(at(1, "organ")).await.cluster_epoch;
    // Three and a half of the parts in which it is written.
    let fleet = format!(
        "SELECT register_instance(gen_random_uuid(), 'organ_' || n % 7, '{epoch}', NULL, NULL, NULL, '10.1.2.3', n) \
         FROM generate_series(2, 3500) n; UPDATE registry_instance SET port = pid WHERE port IS NULL"
    );
    run(&served.sql.client, &fleet).await;
    let listed = wait_until("the fleet", DAEMON_BOUND, async || {
        let listed = list(&served.daemon, "").await;
        if listed.len() == 3_500 { Ok(listed) } else { Err(listed.len()) }
    })
    .await;
    let text = |group: &Value, label: &str| group["labels"][label].as_str().unwrap().to_owned();
    let keys: Vec<_> = listed
        .iter()
        .map(|group| (text(group, "__meta_musterd_logical_id"), text(group, "__meta_musterd_instance_id")))
        .collect();
    assert!(keys.is_sorted(), "by logical id and instance id");
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 3_500, "each of them once");
    assert_eq!(list(&served.daemon, "").await, listed, "the same list every time");
}
