//! The HTTP port against clients that mean it harm, and what all of its answers have in common.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use musterd::http::places::{MAX_CONNECTIONS, MAX_PER_ADDRESS};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::harness::{daemon::Daemon, postgres::BOUND, served::Served, wait::wait_until};

/// Every path that is served.
const PATHS: [&str; 21] = [
    "/",
    "/metrics",
    "/metrics/logical-ids",
    "/sd/prometheus",
    "/livez",
    "/readyz",
    "/api/v1/summary",
    "/api/v1/names",
    "/api/v1/instances",
    "/api/v1/explain?name=absent",
    "/api/v1/ended?name=absent",
    "/api/v1/names?limit=nothing",
    "/ui/app.js",
    "/ui/names.js",
    "/ui/search.js",
    "/ui/watch.js",
    "/ui/dom.js",
    "/ui/style.css",
    "/ui/icon.svg",
    "/nothing",
    "/metrics/logical-ids?nothing=1",
];

/// An address of this machine.
fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

/// Connects from an address.
async fn connect(daemon: &Daemon, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.connect(daemon.http_addr.parse().unwrap()).await
}

/// Sends these bytes from an address; the answer, as far as it comes.
async fn send(daemon: &Daemon, from: Ipv4Addr, bytes: &str) -> String {
    let exchange = async {
        let mut stream = connect(daemon, from).await?;
        stream.write_all(bytes.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    match timeout(BOUND / 3, exchange).await {
        Ok(Ok(answer)) => answer,
        other => format!("no answer: {other:?}"),
    }
}

async fn get(daemon: &Daemon, from: Ipv4Addr, path: &str) -> String {
    send(daemon, from, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", daemon.http_addr)).await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

/// So many clients from each of these addresses that send a byte of a request now and then, for ever.
async fn drip(daemon: &Daemon, addresses: std::ops::Range<u8>, each: usize) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    let (dripping, mut heard) = tokio::sync::mpsc::channel(1);
    let mut count = 0;
    for from in addresses {
        for _ in 0..each {
            let (dripping, to) = (dripping.clone(), daemon.http_addr.parse::<SocketAddr>().unwrap());
            count += 1;
            clients.spawn(async move {
                let connect = async || {
                    let socket = TcpSocket::new_v4()?;
                    socket.bind(SocketAddr::from((address(from), 0)))?;
                    socket.connect(to).await
                };
                loop {
                    if let Ok(mut stream) = connect().await {
                        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nX: ").await;
                        let _ = dripping.send(()).await;
                        while stream.write_all(b"x").await.is_ok() {
                            sleep(Duration::from_millis(100)).await;
                        }
                    }
                    sleep(Duration::from_millis(500)).await;
                }
            });
        }
    }
    for _ in 0..count {
        timeout(BOUND, heard.recv()).await.unwrap();
    }
    clients
}

/// A probe from an address that dripping clients may have too. Those that come again and again may push one out of its
/// place, as a busy network may, so a probe may be repeated; one that waits for a place is never answered.
async fn probe(daemon: &Daemon, path: &str) {
    wait_until(path, BOUND, async || match get(daemon, address(1), path).await {
        answer if status(&answer) == "200" => Ok(()),
        other => Err(other),
    })
    .await;
}

async fn refused(daemon: &Daemon, reason: &str) -> f64 {
    daemon.metric(&format!("musterd_refused_total{{reason=\"{reason}\"}}")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dripping_clients_of_one_address_leave_probes_and_a_scrape_answering() {
    let served = Served::start().await;
    let daemon = &served.daemon;
    let _clients = drip(daemon, 1..2, MAX_CONNECTIONS).await;
    for _ in 0..10 {
        for path in ["/livez", "/readyz"] {
            probe(daemon, path).await;
            let answer = get(daemon, address(2), path).await;
            assert_eq!(status(&answer), "200", "{path}: {answer}");
        }
        let scrape = get(daemon, address(2), "/metrics").await;
        assert!(status(&scrape) == "200" && scrape.contains("musterd_instances"), "{scrape}");
    }
    let scrape = get(daemon, address(2), "/metrics").await;
    let count = |reason: &str| {
        let name = format!("musterd_refused_total{{reason=\"{reason}\"}} ");
        scrape.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap()
    };
    assert!(count("http_connections_of_address") >= (MAX_CONNECTIONS - MAX_PER_ADDRESS) as u64, "{scrape}");
    assert_eq!(count("http_connections"), 0, "no other address was in need");
}

#[tokio::test(flavor = "multi_thread")]
async fn dripping_clients_that_take_every_place_leave_probes_answering() {
    let served = Served::start().await;
    let daemon = &served.daemon;
    let clients = drip(daemon, 2..20, MAX_PER_ADDRESS).await;
    for _ in 0..10 {
        for path in ["/livez", "/readyz"] {
            probe(daemon, path).await;
        }
    }
    drop(clients);
    wait_until("a scrape is answered again", BOUND, async || match get(daemon, address(1), "/metrics").await {
        scrape if status(&scrape) == "200" => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(refused(daemon, "http_connections").await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_over_the_limit_is_refused_until_another_one_ends() {
    let served = Served::start().await;
    let daemon = &served.daemon;
    let mut held = Vec::new();
    for _ in 0..MAX_PER_ADDRESS {
        let mut stream = connect(daemon, address(3)).await.unwrap();
        let request = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.http_addr);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        held.push(stream);
    }
    let answer = get(daemon, address(3), "/metrics").await;
    assert_eq!(status(&answer), "503", "{answer}");
    assert!(answer.contains("your address has 16 connections to this port, which is the limit; close "), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n") && answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(status(&get(daemon, address(3), "/livez").await), "200");
    assert_eq!(status(&get(daemon, address(4), "/metrics").await), "200", "another address is not in need");
    assert_eq!(refused(daemon, "http_connections_of_address").await, 2.0);
    drop(held);
    wait_until("the places are given back", BOUND, async || match get(daemon, address(3), "/metrics").await {
        scrape if status(&scrape) == "200" => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_is_cut_off_and_counted() {
    let served = Served::start().await;
    let daemon = &served.daemon;
    let mut stream = connect(daemon, address(1)).await.unwrap();
    let dripping = async {
        stream.write_all(b"GET /livez HTTP/1.1\r\nX: ").await?;
        loop {
            stream.write_all(b"x").await?;
            sleep(Duration::from_millis(100)).await;
        }
    };
    let ended: std::io::Result<()> = timeout(BOUND, dripping).await.expect("it may drip for ever");
    assert!(ended.is_err());
    assert_eq!(refused(daemon, "http_slow_head").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_another_host_are_misdirected() {
    let served = Served::start().await;
    let url = served.sql.database.url();
    let advertised = ["--advertise-addr", "registry.example:7717", "--http-host", "musterd,*.svc.cluster.local"];
    let daemon = Daemon::start_with(&[&["--database-url", url], &advertised[..]].concat()).await;
    let http = daemon.http_addr.as_str();
    let port = http.rsplit_once(':').unwrap().1;
    let hostname = nix::unistd::gethostname().unwrap().into_string().unwrap();
    for (host, expected) in [
        (http, "200"),
        ("localhost", "200"),
        ("LOCALHOST.", "200"),
        ("[::1]:7718", "200"),
        ("10.1.2.3", "200"),
        ("registry.example:7718", "200"),
        ("musterd", "200"),
        ("musterd.organs.svc.cluster.local:7718", "200"),
        (&hostname, "200"),
        ("evil.example", "421"),
        ("127.0.0.1.evil.example", "421"),
        ("localhost.evil.example", "421"),
        ("registry.example.evil.example", "421"),
        ("svc.cluster.local", "421"),
        ("", "400"),
        ("user@127.0.0.1", "400"),
        ("127.0.0.1/", "400"),
    ] {
        for path in ["/api/v1/names", "/metrics", "/livez", "/nothing"] {
            let answer =
                send(&daemon, address(1), &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
                    .await;
            let expected = if path == "/nothing" && expected == "200" { "404" } else { expected };
            assert_eq!(status(&answer), expected, "{host}: {answer}");
        }
    }
    let local = format!("Host: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    for (request, expected) in [
        ("GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), "400"),
        (format!("GET /livez HTTP/1.1\r\nHost: evil.example\r\n{local}"), "400"),
        (format!("GET http://evil.example/livez HTTP/1.1\r\n{local}"), "421"),
        (format!("GET http://{http}/livez HTTP/1.1\r\n{local}"), "200"),
        (format!("OPTIONS /livez HTTP/1.1\r\nOrigin: http://evil.example\r\n{local}"), "204"),
        ("GET /livez HTTP/1.0\r\n\r\n".to_owned(), "200"),
    ] {
        let answer = send(&daemon, address(1), &request).await;
        assert_eq!(status(&answer), expected, "{request}: {answer}");
        assert!(!answer.to_lowercase().contains("access-control"), "no other origin is let in: {answer}");
    }
    let answer = send(&daemon, address(1), "GET / HTTP/1.1\r\nHost: Evil.Example:1\r\nConnection: close\r\n\r\n").await;
    let told =
        "this daemon does not answer as evil.example; use its IP address, or start it with --http-host evil.example";
    assert!(answer.contains(told), "{answer}");
    assert!(refused(&daemon, "http_host").await > 30.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_forbids_browsers_to_guess_store_frame_or_share_it() {
    let served = Served::start().await;
    let daemon = &served.daemon;
    let requests = PATHS.map(|path| format!("GET {path} HTTP/1.1\r\nHost: {}", daemon.http_addr));
    let odd = [
        "GET / HTTP/1.1\r\nHost: evil.example".to_owned(),
        "GET / HTTP/1.1".to_owned(),
        format!("POST /metrics HTTP/1.1\r\nContent-Length: 0\r\nHost: {}", daemon.http_addr),
        format!("OPTIONS * HTTP/1.1\r\nHost: {}", daemon.http_addr),
        format!("GET / HTTP/1.1\r\nAccept: text/html\r\nHost: {}", daemon.http_addr),
    ];
    for request in requests.into_iter().chain(odd) {
        let answer = send(daemon, address(1), &format!("{request}\r\nConnection: close\r\n\r\n")).await;
        let header = answer.split("\r\n\r\n").next().unwrap();
        for line in [
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
            "referrer-policy: no-referrer",
        ] {
            assert_eq!(header.matches(line).count(), 1, "{line} in the answer to {request}: {header}");
        }
        assert!(header.contains("content-security-policy: default-src 'none'"), "{request}: {header}");
        assert!(header.contains("frame-ancestors 'none'"), "{request}: {header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_path_answers_options_and_head_and_no_method_that_writes() {
    let served = Served::start().await;
    let daemon = &served.daemon;
    for path in PATHS {
        let ask = async |method: &str| {
            let host = &daemon.http_addr;
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            send(daemon, address(1), &request).await
        };
        let options = ask("OPTIONS").await;
        assert!(status(&options) == "204" && options.contains("allow: GET, HEAD, OPTIONS\r\n"), "{path}: {options}");
        let (head, got) = (ask("HEAD").await, ask("GET").await);
        assert_eq!(status(&head), status(&got), "{path}: {head}");
        assert!(head.ends_with("\r\n\r\n"), "{path}: {head}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
            let answer = ask(method).await;
            assert!(status(&answer) == "405" && answer.contains("allow: GET, HEAD, OPTIONS\r\n"), "{path}: {answer}");
        }
    }
    // The default check of HAProxy.
    assert_eq!(status(&send(daemon, address(1), "OPTIONS / HTTP/1.0\r\n\r\n").await), "204");
}
