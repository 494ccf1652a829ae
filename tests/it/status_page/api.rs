//! The JSON API and the stream of events, through a real daemon.

use musterd::model::InstanceId;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    process::Command,
    time::timeout,
};

use super::{HOSTILE, STREAM_BOUND, ask, fleet, hold, registered, request, second, wait_for};
use crate::harness::{
    daemon::{Daemon, program},
    registry::id,
    served::Served,
};

fn column<'a>(answer: &'a Value, list: &str, field: &str) -> Vec<&'a str> {
    answer[list].as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_equals_get_cluster() {
    let served = Served::start().await;
    fleet(&served.clients).await;
    hold(&served.clients, "the switch is being replaced").await;
    let other = second(&served).await;
    let rotated = served.clients.rotate().await;
    served.clients.register(registered(9, "organ", &[])).await;
    let summary = wait_for(&served.daemon, "summary", |summary| {
        summary["counts"]["alive"] == 1
            && summary["names"]["served"] == 1
            && summary["daemons"].as_array().unwrap().len() == 2
            && summary["hold"].is_object()
            && summary["cluster"]["epochStartedAt"].is_string()
    })
    .await;
    let told = served.clients.cluster.clone().get_cluster(musterd::proto::v1::GetClusterRequest::default()).await;
    let told = told.unwrap().into_inner();
    let counts = told.counts.unwrap();
    assert_eq!(summary["cluster"]["clusterEpoch"], rotated.cluster_epoch);
    assert_eq!(summary["cluster"]["epochNumber"], told.epoch_number.to_string());
    assert_eq!(summary["hold"]["reason"], told.hold.unwrap().reason);
    assert_eq!(summary["counts"]["dead"], counts.dead);
    assert_eq!(summary["counts"]["logicalIdsUnserved"], counts.logical_ids_unserved);
    let addresses: Vec<&str> = told.daemons.iter().map(|daemon| daemon.address.as_str()).collect();
    assert_eq!(column(&summary, "daemons", "address"), addresses);
    assert_eq!(column(&summary, "daemons", "state"), ["ok", "ok"]);
    assert_eq!(column(&summary, "problems", "code"), ["unserved", "hold"], "most names are unserved");
    assert_eq!((&summary["severity"], &summary["ready"]), (&json!("critical"), &json!(true)));
    let problems: Vec<&str> = told.problems.iter().map(|problem| problem.code.as_str()).collect();
    assert_eq!(column(&summary, "problems", "code"), problems);
    let latest = column(&summary, "latest", "what");
    assert!(latest.contains(&"rotated") && latest.contains(&"registered") && latest.contains(&"died"), "{latest:?}");
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_come_the_worst_first_filtered_and_in_pages() {
    let served = Served::start().await;
    fleet(&served.clients).await;
    let expected = ["lost", "organ", "utility_1", "retired"];
    // The order follows the latest survey, which may be a second old.
    let names = wait_for(&served.daemon, "names", |it| column(it, "names", "logicalId") == expected).await;
    assert_eq!(column(&names, "names", "state"), ["unserved", "served", "served", "left"]);
    let organ = &names["names"][1];
    let counts = ["alive", "suspect", "starting", "draining", "dead"].map(|count| organ[count].as_u64().unwrap());
    assert_eq!(counts, [2, 0, 1, 1, 0]);
    assert_eq!((&organ["best"]["ipAddress"], &organ["best"]["port"]), (&json!("10.0.0.1"), &json!(8_000)));
    assert_eq!(names["names"][0]["lastDeath"]["reason"], "DEATH_REASON_OPERATOR");

    let mut paged = Vec::new();
    let mut after = String::new();
    loop {
        let (_, page) = ask(&served.daemon, &format!("names?limit=1&after={after}")).await;
        paged.extend(column(&page, "names", "logicalId").iter().map(|name| (*name).to_owned()));
        after = page["next"].as_str().unwrap().to_owned();
        if after.is_empty() {
            break;
        }
    }
    assert_eq!(paged, ["lost", "organ", "utility_1", "retired"]);
    let (_, filtered) = ask(&served.daemon, "names?filter=O").await;
    assert_eq!(column(&filtered, "names", "logicalId"), ["lost", "organ"], "whatever the case");
    // A search finds more than names, and what it found is told.
    let (_, found) = ask(&served.daemon, "names?search=10.0.0.7:80").await;
    assert_eq!(column(&found, "names", "logicalId"), ["utility_1"]);
    let what = json!({"field": "ipAddress", "value": "10.0.0.7", "instanceId": id(7).to_string()});
    assert_eq!(found["names"][0]["found"], what);
    let (_, node) = ask(&served.daemon, "names?search=NODE-1").await;
    assert_eq!(column(&node, "names", "logicalId"), ["organ", "utility_1"]);
    let (_, exact) = ask(&served.daemon, "names?search=retired").await;
    assert_eq!((&exact["names"][0]["logicalId"], &exact["names"][0]["found"]), (&json!("retired"), &Value::Null));
    let (_, named) = ask(&served.daemon, "names?name=retired&name=absent&name=lost").await;
    assert_eq!(column(&named, "names", "logicalId"), ["retired", "lost"]);
    let (_, left) = ask(&served.daemon, "names?state=left").await;
    assert_eq!(column(&left, "names", "logicalId"), ["retired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_looks_as_the_command_line_prints_it() {
    let served = Served::start().await;
    fleet(&served.clients).await;
    let (_, answer) = ask(&served.daemon, "instances?status=any&label=zone=a").await;
    let flags = ["--addr", &served.daemon.grpc_addr, "list", "--all-statuses", "--label", "zone=a", "-o", "jsonl"];
    let printed = Command::from(program()).args(flags).output().await.unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    let mut printed: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut answered = answer["instances"].as_array().unwrap().clone();
    assert_eq!(answered.len(), 6);
    for instance in printed.iter_mut().chain(&mut answered) {
        // Time has passed in between; what is compared is the form.
        for ticking in ["leaseRemaining", "lastBeat"] {
            instance[ticking] = json!(instance[ticking].is_string());
        }
    }
    assert_eq!(answered, printed);
    let (_, one) = ask(&served.daemon, "instances?name=organ&status=draining").await;
    assert_eq!(column(&one, "instances", "instanceId"), [id(3).to_string()]);
    let (_, first) = ask(&served.daemon, "instances?limit=1").await;
    let (_, next) = ask(&served.daemon, &format!("instances?limit=1&after={}", first["next"].as_str().unwrap())).await;
    assert_ne!(first["instances"][0]["instanceId"], next["instances"][0]["instanceId"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_begins_with_the_resolved_instance_and_names_each_reason() {
    let served = Served::start().await;
    fleet(&served.clients).await;
    let (_, explained) = ask(&served.daemon, "explain?name=organ").await;
    let (best, _) = served.clients.best("organ").await;
    assert_eq!(explained["chosen"], best);
    let told: Vec<_> = explained["candidates"].as_array().unwrap().iter().map(|it| it["why"].clone()).collect();
    let by = InstanceId(id(1));
    assert_eq!(
        told,
        [
            json!("chosen: the longest serving"),
            json!(format!("outranked by {by}: that one has served for longer")),
            json!("not considered: draining, it takes nothing new"),
            json!("not considered: starting, it is not ready for work yet"),
        ]
    );
    assert_eq!((&explained["instances"], &explained["complete"]), (&json!(4), &json!(true)));
    let (_, dead) = ask(&served.daemon, "explain?name=lost").await;
    assert_eq!(dead["chosen"], Value::Null);
    assert_eq!(dead["candidates"][0]["why"], "not considered: dead, an operator declared it so");
    assert_eq!(dead["candidates"][0]["instance"]["death"]["reason"], "DEATH_REASON_OPERATOR");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_question_is_answered_with_the_field_the_limit_and_the_fix() {
    let served = Served::start().await;
    let cases = [
        ("names?nmae=x", 400, "nmae", "choose from name, search, filter, state, limit, after"),
        ("names?search=a&filter=b", 400, "filter", "give one of them"),
        ("names?name=a&state=left", 400, "state", "give one of them"),
        ("names?name=", 400, "name", "give 1 to 253 bytes"),
        ("names?limit=1&limit=2", 400, "limit", "give it once"),
        ("names?limit=501", 400, "limit", "choose 1 to 500"),
        ("names?state=bad", 400, "state", "choose unserved, all_suspect"),
        ("names?after=nowhere", 400, "after", "give the `next` of the page before"),
        ("instances?status=gone", 400, "status", "choose starting, alive, draining, dead or any"),
        ("instances?name=a&prefix=b", 400, "prefix", "give one of them"),
        ("instances?label=x", 400, "label", "write label=KEY=VALUE"),
        ("instances?after=x:y", 400, "after", "leave it out"),
        ("explain", 400, "name", "give 1 to 253 bytes"),
        ("explain?name=a%00b", 400, "name", "U+0000"),
        ("ended", 400, "name", "give 1 to 253 bytes"),
        ("ended?name=a%00b", 400, "name", "U+0000"),
        ("ended?instance=7", 400, "instance", "UUID"),
        ("ended?name=a&instance=b", 400, "instance", "give one of them"),
        ("ended?name=a&aliveAt=now", 400, "aliveAt", "give it in RFC 3339"),
        ("ended?name=a&limit=0", 400, "limit", "choose 1 to 500"),
    ];
    for (question, status, field, fix) in cases {
        let (answered, answer) = ask(&served.daemon, question).await;
        let error = &answer["error"];
        assert_eq!((answered, &error["field"], &error["reason"]), (status, &json!(field), &json!("INVALID_FIELD")));
        assert!(error["message"].as_str().unwrap().contains(fix), "{question}: {answer}");
    }
    let (status, answer) = ask(&served.daemon, "explain?name=absent").await;
    assert_eq!((status, &answer["error"]["reason"]), (404, &json!("UNKNOWN_LOGICAL_ID")));
    let (status, ..) = request(&served.daemon, "POST /api/v1/summary HTTP/1.1\r\nContent-Length: 0").await;
    assert_eq!(status, 405, "nothing can be changed here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_name_passes_through_as_text() {
    let served = Served::start().await;
    served.clients.register(registered(1, HOSTILE, &[(HOSTILE, HOSTILE)])).await;
    let names = wait_for(&served.daemon, "names", |names| names["names"][0].is_object()).await;
    assert_eq!(names["names"][0]["logicalId"], HOSTILE);
    let (_, instances) = ask(&served.daemon, "instances").await;
    assert_eq!(instances["instances"][0]["labels"][HOSTILE], HOSTILE);
    let (_, header, _) = request(&served.daemon, "GET /api/v1/names HTTP/1.1").await;
    assert!(header.contains("content-type: application/json"), "no browser takes it for a page: {header}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_gets_the_page_under_a_strict_policy_and_others_a_list_of_paths() {
    let served = Served::start().await;
    let (_, header, page) = request(&served.daemon, "GET / HTTP/1.1\r\nAccept: text/html,*/*;q=0.8").await;
    assert!(header.contains("content-type: text/html") && page.contains("<title>musterd</title>"), "{header}");
    assert!(header.contains("content-security-policy: default-src 'none'; script-src 'self';"), "{header}");
    assert!(!header.contains("unsafe"), "{header}");
    for file in page.split('"').filter(|word| word.starts_with("/ui/")) {
        let (status, header, body) = request(&served.daemon, &format!("GET {file} HTTP/1.1")).await;
        assert!(status == 200 && !body.is_empty() && header.contains("nosniff"), "{file}: {header}");
    }
    let (_, header, list) = request(&served.daemon, "GET / HTTP/1.1").await;
    assert!(header.contains("content-type: text/plain") && list.contains("/api/v1/summary"), "{header}");
}

/// Opens a stream of events; returns its lines from the first one of the header.
async fn stream(daemon: &Daemon) -> tokio::io::Lines<BufReader<TcpStream>> {
    stream_from(daemon, 1).await
}

/// As [`stream`], from `127.0.0.LAST`: one address may have only so many connections.
async fn stream_from(daemon: &Daemon, last: u8) -> tokio::io::Lines<BufReader<TcpStream>> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(std::net::SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    let mut stream = socket.connect(daemon.http_addr.parse().unwrap()).await.unwrap();
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    BufReader::new(stream).lines()
}

/// The next summary of a stream; `None` at its end.
async fn next_summary(lines: &mut tokio::io::Lines<BufReader<TcpStream>>) -> Option<Value> {
    while let Ok(Some(line)) = timeout(STREAM_BOUND, lines.next_line()).await.unwrap() {
        if let Some(data) = line.strip_prefix("data: ") {
            return Some(serde_json::from_str(data).unwrap());
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn events_carry_the_summary_until_the_daemon_leaves_in_time() {
    let served = Served::start().await;
    let mut lines = stream(&served.daemon).await;
    assert_eq!(next_summary(&mut lines).await.unwrap()["counts"]["alive"], 0);
    served.clients.register(registered(1, "organ", &[])).await;
    while next_summary(&mut lines).await.unwrap()["counts"]["alive"] != 1 {}
    let began = std::time::Instant::now();
    assert!(served.daemon.terminate().await.success());
    assert!(began.elapsed() < super::BOUND / 3, "{:?}", began.elapsed());
    while next_summary(&mut lines).await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_the_refusal_names_the_fix() {
    let served = Served::start().await;
    let mut open = Vec::new();
    for number in 0..musterd::api::status_cache::STREAMS_MAX {
        let last = 2 + u8::try_from(number / musterd::http::places::MAX_PER_ADDRESS).unwrap();
        let mut lines = stream_from(&served.daemon, last).await;
        assert!(next_summary(&mut lines).await.is_some());
        open.push(lines);
    }
    let (status, answer) = ask(&served.daemon, "events").await;
    assert_eq!((status, &answer["error"]["reason"]), (503, &json!("OVERLOADED")));
    assert!(answer["error"]["message"].as_str().unwrap().contains("ask for /api/v1/summary instead"), "{answer}");
    drop(open);
    let mut lines = stream(&served.daemon).await;
    let line = timeout(STREAM_BOUND, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.starts_with("HTTP/1.1 "), "{line}");
}

/// Every key of an object, and of the objects in it, but for what strangers choose and for instances.
fn keys(value: &Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in
                object.iter().filter(|(key, _)| !["instance", "death", "lastDeath"].contains(&key.as_str()))
            {
                found.insert(key.clone());
                keys(value, found);
            }
        }
        Value::Array(rows) => rows.iter().for_each(|row| keys(row, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_documented() {
    let served = Served::start().await;
    fleet(&served.clients).await;
    hold(&served.clients, "to have one").await;
    let mut found = std::collections::BTreeSet::new();
    let summary = wait_for(&served.daemon, "summary", |it| it["hold"].is_object() && it["latest"][0].is_object()).await;
    keys(&summary, &mut found);
    for question in ["names", "explain?name=organ", "instances?name=absent"] {
        keys(&ask(&served.daemon, question).await.1, &mut found);
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/http-api.md");
    let documented = std::fs::read_to_string(path).unwrap();
    let missing: Vec<_> = found.iter().filter(|key| !documented.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "docs/http-api.md does not tell of {missing:?}");
    assert!(found.len() > 60, "{found:?}");
}
