//! A real Prometheus with the files of `deploy/prometheus/`, before a real daemon.

use std::collections::{BTreeMap, BTreeSet};

use musterd::proto::v1;
use serde_json::Value;

use super::{
    files::{dashboard, rules, text},
    tools::{Prometheus, Tools},
};
use crate::harness::{
    daemon::{DAEMON_BOUND, Daemon},
    postgres::OwnCluster,
    served::registration,
    wait::wait_until,
    wire::Wire,
};

/// Starts a Prometheus with the example configuration, for one daemon and in more of a hurry.
async fn prometheus(tools: &Tools, daemon: &Daemon) -> Prometheus {
    let example = text("prometheus.yaml");
    let hurried = example
        .replace("127.0.0.1:7718", &daemon.http_addr)
        .replace("interval: 15s", "interval: 1s")
        .replace("refresh_interval: 30s", "refresh_interval: 1s")
        .replace("status=alive", "status=alive&max_stale=2s");
    assert!(!hurried.contains("30s") && hurried.contains("max_stale"), "{hurried}");
    let files = ["alerts.yaml", "recording.yaml"].map(|name| (name, text(name)));
    Prometheus::start(tools, &hurried, &files).await
}

/// The address and the labels of each active target of a job.
async fn targets(prometheus: &Prometheus, job: &str) -> BTreeMap<String, Value> {
    let targets = prometheus.api("targets?state=active").await["activeTargets"].as_array().cloned().unwrap();
    let of_job = targets.into_iter().filter(|target| target["labels"]["job"] == job);
    of_job.map(|target| (target["scrapeUrl"].as_str().unwrap().to_owned(), target["labels"].clone())).collect()
}

async fn wait_for_actors(prometheus: &Prometheus, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|url| (*url).to_owned()).collect();
    wait_until("the targets that the registry names", DAEMON_BOUND, async || {
        let found: BTreeSet<String> = targets(prometheus, "actors").await.into_keys().collect();
        if found == expected { Ok(()) } else { Err(found) }
    })
    .await;
}

/// Waits until a query has a result.
async fn wait_for(prometheus: &Prometheus, query: &str) {
    wait_until(query, DAEMON_BOUND, async || {
        let result = prometheus.query(query).await;
        if result.is_empty() { Err("no result") } else { Ok(()) }
    })
    .await;
}

fn actor(instance: u128, ip_address: &str, port: u16) -> v1::RegisterRequest {
    v1::RegisterRequest {
        ip_address: ip_address.to_owned(),
        port: port.into(),
        ..registration(instance, &format!("organ_{instance}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_scrapes_daemons_and_actors_and_keeps_them_while_postgresql_is_away() {
    let Some(tools) = Tools::find() else { return };
    let mut cluster = OwnCluster::create().await;
    let daemon = Daemon::start(cluster.url()).await;
    let clients = Wire::of(&daemon).await;
    let port: u16 = daemon.http_addr.rsplit_once(':').unwrap().1.parse().unwrap();
    // The daemon itself stands in for an actor that exports metrics; at port 9 nothing listens.
    let with_path = std::collections::HashMap::from([("metrics_path".to_owned(), "/livez".to_owned())]);
    clients.register(actor(1, "127.0.0.1", port)).await;
    clients.register(v1::RegisterRequest { labels: with_path, ..actor(2, "::1", 9) }).await;
    clients.register(actor(3, "127.0.0.1", 0)).await;
    let prometheus = prometheus(&tools, &daemon).await;

    let (first, second) = (format!("http://127.0.0.1:{port}/metrics"), "http://[::1]:9/livez");
    wait_for_actors(&prometheus, &[&first, second]).await;
    let labels = &targets(&prometheus, "actors").await[&first];
    assert_eq!((&labels["logical_id"], &labels["node"]), (&Value::from("organ_1"), &Value::from("node")), "{labels}");
    wait_for(&prometheus, r#"up{job="musterd"} == 1"#).await;
    wait_for(&prometheus, r#"up{job="actors", logical_id="organ_1"} == 1 and on () up{logical_id="organ_2"} == 0"#)
        .await;
    wait_for(&prometheus, r#"musterd_instances{job="musterd", status="alive"} == 3"#).await;
    wait_for(&prometheus, r#"musterd_logical_id_instances{logical_id="organ_3", status="alive"} == 1"#).await;

    cluster.kill9();
    wait_until("lists that are refused because they would be too old", DAEMON_BOUND, async || {
        let failures = prometheus.own_metric("prometheus_sd_http_failures_total").await;
        if failures >= 2.0 { Ok(()) } else { Err(failures) }
    })
    .await;
    assert_eq!(targets(&prometheus, "actors").await.len(), 2, "each target is still one");
    cluster.start().await;
    let gone = wait_until("a registry that takes changes again", DAEMON_BOUND, async || {
        let request = v1::DeregisterRequest { instance_id: registration(2, "").instance_id, ..Default::default() };
        clients.registry.clone().deregister(request).await
    })
    .await;
    assert!(gone.into_inner().revision > 0);
    wait_for_actors(&prometheus, &[&first]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_evaluates_every_rule_and_every_panel() {
    let Some(tools) = Tools::find() else { return };
    let served = crate::harness::served::Served::start().await;
    served.clients.register(registration(1, "organ")).await;
    let prometheus = prometheus(&tools, &served.daemon).await;
    let expected = rules("alerts.yaml").len() + rules("recording.yaml").len();
    wait_until("every rule is evaluated", DAEMON_BOUND, async || {
        let groups = prometheus.api("rules").await["groups"].as_array().cloned().unwrap();
        let rules: Vec<Value> = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap()).collect();
        assert_eq!(rules.len(), expected);
        let not_yet: Vec<_> = rules.into_iter().filter(|rule| rule["health"] != "ok").collect();
        if not_yet.is_empty() { Ok(()) } else { Err(not_yet) }
    })
    .await;
    for rule in rules("recording.yaml") {
        wait_for(&prometheus, &rule.record).await;
    }
    for (_, query) in dashboard() {
        // One that compares has no result while all is well, and one of TLS none without TLS; both are answered.
        let may_be_empty = [" > ", "musterd_tls_", "musterd_certificate_"].iter().any(|part| query.contains(part));
        if may_be_empty { drop(prometheus.query(&query).await) } else { wait_for(&prometheus, &query).await }
    }
    let firing = prometheus.query(r#"ALERTS{alertstate="firing"}"#).await;
    assert!(firing.is_empty(), "a healthy daemon causes no alert: {firing:?}");
}
