//! The connections of one identity to the HTTP port, through TLS: they count together with those to the gRPC port, and a flood
//! of them, or of clients that never complete, keeps neither probes nor actors out.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use musterd::http::places::MAX_CONNECTIONS;
use musterd_client::{Client, Tls, Token};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpSocket,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::harness::{daemon::DAEMON_BOUND, secured::Secured, wait::wait_until};

/// Connections that the actor may have.
const QUOTA: usize = 3;
const RULES: &str = r#"
[[rule]]
who = ["token/actor"]
may = ["read"]
on = ["svc*"]
limits = { connections = 3 }
"#;
/// Every place of the port, and more.
const ADDRESSES: u8 = 15;
const EACH: usize = 10;

/// A connection on which one request follows the other.
struct Asker {
    stream: Box<dyn Stream>,
    token: String,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Asker {
    /// From this address of the loopback, with this token; `None`: the daemon closes the connection.
    async fn connect(secured: &Secured, from: Ipv4Addr, token: &str) -> Option<Self> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let stream = socket.connect(secured.daemon.http_addr.parse().unwrap()).await.ok()?;
        let tls = Tls::new().ca(secured.path("ca.pem"));
        let stream = tls.connect(stream, "127.0.0.1", "http/1.1").await.ok()?;
        Some(Self { stream: Box::new(stream), token: token.to_owned() })
    }

    /// The status and the rest of the answer; 0 if the connection ends.
    async fn get(&mut self, path: &str) -> (u16, String) {
        let answer = timeout(DAEMON_BOUND, self.answer(path)).await.unwrap();
        answer.unwrap_or_default()
    }

    async fn answer(&mut self, path: &str) -> std::io::Result<(u16, String)> {
        let token = &self.token;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or_default()];
        self.stream.read_exact(&mut body).await?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Ok((status, head + &String::from_utf8_lossy(&body)))
    }
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, last)
}

/// A client of the gRPC port with this token, and the reason of its first call.
async fn known(secured: &Secured, token: &str) -> (Client, String) {
    let tls = Tls::new().ca(secured.path("ca.pem"));
    let builder = Client::builder().daemons([secured.address()]).tls(tls).token(Token::text(token));
    let client = builder.retry_for(Duration::ZERO).build().unwrap();
    let reason = match client.who_am_i().await {
        Ok(_) => "OK".to_owned(),
        Err(error) => error.reason().name().to_owned(),
    };
    (client, reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_connections_count_with_those_of_grpc_in_the_quota() {
    let secured = Secured::enforced(RULES, &["actor", "other"]).await;
    let token = secured.token("actor");
    let (_first, reason) = known(&secured, &token).await;
    assert_eq!(reason, "OK");
    let mut held = Vec::new();
    for _ in 1..QUOTA {
        let mut asker = Asker::connect(&secured, address(1), &token).await.unwrap();
        assert_eq!(asker.get("/api/v1/names").await.0, 200);
        held.push(asker);
    }
    let mut beyond = Asker::connect(&secured, address(1), &token).await.unwrap();
    let (status, answer) = beyond.get("/api/v1/names").await;
    assert_eq!(status, 429, "{answer}");
    for part in ["QUOTA_EXCEEDED", "retry-after: 5", "token/actor has its 3 open connections"] {
        assert!(answer.contains(part), "{part:?} is missing in {answer}");
    }
    assert_eq!(beyond.get("/readyz").await.0, 200, "probes count for no identity");
    assert_eq!(beyond.get("/sd/prometheus").await.0, 429);
    assert_eq!(held[0].get("/sd/prometheus").await.0, 200, "a connection keeps its place");
    assert_eq!(known(&secured, &token).await.1, "QUOTA_EXCEEDED");
    let mut other = Asker::connect(&secured, address(1), &secured.token("other")).await.unwrap();
    assert_eq!(other.get("/api/v1/names").await.0, 403, "each identity has a quota of its own");
    assert!(secured.metric("musterd_refused_total{reason=\"quota_exceeded\"}").await >= Some(3.0));
    held.pop();
    wait_until("a place is free", DAEMON_BOUND, async || match beyond.get("/api/v1/names").await {
        (200, _) => Ok(()),
        refused => Err(refused),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_one_identity_through_tls_leaves_probes_and_actors_served() {
    let secured = Secured::enforced(RULES, &["actor"]).await;
    let token = secured.token("actor");
    let mut held = Vec::new();
    for last in 1..=ADDRESSES {
        let connect = || Asker::connect(&secured, address(last), &token);
        held.extend(join_all((0..EACH).map(|_| connect())).await.into_iter().flatten());
    }
    let mut answers = std::collections::BTreeMap::<u16, usize>::new();
    for asker in &mut held {
        // Of those that were accepted last some have given way to others.
        *answers.entry(asker.get("/api/v1/names").await.0).or_default() += 1;
    }
    assert_eq!(answers.get(&200), Some(&QUOTA), "{answers:?}");
    assert!(answers.get(&429).is_some_and(|count| *count > 50), "{answers:?}");
    for path in ["/livez", "/readyz"] {
        wait_until("a probe is answered", DAEMON_BOUND, async || {
            let Some(mut probe) = Asker::connect(&secured, address(200), "none").await else { return Err(None) };
            match probe.get(path).await {
                (200, _) => Ok(()),
                other => Err(Some(other)),
            }
        })
        .await;
    }
    secured.client().ready(Duration::from_secs(20)).await.unwrap();
    drop(held);
    wait_until("the page is answered again", DAEMON_BOUND, async || {
        let (head, _) = secured.ask("/api/v1/summary", &[], true).await;
        if head.contains(" 200 ") { Ok(()) } else { Err(head) }
    })
    .await;
}

/// A client that never completes: every other one a request after its handshake, the others the handshake itself.
async fn drip(to: SocketAddr, ca: String, number: usize, begun: Arc<AtomicUsize>) {
    let mut is_first = true;
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address(1), 0).into()).unwrap();
        let stream = socket.connect(to).await.ok();
        begun.fetch_add(usize::from(std::mem::take(&mut is_first)), Ordering::Relaxed);
        if let Some(mut stream) = stream {
            if number.is_multiple_of(2) {
                if let Ok(mut stream) = Tls::new().ca(&ca).connect(stream, "127.0.0.1", "http/1.1").await {
                    let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nX: ").await;
                    trickle(&mut stream, b'x').await;
                }
            } else {
                // The head of a record of 512 bytes.
                let _ = stream.write_all(&[0x16, 3, 1, 2, 0]).await;
                trickle(&mut stream, 1).await;
            }
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// A byte now and then, until the other side has had enough.
async fn trickle(stream: &mut (impl AsyncWrite + Unpin), byte: u8) {
    while stream.write_all(&[byte]).await.is_ok() && stream.flush().await.is_ok() {
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dripping_clients_in_tls_leave_probes_and_a_scrape_answering() {
    let secured = Secured::enforced(RULES, &[]).await;
    let (mut clients, begun) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..MAX_CONNECTIONS {
        let to = secured.daemon.http_addr.parse().unwrap();
        clients.spawn(drip(to, secured.path("ca.pem"), number, Arc::clone(&begun)));
    }
    wait_until("all clients have begun", DAEMON_BOUND, async || match begun.load(Ordering::Relaxed) {
        MAX_CONNECTIONS => Ok(()),
        begun => Err(begun),
    })
    .await;
    for _ in 0..10 {
        for path in ["/livez", "/readyz"] {
            let mut probe = Asker::connect(&secured, address(2), "none").await.expect("a probe is let in");
            let (status, answer) = probe.get(path).await;
            assert_eq!(status, 200, "{path} without a credential: {answer}");
        }
        let (head, scrape) = secured.ask("/metrics", &[], true).await;
        assert!(head.contains(" 200 ") && scrape.contains("musterd_instances"), "{head}");
    }
    let refused = secured.metric("musterd_refused_total{reason=\"http_connections_of_address\"}").await;
    assert!(refused > Some(0.0), "the clients take every place of their address: {refused:?}");
}
