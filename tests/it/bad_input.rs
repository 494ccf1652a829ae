//! Bad input over gRPC: every field that cannot be accepted is named with its limit, and nothing happens. And the
//! other side of it: whatever is accepted can be read back equal, from the daemon and from PostgreSQL.

use std::{collections::HashMap, net::IpAddr};

use musterd::{
    model::input,
    proto::v1::{self, InstanceStatus},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Runtime;
use tokio_postgres::types::Json;
use tonic::Code;
use uuid::Uuid;

use crate::harness::{
    registry::{get, id},
    served::{Refusal, Served, refusal, registration, seconds},
};

/// A field, what makes a registration bad in it, and what the refusal must name: the limit or the fix.
type BadField = (&'static str, fn(&mut v1::RegisterRequest), &'static str);

const CASES: &[BadField] = &[
    ("instance_id", |r| r.instance_id = "organ-1".into(), "UUID"),
    ("instance_id", |r| r.instance_id = Uuid::nil().to_string(), "UUID"),
    ("instance_id", |r| r.instance_id = "x".repeat(10_000), "UUID"),
    ("logical_id", |r| r.logical_id = String::new(), "1 to 253"),
    ("logical_id", |r| r.logical_id = "x".repeat(254), "253"),
    ("logical_id", |r| r.logical_id = "ä".repeat(127), "253"),
    ("logical_id", |r| r.logical_id = "or\0gan".into(), "U+0000"),
    ("logical_id", |r| r.logical_id = "organ\n".into(), "U+000A"),
    ("logical_id", |r| r.logical_id = "\u{9b}31m".into(), "U+009B"),
    ("cluster_epoch", |r| r.cluster_epoch = "current".into(), "UUID"),
    ("cluster_epoch", |r| r.cluster_epoch = Uuid::nil().to_string(), "UUID"),
    ("actor_name", |r| r.actor_name = "x".repeat(254), "253"),
    ("actor_name", |r| r.actor_name = "a\u{7f}".into(), "U+007F"),
    ("serve_route", |r| r.serve_route = "/".repeat(1_025), "1024"),
    ("serve_route", |r| r.serve_route = "/\0".into(), "U+0000"),
    ("node_id", |r| r.node_id = "x".repeat(254), "253"),
    ("node_id", |r| r.node_id = "\u{1b}[2J".into(), "U+001B"),
    ("ip_address", |r| r.ip_address = "10.0.0.256".into(), "IPv4 or IPv6"),
    ("ip_address", |r| r.ip_address = "10.0.0.0/8".into(), "prefix"),
    ("ip_address", |r| r.ip_address = "fe80::1%eth0".into(), "zone"),
    ("ip_address", |r| r.ip_address = "10.0.0.1:80".into(), "port"),
    ("ip_address", |r| r.ip_address = "localhost".into(), "IPv4 or IPv6"),
    ("port", |r| r.port = 65_536, "65535"),
    ("port", |r| r.port = u32::MAX, "65535"),
    ("pid", |r| r.pid = -1, "2147483647"),
    ("pid", |r| r.pid = 2_147_483_648, "2147483647"),
    ("pid", |r| r.pid = i64::MIN, "2147483647"),
    ("ttl", |r| r.ttl = Some(prost_types::Duration { seconds: 1, nanos: 999_000_000 }), "2 s to 300 s"),
    ("ttl", |r| r.ttl = Some(prost_types::Duration { seconds: 300, nanos: 1_000_000 }), "2 s to 300 s"),
    ("ttl", |r| r.ttl = Some(prost_types::Duration { seconds: 2, nanos: 1 }), "milliseconds"),
    ("ttl", |r| r.ttl = Some(seconds(0)), "2 s to 300 s"),
    ("ttl", |r| r.ttl = Some(seconds(-3)), "2 s to 300 s"),
    ("ttl", |r| r.ttl = Some(seconds(i64::MAX)), "2 s to 300 s"),
    ("ttl", |r| r.ttl = Some(prost_types::Duration { seconds: i64::MIN, nanos: i32::MIN }), "2 s to 300 s"),
    ("version", |r| r.version = "x".repeat(254), "253"),
    ("version", |r| r.version = "1\t".into(), "U+0009"),
    ("logical_id", |r| r.logical_id = "organ\u{200b}".into(), "format character U+200B"),
    ("actor_name", |r| r.actor_name = "a\u{202e}".into(), "format character U+202E"),
    ("serve_route", |r| r.serve_route = "/\u{2066}".into(), "format character U+2066"),
    ("node_id", |r| r.node_id = "n\u{2028}".into(), "separator character U+2028"),
    ("version", |r| r.version = "1\u{e000}".into(), "private-use character U+E000"),
    ("labels", |r| r.labels = (0..65).map(|n| (format!("k{n}"), String::new())).collect(), "64"),
    ("labels", |r| r.labels = (0..33).map(|n| (format!("{n:02}"), "v".repeat(500))).collect(), "16384"),
    ("labels.key", |r| r.labels = label("", "v"), "1 to 128"),
    ("labels.key", |r| r.labels = label(&"k".repeat(129), "v"), "128"),
    ("labels.key", |r| r.labels = label("k\0", "v"), "U+0000"),
    ("labels.key", |r| r.labels = label("k\u{378}", "v"), "unassigned character U+0378"),
    ("labels[k]", |r| r.labels = label("k", &"v".repeat(513)), "512"),
    ("labels[k]", |r| r.labels = label("k", "v\0"), "U+0000"),
    ("initial_status", |r| r.initial_status = 99, "ALIVE (2)"),
    ("initial_status", |r| r.initial_status = -1, "ALIVE (2)"),
    ("initial_status", |r| r.initial_status = InstanceStatus::Draining.into(), "ALIVE (2)"),
    ("initial_status", |r| r.initial_status = InstanceStatus::Dead.into(), "ALIVE (2)"),
];

fn label(key: &str, value: &str) -> HashMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

/// Checks that a refusal is for bad input, of exactly these fields, each with a text that names what helps.
fn assert_invalid(refused: &Refusal, expected: &[(&str, &str)]) {
    assert_eq!(refused.verdict(), (Code::InvalidArgument, "INVALID_FIELD"), "{expected:?}: {refused:?}");
    assert_eq!(refused.fields.len(), expected.len(), "{expected:?}: {refused:?}");
    for (field, help) in expected {
        let named = refused.fields.iter().find(|(named, _)| named == field);
        let (_, text) = named.unwrap_or_else(|| panic!("{field} is not named: {refused:?}"));
        assert!(text.contains(help), "{field}: `{text}` does not say `{help}`");
        assert!(!text.contains(char::is_control), "{field}: {text:?}");
    }
}

/// Nothing is on record, and the daemon still does its work.
async fn assert_unharmed(served: &Served) {
    let on_record: i64 = get(&served.sql.client, "SELECT count(*) FROM registry_instance").await;
    assert_eq!(on_record, 0);
    let lease = served.clients.register(registration(77, "organ")).await;
    assert_eq!(
        served.clients.resolve("organ", lease.revision).await.unwrap().instance.unwrap().lease_id,
        lease.lease_id
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_field_of_a_registration_is_named_with_its_limit_and_nothing_is_stored() {
    let served = Served::start().await;
    let before = served.revision().await;
    for (field, spoil, help) in CASES {
        let mut request = registration(1, "organ");
        spoil(&mut request);
        let refused = refusal(served.clients.registry.clone().register(request).await);
        assert_invalid(&refused, &[(field, help)]);
    }
    assert_eq!(served.revision().await, before);
    assert_unharmed(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bad_fields_of_a_registration_are_named_at_once() {
    let served = Served::start().await;
    let mut request = registration(1, "organ");
    let mut expected: Vec<(&str, &str)> = Vec::new();
    for (field, spoil, help) in CASES {
        // The first case of each field; labels count as one.
        let name = field.split(['.', '[']).next().unwrap();
        if expected.iter().all(|(seen, _)| *seen != name) {
            spoil(&mut request);
            expected.push((name, help));
        }
    }
    assert_eq!(expected.len(), 13, "all fields there are");
    assert_invalid(&refusal(served.clients.registry.clone().register(request).await), &expected);
    assert_unharmed(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_of_an_actor_is_named_with_its_fix() {
    let served = Served::start().await;
    let mut registry = served.clients.registry.clone();
    let bad = "organ-1".to_owned();
    let absent = [("lease_id", "give one of them")];
    assert_invalid(&refusal(registry.beat(v1::BeatRequest::default()).await), &absent);
    assert_invalid(&refusal(registry.deregister(v1::DeregisterRequest::default()).await), &absent);
    let status = |status| v1::SetStatusRequest { lease_id: 1, status, ..Default::default() };
    for unknown in [0, 5, -1, i32::MAX] {
        assert_invalid(&refusal(registry.set_status(status(unknown)).await), &[("status", "DEAD (4)")]);
    }
    let named = [("instance_id", "UUID")];
    let beat = v1::BeatRequest { lease_id: 1, instance_id: bad.clone() };
    assert_invalid(&refusal(registry.beat(beat).await), &named);
    let leave = v1::DeregisterRequest { lease_id: 0, instance_id: bad.clone() };
    assert_invalid(&refusal(registry.deregister(leave).await), &named);
    let both = v1::SetStatusRequest { lease_id: 0, instance_id: bad, status: 9, ..Default::default() };
    let expected = [("status", "DEAD (4)"), ("instance_id", "UUID")];
    assert_invalid(&refusal(registry.set_status(both).await), &expected);
    assert_unharmed(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_of_a_router_is_named_with_its_fix() {
    let served = Served::start().await;
    let mut discovery = served.clients.discovery.clone();
    for (name, help) in [("", "1 to 253"), (&*"x".repeat(254), "253"), ("a\0", "U+0000")] {
        assert_invalid(&refusal(served.clients.resolve(name, 0).await), &[("logical_id", help)]);
    }
    for instance_id in ["", "organ-1"] {
        let request = v1::GetInstanceRequest { instance_id: instance_id.to_owned(), min_revision: 0 };
        assert_invalid(&refusal(discovery.get_instance(request).await), &[("instance_id", "UUID")]);
    }
    let everything_bad = v1::ListInstancesRequest {
        logical_id_prefix: "x".repeat(254),
        statuses: vec![InstanceStatus::Alive.into(), 99],
        node_id: "\n".into(),
        labels: label("k", &"v".repeat(513)),
        page_size: 1_001,
        page_token: "nonsense".into(),
        min_revision: 0,
        alive_at: None,
    };
    // The token cannot be checked without the conditions that it belongs to.
    let expected = [
        ("logical_id_prefix", "253"),
        ("statuses", "DEAD (4)"),
        ("node_id", "U+000A"),
        ("labels[k]", "512"),
        ("page_size", "1 to 1000"),
    ];
    assert_invalid(&refusal(discovery.list_instances(everything_bad).await), &expected);
    let bad_time = v1::ListInstancesRequest {
        alive_at: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: -1 }),
        ..Default::default()
    };
    assert_invalid(&refusal(discovery.list_instances(bad_time).await), &[("alive_at", "seconds")]);
    let bad_page = v1::ListInstancesRequest { page_size: -1, page_token: "nonsense".into(), ..Default::default() };
    let expected = [("page_size", "1 to 1000"), ("page_token", "token of this query")];
    assert_invalid(&refusal(discovery.list_instances(bad_page).await), &expected);
    assert_unharmed(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_of_an_operator_is_named_with_its_fix() {
    let served = Served::start().await;
    let mut cluster = served.clients.cluster.clone();
    let before = served.revision().await;
    let (expected_epoch, new_epoch, reason) = ("now".into(), Uuid::nil().to_string(), "x".repeat(1_025));
    let rotate = v1::RotateEpochRequest { expected_epoch, new_epoch, reason, force: false };
    let expected = [("expected_epoch", "UUID"), ("new_epoch", "UUID"), ("reason", "1024")];
    assert_invalid(&refusal(cluster.rotate_epoch(rotate).await), &expected);
    let list = v1::ListEpochsRequest { page_size: 1_001, page_token: "nonsense".into() };
    let expected = [("page_size", "1 to 1000"), ("page_token", "token of this query")];
    assert_invalid(&refusal(cluster.list_epochs(list).await), &expected);
    assert_eq!(served.revision().await, before, "no epoch was begun");
    assert_unharmed(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_1_mib_is_refused_and_the_connection_lives_on() {
    let served = Served::start().await;
    for bytes in [2 << 20, 3 << 20] {
        let request = v1::RegisterRequest { serve_route: "x".repeat(bytes), ..registration(1, "organ") };
        let refused = refusal(served.clients.registry.clone().register(request).await);
        assert_eq!(refused.verdict(), (Code::OutOfRange, "REQUEST_TOO_LARGE"), "{refused:?}");
        assert!(served.clients.everything().await.is_empty(), "over the same connection");
    }
    assert_unharmed(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_at_all_its_limits_is_accepted_and_read_back_equal() {
    let served = Served::start().await;
    let request = v1::RegisterRequest {
        logical_id: format!("{}x", "ä".repeat(126)),
        actor_name: "a".repeat(253),
        serve_route: "/".repeat(1_024),
        node_id: "n".repeat(253),
        ip_address: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".into(),
        port: 65_535,
        pid: i32::MAX.into(),
        ttl: Some(seconds(300)),
        // 64 labels, together 16 KiB to the byte.
        labels: (0..64).map(|n| (format!("{n:0>128}"), "v".repeat(128))).collect(),
        version: "v".repeat(253),
        ..registration(1, "")
    };
    assert_reads_back(&served, &request).await.unwrap();
    let request = v1::RegisterRequest { ttl: Some(seconds(2)), labels: label("k", &"v".repeat(512)), ..request };
    assert_reads_back(&served, &request).await.unwrap();
}

/// Any text of 1 to so many bytes that may be given, often one with characters that are easily mishandled.
fn text(max_bytes: usize) -> impl Strategy<Value = String> {
    let special =
        "\u{2028}\u{2029}\u{202e}\u{200f}\u{200d}\u{feff}\u{fffd}\u{10ffff}\u{e000}𝄞👩🏽שץعä\u{308}ß'\"\\%_$`{}<>&; /.:-";
    let character = prop_oneof![
        3 => prop::sample::select(special.chars().collect::<Vec<_>>()),
        2 => any::<char>().prop_filter("no control characters", |character| !character.is_control()),
    ];
    (prop::collection::vec(character, 1..max_bytes), prop::bool::weighted(0.2)).prop_map(move |(characters, full)| {
        let mut text = String::new();
        for character in characters.iter().cycle().take(if full { max_bytes } else { characters.len().min(40) }) {
            if text.len() + character.len_utf8() > max_bytes {
                break;
            }
            text.push(*character);
        }
        text
    })
}

/// As [`text`], of characters that names may have.
fn name(max_bytes: usize) -> impl Strategy<Value = String> {
    text(max_bytes).prop_map(|text| {
        let shown: String = text.chars().filter(|character| input::hidden(*character).is_none()).collect();
        if shown.is_empty() { "x".to_owned() } else { shown }
    })
}

/// As [`name`], or none.
fn maybe_name(max_bytes: usize) -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(String::new()), 3 => name(max_bytes)]
}

/// As [`text`], or none.
fn maybe(max_bytes: usize) -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(String::new()), 3 => text(max_bytes)]
}

fn any_registration() -> impl Strategy<Value = v1::RegisterRequest> {
    let ip = prop_oneof![Just(String::new()), any::<IpAddr>().prop_map(|ip| ip.to_string())];
    let labels = prop::collection::hash_map(name(128), maybe(512), 0..12);
    let ttl = prop::option::of(2_000..=300_000i64);
    let status = prop_oneof![Just(InstanceStatus::Starting), Just(InstanceStatus::Alive)];
    let texts = (name(253), maybe_name(253), maybe_name(1_024), maybe_name(253), maybe_name(253));
    (1..=u128::MAX, texts, ip, 0..=65_535u32, 0..=i64::from(i32::MAX), ttl, labels, status).prop_map(
        |(
            instance,
            (logical_id, actor_name, serve_route, node_id, version),
            ip_address,
            port,
            pid,
            ttl,
            labels,
            status,
        )| {
            v1::RegisterRequest {
                instance_id: id(instance).to_string(),
                logical_id,
                cluster_epoch: String::new(),
                actor_name,
                serve_route,
                node_id,
                ip_address,
                port,
                pid,
                ttl: ttl.map(milliseconds),
                labels,
                version,
                initial_status: status.into(),
            }
        },
    )
}

fn milliseconds(millis: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: millis / 1_000, nanos: i32::try_from(millis % 1_000).unwrap() * 1_000_000 }
}

/// The registration that would make this instance.
fn as_registration(instance: v1::Instance) -> v1::RegisterRequest {
    v1::RegisterRequest {
        instance_id: instance.instance_id,
        logical_id: instance.logical_id,
        cluster_epoch: String::new(),
        actor_name: instance.actor_name,
        serve_route: instance.serve_route,
        node_id: instance.node_id,
        ip_address: instance.ip_address,
        port: instance.port,
        pid: instance.pid,
        ttl: instance.ttl,
        labels: instance.labels,
        version: instance.version,
        initial_status: instance.status,
    }
}

/// The registration that would make this row.
async fn row_as_registration(served: &Served, instance_id: &str) -> v1::RegisterRequest {
    let sql = "SELECT instance_id, logical_id, actor_name, serve_route, node_id, ip_address, port, pid, ttl_ms, \
               labels, version, status::text FROM registry_instance WHERE instance_id = $1";
    let row = served.sql.client.query_one(sql, &[&Uuid::parse_str(instance_id).unwrap()]).await.unwrap();
    let text = |column: usize| row.get::<_, Option<String>>(column).unwrap_or_default();
    let number = |column: usize| row.get::<_, Option<i32>>(column).unwrap_or_default();
    let status = if text(11) == "alive" { InstanceStatus::Alive } else { InstanceStatus::Starting };
    v1::RegisterRequest {
        instance_id: row.get::<_, Uuid>(0).to_string(),
        logical_id: text(1),
        cluster_epoch: String::new(),
        actor_name: text(2),
        serve_route: text(3),
        node_id: text(4),
        ip_address: row.get::<_, Option<IpAddr>>(5).map(|ip| ip.to_string()).unwrap_or_default(),
        port: u32::try_from(number(6)).unwrap(),
        pid: number(7).into(),
        ttl: Some(milliseconds(number(8).into())),
        labels: row.get::<_, Json<HashMap<String, String>>>(9).0,
        version: text(10),
        initial_status: status.into(),
    }
}

async fn assert_reads_back(served: &Served, request: &v1::RegisterRequest) -> Result<(), TestCaseError> {
    let lease = served.clients.registry.clone().register(request.clone()).await;
    let lease = lease.map_err(|status| TestCaseError::fail(format!("refused: {status:?}")))?.into_inner();
    let expected = v1::RegisterRequest { ttl: request.ttl.or(Some(seconds(15))), ..request.clone() };
    prop_assert_eq!(lease.ttl, expected.ttl);
    let get = v1::GetInstanceRequest { instance_id: lease.instance_id.clone(), min_revision: lease.revision };
    let read = served.clients.discovery.clone().get_instance(get).await.unwrap().into_inner().instance.unwrap();
    prop_assert_eq!(as_registration(read), expected.clone());
    prop_assert_eq!(row_as_registration(served, &lease.instance_id).await, expected);
    Ok(())
}

#[test]
fn accepted_input_is_read_back_equal() {
    let runtime = Runtime::new().unwrap();
    let served = runtime.block_on(Served::start());
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let result = runner.run(&any_registration(), |request| runtime.block_on(assert_reads_back(&served, &request)));
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
