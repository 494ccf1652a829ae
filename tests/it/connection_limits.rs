//! Limits of one connection and of one address: one more is refused with the reason, others are served.

use futures_util::future::join_all;
use musterd::proto::{encoded::WatchResponse, v1};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    time::{Duration, timeout},
};
use tonic::{Code, Status, Streaming};

use crate::harness::{
    daemon::Daemon,
    postgres::{BOUND, TestDatabase},
    served::{Served, refusal, registration},
    wait::wait_until,
    wire::Wire,
};

/// Watches a name without an instance.
async fn watch(clients: &Wire, number: usize) -> Result<Streaming<WatchResponse>, Status> {
    let request = v1::WatchRequest { logical_id: format!("name-{number}"), ..Default::default() };
    Ok(clients.discovery.clone().watch(request).await?.into_inner())
}

/// How often something was refused for this reason.
async fn refusals(daemon: &Daemon, reason: &str) -> f64 {
    let (_, text) = daemon.http_get("/metrics").await.unwrap();
    let series = format!("musterd_refused_total{{reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or_else(|| panic!("{text}"));
    value.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_over_the_limit_are_refused_while_beats_and_lookups_pass() {
    let served = Served::start().await;
    let lease = served.clients.register(registration(1, "organ")).await;
    let opening = (0..300).map(|number| watch(&served.clients, number));
    let opened = timeout(BOUND, join_all(opening)).await.expect("each is opened or refused");
    // On the same connection.
    served.clients.beat(1).await;
    assert_eq!(served.clients.resolve("organ", 0).await.unwrap().instance.unwrap().lease_id, lease.lease_id);
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    for stream in opened {
        match stream {
            Ok(stream) => open.push(stream),
            Err(status) => refused.push(status),
        }
    }
    assert_eq!((open.len(), refused.len()), (256, 44));
    for status in refused {
        assert!(
            status.message().contains("256 streams") && status.message().contains("another connection"),
            "{status}"
        );
        assert_eq!(refusal(Err::<(), _>(status)).verdict(), (Code::ResourceExhausted, "TOO_MANY_STREAMS"));
    }
    assert!((refusals(&served.daemon, "streams_of_connection").await - 44.0).abs() < 0.5);
    drop(open.pop());
    let mut place =
        wait_until("the place of the stream that ended", BOUND, async || watch(&served.clients, 0).await).await;
    assert!(place.message().await.unwrap().unwrap().snapshot_complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn address_over_its_limit_is_refused_with_a_reason_until_a_connection_ends() {
    let database = TestDatabase::create().await;
    let flags = ["--database-url", database.url(), "--grpc-connections-per-address", "2"];
    let daemon = Daemon::start_with(&flags).await;
    let first = Wire::of(&daemon).await;
    let second = Wire::of(&daemon).await;
    first.register(registration(1, "organ")).await;
    let mut refused = TcpStream::connect(&daemon.grpc_addr).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), refused.read_to_end(&mut answer)).await.expect("it is closed").unwrap();
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.contains("the limit is 2") && text.contains("--grpc-connections-per-address"), "{text}");
    assert!((refusals(&daemon, "connections_of_address").await - 1.0).abs() < 0.5);
    assert!(daemon.log().contains("connection refused, too many from its address"));
    second.beat(1).await;
    drop(second);
    let next = wait_until("a place is left", BOUND, async || {
        let next = Wire::of(&daemon).await;
        next.resolve("organ", 0).await.map(|_| next)
    })
    .await;
    next.beat(1).await;
}
