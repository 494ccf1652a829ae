//! The status page and what it is made from: the JSON API, the stream of events, and the page in a real browser.

mod api;
mod browser;
mod ended;
mod search;
mod secured;

use std::{collections::HashMap, time::Duration};

use musterd::{
    model::InstanceStatus as Status,
    proto::v1::{self, InstanceStatus},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{
    daemon::Daemon,
    postgres::BOUND,
    served::{Served, registration, seconds},
    wait::wait_until,
    wire::Wire,
};

/// What a stranger may call himself.
const HOSTILE: &str = r#"<img src=x onerror="document.title='owned'">'"`&amp;</script>"#;

/// Sends a request and reads the answer to its end: status, header as it came, body.
async fn request(daemon: &Daemon, head: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(&daemon.http_addr).await.unwrap();
    let request = format!("{head}\r\nHost: {}\r\nConnection: close\r\n\r\n", daemon.http_addr);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (header, body) = answer.split_once("\r\n\r\n").unwrap();
    (header.split(' ').nth(1).unwrap().parse().unwrap(), header.to_lowercase(), body.to_owned())
}

/// Gets an answer of the API, whatever its status.
async fn ask(daemon: &Daemon, question: &str) -> (u16, Value) {
    let (status, _, body) = request(daemon, &format!("GET /api/v1/{question} HTTP/1.1")).await;
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{question}: {error}: {body}")))
}

/// Waits until an answer of the API is as it should be.
async fn wait_for(daemon: &Daemon, question: &str, is_right: impl Fn(&Value) -> bool) -> Value {
    wait_until(question, BOUND, async || match ask(daemon, question).await {
        (200, answer) if is_right(&answer) => Ok(answer),
        other => Err(other),
    })
    .await
}

fn registered(instance: u128, name: &str, labels: &[(&str, &str)]) -> v1::RegisterRequest {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<HashMap<_, _>>();
    v1::RegisterRequest {
        labels,
        port: 8_000,
        version: "1.4.2".to_owned(),
        serve_route: "/organ".to_owned(),
        node_id: format!("node-{}", instance % 3),
        ip_address: format!("10.0.0.{instance}"),
        ..registration(instance, name)
    }
}

/// A fleet in which something is wrong: `lost` had one instance, which was declared dead; of `organ` one is draining and
/// one starting; `retired` has left; others are well.
async fn fleet(clients: &Wire) {
    for (instance, name) in [(1, "organ"), (2, "organ"), (3, "organ"), (5, "lost"), (6, "retired"), (7, "utility_1")] {
        clients.register(registered(instance, name, &[("zone", "a"), ("model", "llm-7b")])).await;
    }
    let starting = InstanceStatus::Starting.into();
    clients.register(v1::RegisterRequest { initial_status: starting, ..registered(4, "organ", &[]) }).await;
    clients.set_status(3, Status::Draining).await;
    clients.deregister(6).await;
    let instance_id = crate::harness::registry::id(5).to_string();
    clients.cluster.clone().expire_instance(v1::ExpireInstanceRequest { instance_id, lease_id: 0 }).await.unwrap();
}

/// Puts expiry on hold for half an hour.
async fn hold(clients: &Wire, reason: &str) {
    let request = v1::HoldExpiryRequest { duration: Some(seconds(1_800)), reason: reason.to_owned() };
    clients.cluster.clone().hold_expiry(request).await.unwrap();
}

/// A second daemon on the same database.
async fn second(served: &Served) -> Daemon {
    Daemon::start(served.sql.database.url()).await
}

/// How long a stream may take to do what it should.
const STREAM_BOUND: Duration = Duration::from_secs(20);
