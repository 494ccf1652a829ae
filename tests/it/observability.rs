//! What a daemon says of itself: probes, metrics, health, reflection; and that it leaves when asked to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use musterd::{
    metrics::names,
    model::InstanceStatus as Status,
    proto::v1::{self, InstanceStatus},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{v1 as reflection, v1alpha as reflection_alpha};

use crate::harness::{
    daemon::{DAEMON_BOUND, Daemon},
    postgres::BOUND,
    registry::{Registry, id, run, silence},
    served::{Served, registration, seconds},
    wait::wait_until,
    wire::Wire,
};

/// The services of the protocol.
const SERVICES: [&str; 3] = ["muster.v1.RegistryService", "muster.v1.DiscoveryService", "muster.v1.ClusterService"];

/// How long leaving may take (promise 12).
const LEAVING: Duration = Duration::from_secs(10);

async fn get(daemon: &Daemon, path: &str, headers: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(&daemon.http_addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_report_the_state_as_text_and_as_json() {
    let served = Served::start().await;
    let daemon = &served.daemon;
    assert_eq!(daemon.http_get("/livez").await.unwrap(), (200, "ok\n".to_owned()));
    let (status, text) = daemon.http_get("/readyz").await.unwrap();
    assert_eq!((status, text.lines().next()), (200, Some("ready")));
    let conditions = ["database", "schema", "view", "feed", "flush", "expiry", "not_shutting_down"];
    for condition in conditions {
        assert!(text.contains(&format!("[ok]       {condition}")), "{condition}:\n{text}");
    }
    let answer = get(daemon, "/readyz", "Accept: application/json\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json["ready"], true);
    let named: Vec<_> =
        json["conditions"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    assert_eq!(named, conditions);
    assert_eq!(daemon.http_get("/nothing").await.unwrap().0, 404);
    assert!(get(daemon, "/metrics", "").await.contains("content-type: text/plain; version=0.0.4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_that_is_not_ready_names_what_is_missing() {
    let sql = Registry::head().await;
    run(&sql.client, "BEGIN; LOCK TABLE registry_instance IN ACCESS EXCLUSIVE MODE").await;
    // It listens, but cannot look at its tables.
    let daemon = Daemon::spawn(&["--database-url", sql.database.url()]).await;
    let (status, text) = daemon.http_get("/readyz").await.unwrap();
    assert_eq!((status, text.lines().next()), (503, Some("not ready")));
    assert!(text.contains("[missing]  schema"), "{text}");
    let answer = get(&daemon, "/readyz", "Accept: application/json\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains(r#""ready":false"#), "{answer}");
    assert_eq!(daemon.http_get("/livez").await.unwrap().0, 200);
    assert_eq!(daemon.metric("musterd_ready").await, Some(0.0));
    run(&sql.client, "COMMIT").await;
    daemon.wait_ready().await;
}

/// All series of the exposition.
async fn series(daemon: &Daemon) -> BTreeMap<String, f64> {
    let (status, text) = daemon.http_get("/metrics").await.unwrap();
    assert_eq!(status, 200);
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_from_the_start_with_its_help() {
    let served = Served::start().await;
    let (_, text) = served.daemon.http_get("/metrics").await.unwrap();
    let series = series(&served.daemon).await;
    let present: BTreeSet<&str> = series.keys().map(|key| key.split('{').next().unwrap()).collect();
    for metric in names::ALL {
        // What is said of TLS without TLS would be an alert about a certificate that does not exist.
        let of_tls = ["musterd_tls_", "musterd_certificate_", "musterd_security_"];
        if of_tls.iter().any(|prefix| metric.name.starts_with(prefix)) {
            assert!(!text.contains(metric.name), "{} without TLS", metric.name);
            continue;
        }
        assert!(text.contains(&format!("# HELP {} ", metric.name)), "{} without help", metric.name);
        let name = match metric.kind {
            names::Kind::Histogram => format!("{}_count", metric.name),
            names::Kind::Counter | names::Kind::Gauge => metric.name.to_owned(),
        };
        assert!(present.contains(name.as_str()), "{name} is missing");
    }
    assert!(present.contains("process_resident_memory_bytes"), "{present:?}");
    for key in series.keys() {
        assert!(!key.contains("instance_id") && !key.contains("logical_id="), "an open set of labels: {key}");
    }
}

/// Does something of everything that is counted, through one daemon.
async fn do_something_of_everything(clients: &Wire) {
    let mut registry = clients.registry.clone();
    clients.register(registration(1, "organ")).await;
    clients.register(registration(1, "organ")).await;
    for instance in [2, 3, 4] {
        clients.register(registration(instance, "organ")).await;
    }
    let starting = InstanceStatus::Starting.into();
    clients.register(v1::RegisterRequest { initial_status: starting, ..registration(5, "other") }).await;
    registry.register(registration(1, "taken")).await.unwrap_err();
    registry.register(registration(6, "")).await.unwrap_err();
    let fenced = v1::RegisterRequest { cluster_epoch: id(9).to_string(), ..registration(6, "organ") };
    registry.register(fenced).await.unwrap_err();
    clients.set_status(2, Status::Draining).await;
    let ended = clients.deregister(3).await.lease_id;
    clients.deregister(4).await;
    clients.register(registration(3, "organ")).await;

    clients.beat(1).await;
    clients.beat(1).await;
    for (lease_id, code) in
        [(ended, Code::FailedPrecondition), (clients.deregister(4).await.lease_id, Code::FailedPrecondition)]
    {
        let beat = registry.beat(v1::BeatRequest { lease_id, ..Default::default() }).await;
        assert_eq!(beat.unwrap_err().code(), code);
    }
    clients.resolve("organ", 0).await.unwrap();
    clients.resolve("organ", 0).await.unwrap();
    for absent in ["other", "unknown", ""] {
        clients.resolve(absent, 0).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened() {
    let served = Served::start().await;
    do_something_of_everything(&served.clients).await;
    let series = series(&served.daemon).await;
    let revision = served.revision().await;
    let registry = |method: &str, code: &str| {
        format!(
            "grpc_server_handled_total{{grpc_service=\"muster.v1.RegistryService\",grpc_method=\"{method}\",grpc_code=\"{code}\"}}"
        )
    };
    for (name, expected) in [
        (r#"musterd_instances{status="starting"}"#.to_owned(), 1.0),
        (r#"musterd_instances{status="alive"}"#.to_owned(), 2.0),
        (r#"musterd_instances{status="draining"}"#.to_owned(), 1.0),
        (r#"musterd_instances{status="dead"}"#.to_owned(), 1.0),
        (r#"musterd_logical_ids{served="true"}"#.to_owned(), 1.0),
        (r#"musterd_logical_ids{served="false"}"#.to_owned(), 1.0),
        (r#"musterd_registrations_total{outcome="created"}"#.to_owned(), 5.0),
        (r#"musterd_registrations_total{outcome="renewed"}"#.to_owned(), 1.0),
        (r#"musterd_registrations_total{outcome="replaced"}"#.to_owned(), 1.0),
        (r#"musterd_registrations_total{outcome="taken"}"#.to_owned(), 1.0),
        (r#"musterd_registrations_total{outcome="invalid"}"#.to_owned(), 1.0),
        (r#"musterd_registrations_total{outcome="fenced"}"#.to_owned(), 1.0),
        (r#"musterd_deaths_total{reason="deregistered"}"#.to_owned(), 2.0),
        (r#"musterd_beats_total{verdict="ok"}"#.to_owned(), 2.0),
        (r#"musterd_beats_total{verdict="replaced"}"#.to_owned(), 1.0),
        (r#"musterd_beats_total{verdict="expired"}"#.to_owned(), 1.0),
        (r#"musterd_resolves_total{result="found"}"#.to_owned(), 2.0),
        (r#"musterd_resolves_total{result="no_live_instance"}"#.to_owned(), 1.0),
        (r#"musterd_resolves_total{result="unknown_logical_id"}"#.to_owned(), 1.0),
        (r#"musterd_resolves_total{result="invalid"}"#.to_owned(), 1.0),
        (r#"musterd_feed_resyncs_total{cause="start"}"#.to_owned(), 1.0),
        ("musterd_epoch_number".to_owned(), 1.0),
        ("musterd_revision".to_owned(), f64::from(u32::try_from(revision).unwrap())),
        ("musterd_ready".to_owned(), 1.0),
        (registry("Register", "OK"), 7.0),
        (registry("Register", "AlreadyExists"), 1.0),
        (registry("Register", "InvalidArgument"), 1.0),
        (registry("Register", "FailedPrecondition"), 1.0),
        (registry("Beat", "OK"), 2.0),
        (registry("Beat", "FailedPrecondition"), 2.0),
    ] {
        assert_eq!(series.get(&name), Some(&expected), "{name}");
    }
    let latency =
        r#"grpc_server_handling_seconds_count{grpc_service="muster.v1.RegistryService",grpc_method="Register"}"#;
    assert_eq!(series[latency], 10.0);
    assert!(series["musterd_feed_lag_seconds"] < 30.0);
    assert!(series["musterd_writer_group_size_count"] > 0.0);
    assert!(series["musterd_grpc_connections"] >= 1.0);
    assert!(series[r#"musterd_pool_connections{pool="engine",state="size"}"#] >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_follow_beats_into_the_database_and_the_reapers_at_their_work() {
    let served = Served::start().await;
    let metric = async |name: &str| served.daemon.metric(name).await.unwrap();
    let above = async |name: &str, least: f64| {
        wait_until(name, BOUND, async || {
            let value = metric(name).await;
            if value >= least { Ok(()) } else { Err(value) }
        })
        .await;
    };
    served.clients.register(v1::RegisterRequest { ttl: Some(seconds(2)), ..registration(1, "organ") }).await;
    served.clients.register(registration(2, "organ")).await;
    served.clients.beat(1).await;
    above("musterd_flush_leases_sum", 1.0).await;
    above("musterd_flush_seconds_count", 1.0).await;

    silence(&served.sql.client, 1, 60).await;
    above(r#"musterd_deaths_total{reason="stale"}"#, 1.0).await;
    above(r#"musterd_reaped_total{reaper="stale"}"#, 1.0).await;
    above(r#"musterd_reaper_runs_total{reaper="stale",outcome="ok"}"#, 1.0).await;
    above(r#"musterd_reaper_runs_total{reaper="purge",outcome="ok"}"#, 1.0).await;

    served.clients.rotate().await;
    assert_eq!(metric("musterd_epoch_number").await, 2.0);
    above(r#"musterd_deaths_total{reason="old_epoch"}"#, 1.0).await;
    above(r#"musterd_reaped_total{reaper="old_epoch"}"#, 1.0).await;
    let fenced = v1::BeatRequest { instance_id: id(2).to_string(), ..Default::default() };
    served.clients.registry.clone().beat(fenced).await.unwrap_err();
    assert_eq!(metric(r#"musterd_instances{status="dead"}"#).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_and_background_runs_are_logged_by_name_at_debug() {
    let sql = Registry::head().await;
    let daemon = Daemon::start_with(&["--database-url", sql.database.url(), "--log-level", "debug"]).await;
    Wire::of(&daemon).await.register(registration(1, "organ")).await;
    let spans = ["db.apply", "writer.group", "db.reap_stale", "reaper.stale", "reaper.purge", "db.read_changes"];
    wait_until("a line for each span", BOUND, async || {
        let log = daemon.log();
        let is_closed = |line: &str, name: &str| line.contains(&format!("\"{name}\"")) && line.contains("time.busy");
        let missing: Vec<_> = spans.iter().filter(|name| !log.lines().any(|line| is_closed(line, name))).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    })
    .await;
    let quiet = Daemon::start_with(&["--database-url", sql.database.url(), "--log-level", "info"]).await;
    assert!(!quiet.log().contains("time.busy"), "{}", quiet.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_serving_for_the_daemon_and_each_service() {
    let served = Served::start().await;
    let mut health = HealthClient::new(served.daemon.channel().await);
    for service in ["", SERVICES[0], SERVICES[1], SERVICES[2]] {
        let check = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(check).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "`{service}`");
    }
    let unknown = HealthCheckRequest { service: "muster.v1.Nothing".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services_and_describes_them() {
    let served = Served::start().await;
    let channel = served.daemon.channel().await;
    for listed in [list_v1(channel.clone()).await, list_v1alpha(channel.clone()).await] {
        for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
            assert!(listed.contains(service), "{service} is not in {listed:?}");
        }
    }
    let symbol = reflection::server_reflection_request::MessageRequest::FileContainingSymbol(SERVICES[0].to_owned());
    let request = reflection::ServerReflectionRequest { host: String::new(), message_request: Some(symbol) };
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let reflection::server_reflection_response::MessageResponse::FileDescriptorResponse(files) = answer else {
        panic!("{answer:?}")
    };
    assert!(!files.file_descriptor_proto.is_empty());
}

/// A stream of one request.
fn once<T: Send + 'static>(request: T) -> impl futures_util::Stream<Item = T> + Send + 'static {
    futures_util::stream::iter([request])
}

async fn list_v1(channel: Channel) -> BTreeSet<String> {
    use reflection::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest::ListServices, server_reflection_response::MessageResponse,
    };
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(ListServices(String::new())) };
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(once(request)).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response.unwrap() {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|service| service.name).collect(),
        other => panic!("{other:?}"),
    }
}

async fn list_v1alpha(channel: Channel) -> BTreeSet<String> {
    use reflection_alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest::ListServices, server_reflection_response::MessageResponse,
    };
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(ListServices(String::new())) };
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(once(request)).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response.unwrap() {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|service| service.name).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_leaves_in_time_with_idle_connections_and_an_open_stream() {
    let served = Served::start().await;
    let Served { sql, daemon, clients } = served;
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(Wire::of(&daemon).await);
        idle.last().unwrap().everything().await;
    }
    // One that never even speaks HTTP/2.
    let silent = tokio::net::TcpStream::connect(&daemon.grpc_addr).await.unwrap();
    let mut health = HealthClient::new(daemon.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    clients.register(registration(1, "organ")).await;

    let began = Instant::now();
    let told = tokio::spawn(async move {
        let next = watch.message().await;
        (next.map(|next| next.map(|next| next.status())), watch.message().await.is_ok_and(|next| next.is_some()))
    });
    let status = daemon.terminate().await;
    assert!(status.success(), "{status:?}");
    assert!(began.elapsed() < LEAVING, "{:?}", began.elapsed());
    let (next, more) = tokio::time::timeout(DAEMON_BOUND, told).await.unwrap().unwrap();
    assert!(matches!(next, Ok(Some(ServingStatus::NotServing))), "the watcher was told: {next:?}");
    assert!(!more, "then the stream ended");
    clients.resolve("organ", 0).await.unwrap_err();
    let daemons: i64 = crate::harness::registry::get(&sql.client, "SELECT count(*) FROM registry_daemon").await;
    assert_eq!(daemons, 0, "it has taken itself off the list");
    drop((idle, silent));
}

#[tokio::test(flavor = "multi_thread")]
async fn beats_that_were_acknowledged_before_leaving_are_saved() {
    let served = Served::start().await;
    for instance in 1..=50 {
        served.clients.register(registration(instance, "organ")).await;
    }
    let started = "SELECT count(*) FROM registry_instance WHERE last_heartbeat > started_at";
    // With a TTL of 300 s no save is due for the next 100 s.
    for instance in 1..=50 {
        served.clients.beat(instance).await;
    }
    let Served { sql, daemon, .. } = served;
    assert!(daemon.terminate().await.success());
    let saved: i64 = crate::harness::registry::get(&sql.client, started).await;
    assert_eq!(saved, 50);
}
